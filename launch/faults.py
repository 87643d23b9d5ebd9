"""Runs of launch.train that are killed, stopped or damaged: the parts of launch.torture."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from launch import cli


class Killed(NamedTuple):
    """A run that was killed, restarted, and is done."""

    kills: int
    lost: int
    """Steps that the worst kill cost."""
    equal: bool
    """Whether it ended as the unbroken run did."""


class Trainer:
    """Starts the same training again and again, each run in a folder of its own.

    Args:
      arguments: of launch.train, without --workdir.
      root: where the runs' folders go.
    """

    def __init__(self, arguments: list[str], root: Path):
        self.arguments = arguments
        self.root = root
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @property
    def steps(self) -> int:
        """Of a whole run."""
        return json.loads((self.root / "whole/config.json").read_text())["experiment"]["steps"]

    def train_whole(self) -> float:
        """Trains without a break, twice, and returns the seconds of the second time.

        The first fills the compilation cache, which all runs share.
        """
        self.train("first")
        began = time.monotonic()
        self.train("whole")
        return time.monotonic() - began

    def start(self, name: str, *more: str) -> subprocess.Popen:
        """Starts the command and returns at once."""
        workdir = str(self.root / name)
        return subprocess.Popen(
            [sys.executable, "-m", "launch.train", *self.arguments, *more, "--workdir", workdir],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )

    def train(self, name: str, *more: str, status: int = 0) -> str:
        """Runs the command to its end and returns what it printed.

        Raises:
          RuntimeError: it ended with another status.
        """
        process = self.start(name, *more)
        return self.ended(process, status)

    def ended(self, process: subprocess.Popen, status: int = 0) -> str:
        """What a started command printed, once it has ended.

        Raises:
          RuntimeError: it ended with another status.
        """
        shown, _ = process.communicate()
        if process.returncode != status:
            raise RuntimeError(f"expected status {status}, found {process.returncode}: {shown}")
        return shown

    def train_killed(self, name: str, kills: int, rng: random.Random, seconds: float) -> Killed:
        """Kills a run up to `kills` times, then lets it end.

        Every other kill comes at a random moment of the `seconds` that a whole run takes, which are
        mostly its start and its scoring; the others at a random step of those that are left.
        """
        done = lost = 0
        while done < kills and self.saved(name) < self.steps:
            process = self.start(name)
            if done % 2:
                seconds_left = rng.uniform(0, seconds)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds_left)
            else:
                step = rng.randint(self.saved(name) + 1, self.steps)
                self.wait_for(process, self._reached(name, step))
                time.sleep(rng.uniform(0, 0.2))
            process.kill()
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                break  # It had ended before its moment.
            done += 1
            lost = max(lost, self.logged(name) - self.saved(name))
        self.train(name)
        return Killed(done, lost, self.equal(name))

    def _reached(self, name: str, step: int) -> Callable[[], bool]:
        """Whether the log has a step that it did not have from an earlier start."""
        log = self.root / name / "metrics.jsonl"
        before = log.stat().st_ino if log.exists() else None

        def reached() -> bool:
            # A run that starts replaces the file.
            return log.exists() and log.stat().st_ino != before and self.logged(name) >= step

        return reached

    def saved(self, name: str) -> int:
        """The newest whole checkpoint's step; 0 where there is none."""
        steps = (self.root / name / "checkpoints").glob("[0-9]*")
        return max((int(path.name) for path in steps if path.name.isdigit()), default=0)

    def logged(self, name: str) -> int:
        """The last step of the log."""
        path = self.root / name / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def wait_for(self, process: subprocess.Popen, ready: Callable[[], bool]) -> None:
        """Waits until something of a run is there, or the run has ended."""
        while not ready() and process.poll() is None:
            time.sleep(0.01)

    def equal(self, name: str) -> bool:
        """Whether a run's last state and log are the unbroken run's, bit for bit."""
        import jax
        import numpy as np

        from hyperface.train.checkpoint import Checkpoints
        from launch.evaluate import restored

        cli.quiet_libraries()
        leaves = []
        for run in ("whole", name):
            with Checkpoints(self.root / run / "checkpoints", read_only=True) as checkpoints:
                _, state = restored(checkpoints, self.steps)
            leaves.append(jax.tree.leaves(state.replace(key=jax.random.key_data(state.key))))
        logs = [(self.root / run / "metrics.jsonl").read_text() for run in ("whole", name)]
        same = (
            np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)
        )
        return all(same) and logs[0] == logs[1]


def _copied(trainer: Trainer, name: str) -> Path:
    """A copy of the unbroken run, to be damaged; returns its newest checkpoint."""
    shutil.copytree(trainer.root / "whole", trainer.root / name)
    return trainer.root / name / "checkpoints" / str(trainer.steps)


def _data(checkpoint: Path) -> Path:
    return max(checkpoint.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def _flipped(checkpoint: Path) -> None:
    data = bytearray(_data(checkpoint).read_bytes())
    data[len(data) // 2] ^= 1
    _data(checkpoint).write_bytes(data)


def _cut(checkpoint: Path) -> None:
    data = _data(checkpoint)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def _emptied(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def _damaged(name: str, damage: Callable[[Path], None]) -> Callable[[Trainer], tuple[str, bool]]:
    def fault(trainer: Trainer) -> tuple[str, bool]:
        damage(_copied(trainer, name))
        said = f"kept as broken-{trainer.steps}" in trainer.train(name)
        used = "said, the one before it used" if said else "not said"
        return used, said and trainer.equal(name)

    return fault


def _terminated(trainer: Trainer) -> tuple[str, bool]:
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
    process = trainer.start("twice")
    trainer.wait_for(process, lambda: trainer.logged("twice") > 0)
    process.send_signal(signal.SIGSTOP)
    try:
        shown = trainer.train("twice", status=cli.EXIT_INPUT)
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate()
    held = f"by process {process.pid}" in shown and process.returncode == 0
    return "the second is refused, with the first's process id", held and trainer.equal("twice")


def _full(trainer: Trainer) -> tuple[str, bool]:
    most = _data(trainer.root / f"whole/checkpoints/{trainer.steps}").stat().st_size // 2
    process = trainer.start("full")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    shown = trainer.ended(process, cli.EXIT_INPUT)
    held = "expected room and permission to save" in shown and "Traceback" not in shown
    trainer.train("full")
    return "one message, status 2; with room again it went on", held and trainer.equal("full")


def _unwritable(trainer: Trainer) -> tuple[str, bool]:
    (trainer.root / "file").write_text("")
    shown = trainer.train("file/run", status=cli.EXIT_INPUT)
    return "one message, status 2", "expected a writable run folder" in shown


def _diverged(trainer: Trainer) -> tuple[str, bool]:
    more = ["--optimizer.learning-rate", "1e12"]
    shown = trainer.train("diverged", *more, status=cli.EXIT_DIVERGED)
    return "step and metric named, status 3", "expected finite metrics, found" in shown


FAULTS: dict[str, Callable[[Trainer], tuple[str, bool]]] = {
    "a flipped bit in the newest": _damaged("flipped", _flipped),
    "half of the newest": _damaged("cut", _cut),
    "an empty newest": _damaged("emptied", _emptied),
    "SIGTERM": _terminated,
    "a second run into the folder": _two_at_once,
    "a full disk": _full,
    "a folder that cannot be written": _unwritable,
    "a loss that is not finite": _diverged,
}
"""What befalls a run, by title: the outcome in words, and whether all is as it should be."""
