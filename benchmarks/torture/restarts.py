"""Runs of hyperface train that are killed and started again, and compared with an unbroken one."""

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
    """A run that was killed, restarted, and is done."""

    kills: int
    lost: int
    """Steps that the worst kill cost."""
    equal: bool
    """Whether it ended as the unbroken run did."""


class Trainer:
    """Starts the same training again and again, each run in a folder of its own.

    Args:
      arguments: of hyperface train, without --workdir.
      root: where the runs' folders go.
      program: what the interpreter is to run.
    """

    def __init__(
        self,
        arguments: list[str],
        root: Path,
        program: Sequence[str] = ("-m", "hyperface", "train"),
    ):
        self.arguments, self._program = arguments, program
        self.root = root
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @property
    def steps(self) -> int:
        """Of a whole run."""
        return self._experiment["steps"]

    @property
    def most_lost(self) -> int:
        """Steps that a kill may cost: an interval, and the one whose save was under way."""
        return 2 * self._experiment["checkpoint_every"]

    @property
    def most_shards(self) -> int:
        """Devices that agents can be split over with equal numbers: 1 where classes are sampled."""
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
        """The folder of the data set that is trained on."""
        from hyperface.data.datasets import data_directory

        given = self.arguments.index("--data-dir") + 1 if "--data-dir" in self.arguments else None
        data_dir = data_directory(given and Path(self.arguments[given]))
        return data_dir / self._experiment["data"]["name"]

    def train_whole(self) -> float:
        """Trains without a break, twice, and returns the seconds of the second time.

        The first fills the compilation cache, which all runs share.
        """
        self.train("first")
        began = time.monotonic()
        self.train("whole")
        return time.monotonic() - began

    def start(self, name: str, *more: str, **environment: str) -> subprocess.Popen:
        """Starts the command, in an environment with more variables, and returns at once."""
        workdir = str(self.root / name)
        return subprocess.Popen(
            [sys.executable, *self._program, *self.arguments, *more, "--workdir", workdir],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment | environment,
        )

    def train(self, name: str, *more: str, status: int = 0, **environment: str) -> str:
        """Runs the command to its end and returns what it printed.

        Raises:
          RuntimeError: it ended with another status.
        """
        process = self.start(name, *more, **environment)
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
                self.wait_for(process, self.reached(name, step))
                time.sleep(rng.uniform(0, 0.2))
            process.kill()
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                break  # It had ended before its moment.
            done += 1
            lost = max(lost, self.logged(name) - self.saved(name))
        self.train(name)
        return Killed(done, lost, self.equal(name))

    def reached(self, name: str, step: int) -> Callable[[], bool]:
        """A function: whether the log has a step that it did not have from an earlier start."""
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

    def train_on_changing_devices(
        self, name: str, counts: Sequence[int], rng: random.Random, *more: str
    ) -> float:
        """Kills a run at each device count but the last, goes on with the next; the `distance`.

        The devices are simulated on the CPU; each kill comes after a random step of those that are
        left, and leaves some for the next count.

        Raises:
          RuntimeError: a run ended otherwise.
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
        """The largest distance of a parameter array from the unbroken run's, in its lengths."""
        import jax
        import numpy as np

        def relative(ours, theirs) -> float:
            length = max(np.linalg.norm(theirs), np.finfo(np.float32).tiny)
            return float(np.linalg.norm(np.subtract(ours, theirs)) / length)

        ours, theirs = (self._state(run).params for run in (name, "whole"))
        return max(jax.tree.leaves(jax.tree.map(relative, ours, theirs)))

    def equal(self, name: str) -> bool:
        """Whether a run's last state, log and scores are the unbroken run's, bit for bit."""
        import jax
        import numpy as np

        states = [self._state(run) for run in ("whole", name)]
        leaves = [jax.tree.leaves(s.replace(key=jax.random.key_data(s.key))) for s in states]
        logs = [(self.root / run / "metrics.jsonl").read_text() for run in ("whole", name)]
        same = (
            np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)
        )
        return all(same) and logs[0] == logs[1] and self._same_scores(name)

    def _same_scores(self, name: str) -> bool:
        """Of the best step, and of each checkpoint that is still there."""
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
