"""Photos to features and decisions: `hyperface embed` and `hyperface verify`, without MTCNN."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hyperface import cli
from hyperface.data import detection
from hyperface.data.alignment import align
from hyperface.data.detection import Faces
from hyperface.errors import InputError
from hyperface.protocols.features import read_features
from hyperface.runs import comparison, embed, evaluate, export, next_steps, verify
from hyperface.runs.embedding import open_network
from hyperface.runs.photos import aligned, check_alignable, find_faces, list_photos

SIDE = 40
POINTS = SIDE * np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
FIRST = POINTS + np.array([20, 30])
"""Landmarks of the first face of a photo."""
PEOPLE = ("ada", "bob", "cy")


class Marked:
    """Finds as many faces as the first pixel says, side by side from (20, 30) on."""

    def __call__(self, pixels):
        corners = np.array([(20.0 + 50 * k, 30.0) for k in range(pixels[0, 0, 0])]).reshape(-1, 2)
        boxes = np.concatenate([corners, corners + SIDE], axis=1)
        return Faces(boxes, np.ones(len(boxes)), corners[:, None] + POINTS)


def photo(pattern, rng, faces=1):
    pixels = np.full((90, 200, 3), 60, np.uint8)
    for k in range(faces):
        noisy = np.clip(pattern + rng.normal(0, 10, pattern.shape), 0, 255)
        pixels[30 : 30 + SIDE, 20 + 50 * k : 20 + 50 * k + SIDE] = noisy
    pixels[0, 0] = faces
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three people of three photos; further a photo of two faces, one of none, and a broken one."""
    rng = np.random.default_rng(11)
    root = tmp_path_factory.mktemp("verify") / "my photos"
    for person in PEOPLE:
        (root / person).mkdir(parents=True)
        pattern = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1)))
        for number in range(3):
            photo(pattern, rng).save(root / person / f"{number}.png")
    photo(pattern, rng, faces=2).save(root / "cy/two.png")
    photo(pattern, rng, faces=0).save(root / "cy/none.png")
    (root / "cy/broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def _detector(monkeypatch):
    monkeypatch.setattr(detection, "Mtcnn", Marked)


@pytest.fixture
def run(random_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(random_run[0], folder)
    return folder


@pytest.fixture(scope="module")
def calibration(random_run, tiny_data, tmp_path_factory):
    """The calibration of that run, which the evaluation writes."""
    out = tmp_path_factory.mktemp("evaluation")
    command = [str(random_run[0]), "--protocol", "folder", "--dataset", "tiny", "--bootstrap", "0"]
    evaluate.main([*command, "--data-dir", str(tiny_data), "--out", str(out)])
    return (out / "calibration.json").read_text()


@pytest.fixture
def calibrated(run, calibration):
    """A run that was evaluated."""
    (run / "evaluation").mkdir()
    (run / "evaluation/calibration.json").write_text(calibration)
    return run


def features_by_hand(root, names, run):
    """Features and norms of first faces, computed without `hyperface.runs.photos`."""
    crops = []
    for name in names:
        pixels = np.asarray(Image.open(root / name).convert("RGB"))
        crop = Image.fromarray(align(pixels, FIRST, (112, 96)))
        crops.append(np.asarray(crop.resize((14, 16), Image.Resampling.BICUBIC)))
    images = ((np.stack(crops) - 127.5) / 128).astype(np.float32)
    padded = np.zeros((16, *images.shape[1:]), np.float32)
    padded[: len(images)] = images
    features, norms = open_network(run).apply(padded)
    return np.asarray(features)[: len(images)], np.asarray(norms)[: len(images)]


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


# ------------------------------------------------------------------------------------------- embed


def test_the_file_has_names_features_norms_and_landmarks(photos, run, tmp_path, capsys):
    out = tmp_path / "features.npz"
    embed.main([str(photos), "--run", str(run), "--out", str(out)])
    shown = capsys.readouterr().out
    assert "2 photos left out:\n" in shown
    assert "cy/none.png: no face was found" in shown
    assert "cy/broken.png: expected an image" in shown
    with np.load(out) as stored:
        found = dict(stored)
    assert set(found) == {"names", "features", "norms", "landmarks", "model", "mirror"}
    names = found["names"].tolist()
    assert len(names) == 10
    assert names[-1] == "cy/two.png"  # Of its equal faces the one nearer to the centre is taken.
    features, norms = features_by_hand(photos, names[:-1], run)
    np.testing.assert_allclose(found["features"][:-1], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["norms"][:-1], norms, rtol=1e-4)
    np.testing.assert_allclose(found["landmarks"][:-1], [FIRST] * 9)
    np.testing.assert_allclose(found["landmarks"][-1], FIRST + np.array([50, 0]))
    assert read_features(out).names == names
    # The command that is proposed works.
    command = ["--protocol", "folder", "--bootstrap", "0", "--out", str(tmp_path / "report")]
    with pytest.raises(InputError, match="expected at least four people"):
        evaluate.main([str(out), *command])


def test_parts_of_a_large_folder_give_the_same_features(photos, run, monkeypatch):
    whole = embed.embed(photos, run, faces="all")
    monkeypatch.setattr(embed, "PART", 4)
    parts = embed.embed(photos, run, faces="all")
    assert parts.names == whole.names
    assert parts.not_used == whole.not_used
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(parts.landmarks, whole.landmarks)


def test_all_faces_of_a_photo_have_names_of_their_own(photos, run):
    found = embed.embed(photos / "cy", run, faces="all")
    assert [name for name in found.names if "two" in name] == ["two.png", "two.png#2"]
    (alone,) = embed.embed(photos / "cy/two.png", run).names
    assert alone == "two.png"


def test_aligned_images_are_embedded_as_they_are(run, tmp_path, rng):
    pixels = rng.integers(0, 256, (16, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "crop.png")
    found = embed.embed(tmp_path / "crop.png", run, aligned=True)
    features, norms = open_network(run).apply(
        np.repeat((pixels[None] - np.float32(127.5)) / 128, 8, axis=0)
    )
    np.testing.assert_allclose(found.features, np.asarray(features)[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.norms, np.asarray(norms)[:1], rtol=1e-4)
    assert np.isnan(found.landmarks).all()
    Image.fromarray(pixels[:15]).save(tmp_path / "crop.png")
    with pytest.raises(InputError, match=r"an aligned image of \(16, 14, 3\), found one of \(15,"):
        embed.embed(tmp_path / "crop.png", run, aligned=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.png", "a photo or a folder of photos, found none"),
        (
            "cy/none.png",
            "expected a face that can be used: .*none.png: no face was found",
        ),
        (
            "cy/broken.png",
            "expected a face that can be used: .*broken.png: expected an image",
        ),
    ],
)
def test_photos_without_a_face_are_one_error(photos, run, name, message):
    with pytest.raises(InputError, match=message) as raised:
        embed.embed(photos / name, run)
    assert "\n" not in str(raised.value)


def test_networks_of_other_shapes_ask_for_aligned_images():
    for shape in ((112, 96, 3), (112, 112, 3), (56, 48, 3), (128, 128, 1), (160, 160, 3)):
        check_alignable(shape)
    for shape in ((112, 92, 1), (28, 20, 1)):
        with pytest.raises(InputError, match=r"found one of .* pass --aligned"):
            check_alignable(shape)


def test_faces_come_in_the_size_and_colours_of_the_network(rng):
    pixels = rng.integers(0, 256, (90, 200, 3), dtype=np.uint8)
    points = FIRST
    for shape in ((112, 96, 3), (112, 112, 3)):
        np.testing.assert_array_equal(
            aligned(pixels, points, shape), align(pixels, points, shape[:2])
        )
    assert aligned(pixels, points, (128, 128, 1)).shape == (128, 128, 1)
    assert aligned(pixels, points, (128, 128, 3)).shape == (128, 128, 3)
    grey = aligned(pixels, points, (112, 96, 1))
    shown = Image.fromarray(align(pixels, points, (112, 96))).convert("L")
    np.testing.assert_array_equal(grey[..., 0], shown)


def test_a_detector_that_gives_something_else_is_an_error(photos, run):
    with pytest.raises(InputError, match=r"expected boxes .* from the detector, found"):
        embed.embed(photos / "ada", run, detector=lambda pixels: (np.zeros((1, 4)), [1.0]))


def test_hidden_files_and_other_files_are_no_photos(photos, tmp_path):
    root = tmp_path / "album"
    (root / ".thumbnails").mkdir(parents=True)
    shutil.copy(photos / "ada/0.png", root / ".thumbnails/0.png")
    (root / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="expected photos in the folder, found none"):
        list_photos(root)
    shutil.copy(photos / "ada/0.png", root / "0")
    ((listed,), _) = list_photos(root)
    assert listed.name == "0"
    assert len(find_faces([listed], (16, 14, 3), Marked())[0]) == 1


def test_the_file_is_npz_and_the_help_names_the_commands(photos, run, tmp_path):
    with pytest.raises(InputError, match=r"--out: expected a file that ends in .npz"):
        embed.main([str(photos), "--run", str(run), "--out", str(tmp_path / "features.csv")])
    for line in ("  verify     says whether", "  embed      writes the features", "train mine"):
        assert line in cli.usage()


def test_features_of_photos_calibrate_their_network(photos, run, tmp_path):
    album = tmp_path / "album"
    shutil.copytree(photos, album)
    shutil.copytree(photos / "ada", album / "dan")
    embed.embed(album, run, out=tmp_path / "features.npz")
    out = tmp_path / "report"
    source = str(tmp_path / "features.npz")
    evaluate.main([source, "--protocol", "folder", "--bootstrap", "0", "--out", str(out)])
    pair = photos / "ada/0.png", photos / "bob/0.png"
    found = verify.verify(*pair, run=run, calibration=out / "calibration.json")
    assert found.best.decision is not None
    with np.load(source) as stored:
        plain = {name: stored[name] for name in ("names", "features")}
    np.savez(source, **plain)  # As another program writes them: of which network, nobody knows.
    evaluate.main([source, "--protocol", "folder", "--bootstrap", "0", "--out", str(out)])
    with pytest.raises(InputError, match="--calibration: expected the calibration of"):
        verify.verify(*pair, run=run, calibration=out / "calibration.json")


# ------------------------------------------------------------------------------------------ verify


def test_two_photos_by_the_calibration_of_the_run(photos, calibrated, tmp_path, capsys):
    pair = [str(photos / "ada/0.png"), str(photos / "ada/1.png")]
    capsys.readouterr()
    out = tmp_path / "out"
    verify.main([*pair, "--run", str(calibrated), "--far", "0.05", "--out", str(out)])
    shown = capsys.readouterr().out
    features, norms = features_by_hand(photos, ["ada/0.png", "ada/1.png"], calibrated)
    similarity = cosine(*features.astype(np.float64))
    stored = json.loads((calibrated / "evaluation/calibration.json").read_text())
    point = next(p for p in stored["thresholds"] if p["far"] <= 0.05)
    log_ratio = stored["logistic"]["slope"] * similarity + stored["logistic"]["offset"]
    expected = "same" if similarity >= point["threshold"] else "not sure"
    if expected != "same" and similarity <= point["reject_threshold"]:
        expected = "different"

    record = json.loads((out / "verification.json").read_text())
    (found,) = record["pairs"]
    assert found["similarity"] == pytest.approx(similarity, abs=1e-5)
    assert found["decision"] == expected
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-log_ratio)), abs=1e-4)
    np.testing.assert_allclose(found["norms"], norms, rtol=1e-4)
    assert record["far"] == point
    assert f"similarity {found['similarity']:.4f}" in shown
    assert f"{expected}  norms" in shown
    assert "FAR 1 %: same from" in shown
    with Image.open(out / "verification.png") as picture:
        assert picture.width > 2 * 90


def test_folders_are_compared_photo_by_photo(photos, calibrated, monkeypatch):
    found = verify.verify(photos / "ada", photos / "bob", run=calibrated)
    assert found.compared == len(found.pairs) == 9
    assert sum(found.decisions.values()) == 9
    assert [p.similarity for p in found.pairs] == sorted(
        (p.similarity for p in found.pairs), reverse=True
    )
    assert {p.first for p in found.pairs} == {"0.png", "1.png", "2.png"}
    decided = [pair.decision for pair in found.pairs]
    assert found.decisions == {name: decided.count(name) for name in set(decided)}
    monkeypatch.setattr(comparison, "MOST_PAIRS", 4)
    few = verify.verify(photos / "ada", photos / "bob", run=calibrated)
    assert (few.pairs, few.compared, few.decisions) == (found.pairs[:4], 9, found.decisions)
    within = verify.verify(photos / "ada", photos / "ada", run=calibrated)
    assert within.compared == 3  # No photo with itself, and no pair twice.
    of_one = verify.verify(photos / "ada/1.png", photos / "ada", run=calibrated)
    assert [{pair.first, pair.second} for pair in of_one.pairs] == [
        {pair.first, pair.second} for pair in within.pairs if "1.png" in (pair.first, pair.second)
    ]
    # Three people of three photos, and ada's again: her photos make three pairs among themselves.
    nested = verify.verify(photos / "ada", photos, run=calibrated, faces="largest")
    everyone = verify.verify(photos, photos, run=calibrated, faces="largest").compared
    others = verify.verify(photos / "bob", photos / "cy", run=calibrated, faces="largest").compared
    assert nested.compared == 3 + 3 * 3 + 3 * 4
    assert everyone == nested.compared + others + 3 + 6
    one = verify.verify(photos / "ada/0.png", photos / "cy", run=calibrated)
    assert one.compared == 3
    reasons = dict(one.not_used)
    assert reasons["two.png"].startswith("2 faces were found; pass --faces largest")
    largest = verify.verify(photos / "ada/0.png", photos / "cy", run=calibrated, faces="largest")
    assert largest.compared == 4


def test_a_prior_and_a_rate_change_what_is_said(photos, calibrated):
    pair = photos / "ada/0.png", photos / "bob/0.png"
    usual, rare = (verify.verify(*pair, run=calibrated, prior=p).best for p in (0.5, 0.01))
    odds = [p.probability / (1 - p.probability) for p in (usual, rare)]
    assert odds[0] / odds[1] == pytest.approx(99, rel=1e-3)
    assert verify.verify(*pair, run=calibrated, far=1).point.far == 0.1
    with pytest.raises(
        InputError, match=r"--far: expected a rate that the calibration has \(0.1, 0.01"
    ):
        verify.verify(*pair, run=calibrated, far=1e-6)
    for settings, message in (({"far": 0}, "--far"), ({"prior": 1}, "--prior")):
        with pytest.raises(InputError, match=message):
            verify.verify(*pair, run=calibrated, **settings)


def test_without_a_calibration_the_similarity_is_told_and_how_to_calibrate(photos, run, capsys):
    pair = photos / "ada/0.png", photos / "ada/1.png"
    found = verify.verify(*pair, run=run)
    assert found.best.decision is None
    assert found.point is None
    shown = capsys.readouterr().out
    assert "is not calibrated, so that the similarity alone is known" in shown
    assert f"hyperface evaluate {run} --protocol folder --dataset NAME" in shown


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"experiment": null}'])
def test_a_damaged_config_costs_the_advice_only_its_name(config, tmp_path):
    (tmp_path / "config.json").write_text(config)
    assert "--dataset NAME" in next_steps.to_calibrate(tmp_path)


def test_a_calibration_of_other_weights_is_not_used(photos, calibrated, tmp_path, capsys):
    pair = photos / "ada/0.png", photos / "ada/1.png"
    path = calibrated / "evaluation/calibration.json"
    record = json.loads(path.read_text())
    record["model"] = "0" * 16
    path.write_text(json.dumps(record))
    assert verify.verify(*pair, run=calibrated).best.decision is None
    assert "has changed since" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--calibration: expected the calibration of .*another"):
        verify.verify(*pair, run=calibrated, calibration=path)


def test_an_export_carries_the_calibration(photos, calibrated, tmp_path, capsys):
    pair = photos / "ada/0.png", photos / "ada/1.png"
    of_run = verify.verify(*pair, run=calibrated)
    out = tmp_path / "exported"
    export.main([str(calibrated), "--out", str(out)])
    of_export = verify.verify(*pair, run=out)
    assert of_export.best.decision == of_run.best.decision
    assert of_export.best.probability == pytest.approx(of_run.best.probability, abs=1e-4)
    assert of_export.point == of_run.point
    # The weights alone are the same network, whose mirror merge the calibration tells.
    path = calibrated / "evaluation/calibration.json"
    of_weights = verify.verify(*pair, run=out / "embedder.safetensors", calibration=path)
    assert of_weights.best.similarity == pytest.approx(of_run.best.similarity, abs=1e-5)
    # An export of another merge has another calibration, and so none.
    export.main([str(calibrated), "--out", str(out), "--mirror", "none"])
    assert verify.verify(*pair, run=out).point is None
    with pytest.raises(InputError, match=r"--calibration: expected that of .* --mirror none"):
        export.main(
            [str(calibrated), "--out", str(out), "--mirror", "none", "--calibration", str(path)]
        )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "ada/0.png",
            "cy/none.png",
            "expected a face that can be used: .*none.png: no face",
        ),
        ("cy/two.png", "ada/0.png", "two.png: 2 faces were found; pass --faces largest"),
        ("ada/0.png", "ada/0.png", "expected two photos to compare, found the same one twice"),
        ("ada/0.png", "ada/9.png", "ada/9.png: expected a photo or a folder of photos, found none"),
    ],
)
def test_photos_that_cannot_be_compared_are_one_line(photos, run, first, second, message):
    with pytest.raises(InputError, match=message) as raised:
        verify.verify(photos / first, photos / second, run=run)
    assert "\n" not in str(raised.value)


def test_the_newest_run_is_taken(photos, calibrated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pair = photos / "ada/0.png", photos / "ada/1.png"
    with pytest.raises(InputError, match="--run: expected the folder of a run"):
        verify.verify(*pair)
    (tmp_path / "runs").mkdir()
    shutil.move(calibrated, tmp_path / "runs/mine")
    assert verify.verify(*pair).best.decision is not None
    assert "--run runs/mine, the newest" in capsys.readouterr().out
