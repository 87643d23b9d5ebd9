"""Checkpoints that were changed, cut short or are of another model are never used silently."""

import errno
import itertools
import json
import os
import shutil
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperface import owned
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.train.checkpoint.integrity import CorruptCheckpoint, checksums, reason
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.weights.runs import read_run

# TensorStore calls back into an event loop that Orbax closed at the first failed read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def run(random_run, tmp_path):
    """A run of its own with checkpoints 4 and 8."""
    folder, state = random_run
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", state


def names(folder):
    """Of what is beside the marker in the folder of checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir())


def flip(step, places=None):
    """Flips one bit of the largest file of array data, as a bad disk does."""
    data = max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    for place in places or [len(content) // 2]:
        content[place] ^= 0x10
    data.write_bytes(content)


def cut(step):
    data = max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def lose(step):
    for data in step.glob("state/**/d/*"):
        data.unlink()


def change_meta(step):
    path = step / "meta/metadata"
    meta = json.loads(path.read_text())
    meta["experiment"]["seed"] = 1
    path.write_text(json.dumps(meta))


def empty(step):
    shutil.rmtree(step / "state")


@pytest.mark.parametrize("damage", [flip, cut, lose, change_meta, empty])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(damage, run, logged):
    folder, state = run
    damage(folder / "checkpoints/8")
    like = jax.eval_shape(lambda: state)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        step, found = checkpoints.restore_newest(like, mesh.replicated())
        assert step == 4
        chex.assert_trees_all_equal(found.params, state.params)
        checkpoints.save(8, state, {})
    said = logged()
    assert len(said) == 1
    assert "checkpoints/8: expected a whole checkpoint, found" in said[0]
    assert "kept as broken-8; the one before it is used" in said[0]
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 8]


def test_a_half_written_checkpoint_is_ignored_and_said(run, logged):
    """Orbax gives a step's folder its name once all is in it."""
    folder, state = run
    half = folder / "checkpoints/12.orbax-checkpoint-tmp"
    owned.claim_tree(half)  # As the run does before it saves.
    shutil.copytree(folder / "checkpoints/8", half)
    cut(half)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 8]
    assert half.exists()  # It may be another process's, which is writing it.
    with Checkpoints(folder / "checkpoints") as checkpoints:
        like = jax.eval_shape(lambda: state)
        assert checkpoints.restore_newest(like, mesh.replicated())[0] == 8
        checkpoints.save(12, state, {})
    assert logged() == [f"{half}: a save that was cut short is removed."]
    assert names(folder) == ["12", "8"]


def test_every_flipped_bit_is_found(run, rng):
    """Orbax alone restores each of these without a word."""
    folder, state = run
    like = jax.eval_shape(lambda: state)
    size = max(path.stat().st_size for path in folder.glob("checkpoints/8/state/**/d/*"))
    for place in rng.integers(size // 8, size, 12):
        flip(folder / "checkpoints/8", [place])
        with (
            Checkpoints(folder / "checkpoints", read_only=True) as checkpoints,
            pytest.raises(CorruptCheckpoint, match=r"damaged one \(.*Take another step"),
        ):
            checkpoints.restore(8, like, mesh.replicated())
        flip(folder / "checkpoints/8", [place])
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        checkpoints.restore(8, like, mesh.replicated())


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5, 0.5, 0.5], 1), ([float("nan"), 0.5, 0.7], 2), ([2.0, 1.0, 1.0], 2)],
)
def test_of_equally_good_checkpoints_the_first_is_the_best_and_nan_never_is(
    scores, best, random_run, tmp_path
):
    """It is the same one after a restart, which hears of the scores in order too."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate(scores, 1):
            checkpoints.save(step, random_run[1], {}, score)
        assert checkpoints._best.step == best
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best() == best


def test_the_best_stays_beside_the_newest_and_no_nan_costs_it(random_run, tmp_path):
    _, state = random_run
    scores = [3.0, 1.0, 2.0, float("nan"), None, float("inf")]
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate(scores[:4], 1):
            checkpoints.save(step, state, {}, score)
    with Checkpoints(tmp_path) as checkpoints:  # The best is known again after a restart.
        for step, score in enumerate(scores[4:], 5):
            checkpoints.save(step, state, {}, score)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best() == 2
        assert checkpoints.meta(2)["score"] == 1.0
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {}, 0.5)
        checkpoints.save(8, state, {}, 0.75)
        checkpoints.save(9, state, {}, 0.75)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [7, 8, 9]
        assert checkpoints.best() == 7


def test_a_reader_of_one_step_needs_no_other(run, monkeypatch):
    folder, state = run
    read = ocp.JsonCheckpointHandler.restore

    def failing(self, directory, **given):
        if directory.parts[-2:] == ("8", "meta"):
            raise OSError(errno.EIO, "Input/output error", str(directory))
        return read(self, directory, **given)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "restore", failing)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        found = checkpoints.restore(4, jax.eval_shape(lambda: state), mesh.replicated())
        chex.assert_trees_all_equal(found.params, state.params)
        with pytest.raises(InputError, match=r"found: Input/output error: .*/8/meta\. Nothing"):
            checkpoints.best()
    with pytest.raises(InputError, match="Input/output error"):  # It may be the best one.
        Checkpoints(folder / "checkpoints")


def test_a_clock_that_jumps_back_changes_nothing(run, monkeypatch):
    """Nor do files of 1970 and of 2106."""
    folder, state = run
    real, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() - 86400.0 * next(calls))
    for place, path in enumerate(folder.rglob("*")):
        os.utime(path, (place % 2 * 2**32,) * 2)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(12, state, {})
        checkpoints.save(16, state, {})
    with Checkpoints(folder / "checkpoints") as checkpoints:
        like = jax.eval_shape(lambda: state)
        step, found = checkpoints.restore_newest(like, mesh.replicated())
        assert (step, checkpoints.steps()) == (16, [12, 16])
    chex.assert_trees_all_equal(found.params, state.params)


def test_a_save_that_comes_too_late_says_so(run, monkeypatch):
    """As it does where the clock is set forward while Orbax waits."""
    folder, state = run

    def late(*_, **__):
        raise TimeoutError("Timed out after 86400 seconds.")

    with Checkpoints(folder / "checkpoints") as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(ocp.CheckpointManager, "save", late)
            message = r"expected time, by a clock that nobody sets, .* is of step 8; mend that"
            with pytest.raises(InputError, match=message):
                checkpoints.save(12, state, {})
        checkpoints.save(12, state, {})
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [8, 12]


def test_with_no_sound_checkpoint_the_run_does_not_start_over(run, logged):
    """Nor does it the second time, when all are set aside."""
    folder, state = run
    flip(folder / "checkpoints/4")
    empty(folder / "checkpoints/8")
    like = jax.eval_shape(lambda: state)
    for _ in range(2):
        with (
            Checkpoints(folder / "checkpoints") as checkpoints,
            pytest.raises(InputError, match=r"only damaged ones: broken-4, broken-8\. .* --fresh"),
        ):
            checkpoints.restore_newest(like, mesh.replicated())
    said = logged()
    assert len(said) == 2
    assert said[0].endswith("kept as broken-8; the one before it is used.")
    assert said[1].endswith("kept as broken-4.")


def test_a_new_run_has_none(random_run, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        like = jax.eval_shape(lambda: random_run[1])
        assert checkpoints.restore_newest(like, mesh.replicated()) is None


@pytest.mark.parametrize(
    ("error", "item"),
    [
        (OSError(errno.EIO, "Input/output error"), "state"),
        (OSError(errno.ESTALE, "Stale file handle"), "state"),
        (PermissionError(errno.EACCES, "Permission denied"), "state"),
        (ValueError('PERMISSION_DENIED: Error reading "d/0"'), "state"),
        (ValueError('UNKNOWN: Error reading "d/0" [OS error 5: EIO Input/output error]'), "state"),
        (MemoryError(), "state"),
        (TypeError("restore() got an unexpected keyword argument 'strict'"), "state"),
        (AttributeError("module 'orbax' has no attribute 'args'"), "state"),
        (KeyError("params"), "state"),
        (ValueError("Sharding of 8 devices: dimension 0 is not divisible by 8"), "state"),
        (RuntimeError("INVALID_ARGUMENT: Argument does not match host shape"), "state"),
        (AssertionError("sync_global_devices name mismatch ('Checkpointer:restore')"), "state"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_damage_ends_the_run_and_nothing_is_renamed(error, item, run, monkeypatch):
    """A mistake of the code, or an upgrade of Orbax, would else rename all checkpoints."""
    folder, state = run

    def failing(*_, **__):
        raise error

    def wrapping(*_, **__):
        try:
            raise error
        except Exception as cause:  # As Orbax wraps what TensorStore says.
            raise Exception("Encountered error while reading") from cause

    for raising in (failing, wrapping):
        monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", raising)
        message = r"checkpoints/8: expected to read it, found: .* Nothing"
        with (
            Checkpoints(folder / "checkpoints") as checkpoints,
            pytest.raises(InputError, match=message),
        ):
            checkpoints.restore_newest(jax.eval_shape(lambda: state), mesh.replicated())
    assert names(folder) == ["4", "8"]


def test_the_cause_under_an_error_is_what_is_said():
    def wrapped(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise Exception("Encountered error while reading array index: ()") from error
        except Exception as error:
            return reason(error)

    path = "/runs/a/checkpoints/8/state/d/0"
    for cause, said in (
        (OSError(errno.EIO, "Input/output error", path), f"Input/output error: {path}"),
        (PermissionError(errno.EACCES, "Permission denied", path), f"Permission denied: {path}"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (FileNotFoundError(f"File {path} not found."), f"File {path} not found."),
        (ValueError(f'DATA_LOSS: Error reading "{path}": checksum differs'), "checksum differs"),
        (
            ValueError(f'UNKNOWN: Error reading "{path}" [OS error 5: EIO I/O error]'),
            "EIO I/O error",
        ),
        (ValueError("expected 3 keys: a, b, c\nfound none"), "expected 3 keys: a, b, c"),
        (MemoryError(), "MemoryError"),
        (KeyError("param_name"), "no key 'param_name'"),
    ):
        assert reason(cause) == wrapped(cause) == said


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("_METADATA", b'"key": "params"', b'"key": "qarams"'),
        ("_METADATA", b'"key_type"', b'"kex_type"'),
        ("_METADATA", b'"value_type"', b'"value_uype"'),
        ("array_metadatas/process_0", b'"array_metadata":', b'"array_metadatb":'),
        ("array_metadatas/process_0", b'"param_name"', b'"param_oame"'),
    ],
)
def test_a_flipped_bit_of_orbaxs_own_files_is_damage(file, old, new, run):
    """Each fails in Orbax in its own way, as KeyError, ValueError or AttributeError."""
    folder, state = run
    path = folder / "checkpoints/8/state" / file
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        like = jax.eval_shape(lambda: state)
        assert checkpoints.restore_newest(like, mesh.replicated())[0] == 4
    assert (folder / "checkpoints/broken-8").exists()


@pytest.mark.slow
def test_any_file_gone_cut_or_flipped_is_damage_or_does_not_matter(run, tmp_path):
    folder, state = run
    like, outcomes = jax.eval_shape(lambda: state), set()
    newest = folder / "checkpoints/8"
    for path in [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]:
        for damage in (gone, halved, emptied, flipped):
            copy = tmp_path / "copy"
            shutil.copytree(folder / "checkpoints", copy)
            damage(copy / "8" / path)
            with Checkpoints(copy) as checkpoints:
                step, found = checkpoints.restore_newest(like, mesh.replicated())
            chex.assert_trees_all_equal(found.params, state.params)
            assert step == (4 if (copy / "broken-8").exists() else 8)
            outcomes.add(step)
            shutil.rmtree(copy)
    assert outcomes == {4, 8}


def gone(path):
    path.unlink()


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_another_model_is_refused_and_not_set_aside(run):
    folder, state = run
    like = jax.eval_shape(lambda: state.replace(distortion=jnp.zeros(5)))
    with (
        Checkpoints(folder / "checkpoints") as checkpoints,
        pytest.raises(InputError, match=r"distortion expected float32\[5\], found float32\[6\]"),
    ):
        checkpoints.restore_newest(like, mesh.replicated())
    assert (folder / "checkpoints/8").exists()


def test_a_checkpoint_without_checksums_is_refused_and_not_set_aside(run):
    folder, state = run
    path = folder / "checkpoints/8/meta/metadata"
    meta = json.loads(path.read_text())
    del meta["checksum"], meta["arrays"]
    path.write_text(json.dumps(meta))
    with (
        Checkpoints(folder / "checkpoints") as checkpoints,
        pytest.raises(InputError, match="with checksums, found one of an earlier version"),
    ):
        checkpoints.restore_newest(jax.eval_shape(lambda: state), mesh.replicated())
    assert (folder / "checkpoints/8").exists()
    with pytest.raises(InputError, match="saved by an earlier version"):
        read_run(folder)


def test_a_changed_backbone_is_not_loaded_either(run):
    folder, _ = run
    path = folder / "checkpoints/8/meta/metadata"
    meta = json.loads(path.read_text())
    name = next(name for name in meta["arrays"] if name.startswith("average/backbone"))
    meta["arrays"][name]["sum"] ^= 1  # As good as a flipped bit of the array, whose place is moot.
    path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=rf"found a damaged one \({name} changed"):
        read_run(folder)


# ------------------------------------------------------------------------------------- checksums


@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16", "float64", "uint8", "bool"])
def test_one_changed_element_changes_the_sum(dtype, rng):
    array = np.asarray(rng.integers(0, 2, (20_000, 3)), jnp.dtype(dtype))
    changed = array.copy()
    changed[19_000, 1] = 1 - changed[19_000, 1]
    assert checksums({"a": array}) != checksums({"a": changed})


def test_order_and_place_count():
    assert checksums({"a": np.arange(4)}) != checksums({"a": np.arange(4)[::-1]})
    assert checksums({"a": np.float32([0, 1])}) != checksums({"a": np.float32([1, 0])})


def test_the_sum_is_the_same_for_any_sharding(rng):
    array = rng.normal(size=(16_000, 5)).astype(np.float32)
    replicated = jax.device_put(array, mesh.replicated())
    rows = mesh.split_rows(array)
    assert len(rows.sharding.device_set) == 8
    assert checksums({"a": array}) == checksums({"a": replicated}) == checksums({"a": rows})
