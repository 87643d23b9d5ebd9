"""The cleaning command finds what was planted, and its lists say what was left out and why."""

import csv
import shutil

import numpy as np
import pytest
from conftest import write_people
from PIL import Image

from hyperface.data import store
from hyperface.data.datasets import Split
from hyperface.data.sources.trees import folder
from hyperface.errors import InputError
from hyperface.files import read_names
from hyperface.runs import clean, embedding, photos

SHAPE = (16, 14, 3)


def prepared(root, name, data_dir):
    # A source sorts its people: they are numbered in the order of their names.
    store.prepare(folder(root), data_dir / name)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """messy has a person of noise and a wrong image, /known shares three people."""
    folder = tmp_path_factory.mktemp("clean")
    messy, known = write_people(folder / "messy", people=6, images=8), folder / "known"
    shutil.copytree(messy / "person0", known / "PERSON0")
    shutil.copytree(messy / "person2", known / "nobody")
    shutil.copytree(messy / "person5", known / "pérson3")
    shutil.copytree(messy / "person5", known / "stranger")
    rng = np.random.default_rng(1)
    others = [known / "pérson3", known / "stranger", messy / "person4"]
    for path in (*(p for person in others for p in person.iterdir()), messy / "person1/3.png"):
        Image.fromarray(rng.integers(0, 256, SHAPE, dtype=np.uint8)).save(path)
    prepared(messy, "messy", folder)
    prepared(known, "known", folder)
    return folder


@pytest.fixture(scope="module")
def run(random_run):
    return random_run[0]


def cleaned(data_dir, run, out, *options):
    common = ["--run", str(run), "--out", str(out), "--data-dir", str(data_dir)]
    clean.main(["messy", *common, *map(str, options)])
    with (out / "dropped.csv").open(newline="") as file:
        dropped = {row["name"]: row for row in csv.DictReader(file)}
    return set(read_names(out / "keep.txt")), dropped


ALL = {f"person{person}/{image}.png" for person in range(6) for image in range(8)}
NOISE = {f"person4/{image}.png" for image in range(8)}


def test_the_planted_person_and_image_are_left_out(data_dir, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 7)
    options = ["--class-quantile", 5 / 6, "--image-quantile", 39 / 40]
    keep, dropped = cleaned(data_dir, run, tmp_path / "out", *options)
    assert keep == ALL - NOISE - {"person1/3.png"}
    assert set(dropped) == ALL - keep
    assert {dropped[name]["reason"] for name in NOISE} == {"class"}
    row = dropped["person1/3.png"]
    assert row["reason"] == "image"
    assert float(row["distance"]) > float(row["threshold"]) > 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "distances.png",
        "dropped.csv",
        "farthest.png",
        "hyperface-files.jsonl",
        "keep.txt",
    ]
    assert "39 images kept" in capsys.readouterr().out


def test_people_in_both_sets_are_left_out_and_nobody_else(data_dir, run, tmp_path):
    out = tmp_path / "out"
    both = ["--overlap-with", "known", "--overlap-split", "train"]
    keep, dropped = cleaned(data_dir, run, out, *both, "--similarity", 0.9995)
    with (out / "overlap.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    found = {(pair["person"], pair["other_person"], pair["found_by"]) for pair in pairs}
    assert found == {
        ("person0", "PERSON0", "name"),
        ("person2", "nobody", "features"),
        ("person3", "pérson3", "name"),
    }
    for pair in pairs:
        assert pair["image"].startswith(pair["person"] + "/")
        assert pair["other_image"].startswith(pair["other_person"] + "/")
    assert keep == {name for name in ALL if name[:7] in ("person1", "person4", "person5")}
    assert {row["reason"] for row in dropped.values()} == {"overlap"}
    with Image.open(out / "overlap.png") as picture:
        assert picture.width > 600  # Three pairs of images.
    keep, dropped = cleaned(data_dir, run, out)
    assert keep == ALL
    assert not dropped
    assert not (out / "overlap.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-threshold", "1", "--class-quantile", "0.5"], "--class-quantile beside it"),
        (["--image-quantile", "50"], r"a share in \(0, 1\], found 50.0"),
        (["--image-threshold", "-1"], "--image-threshold: expected at least 0, found -1.0"),
        (["--overlap-with", "known"], "--similarity together, found only one"),
        (["--overlap-with", "a", "--similarity", "2"], r"a cosine in \[-1, 1\], found 2.0"),
        (["--split", "tset"], "unknown split of messy 'tset'"),
        (
            ["--run", "nowhere"],
            "or a file of weights .*, found nowhere",
        ),
        (["--out", __file__], "--out: expected a folder, found the file"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    data_dir, run, tmp_path, options, message
):
    with pytest.raises(InputError, match=message):
        cleaned(data_dir, run, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_thresholds_that_keep_nothing_leave_the_pictures_to_choose_others(data_dir, run, tmp_path):
    with pytest.raises(InputError, match=r"images to keep, found none: see .*distances.png"):
        cleaned(data_dir, run, tmp_path / "out", "--class-threshold", "0")
    assert (tmp_path / "out/distances.png").exists()
    assert not (tmp_path / "out/keep.txt").exists()


def test_images_of_another_size_are_refused(run, tmp_path):
    root = write_people(tmp_path / "large", people=2, images=2, shape=(20, 14, 3))
    prepared(root, "large", tmp_path)
    with pytest.raises(InputError, match=r"large.* images of \(16, 14, 3\).*found \(20, 14, 3\)"):
        clean.main(["large", "--run", str(run), "--out", "o", "--data-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("record", "value", "norm", "message"),
    [
        ({}, 1.0, 1.0, "faces: expected images with names"),
        ({"name": b"a/1"}, np.nan, np.nan, "faces: expected finite features above zero"),
        ({"name": b"a/1"}, 0.0, 0.0, "has the run diverged"),
        # Merged with the mirror image, a sound feature may lose its direction.
        ({"name": b"a/1"}, np.nan, 1.0, "has the run diverged"),
        ({"name": b"a/1"}, 0.0, 1.0, "has the run diverged"),
    ],
)
def test_what_cannot_be_embedded_is_refused(tmp_path, monkeypatch, record, value, norm, message):
    split = Split("faces", "train", [record], 1, SHAPE)
    batch = {"images": np.zeros((1, *SHAPE)), "labels": np.zeros(1, np.int32), "mask": np.ones(1)}
    monkeypatch.setattr(embedding, "evaluation_batches", lambda split, **options: iter([batch]))
    network = embedding.Network(
        lambda images: (np.full((1, 4), value), np.array([norm])), SHAPE, None, 1, ()
    )
    with pytest.raises(InputError, match=message):
        embedding.embed_into(tmp_path / "features", split, network)
    if record:
        face = photos.Face("a.png", np.zeros(SHAPE, np.uint8), np.zeros((5, 2)))
        with pytest.raises(InputError, match=message.replace("faces", "photos")):
            photos.embed_faces([face], network)
