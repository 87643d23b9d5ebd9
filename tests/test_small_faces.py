"""The folder of small faces: who is left out, who comes last, nothing half made."""

from zipfile import ZipFile

import numpy as np
import pytest

from hyperface.errors import InputError
from hyperface.protocols.pairs import read_pairs
from hyperface.reproduce import small_faces

KINDS = ("frontal", "profile")


def archive(path, names):
    with ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, name.encode())
    return str(path)


@pytest.fixture
def arguments(tmp_path):
    celeba = archive(
        tmp_path / "celeba.zip",
        ["07218/1.jpg", "07222/1.jpg", "07222/notes.txt", "07270/2.jpg"],
    )
    names = [f"{person}/{kind}/01.jpg" for person in ("001", "006", "013", "229") for kind in "fp"]
    cfp = archive(tmp_path / "cfp.zip", names)
    overlap = tmp_path / "overlap.csv"
    overlap.write_text("dataset,id,name\ncfp,006,A B\nother,001,C D\n")
    return [celeba, cfp, str(overlap), "--out", str(tmp_path / "people")]


def test_people_of_the_test_sets_are_left_out(arguments, tmp_path):
    small_faces.main(arguments)
    found = {
        str(path.relative_to(tmp_path / "people")): path.read_bytes()
        for path in sorted((tmp_path / "people").rglob("*.jpg"))
    }
    assert found == {
        "celeba_07222/1.jpg": b"07222/1.jpg",
        "cfp_001/f_01.jpg": b"001/f/01.jpg",
        "cfp_001/p_01.jpg": b"001/p/01.jpg",
    }
    with pytest.raises(InputError, match="expected a folder that is not there yet, found one"):
        small_faces.main(arguments)


def test_frontal_profile_pairs_are_of_people_held_out_and_of_one_fold(arguments, tmp_path):
    images = [f"{p:03}/{k}/{i:02}.jpg" for p in range(70, 140) for k in KINDS for i in (1, 2)]
    archive(tmp_path / "cfp.zip", images)
    path = tmp_path / "pairs.csv"
    small_faces.main([*arguments, "--pairs", str(path)])
    pairs = read_pairs(path)
    held_out = sorted(folder.name for folder in (tmp_path / "people").iterdir())[-60:]
    first, second = (np.array([n.split("/") for n in names])[:, 0] for names in pairs[:2])
    assert [*dict.fromkeys(first)] == held_out
    np.testing.assert_array_equal(first == second, pairs.same)
    assert set(pairs.first) == {f"{p}/frontal_{i:02}.jpg" for p in held_out for i in (1, 2)}
    assert set(pairs.second) == {f"{p}/profile_{i:02}.jpg" for p in held_out for i in (1, 2)}
    folds = [set(first[pairs.fold == fold]) for fold in range(10)]
    assert folds == [set(second[pairs.fold == fold]) for fold in range(10)]
    assert sum(map(len, folds)) == 60
    # Of each of 6 people in 10 folds 2 frontal images with 12 profiles.
    assert (len(pairs.same), pairs.same.sum()) == (10 * 6 * 2 * 12, 60 * 2 * 2)


def test_names_that_lead_out_are_refused(arguments, tmp_path):
    archive(tmp_path / "cfp.zip", ["001/../../01.jpg"])
    with pytest.raises(InputError, match="expected names that stay in the folder"):
        small_faces.main(arguments)
    assert not (tmp_path / "people").exists()


def test_people_that_a_killed_call_left_are_not_taken(arguments, tmp_path):
    (tmp_path / "people.partial/cfp_229").mkdir(parents=True)
    small_faces.main(arguments)
    assert {path.name for path in (tmp_path / "people").iterdir()} == {"celeba_07222", "cfp_001"}
