"""The runs of a sweep with their scores, and the settings that they share."""

from collections.abc import Mapping, Sequence
from statistics import stdev
from types import MappingProxyType
from typing import Any, NamedTuple

DONE = "done"


class SweptRun(NamedTuple):
    """One run of a sweep: its settings and its outcome."""

    name: str
    values: dict[str, Any]
    """Swept field -> its value in this run."""
    seed: int
    status: str
    """`DONE`, or why there is no result: "diverged", "failed" or "not run"."""
    figures: Mapping[str, float] = MappingProxyType({})
    """Scores by name, as shares in [0, 1]; empty unless the run is done."""
    message: str = ""
    """The error message of a run that is not done."""


class Setting(NamedTuple):
    """The runs whose settings are equal and whose seeds differ."""

    values: dict[str, Any]
    """Swept field -> its value in all of these runs."""
    runs: list[SweptRun]
    """The runs, one per seed."""

    def scores(self, figure: str) -> list[float]:
        """Returns the score with this name of each run that has it."""
        return [run.figures[figure] for run in self.runs if figure in run.figures]

    def spread(self, figure: str) -> float | None:
        """Returns the sample standard deviation over the seeds; None for fewer than two scores."""
        scores = self.scores(figure)
        return stdev(scores) if len(scores) > 1 else None


def settings_of(runs: Sequence[SweptRun]) -> list[Setting]:
    """Groups runs by their settings, in the order of each setting's first run."""
    found: dict[tuple, Setting] = {}
    for run in runs:
        # Dicts have no hash, and the order of the fields is the same in all runs.
        found.setdefault(tuple(run.values.items()), Setting(run.values, [])).runs.append(run)
    return list(found.values())


def figure_names(runs: Sequence[SweptRun]) -> list[str]:
    """Returns the names of the runs' scores, without the standard errors of single runs."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    # A sweep has a spread of its own, over seeds.
    return [name for name in names if "standard_error" not in name]
