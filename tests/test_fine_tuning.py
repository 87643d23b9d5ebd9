"""Released weights are scored, fine-tuned and exported again, with a card; the features stay."""

import json
import re
from functools import partial

import numpy as np
import onnx_nets
import pytest
from named_backbones import register

from hyperface import models, owned, weights
from hyperface.data.datasets import open_split
from hyperface.errors import InputError
from hyperface.runs import evaluate, export, train
from hyperface.runs.embedding import open_network
from hyperface.weights import export as writers

SHAPE = (16, 14, 3)
SIZES = {"stem": 8, "stages": ((4, 8, 8, 2), (6, 8, 8, 1)), "last": 8}
NAME = "tiny-mobile-folded"


@pytest.fixture(scope="module", autouse=True)
def _tiny_model():
    with pytest.MonkeyPatch.context() as patch:
        make = partial(models.MobileFaceNet, folded=True, **SIZES)
        register(NAME, make, SHAPE, 8, patch.setitem)
        yield


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    net = onnx_nets.mobilefacenet(
        np.random.default_rng(0), image_shape=SHAPE, feature_dim=8, folded=True, **SIZES
    )
    path = tmp_path_factory.mktemp("released") / "net.onnx"
    path.write_bytes(net.data())
    return path


@pytest.fixture(scope="module")
def tuned(released, tiny_data, tmp_path_factory):
    """A run of four steps that starts from the file."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    train.main(
        [
            "orl-normface", "--steps", "4", "--log-every", "1", "--checkpoint-every", "2",
            "--data.name", "tiny", "--data.batch-size", "16", "--model.name", NAME,
            "--model.feature-dim", "8", "--optimizer.learning-rate", "0.01",
            "--evaluation.folds", "4", "--init-from", str(released),
            "--data-dir", str(tiny_data), "--workdir", str(folder),
        ]
    )  # fmt: skip
    return folder


@pytest.fixture
def pairs(tmp_path):
    lines = ["first,second,same,fold"]
    for number in range(24):
        one = 6 + number % 4
        other = one if number < 12 else 6 + (one - 5) % 4
        lines.append(f"person{one}/{number % 8}.png,person{other}/{(number + 3) % 8}.png,"
                     f"{int(number < 12)},{number % 3}")  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return ["--protocol", "pairs", "--pairs", str(tmp_path / "pairs.csv"), "--dataset", "tiny"]


@pytest.fixture
def images(rng):
    return ((rng.integers(0, 256, (3, *SHAPE)) - 127.5) / 128).astype(np.float32)


def front_matter(card):
    """The lines between the first two rules, which hubs read as YAML."""
    return re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1]


def test_a_file_of_weights_is_scored_as_it_is(released, tiny_data, pairs, tmp_path, capsys):
    folders = ["--data-dir", str(tiny_data), "--out", str(tmp_path / "out")]
    evaluate.main([str(released), *pairs, *folders])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"network {NAME} of net.onnx, trained on (pixel - 127.5) / 127.5, bgr" in shown
    assert "no mirror image" in shown
    assert "no PCA" in shown  # NormFace's would be fitted to the people of the pairs.
    record = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert record["settings"]["run"]  # The digest of the file.
    with pytest.raises(InputError, match="expected no step for a weight file"):
        evaluate.main([str(released), *pairs, *folders, "--checkpoint", "3"])


def test_images_of_another_size_are_refused(released, tiny_data):
    network = open_network(released)
    other = network._replace(image_shape=(32, 28, 3))
    with pytest.raises(InputError, match=r"images of \(32, 28, 3\), as the network takes"):
        other.open_split("tiny", "test", tiny_data)
    assert network.open_split("tiny", "test", tiny_data).image_shape == SHAPE
    assert open_split("tiny", "test", tiny_data).image_shape == SHAPE


def test_a_fine_tuned_network_leaves_as_it_is(released, tuned, tmp_path, images):
    before, after = weights.read_backbone(released), weights.read_backbone(tuned)
    assert before.arrays.keys() == after.arrays.keys()
    assert any(np.abs(before.arrays[n] - after.arrays[n]).max() > 0 for n in before.arrays)
    export.main([str(tuned), "--out", str(tmp_path), "--mirror", "none", "--no-normalize"])
    expected = np.asarray(writers.make_embedder(after, normalize=False)(images))
    found, _ = open_network(tmp_path / "embedder.stablehlo").apply(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found, _ = open_network(tmp_path / "embedder.safetensors").apply(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert f"- Start: {released} (" in card
    assert "- Data: `tiny`, split `train`." in card
    assert "- Steps: 4 of 16 images." in card
    assert "Look up that of the start and the data before" in card
    assert 'license: "unknown"' in front_matter(card)
    assert "No protocol was run" in card


def test_a_file_leaves_as_onnx(released, tmp_path, images):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ["--format", "onnx", "--no-normalize"]
    export.main([str(released), "--out", str(tmp_path), *options])
    session = onnxruntime.InferenceSession(tmp_path / "embedder.onnx")
    (found,) = session.run(["features"], {"images": images})
    original = onnxruntime.InferenceSession(released)
    theirs = np.ascontiguousarray((images[..., ::-1] * 128 / 127.5).transpose(0, 3, 1, 2))
    expected = [original.run(None, {"input.1": image[None]})[0][0] for image in theirs]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_released_file_leaves_with_its_results(
    released, tiny_data, pairs, tmp_path, images, monkeypatch
):
    # Both commands know the folder of the results of a file.
    monkeypatch.chdir(tmp_path)
    evaluate.main([str(released), *pairs, "--data-dir", str(tiny_data)])
    record = json.loads((tmp_path / "evaluation/net/evaluation.json").read_text())
    export.main([str(released), "--out", str(tmp_path / "out"), "--license", "mit"])
    card = (tmp_path / "out/README.md").read_text()
    head = front_matter(card)
    assert 'license: "mit"' in head
    assert "pipeline_tag: image-feature-extraction" in head
    accuracy = record["protocols"]["pairs"]["figures"]["accuracy"]
    assert f'- type: "accuracy"\n      value: {accuracy:.6g}' in head
    assert "no mirror image" in card
    assert "these are the weights of net.onnx (" in card
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    read = yaml.safe_load(head)
    assert read["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(
        accuracy, abs=1e-6
    )
    expected, _ = open_network(released).apply(images)
    expected = np.asarray(expected) / np.linalg.norm(expected, axis=1, keepdims=True)
    found, _ = open_network(tmp_path / "out").apply(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_results_of_other_weights_are_refused(released, tuned, tiny_data, pairs, tmp_path):
    scored = tmp_path / "scored"
    evaluate.main([str(tuned), *pairs, "--data-dir", str(tiny_data), "--out", str(scored)])
    options = ["--evaluation", str(scored / "evaluation.json"), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"expected results of .*net\.onnx as it is, found those"):
        export.main([str(released), *options])
    (scored / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"other\.json: expected results of hyperface evaluate"):
        export.main([str(released), *options[2:], "--evaluation", str(scored / "other.json")])
    assert not (tmp_path / "out").exists()


def test_a_readme_of_somebody_else_stays(released, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md"):
        export.main([str(released), "--out", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / owned.MARKER).exists()
