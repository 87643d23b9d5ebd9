"""Full disks, runs that save meanwhile, and no threads: one line, and no result is lost."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import write_people

from hyperface import files, owned
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.runs import clean, evaluate, export, prepare
from hyperface.train.checkpoint.integrity import CorruptCheckpoint, read_step
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.weights import files as weight_files
from hyperface.weights import read_run

HERE = Path(__file__).parent

# ------------------------------------------------------------------------- beside a run that saves


def test_checkpoints_are_read_while_a_run_saves_and_removes_them(random_run, tmp_path):
    _, state = random_run
    with Checkpoints(random_run[0] / "checkpoints", read_only=True) as reader:
        meta = reader.meta(8)
    ended, saved = threading.Event(), []

    def save():
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            while not ended.is_set():
                saved.append(len(saved) + 1)
                checkpoints.save(saved[-1], state, meta)
                checkpoints.wait()

    thread = threading.Thread(target=save)
    thread.start()
    try:
        while len(saved) < 3:
            assert thread.is_alive()
            time.sleep(0.01)
        like, found = jax.eval_shape(lambda: state), []
        for _ in range(8):
            found.append(read_run(tmp_path).step)
            with Checkpoints(tmp_path / "checkpoints", read_only=True) as reader:

                def restore(step, reader=reader):
                    reader.meta(step)
                    reader.restore(step, like, mesh.replicated())
                    return step

                found.append(reader.read(restore))
    finally:
        ended.set()
        thread.join()
    assert len(found) == 16
    assert found == sorted(found)
    assert saved[-1] > 5


def checkpoint(folder, step):
    for part in ("state", "meta"):
        (folder / str(step) / part).mkdir(parents=True)


def test_a_step_that_vanishes_while_it_is_read_makes_way_for_the_next(tmp_path):
    checkpoint(tmp_path, 4)
    tried = []

    def act(step):
        tried.append(step)
        if len(tried) < 4:  # As a run that saves and removes does meanwhile.
            shutil.rmtree(tmp_path / str(step))
            checkpoint(tmp_path, step + 4)
            raise CorruptCheckpoint("expected a whole checkpoint, found a damaged one")
        return step

    assert read_step(tmp_path, act) == 16
    assert tried == [4, 8, 12, 16]


def test_a_step_that_stays_is_damaged(tmp_path):
    checkpoint(tmp_path, 4)

    def act(step):
        raise CorruptCheckpoint("expected a whole checkpoint, found a damaged one")

    with pytest.raises(CorruptCheckpoint, match="found a damaged one"):
        read_step(tmp_path, act)


def test_a_step_that_was_asked_for_and_vanishes_is_not_called_damaged(tmp_path):
    for step in (4, 8):
        checkpoint(tmp_path, step)

    def act(step):
        threading.Timer(0.2, shutil.rmtree, [tmp_path / str(step)]).start()  # It is under way.
        raise CorruptCheckpoint("expected a whole checkpoint, found a damaged one")

    with pytest.raises(InputError, match=r"removed while it was read\. Take another step: 8"):
        read_step(tmp_path, act, 4)


# ------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def full_disk(monkeypatch):
    """From here on no file gets onto the disk whole."""

    def fill(number=errno.ENOSPC):
        def failing(descriptor):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "fsync", failing)

    def begin(number=errno.ENOSPC):
        append = owned._append
        monkeypatch.setattr(owned, "_append", lambda *lines: recorded(append, *lines))
        fill(number)

    def recorded(append, *lines):  # Of the marker alone every line still fits.
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", lambda descriptor: None)
            append(*lines)

    return begin


def fails(command, arguments, capsys):
    """The output and the message of a command on a full disk."""
    capsys.readouterr()
    with pytest.raises(InputError) as error:
        command.main(arguments)
    message = str(error.value)
    assert "\n" not in message
    assert "expected room and permission to write in" in message
    assert "No space left on device" in message
    return capsys.readouterr().out


def left(folder):
    """Files of a folder beside the markers."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != owned.MARKER)


@pytest.fixture
def run(random_run, tmp_path):
    return shutil.copytree(random_run[0], tmp_path / "run")


def test_an_export_on_a_full_disk_leaves_no_half(run, tmp_path, full_disk, capsys):
    full_disk()
    out = tmp_path / "out"
    fails(export, [str(run), "--out", str(out), "--format", "safetensors"], capsys)
    assert left(out) == []


def test_a_cleaning_prints_before_it_writes(run, tiny_data, tmp_path, full_disk, capsys):
    full_disk()
    out = tmp_path / "out"
    options = ["tiny", "--run", str(run), "--out", str(out), "--data-dir", str(tiny_data)]
    assert "48 images kept" in fails(clean, options, capsys)
    assert left(out) == []


def test_a_runs_own_scores_are_printed_before_they_are_written(run, tiny_data, full_disk, capsys):
    full_disk()
    shown = fails(evaluate, [str(run), "--data-dir", str(tiny_data)], capsys)
    assert "accuracy" in shown
    assert not (run / "evaluation.json").exists()


def test_scores_of_protocols_are_printed_before_they_are_written(tmp_path, full_disk, capsys, rng):
    names = [f"p{person}/{image}" for person in range(10) for image in range(4)]
    np.savez(tmp_path / "f.npz", features=rng.normal(size=(40, 8)), names=np.array(names))
    lines = [f"p{p}/0,p{p}/1,1,{p}\np{p}/0,p{(p + 1) % 10}/2,0,{p}\n" for p in range(10)]
    (tmp_path / "pairs.csv").write_text("first,second,same,fold\n" + "".join(lines))
    full_disk()
    out = tmp_path / "out"
    options = ["--protocol", "pairs", "--pairs", str(tmp_path / "pairs.csv"), "--preset", "plain"]
    shown = fails(evaluate, [str(tmp_path / "f.npz"), *options, "--out", str(out)], capsys)
    assert "accuracy" in shown
    assert left(out) == []


def test_an_inspection_prints_before_it_draws(tiny_data, tmp_path, full_disk, capsys):
    shutil.copytree(tiny_data, tmp_path / "data")
    before = left(tmp_path / "data")
    full_disk()
    options = ["tiny", "--inspect", "--data-dir", str(tmp_path / "data")]
    assert "48 images of 6 identities" in fails(prepare, options, capsys)
    assert left(tmp_path / "data") == before


def test_an_old_file_survives_a_full_disk(tmp_path, full_disk):
    owned.write_text(tmp_path / "ours/a", "old")
    (tmp_path / "named").write_text("old")
    full_disk()
    with pytest.raises(OSError, match="No space"):
        owned.write_text(tmp_path / "ours/a", "new")
    with pytest.raises(OSError, match="No space"):
        owned.write_arrays(tmp_path / "ours/b.npz", b=np.ones(3))
    with pytest.raises(OSError, match="No space"):
        files.replace_text(tmp_path / "named", "new")
    assert (tmp_path / "ours/a").read_text() == (tmp_path / "named").read_text() == "old"
    assert left(tmp_path) == ["a", "named"]


LIMITED = """
import resource, sys
from pathlib import Path
from hyperface.runs.embedding import _reserve
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    _reserve(Path(sys.argv[1]), 1_000_000)
except OSError as error:
    print(error.strerror)
"""


def test_features_that_do_not_fit_are_noticed_before_they_are_written(tmp_path):
    """Else the process would get SIGBUS when it writes to the mapped file."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "features")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "File too large\n"


# --------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("limit", [0, 3, 16])
def test_a_process_without_threads_ends_with_one_line(limit, tiny_data, tmp_path):
    small = ["--data.name", "tiny", "--data.batch-size", "16", "--steps", "8", "--log-every", "1"]
    small += ["--checkpoint-every", "2", "--compare", "--optimizer.boundaries"]
    small += ["--evaluation.folds", "4", "--evaluation.snapshots", "1", "--model.feature-dim", "8"]
    where = ["--workdir", str(tmp_path / "run"), "--data-dir", str(tiny_data)]
    command = [sys.executable, HERE / "few_threads.py", str(limit), "train", *small, *where]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert found.stderr.startswith("error: expected that the system lets this process start")
    assert found.stderr.count("\n") == 1


def test_preparing_without_threads_ends_with_one_line(tmp_path):
    people = write_people(tmp_path / "people", people=2, images=2)
    where = [str(people), "--out", "mine", "--data-dir", str(tmp_path / "data")]
    command = [sys.executable, HERE / "few_threads.py", "0", "prepare", *where]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)


# ----------------------------------------------------------------------------------------- torch


def test_a_refusal_of_torch_is_not_quoted():
    """It ends in the advice to load the file in a way that runs what is in it."""
    said = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False`"
    for error in (pickle.UnpicklingError(said), RuntimeError(said)):
        message = str(weight_files._in_own_words(error))
        assert message == "it contains other objects than tensors, which are never loaded"
    damaged = RuntimeError("PytorchStreamReader failed reading zip archive")
    assert weight_files._in_own_words(damaged) is damaged
