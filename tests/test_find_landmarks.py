"""Landmarks of a source: the file, its parts, what happens after a kill or an edit, `prepare`."""

import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from hyperface import owned
from hyperface.data import datasets, detection
from hyperface.data.alignment import Aligner
from hyperface.data.detection import Faces, find_landmarks, record
from hyperface.data.landmarks import read_landmarks
from hyperface.data.manifest import Manifest
from hyperface.data.sources.faces import with_faces
from hyperface.data.sources.source import by_identity
from hyperface.data.sources.trees import folder
from hyperface.errors import InputError
from hyperface.report.detections import detection_sheet
from hyperface.runs import prepare

POINTS = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])


class Squares:
    """Takes the top half's brightest rows for faces: one for each red square of 20 pixels."""

    def __init__(self):
        self.seen = []

    def __repr__(self):
        return "Squares()"

    def __call__(self, pixels):
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        self.seen.append(pixels.shape)
        blocks = [
            (x, y)
            for y in range(0, pixels.shape[0] - 19, 20)
            for x in range(0, pixels.shape[1] - 19, 20)
            if pixels[y : y + 20, x : x + 20, 0].mean() > 200
        ]
        corners = np.array(blocks, float).reshape(-1, 2)
        return Faces(
            np.concatenate([corners, corners + 20], axis=1),
            np.linspace(1, 0.5, len(corners)),
            corners[:, None] + 20 * POINTS,
        )


def photo(*corners, size=(100, 80)):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in corners:
        pixels[y : y + 20, x : x + 20] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path):
    """Two people: one face, several, none, turned by EXIF, grey, damaged; of many sizes."""
    root = tmp_path / "photos"
    for person in ("a", "b"):
        (root / person).mkdir(parents=True)
    photo((40, 20)).save(root / "a/1.png")
    photo((0, 0), (40, 40), (80, 60), size=(120, 80)).save(root / "a/2 , two.png")
    photo(size=(60, 60)).save(root / "a/none.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter to the right.
    turned = photo((20, 40), size=(80, 100)).transpose(Image.Transpose.ROTATE_90)
    turned.save(root / "b/turned.png", exif=exif)
    photo((60, 40), size=(140, 60)).convert("L").save(root / "b/grey.png")
    (root / "b/cut.png").write_bytes((root / "a/1.png").read_bytes()[:60])
    return root


def rows(path):
    return {row["file"]: row for row in csv.DictReader(io.StringIO(path.read_text("utf-8")))}


def test_each_photo_has_its_landmarks_in_upright_pixels(photos, tmp_path):
    calls = []
    found = find_landmarks(
        folder(photos), Squares(), tmp_path / "out", progress=lambda *done: calls.append(done)
    )
    assert found == (tmp_path / "out/landmarks.csv", 6, 4, 1, 1)
    assert calls[-1] == (6, 6)
    landmarks = read_landmarks(found.path)
    expected = {
        "a/1.png": (40, 20),
        "a/2 , two.png": (40, 40),
        "b/turned.png": (20, 40),
        "b/grey.png": (60, 40),
    }
    for name, corner in expected.items():
        np.testing.assert_allclose(landmarks[name], corner + 20 * POINTS, atol=0.01)
    assert np.isnan(landmarks["a/none.png"]).all()
    assert landmarks.keys() == {*expected, "a/none.png"}
    assert rows(found.path)["a/2 , two.png"]["faces"] == "3"
    assert rows(found.path)["a/1.png"]["right"] == "60.00"
    assert owned.foreign(tmp_path / "out") == ""


def test_all_faces_of_a_photo_become_images_of_its_identity(photos, tmp_path):
    source = folder(photos)
    found = find_landmarks(source, Squares(), tmp_path / "out", "all")
    landmarks = read_landmarks(found.path)
    several = with_faces(source, landmarks)
    name = "a/2 , two.png"
    faces = [n for n in several.names if n.startswith(name)]
    assert faces == [name, f"{name}#2", f"{name}#3"]
    assert len(several.names) == len(source.names) + 2
    for index, face in enumerate(several.names):
        original = source.names.index(face.split("#")[0])
        assert several.people[index] == source.people[original]
        assert several.read(index) == source.read(original)
    assert with_faces(source, ["a/1.png", "c/9.png#2", "a/1.png#x"]) is source


def test_a_photo_that_is_named_like_a_second_face_is_shown_itself(tmp_path):
    pictures = {"a#2": photo((40, 20)), "b": photo((0, 0)), "b#2": photo((20, 40))}
    contents = {}
    for name, picture in pictures.items():
        picture.save(file := io.BytesIO(), "png")
        contents[name] = file.getvalue()
    members = [("someone", name, 1) for name in pictures]
    read = []

    def read_photo(index):
        read.append(index)
        return contents[members[index][1]]

    source = by_identity("made up", members, read_photo)
    found = find_landmarks(source, Squares(), tmp_path / "out")
    read.clear()
    assert detection_sheet(source, Aligner(found.path, (112, 96))) is not None
    assert sorted(read) == [0, 1, 2]
    assert with_faces(source, read_landmarks(found.path)) is source


def test_a_killed_search_goes_on_after_its_last_part(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "PART", 2)
    unbroken = find_landmarks(folder(photos), Squares(), tmp_path / "whole").path.read_bytes()

    class Killed(Squares):
        def __call__(self, pixels):
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    with pytest.raises(KeyboardInterrupt):
        find_landmarks(folder(photos), Killed(), tmp_path / "out")
    assert not (tmp_path / "out/landmarks.csv").exists()
    detector = Squares()
    found = find_landmarks(folder(photos), detector, tmp_path / "out")
    assert found.path.read_bytes() == unbroken
    assert len(detector.seen) == 2  # The other three of five readable ones are done.
    assert not list((tmp_path / "out").glob("*.part"))
    find_landmarks(folder(photos), detector, tmp_path / "out")
    assert len(detector.seen) == 2


def test_edited_landmarks_and_files_of_others_are_never_lost(photos, tmp_path):
    found = find_landmarks(folder(photos), Squares(), tmp_path / "out")
    with pytest.raises(InputError, match="found those of other photos or options"):
        find_landmarks(folder(photos), Squares(), tmp_path / "out", "central")
    find_landmarks(folder(photos), Squares(), tmp_path / "out", "central", replace=True)
    edited = found.path.read_text("utf-8").replace("nan", "1")
    found.path.write_text(edited, "utf-8")
    for replace in (False, True):
        with pytest.raises(InputError, match="was edited since it was written"):
            find_landmarks(folder(photos), Squares(), tmp_path / "out", "central", replace=replace)
    assert found.path.read_text("utf-8") == edited
    (tmp_path / "other").mkdir()
    (tmp_path / "other/landmarks.csv").write_text("mine")
    with pytest.raises(InputError):
        find_landmarks(folder(photos), Squares(), tmp_path / "other", replace=True)
    assert (tmp_path / "other/landmarks.csv").read_text() == "mine"


def test_only_the_kept_photos_are_looked_at(photos, tmp_path):
    detector = Squares()
    found = find_landmarks(folder(photos), detector, tmp_path / "out", keep=["a/1.png"])
    assert (found.photos, detector.seen) == (1, [(80, 100, 3)])


def test_a_detector_that_fails_names_the_photo(photos, tmp_path):
    with pytest.raises(InputError, match="from the detector") as caught:
        find_landmarks(folder(photos), lambda pixels: [], tmp_path / "out")
    assert caught.value.__notes__ == ["The photo is a/1.png."]


# ----------------------------------------------------------------------------------------- prepare


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command with the detector above, in a data folder of the test."""
    monkeypatch.setattr(detection, "Mtcnn", Squares)
    return lambda *args: prepare.main([*map(str, args), "--data-dir", str(tmp_path / "data")])


def test_photos_are_found_aligned_and_shown(photos, tmp_path, run, capsys):
    run(photos, "--out", "mine", "--detect")
    text = capsys.readouterr().out
    assert "4 of 6 photos have a face, 1 of them with several, 1 are unreadable" in text
    manifest = Manifest.read(datasets.find("mine", tmp_path / "data"))
    assert manifest.image_shape == (112, 96, 3)
    assert manifest.images == {"train": 4}
    reasons = dict(manifest.rejected)
    assert reasons["a/none.png"] == "no face: its landmarks in landmarks.csv are nan"
    assert reasons["b/cut.png"].startswith("expected a whole image")
    with Image.open(tmp_path / "data/mine/detections.png") as sheet:
        assert sheet.size > (500, 100)
    # The same command again changes nothing.
    run(photos, "--out", "mine", "--detect")
    assert datasets.find("mine", tmp_path / "data").name == "1.0.0"


@pytest.mark.parametrize(
    ("size", "shape"), [("112x112", (112, 112, 3)), ("128x128", (128, 128, 1))]
)
def test_all_faces_at_another_size(photos, tmp_path, run, size, shape):
    run(photos, "--out", "mine", "--detect", "--faces", "all", "--size", size)
    manifest = Manifest.read(datasets.find("mine", tmp_path / "data"))
    assert manifest.image_shape == shape
    assert manifest.images_per_identity == {"train": [4, 2]}


def test_edited_landmarks_are_given_back(photos, tmp_path, run):
    run(photos, "--out", "mine", "--detect")
    path = tmp_path / "data/mine/landmarks.csv"
    (line,) = (x for x in path.read_text("utf-8").splitlines(True) if x.startswith("a/none.png"))
    numbers = ",".join(f"{x:.1f}" for x in (10 + 20 * POINTS).ravel())
    filled = f"a/none.png,{numbers},,,,,,\n"
    path.write_text(path.read_text("utf-8").replace(line, filled), "utf-8")
    with pytest.raises(InputError, match="was edited"):
        run(photos, "--out", "mine", "--detect", "--replace")
    run(photos, "--out", "mine", "--landmarks", path, "--replace")
    manifest = Manifest.read(datasets.find("mine", tmp_path / "data"))
    assert manifest.images == {"train": 5}
    assert manifest.image_shape == (112, 96, 3)


def test_another_data_set_is_noticed_before_faces_are_looked_for(
    photos, tmp_path, run, monkeypatch
):
    run(raw_photos(tmp_path / "others", 40, [(0, 0)] * 6), "--out", "mine")
    monkeypatch.setattr(detection, "Mtcnn", lambda: lambda pixels: 1 / 0)
    with pytest.raises(InputError, match="or one made by --detect, found another one"):
        run(photos, "--out", "mine", "--detect")
    monkeypatch.setattr(detection, "Mtcnn", Squares)
    run(photos, "--out", "mine", "--detect", "--replace")
    assert datasets.find("mine", tmp_path / "data").name == "1.0.1"


def test_photos_without_alignment_are_refused_with_the_command(photos, tmp_path, run):
    with pytest.raises(InputError) as caught:
        run(photos, "--out", "mine", "--held-out", "1")
    command = (
        f"hyperface prepare {photos} --out mine --held-out 1 --data-dir {tmp_path}/data --detect"
    )
    assert command in str(caught.value)
    assert "5 sizes (height x width) among 5 images" in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "112x96"], "--size 112x96: expected --detect"),
        (["--faces", "all"], "--faces: expected --detect"),
        (["--detect", "--landmarks", "a.csv"], "one of --detect and --landmarks"),
    ],
)
def test_options_that_do_not_fit_are_refused(photos, run, options, message):
    with pytest.raises(InputError, match=message):
        run(photos, "--out", "mine", *options)


def raw_photos(root, side, corners):
    (root / "a").mkdir(parents=True)
    for number, corner in enumerate(corners):
        photo(corner, size=(side, side)).save(root / f"a/{number}.png")
    return root


@pytest.mark.parametrize(
    ("side", "corners", "reason"),
    [
        (100, [(40, 40)] * 6, "the eyes are 0.08 of the width apart"),
        (
            40,
            [(0, 0), (20, 0), (0, 20), (20, 20), (0, 0), (20, 20)],
            "are 0.88 of the distance between the eyes",
        ),
        (32, [(0, 0)] * 6, ""),
        (100, [(200, 200)] * 6, ""),
    ],
)
def test_raw_photos_of_one_size_are_known_by_their_faces(tmp_path, side, corners, reason):
    # Of 40 pixels a face of 20 has its eyes 0.2 apart: they are moved to where 0.4 is.
    source = folder(raw_photos(tmp_path / "photos", side, corners))

    def wide(pixels):
        found = Squares()(pixels)
        middle = found.landmarks.mean(axis=1, keepdims=True)
        factor = 2 if side == 40 else 1
        return found._replace(landmarks=middle + factor * (found.landmarks - middle))

    found = detection.look_raw(source, wide)
    assert re.search(reason, found) if reason else found == ""


def test_raw_photos_of_one_size_are_warned_of(tmp_path, run, capsys, monkeypatch):
    root = raw_photos(tmp_path / "photos", 100, [(40, 40)] * 6)
    run(root, "--out", "raw")
    assert "warning: these look like photos" in capsys.readouterr().out
    run(root, "--out", "aligned", "--detect")
    assert "warning" not in capsys.readouterr().out

    def absent():
        raise InputError("the extra is absent")

    monkeypatch.setattr(detection, "Mtcnn", absent)
    run(root, "--out", "quiet")
    assert "warning" not in capsys.readouterr().out
