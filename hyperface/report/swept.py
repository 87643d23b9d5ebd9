"""The runs of a sweep with their scores, and the settings that they share."""

from collections.abc import Mapping, Sequence
from statistics import stdev
from types import MappingProxyType
from typing import Any, NamedTuple

DONE = "done"


class SweptRun(NamedTuple):
    """One run of a sweep, which trains one experiment with several values of some fields."""

    name: str
    """Name of the run, and of its folder in the sweep's folder: "loss.ring.weight=0.1,seed=2"."""
    values: dict[str, Any]
    """Field that the sweep varies, such as "loss.ring.weight" -> its value in this run."""
    seed: int
    """Seed of the run."""
    status: str
    """"done", or why there is no result: "diverged", "failed" or "not run"."""
    figures: Mapping[str, float] = MappingProxyType({})
    """Scores by name, as shares in [0, 1]; empty unless the run is done."""
    message: str = ""
    """The error message of a run that is not done; else ""."""


class Setting(NamedTuple):
    """A choice of values for the swept fields, with its runs, which differ in their seeds only."""

    values: dict[str, Any]
    """Name of a swept field -> its value in all of these runs."""
    runs: list[SweptRun]
    """The runs, one per seed."""

    def scores(self, figure: str) -> list[float]:
        """Returns a score of each run that has it, in the order of the runs.

        Args:
          figure: name of the score, a key of `SweptRun.figures`.
        """
        return [run.figures[figure] for run in self.runs if figure in run.figures]

    def spread(self, figure: str) -> float | None:
        """Returns the sample standard deviation of a score over the runs.

        The result is None if fewer than two runs have the score.

        Args:
          figure: name of the score, a key of `SweptRun.figures`.
        """
        scores = self.scores(figure)
        return stdev(scores) if len(scores) > 1 else None


def settings_of(runs: Sequence[SweptRun]) -> list[Setting]:
    """Groups runs with equal values of the swept fields, in the order of each group's first run."""
    found: dict[tuple, Setting] = {}
    for run in runs:
        # Dicts have no hash, and the order of the fields is the same in all runs.
        found.setdefault(tuple(run.values.items()), Setting(run.values, [])).runs.append(run)
    return list(found.values())


def figure_names(runs: Sequence[SweptRun]) -> list[str]:
    """Returns the names of all scores that some run has, in the order in which they first appear.

    Names that contain "standard_error" are left out. They are the spreads within single runs, and a
    sweep shows the spread over seeds instead.
    """
    names = dict.fromkeys(name for run in runs for name in run.figures)
    # A sweep has a spread of its own, over seeds.
    return [name for name in names if "standard_error" not in name]
