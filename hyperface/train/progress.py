"""Progress of a run: a live bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from hyperface.console import make_console, plain, plain_column, say

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows step, loss, what the heads learn, Proposition 3, images a second and time left."""

    def __init__(self, name: str, first_step: int, steps: int, console: Console | None = None):
        self._console = console or make_console()
        self._steps = steps
        self._name = name
        self._began = self._last_line = time.monotonic()
        self._timed_from: tuple[int, float] | None = None
        self._bar = None
        if self._console.is_terminal:
            self._bar = _Bar(
                plain_column("{task.description}"),
                BarColumn(bar_width=None),
                plain_column("{task.completed}/{task.total}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
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
        """Shows one step's metrics."""
        now = time.monotonic()
        if self._timed_from is None:
            self._timed_from = (step, now)  # The first step's time is compilation.
        since, began = self._timed_from
        rate = (step - since) / (now - began) if step > since else 0.0
        seen = _seen(metrics, rate)
        if self._bar:
            self._bar.seen = seen
            self._bar.update(self._task, completed=step)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or step == self._steps:
            self._last_line = now
            left = f"{(self._steps - step) / rate:.0f} s left" if rate else ""
            say(self._console, f"{self._name} {step}/{self._steps} {seen} {left}")


class _Bar(Progress):
    """The bar, and under it a line of what is seen, so that both fit a narrow terminal."""

    seen = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield plain(self.seen)


def _seen(metrics: dict[str, float], steps_per_second: float) -> str:
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
