"""Writes the metrics of a run as JSON lines and TensorBoard events, and shows the progress."""

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from tensorboardX import SummaryWriter

from hyperface import owned
from hyperface.console import log_console, plain, plain_column
from hyperface.files import digest

log = logging.getLogger("hyperface")


class MetricsLog:
    """Writes `metrics.jsonl` and TensorBoard events of a run, and continues them from a checkpoint.

    Each line contains the means since the previous line. If a run resumes from a checkpoint, the
    lines after the checkpoint's step are removed. An interrupted run therefore writes the same file
    as an uninterrupted one.

    Args:
      folder: the folder of the run.
      first_step: number of steps that are done.
      every: number of steps per line.
      position: the metrics of the steps after the last line and up to `first_step`, which the
        method `position` returned when the checkpoint was saved; None if there are no such steps.
    """

    def __init__(
        self, folder: Path, first_step: int, every: int, position: dict[str, Any] | None = None
    ) -> None:
        self._path = folder / "metrics.jsonl"
        self._every = every
        self._sums: dict[str, float] = dict(position["sums"]) if position else {}
        self._steps: int = position["steps"] if position else 0
        # The steps after the checkpoint are trained again, and would be logged twice.
        kept = [line for line in read_metrics(self._path) if line["step"] <= first_step]
        owned.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        events = folder / "tensorboard"
        owned.adopt(events)
        # Line by line, so that other programs can read the file while the run goes on.
        self._lines = self._path.open("a", buffering=1)
        # tensorboardX chooses the name of its file, so it is recorded as ours only afterwards.
        with owned.recording(events):
            # By `purge_step` TensorBoard drops the events of steps that are trained again.
            self._events = SummaryWriter(
                str(events), purge_step=first_step + 1 if first_step else None
            )

    def add(self, step: int, metrics: dict[str, float], *, last: bool = False) -> bool:
        """Adds the metrics of one step to the means.

        Returns whether the caller has to call `write` now: after every `every` steps, and after the
        last step.

        Args:
          step: number of the step.
          metrics: name -> value.
          last: whether it is the last step of the run, after which a line is always written.
        """
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        return last or step % self._every == 0

    def write(self, step: int, **settings: float) -> dict[str, float]:
        """Writes a line, and returns its content: name -> mean since the previous line.

        Args:
          step: number of the step.
          **settings: further numbers of the line, which are not averaged.
        """
        means = {name: total / self._steps for name, total in self._sums.items()}
        line = means | settings
        self._lines.write(json.dumps({"step": step, **line}) + "\n")
        for name, value in line.items():
            self._events.add_scalar(name, value, step)
        self._sums, self._steps = {}, 0
        return line

    def skip(self, step: int, *, last: bool = False) -> bool:
        """Returns whether the caller has to call `write` after a step that is not in the means.

        It is True after every `every` steps and after the last step. It is False if no other step
        was added since the previous line, because there is nothing to write then.

        Args:
          step: number of the step that is left out, because its update was not applied.
          last: whether it is the last step of the run, after which a line is always written.
        """
        return self._steps > 0 and (last or step % self._every == 0)

    def position(self) -> dict[str, Any]:
        """Returns the metrics since the last line: "sums", name -> sum, and "steps", their number.

        A checkpoint stores both, so that a continued run writes the same next line.
        """
        return {"sums": dict(self._sums), "steps": self._steps}

    def flush(self) -> None:
        """Waits until every line written so far is on the disk."""
        self._lines.flush()
        # A checkpoint is saved next. After a power cut its log must not lack lines before it.
        os.fsync(self._lines.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        self.flush()
        self._lines.close()
        self._events.close()


class RunningMean:
    """The mean of the values that were added since it was last read.

    Args:
      position: (sum, count) of an earlier mean, which this one continues; None starts empty.
    """

    def __init__(self, position: Sequence[float] | None = None) -> None:
        self._sum, self._count = position or (0.0, 0)

    def add(self, value: float) -> None:
        """Adds one value."""
        self._sum, self._count = self._sum + value, self._count + 1

    def take(self) -> float | None:
        """Returns the mean, or None if no value was added, and starts a new mean."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean

    def position(self) -> tuple[float, float]:
        """Returns (sum, count), from which another mean can continue."""
        return self._sum, self._count


def run_digest(folder: Path) -> str:
    """Returns the digest of a run's `metrics.jsonl`, which changes if the run is trained again."""
    return digest(folder / "metrics.jsonl")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.jsonl` as dictionaries, name -> value.

    A last line that was cut short (when the run was killed) is left out. A missing file returns [].
    """
    if not path.exists():
        return []
    # After the last newline there is nothing, or a line that a kill cut short.
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


SECONDS_BETWEEN_LINES = 10.0
"""Time between two logged lines of progress, where no bar can be drawn."""


class TrainingProgress:
    """Shows the progress of a training: step, loss, scale or radius of heads, speed, time left.

    It is a context manager. On a terminal this is a bar. Elsewhere a line is logged every ten
    seconds, and at the last step.

    Args:
      name: name of the experiment.
      first_step: number of steps that are done.
      steps: number of steps after which the training ends.
      console: console that shows the bar; by default that of the log.
    """

    def __init__(
        self, name: str, first_step: int, steps: int, console: Console | None = None
    ) -> None:
        console = console or log_console()
        self._steps = steps
        self._name = name
        self._began = self._last_line = time.monotonic()
        self._timed_from: tuple[int, float] | None = None
        self._bar = None
        if console.is_terminal and not console.quiet:
            self._bar = _Bar(
                plain_column("{task.description}"),
                BarColumn(bar_width=None),
                plain_column("{task.completed}/{task.total}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=console,
            )
            self._task = self._bar.add_task(name, total=steps, completed=first_step)

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of one step."""
        now = time.monotonic()
        if self._timed_from is None:
            self._timed_from = (step, now)  # The first step's time is compilation.
        since, began = self._timed_from
        rate = (step - since) / (now - began) if step > since else 0.0
        seen = _seen(metrics, rate)
        if self._bar:
            self._bar.seen = seen
            self._bar.update(self._task, completed=step)
        # Rarely, since output without a terminal mostly goes into a file.
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or step == self._steps:
            self._last_line = now
            left = f"{(self._steps - step) / rate:.0f} s left" if rate else ""
            log.info(f"{self._name} {step}/{self._steps} {seen} {left}")


class _Bar(Progress):
    """A progress bar with a line of metrics under it, so that both fit a narrow terminal."""

    seen = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield plain(self.seen)


def _seen(metrics: dict[str, float], steps_per_second: float) -> str:
    """Returns the shown metrics of a step in one line; those that a loss lacks are left out."""
    parts = [
        f"{title} {metrics[name]:.{digits}f}"
        for name, title, digits in (
            ("loss", "loss", 4),
            ("scale", "scale", 2),
            ("a_softmax_blend", "lambda", 1),
            ("l_softmax_blend", "lambda", 1),
            ("radius", "R", 2),
            ("distortion", "Prop. 3", 2),
            ("feature_norm", "norm", 2),
        )
        if name in metrics
    ]
    if steps_per_second:
        parts.append(f"{steps_per_second * metrics['examples']:.0f} images/s")
    return " ".join(parts)
