"""Causes faults in runs of hyperface train, and checks how the runs end."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture.restarts import Trainer
from hyperface.runs import program


def _copied(trainer: Trainer, name: str) -> Path:
    """Copies the unbroken run, and returns the copy's newest checkpoint, which can be damaged.

    Args:
      trainer: gives the folder of the runs.
      name: folder of the copy.
    """
    shutil.copytree(trainer.root / "whole", trainer.root / name)
    return trainer.root / name / "checkpoints" / str(trainer.steps)


def _data(checkpoint: Path) -> Path:
    """Returns the largest file with array values in a checkpoint."""
    return max(checkpoint.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def _flipped(checkpoint: Path) -> None:
    """Changes one bit in the values of a checkpoint."""
    data = bytearray(_data(checkpoint).read_bytes())
    data[len(data) // 2] ^= 1
    _data(checkpoint).write_bytes(data)


def _cut(checkpoint: Path) -> None:
    """Removes the second half of a file of a checkpoint."""
    data = _data(checkpoint)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def _emptied(checkpoint: Path) -> None:
    """Removes all files of a checkpoint, but not its folder."""
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def _damaged(name: str, damage: Callable[[Path], None]) -> Callable[[Trainer], tuple[str, bool]]:
    """Returns the fault of a damaged newest checkpoint.

    The run must keep it under another name, report it, and continue from the checkpoint before it.

    Args:
      name: folder of the run.
      damage: a function that damages a checkpoint.
    """

    def fault(trainer: Trainer) -> tuple[str, bool]:
        damage(_copied(trainer, name))
        said = f"kept as broken-{trainer.steps}" in trainer.train(name)
        used = "said, the one before it used" if said else "not said"
        return used, said and trainer.equal(name)

    return fault


def _terminated(trainer: Trainer) -> tuple[str, bool]:
    """Sends SIGTERM: the run must save its step, report it, end with status 0, and continue."""
    process = trainer.start("terminated")
    trainer.wait_for(process, lambda: trainer.logged("terminated") > 0)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate()
    step = trainer.saved("terminated")
    saved = process.returncode == 0 and f"SIGTERM: step {step} is saved" in shown
    trainer.train("terminated")
    outcome = f"step {step} saved, status {process.returncode}, went on"
    return outcome, saved and trainer.equal("terminated")


def _two_at_once(trainer: Trainer) -> tuple[str, bool]:
    """Starts a run in the folder of a running one: the second must end with an error."""
    process = trainer.start("twice")
    trainer.wait_for(process, lambda: trainer.logged("twice") > 0)
    # Stopped and not only slow, so that the first run cannot end before the second one starts.
    process.send_signal(signal.SIGSTOP)
    try:
        shown = trainer.train("twice", status=program.EXIT_INPUT)
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate()
    held = f"by process {process.pid}" in shown and process.returncode == 0
    return "the second is refused, with the first's process id", held and trainer.equal("twice")


def _full(trainer: Trainer) -> tuple[str, bool]:
    """Simulates a full disk: the run must end with one error, and continue when there is room."""
    # A limit on the size of the process' files, at half of the largest file of a checkpoint.
    most = _data(trainer.root / f"whole/checkpoints/{trainer.steps}").stat().st_size // 2
    process = trainer.start("full")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    shown = trainer.ended(process, program.EXIT_INPUT)
    held = "expected room and permission to save" in shown and "Traceback" not in shown
    trainer.train("full")
    return "one message, status 2; with room again it went on", held and trainer.equal("full")


def _unwritable(trainer: Trainer) -> tuple[str, bool]:
    """Trains into a folder that cannot be created: the run must end with one error."""
    # Below a file, because permissions do not keep root from writing.
    (trainer.root / "file").write_text("")
    shown = trainer.train("file/run", status=program.EXIT_INPUT)
    return "one message, status 2", "expected a writable run folder" in shown


def _worker_killed(trainer: Trainer) -> tuple[str, bool]:
    """Kills the processes that read images: the run must end with one error, and continue."""
    process = trainer.start("worker", "--workers", "2")
    trainer.wait_for(process, lambda: trainer.logged("worker") > 0)
    for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            # Multiprocessing starts its workers by this function, and its helpers by others.
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
    shown = trainer.ended(process, program.EXIT_INPUT)
    held = "ended with code -9" in shown and "Traceback" not in shown
    trainer.train("worker")
    return "one message, status 2; it went on", held and trainer.equal("worker")


def _unreadable(trainer: Trainer) -> tuple[str, bool]:
    """Damages a file of the data set: the run must end with an error that names the record.

    Afterwards the run must continue with the sound data set. The damaged data set is a copy by
    links, except for the damaged file.
    """
    sound, damaged = trainer.dataset, trainer.root / "damaged" / trainer.dataset.name
    for path in filter(Path.is_file, sound.rglob("*")):
        (damaged / path.relative_to(sound)).parent.mkdir(parents=True, exist_ok=True)
        (damaged / path.relative_to(sound)).symlink_to(path)
    shard = next(damaged.glob("*/*train*.array_record*-of-*[0-9]"))
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 4, len(content) // 2, 7):
        content[place] ^= 0xFF
    shard.unlink()
    shard.write_bytes(content)
    shown = trainer.train(
        "unreadable", "--data-dir", str(damaged.parent), status=program.EXIT_INPUT
    )
    held = "expected a whole record" in shown and "Traceback" not in shown
    trainer.train("unreadable")
    return "record named, status 2; mended, it went on", held and trainer.equal("unreadable")


_CLOCK = """
import itertools, time
real, calls = time.time, itertools.count()
time.time = lambda: real() - 86400.0 * (next(calls) // 500)
"""


def _clock(trainer: Trainer) -> tuple[str, bool]:
    """Sets the clock back by a day again and again: the run must not be affected.

    After a kill, the files of the run also get times in 1970 and in the future.
    """
    # Python imports a module of this name at its start, before the program itself.
    (trainer.root / "clock").mkdir()
    (trainer.root / "clock/sitecustomize.py").write_text(_CLOCK)
    paths = os.pathsep.join([str(trainer.root / "clock"), *filter(None, sys.path)])
    process = trainer.start("jumped", PYTHONPATH=paths)
    trainer.wait_for(process, trainer.reached("jumped", trainer.steps // 2))
    process.kill()
    process.communicate()
    for place, path in enumerate((trainer.root / "jumped").rglob("*")):
        os.utime(path, (place % 2 * 2**32,) * 2)
    trainer.train("jumped", PYTHONPATH=paths)
    return "nothing noticed", trainer.equal("jumped")


def _diverged(trainer: Trainer) -> tuple[str, bool]:
    """Lets the loss explode: the run must name step, metric and parameters, and end with 3."""
    more = ["--optimizer.learning-rate", "1e12"]
    shown = trainer.train("diverged", *more, status=program.EXIT_DIVERGED)
    named = "expected finite metrics, found" in shown and "Not finite: the " in shown
    return "step, metric and groups named, status 3", named


FAULTS: dict[str, Callable[[Trainer], tuple[str, bool]]] = {
    "a flipped bit in the newest": _damaged("flipped", _flipped),
    "half of the newest": _damaged("cut", _cut),
    "an empty newest": _damaged("emptied", _emptied),
    "SIGTERM": _terminated,
    "a second run into the folder": _two_at_once,
    "a full disk": _full,
    "a folder that cannot be written": _unwritable,
    "a killed process that reads": _worker_killed,
    "an unreadable record": _unreadable,
    "a clock that jumps back": _clock,
    "a loss that is not finite": _diverged,
}
"""Title of a fault -> a function that causes it and returns (outcome in words, whether the run
behaved as required)."""
