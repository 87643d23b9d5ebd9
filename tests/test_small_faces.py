"""The folder of small faces: who is left out, who comes last, nothing half made."""

from zipfile import ZipFile

import pytest

from hyperface.errors import InputError
from launch.papers import small_faces


def archive(path, names):
    with ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, name.encode())
    return str(path)


@pytest.fixture
def arguments(tmp_path):
    celeba = archive(tmp_path / "celeba.zip", ["07222/1.jpg", "07270/2.jpg", "07222/notes.txt"])
    names = [f"{person}/{kind}/01.jpg" for person in ("001", "006", "013") for kind in "fp"]
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


def test_names_that_lead_out_are_refused(arguments, tmp_path):
    archive(tmp_path / "cfp.zip", ["001/../../01.jpg"])
    with pytest.raises(InputError, match="expected names that stay in the folder"):
        small_faces.main(arguments)
    assert not (tmp_path / "people").exists()
