"""An exported embedder gives the run's features, also where this library is not installed."""

import errno
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperface import owned, weights
from hyperface.errors import InputError
from hyperface.evaluate.embed import embedder
from hyperface.train.damage import CorruptCheckpoint, UnreadableCheckpoint
from hyperface.weights.maps import Pixels
from launch import export

SHAPE = (16, 14, 3)


@pytest.fixture(scope="module")
def exported(random_run, tmp_path_factory):
    """What the command makes by default."""
    folder = tmp_path_factory.mktemp("exported")
    export.main([str(random_run[0]), "--out", str(folder)])
    return folder


@pytest.fixture
def images(rng):
    return jnp.asarray((rng.integers(0, 256, (5, *SHAPE)) - 127.5) / 128, jnp.float32)


def embed(state, images, mirror):
    def apply(params, images):
        return state.network.apply({"params": params}, images, method="embed")

    # What the run is scored with: this one keeps an average.
    return embedder(apply, mirror)(state.evaluated["params"], images)[0]


def test_only_the_backbone_is_read(random_run):
    folder, state = random_run
    saved = weights.read_run(folder)
    assert (saved.model, saved.step, saved.image_shape) == ("sphereface-mini", 8, SHAPE)
    assert weights.read_run(folder, 4).step == 4
    assert all(name.startswith("params/") and "head" not in name for name in saved.arrays)
    assert len(saved.arrays) == len(jax.tree.leaves(state.average["backbone"]))


def test_a_run_fills_a_fresh_backbone(random_run):
    folder, state = random_run
    like = jax.tree.map(jnp.zeros_like, state.average["backbone"])
    params, report = weights.load_backbone(folder, "sphereface-mini", like)
    jax.tree.map(np.testing.assert_array_equal, params, state.average["backbone"])
    assert "a run of this library" in str(report)
    with pytest.raises(InputError, match="expected weights of 'wen28', found 'sphereface-mini'"):
        weights.load_backbone(folder, "wen28", like)


def test_checkpoints_that_are_not_there_or_damaged_are_refused(random_run, tmp_path):
    folder, _ = random_run
    with pytest.raises(InputError, match=r"expected checkpoint 5 in .*, found steps: 4, 8"):
        weights.read_run(folder, 5)
    for item in ("state", "meta"):
        (tmp_path / "checkpoints" / "3" / item).mkdir(parents=True)
    with pytest.raises(InputError, match="expected a whole checkpoint, found a damaged one"):
        weights.read_run(tmp_path)


@pytest.mark.parametrize("cut", ["meta/metadata", "state/_METADATA", "state/manifest.ocdbt"])
def test_a_checkpoint_that_may_be_sound_is_not_called_damaged(
    cut, random_run, tmp_path, monkeypatch
):
    shutil.copytree(random_run[0], tmp_path / "run")
    path = tmp_path / "run/checkpoints/8" / cut
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CorruptCheckpoint, match=r"8: .* a damaged one \(.* Take another step"):
        weights.read_run(tmp_path / "run")

    def failing(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "restore", failing)
    with pytest.raises(UnreadableCheckpoint, match=f"expected to read it, found: Perm.*: {path}"):
        weights.read_run(tmp_path / "run")


def test_the_command_checks_what_it_writes(random_run, tmp_path, capsys):
    arguments = ["--format", "safetensors", "--mirror", "none", "--no-normalize"]
    export.main([str(random_run[0]), "--out", str(tmp_path), *arguments])
    assert re.search(r"embedder.safetensors: \d.*, largest difference 0", capsys.readouterr().out)
    record = json.loads((tmp_path / "embedder.json").read_text())
    assert record["input"] == ["batch", *SHAPE]
    assert (record["mirror"], record["normalize"]) == ("none", False)


def test_an_export_fills_a_fresh_backbone(random_run, exported):
    backbone = random_run[1].average["backbone"]
    path, like = exported / "embedder.safetensors", jax.tree.map(jnp.zeros_like, backbone)
    params, report = weights.load_backbone(path, "sphereface-mini", like)
    jax.tree.map(np.testing.assert_array_equal, params, backbone)
    assert report.layout == "an export of this library"
    with pytest.raises(InputError, match="expected weights of 'lenet', found 'sphereface-mini'"):
        weights.load_backbone(path, "lenet", like)
    with pytest.raises(InputError, match=r"expected pixels \(pixel - 127\.5\) / 128, rgb, as"):
        weights.load_backbone(path, "sphereface-mini", like, pixels=Pixels(0, 255, "grey"))


def test_the_program_runs_without_this_library(random_run, exported, tmp_path, images):
    """In a bare interpreter, whose only imports are jax and numpy; any batch size."""
    np.save(tmp_path / "images.npy", np.asarray(images))
    code = f"""if True:
        import sys
        import numpy as np
        from jax import export
        data = open({str(exported / "embedder.stablehlo")!r}, "rb").read()
        images = np.load({str(tmp_path / "images.npy")!r})
        program = export.deserialize(bytearray(data))
        features = np.asarray(program.call(images))
        assert np.allclose(program.call(images[:2]), features[:2], atol=1e-5)
        np.save({str(tmp_path / "features.npy")!r}, features)
        assert not {{"hyperface", "flax", "orbax"}} & set(sys.modules)
        """
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    expected = np.array(embed(random_run[1], images, "sum"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, atol=1e-5)


def test_onnx_gives_the_same_features(random_run, tmp_path, images):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder, state = random_run
    export.main([str(folder), "--out", str(tmp_path), "--format", "onnx", "--mirror", "concat"])
    session = onnxruntime.InferenceSession(tmp_path / "embedder.onnx")
    (found,) = session.run(["features"], {"images": np.asarray(images)})
    expected = np.array(embed(state, images, "concat"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "stablehl"], "unknown format 'stablehl'. Did you mean 'stablehlo'"),
        (["--step", "7"], "checkpoint 7 in .*, found steps: 4, 8"),
    ],
)
def test_wrong_options_write_nothing(random_run, arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export.main([str(random_run[0]), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_does_not_stay(random_run, tmp_path, monkeypatch):
    from hyperface.weights import export as writers

    monkeypatch.setattr(writers, "export_stablehlo", lambda embed, image_shape: b"not this")
    monkeypatch.setattr(
        writers, "open_stablehlo", lambda path: lambda images: jnp.zeros((len(images), 16))
    )
    with pytest.raises(InputError, match=r"expected a difference up to 0\.0001, found"):
        export.main([str(random_run[0]), "--out", str(tmp_path), "--format", "stablehlo"])
    assert [path.name for path in tmp_path.iterdir()] == [owned.MARKER]
