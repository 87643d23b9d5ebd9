"""The folder of small faces: who is left out, who comes last, nothing half made."""

import io
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(InputError, match="expected a folder that does not exist yet, found one"):
        small_faces.main(arguments)


def jpeg(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 2] = 200, 100
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95)
    return content.getvalue()


def test_squares_repeat_the_edges_and_have_one_size(arguments, tmp_path):
    for name, size in (("celeba", (112, 96)), ("cfp", (112, 96)), ("half", (56, 48))):
        with ZipFile(tmp_path / f"{name}.zip", "w") as opened:
            opened.writestr(f"00{len(name)}/frontal/01.jpg", jpeg(*size))
    small_faces.main([*arguments, "--half-size", str(tmp_path / "half.zip"), "--square"])
    found = sorted((tmp_path / "people").rglob("*.*"))
    assert [path.suffix for path in found] == [".png"] * 3
    for path in found:
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (112, 112, 3)
        for edge, column in ((slice(8), 8), (slice(104, None), 103)):
            np.testing.assert_array_equal(pixels[:, edge], pixels[:, [column] * 8])
        assert pixels[56, 0, 0] > 150 > 50 > pixels[56, 0, 2]
        assert pixels[56, -1, 2] > 50 > pixels[56, -1, 0]


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


def encoded(shape, colour, kind="PNG"):
    out = io.BytesIO()
    Image.new("RGB", shape, colour).save(out, kind)
    return out.getvalue()


def test_all_images_come_at_half_the_size_and_none_twice(arguments, tmp_path):
    for name, images in {
        "celeba.zip": {"07222/000001.jpg": (96, 112)},
        "cfp.zip": {f"001/frontal/{i:02}.jpg": (96, 112) for i in range(3)},
        "half.zip": {
            **{f"07222/00000{i}.jpg": (48, 56) for i in (1, 2, 3)},
            **{f"00004/00001{i}.jpg": (48, 56) for i in (1, 2)},
            "07218/000020.jpg": (48, 56),
        },
    }.items():
        with ZipFile(tmp_path / name, "w") as opened:
            for image, shape in images.items():
                opened.writestr(image, encoded(shape, (0, 0, 200)))
    half = str(tmp_path / "half.zip")
    small_faces.main([*arguments, "--half-size", half, "--least", "3"])
    people = tmp_path / "people"
    assert {str(path.relative_to(people)) for path in people.rglob("*.*")} == {
        *(f"celeba_07222/{name}" for name in ("000001.png", "000002.jpg", "000003.jpg")),
        *(f"cfp_001/frontal_{i:02}.png" for i in range(3)),
    }
    for path in people.rglob("*.*"):
        with Image.open(path) as image:
            assert (image.size, image.getpixel((20, 20))) == ((48, 56), (0, 0, 200))
