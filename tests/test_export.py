"""An exported embedder gives the run's features, also where this library is not installed."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperface import owned, weights
from hyperface.errors import InputError
from hyperface.evaluate.embed import embedder
from hyperface.runs import export
from hyperface.runs.embedding import open_network
from hyperface.train.checkpoint.integrity import CorruptCheckpoint, UnreadableCheckpoint
from hyperface.weights import export as writers
from hyperface.weights.maps import Pixels

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
    monkeypatch.setattr(writers, "export_stablehlo", lambda embed, image_shape: b"not this")
    monkeypatch.setattr(
        writers, "open_stablehlo", lambda *_: lambda images: jnp.zeros((len(images), 16))
    )
    with pytest.raises(InputError, match=r"expected a difference up to 0\.0001, found"):
        export.main([str(random_run[0]), "--out", str(tmp_path), "--format", "stablehlo"])
    assert [path.name for path in tmp_path.iterdir()] == [owned.MARKER]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_whose_features_are_not_finite_does_not_stay(
    wrong, batch, random_run, tmp_path, monkeypatch
):
    """In one of both batches, since a NaN could be lost where the differences are compared."""

    def opened(*_):
        embed = writers.make_embedder(weights.read_run(random_run[0]))
        return lambda images: embed(images) * (wrong if len(images) == batch else 1.0)

    monkeypatch.setattr(writers, "export_stablehlo", lambda embed, image_shape: b"not this")
    monkeypatch.setattr(writers, "open_stablehlo", opened)
    with pytest.raises(InputError, match=r"expected a difference up to .*, found (nan|inf)"):
        export.main([str(random_run[0]), "--out", str(tmp_path), "--format", "stablehlo"])
    assert [path.name for path in tmp_path.iterdir()] == [owned.MARKER]


def test_two_identical_exports_have_identical_files(random_run, exported, tmp_path):
    """In two processes: or a digest would not say whether they are the same."""
    command = [
        sys.executable,
        "-m",
        "hyperface",
        "export",
        random_run[0],
        "--out",
        tmp_path / "again",
    ]
    root = Path(export.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    for name in ("embedder.safetensors", "embedder.stablehlo"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()
    assert str(root).encode() not in (exported / "embedder.stablehlo").read_bytes()


def copied(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_an_export_in_a_runs_folder_does_not_replace_the_run(random_run, exported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(random_run[0], folder)
    for path in exported.glob("embedder.*"):
        shutil.copy(path, folder)
    for step in (None, 4):  # An export has no steps to choose from.
        shown = f"of run at step {step or 8}, "
        assert shown in open_network(folder, step, mirror="none").steps[0]
    assert open_network(folder / "embedder.stablehlo").steps[0].startswith("exported")


def test_a_changed_export_is_refused(exported, tmp_path, rng):
    """Of every file any bit, any cut, any exchange."""
    folder = copied(exported, tmp_path)
    assert open_network(folder).image_shape == SHAPE
    for name in ("embedder.json", "embedder.stablehlo"):
        whole = (folder / name).read_bytes()
        for at in rng.integers(0, len(whole), 20):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << rng.integers(8)
            for damaged in (bytes(flipped), whole[:at]):
                (folder / name).write_bytes(damaged)
                with pytest.raises(InputError, match=r"Export the run again"):
                    open_network(folder)
        (folder / name).write_bytes(whole)
    (folder / "embedder.json").unlink()
    with pytest.raises(InputError, match=r"embedder.json: expected a file, found nothing"):
        open_network(folder)


def test_a_program_that_was_exchanged_is_not_believed(exported, tmp_path):
    folder = copied(exported, tmp_path)
    other = writers.export_stablehlo(lambda images: images.reshape(-1, 672)[:, :16], SHAPE)
    (folder / "embedder.stablehlo").write_bytes(other)
    with pytest.raises(InputError, match=r"expected the file that .*embedder.json was written wit"):
        open_network(folder)


def test_weights_that_were_changed_or_exchanged_are_refused(exported, random_run, tmp_path):
    folder = copied(exported, tmp_path)
    path = folder / "embedder.safetensors"
    whole = path.read_bytes()
    for at in (len(whole) - 1, len(whole) // 2, whole.index(b'"step":"8"') + 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="found a damaged or changed one"):
            weights.read(path)
    saved = weights.read_run(random_run[0], 4)
    path.write_bytes(writers.export_safetensors(saved))
    with pytest.raises(InputError, match=r"expected the file that .*embedder.json was written wit"):
        weights.read(path)
    (folder / "embedder.json").unlink()
    assert weights.read(path).keys() == saved.arrays.keys()


def test_a_program_that_calls_other_code_is_refused(random_run):
    """JAX would run any call that this process knows, a Python function among them."""

    def calls_back(images):
        shape = jax.ShapeDtypeStruct((images.shape[0], 2), jnp.float32)
        return jax.ffi.ffi_call("foreign", shape)(images)

    exporting = jax.export.export(
        jax.jit(calls_back),
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("foreign")],
    )
    program = exporting(jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)).serialize()
    with pytest.raises(InputError, match=r"calls no other code, found .*'foreign'"):
        writers.open_stablehlo(bytes(program), SHAPE, "file")
    program = writers.export_stablehlo(lambda images: images[:, 0, 0], SHAPE)
    with pytest.raises(InputError, match=r"of float32 images \[9, 9, 3\]"):
        writers.open_stablehlo(program, (9, 9, 3), "file")
    with pytest.raises(InputError, match=r"expected a program of `hyperface export`"):
        writers.open_stablehlo(b"\0" * 100, SHAPE, "file")
