"""Kills runs of hyperface train, starts them again, and compares them with an unbroken run."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyperface.runs import program


class Killed(NamedTuple):
    """The result of a run that was killed and restarted until it was done."""

    kills: int
    """Number of kills."""
    lost: int
    """Largest number of steps that had to be repeated after a kill."""
    equal: bool
    """Whether the run ended with the same state, log and scores as the unbroken run."""


class Trainer:
    """Starts the same training again and again, each run in a folder of its own.

    Args:
      arguments: the arguments of hyperface train, without --workdir.
      root: folder for the folders of the runs.
      start: the arguments of the Python interpreter that start hyperface train.
    """

    def __init__(
        self,
        arguments: list[str],
        root: Path,
        start: Sequence[str] = ("-m", "hyperface", "train"),
    ):
        self.arguments, self._start = arguments, start
        self.root = root
        self.shown: list[str] = []
        """What each run has printed; whoever prints it after a failure empties the list."""
        # All runs share compiled programs, also small ones, so that a restart takes seconds.
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @property
    def steps(self) -> int:
        """Number of steps of a whole run."""
        return self._experiment["steps"]

    @property
    def most_lost(self) -> int:
        """Largest number of steps that a kill may cost: two intervals between checkpoints.

        The save of the newest checkpoint may not be finished, so the run continues from the one
        before it.
        """
        return 2 * self._experiment["checkpoint_every"]

    @property
    def most_shards(self) -> int:
        """Largest number of devices over which agents can be split without changing the result.

        It is the number of classes, or 1 if classes are sampled, because the sample then depends on
        the number of devices.
        """
        sampled = self._experiment["loss"]["sample_rate"] < 1
        return 1 if sampled else self._config["data"]["classes"]

    @property
    def _experiment(self) -> dict[str, Any]:
        return self._config["experiment"]

    @property
    def _config(self) -> dict[str, Any]:
        return json.loads((self.root / "whole/config.json").read_text())

    @property
    def dataset(self) -> Path:
        """Folder of the data set that is trained on."""
        from hyperface.data.datasets import data_directory

        given = self.arguments.index("--data-dir") + 1 if "--data-dir" in self.arguments else None
        data_dir = data_directory(given and Path(self.arguments[given]))
        return data_dir / self._experiment["data"]["name"]

    def train_whole(self) -> float:
        """Trains two runs without a break, and returns the seconds that the second one took.

        The first run fills the cache of compiled programs, which all runs share.
        """
        self.train("first")
        began = time.monotonic()
        self.train("whole")
        return time.monotonic() - began

    def start(self, name: str, *more: str, **environment: str) -> subprocess.Popen:
        """Starts hyperface train, and returns its process at once.

        Args:
          name: folder of the run.
          *more: further arguments of hyperface train.
          **environment: environment variables in addition to those of this process.
        """
        workdir = str(self.root / name)
        return subprocess.Popen(
            [sys.executable, *self._start, *self.arguments, *more, "--workdir", workdir],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment | environment,
        )

    def train(self, name: str, *more: str, status: int = 0, **environment: str) -> str:
        """Runs hyperface train to its end and returns its output.

        Args:
          name: folder of the run.
          *more: further arguments of hyperface train.
          status: the exit status that is expected.
          **environment: environment variables in addition to those of this process.

        Raises:
          RuntimeError: the process ended with another status.
        """
        process = self.start(name, *more, **environment)
        return self.ended(process, status)

    def ended(self, process: subprocess.Popen, status: int = 0) -> str:
        """Waits for the end of a process of `start`, and returns its output.

        Args:
          process: the process.
          status: the exit status that is expected.

        Raises:
          RuntimeError: the process ended with another status.
        """
        shown, _ = process.communicate()
        self.shown.append(shown)
        if process.returncode != status:
            raise RuntimeError(f"expected status {status}, found {process.returncode}: {shown}")
        return shown

    def train_killed(self, name: str, kills: int, rng: random.Random, seconds: float) -> Killed:
        """Kills a run up to `kills` times, restarts it each time, and finally lets it end.

        Half of the kills come at a random moment of a whole run, which mostly hits its start or its
        scoring. The other half come at a random one of the steps that are left.

        Args:
          name: folder of the run.
          kills: largest number of kills.
          rng: source of the random moments.
          seconds: time that a whole run takes.
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
                self.wait_for(process, self.reached(name, step))
                # A random delay, or each kill would come just after a line of the log was written.
                time.sleep(rng.uniform(0, 0.2))
            process.kill()
            process.communicate()
            # Otherwise the run had ended before its moment came, and was not killed.
            if process.returncode != -signal.SIGKILL:
                break
            done += 1
            lost = max(lost, self.logged(name) - self.saved(name))
        self.train(name)
        return Killed(done, lost, self.equal(name))

    def reached(self, name: str, step: int) -> Callable[[], bool]:
        """Returns a function that tells whether the run has reached a step since it was started.

        Args:
          name: folder of the run.
          step: the step, which an earlier start of the run may have logged already.
        """
        log = self.root / name / "metrics.jsonl"
        before = log.stat().st_ino if log.exists() else None

        def reached() -> bool:
            # A run that starts replaces the file, so another inode means that it has started.
            return log.exists() and log.stat().st_ino != before and self.logged(name) >= step

        return reached

    def saved(self, name: str) -> int:
        """Returns the step of the run's newest complete checkpoint; 0 if there is none."""
        # A checkpoint that is still being written has a longer name, which is no number.
        steps = (self.root / name / "checkpoints").glob("[0-9]*")
        return max((int(path.name) for path in steps if path.name.isdigit()), default=0)

    def logged(self, name: str) -> int:
        """Returns the last step in the run's log; 0 if nothing is logged."""
        path = self.root / name / "metrics.jsonl"
        # [:-1] leaves out an incomplete last line, or the empty text after the last line break.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def wait_for(self, process: subprocess.Popen, ready: Callable[[], bool]) -> None:
        """Waits until `ready` returns True, or until the process has ended."""
        while not ready() and process.poll() is None:
            time.sleep(0.01)

    def train_on_changing_devices(
        self, name: str, counts: Sequence[int], rng: random.Random, *more: str
    ) -> float:
        """Trains a run with one number of devices after the other, and kills it in between.

        The devices are simulated on the CPU. Each kill comes after a random one of the steps that
        are left, and leaves some steps for the next number of devices.

        Args:
          name: folder of the run.
          counts: the numbers of devices. With the last one the run is trained to its end.
          rng: source of the random steps.
          *more: further arguments of hyperface train.

        Returns:
          The distance to the unbroken run, as `distance` returns it.

        Raises:
          RuntimeError: a process ended before it was killed, or with an error.
        """
        for place, count in enumerate(counts, 1):
            devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
            if place == len(counts):
                self.train(name, *more, **devices)
                break
            process = self.start(name, *more, **devices)
            first, last = self.saved(name) + 1, self.steps * place // len(counts)
            self.wait_for(process, self.reached(name, rng.randint(first, max(first, last))))
            process.kill()
            shown, _ = process.communicate()
            if process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"expected a run to kill, found one that had ended: {shown}")
        return self.distance(name)

    def distance(self, name: str) -> float:
        """Returns the largest relative distance of a parameter array from the unbroken run's.

        It is the norm of the difference, divided by the norm of the unbroken run's array.
        """
        import jax
        import numpy as np

        def relative(ours, theirs) -> float:
            # An array may be zero in both runs, such as a bias that is never trained.
            length = max(np.linalg.norm(theirs), np.finfo(np.float32).tiny)
            return float(np.linalg.norm(np.subtract(ours, theirs)) / length)

        ours, theirs = (self._state(run).params for run in (name, "whole"))
        # Not Python's max, which drops a NaN.
        return float(np.max(jax.tree.leaves(jax.tree.map(relative, ours, theirs))))

    def equal(self, name: str) -> bool:
        """Returns whether last state, log and scores are bit for bit those of the unbroken run."""
        import jax
        import numpy as np

        states = [self._state(run) for run in ("whole", name)]
        # A typed random key has no bytes of its own, so its data is compared. Bytes and not values
        # are compared, because NaN does not equal itself.
        leaves = [jax.tree.leaves(s.replace(key=jax.random.key_data(s.key))) for s in states]
        logs = [(self.root / run / "metrics.jsonl").read_text() for run in ("whole", name)]
        same = (
            np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)
        )
        return all(same) and logs[0] == logs[1] and self._same_scores(name)

    def _same_scores(self, name: str) -> bool:
        """Returns whether best step and scores equal those of the unbroken run."""
        # Only checkpoints of both runs: a killed run may have kept others than the unbroken one.
        with self._checkpoints(name) as ours, self._checkpoints("whole") as theirs:
            both = set(ours.steps()) & set(theirs.steps())
            same = (ours.meta(s).get("score") == theirs.meta(s).get("score") for s in both)
            return ours.best() == theirs.best() and all(same)

    def _state(self, name: str):
        from hyperface.runs.evaluate_own import restored

        with self._checkpoints(name) as checkpoints:
            return restored(checkpoints, self.steps)[1]

    def _checkpoints(self, name: str):
        from hyperface.train.checkpoint.manager import Checkpoints

        program.quiet_libraries()
        return Checkpoints(self.root / name / "checkpoints", read_only=True)
