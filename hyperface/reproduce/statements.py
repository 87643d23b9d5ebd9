"""Tests the papers' statements on the scores of trained runs.

The test of a statement is a function beside its item, in `normface.py` and `ringloss.py`. It gets
the scores in one column of a table and returns the parts of each statement: differences of scores
that the statement says are above zero. The same function tests the printed scores of the paper.

    >>> scores = Scores({"a": {0: 87.0, 1: 88.0}, "b": {0: 86.0, 1: 86.5}})
    >>> scores.above("a", "b")
    [Part(margins={0: 1.0, 1: 1.5}, least=0.0, most=inf)]
"""

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import NamedTuple

LOWEST = -math.inf
"""Stands for the score of a run that diverged."""
GUESS, CLEARLY = 50.0, 5.0
"""Verification accuracy of a guess in percent, and the points by which a network that learned
something is above it."""
EXPLODED = 100.0
"""Factor by which the mean feature norm of a failed network grew or shrank in training."""

BySeed = Mapping[int, float]
Names = str | Sequence[str]
"""One row of a table, or several."""


class Part(NamedTuple):
    """One comparison of a statement."""

    margins: dict[int, float]
    """Seed -> difference in points; empty if no seed has both scores."""
    least: float = 0.0
    """The difference that the statement claims at least."""
    most: float = math.inf

    def is_as_printed(self) -> bool:
        """Returns whether the paper's printed scores are within the bounds.

        The papers round the differences that they state to one digit.
        """
        (margin,) = self.margins.values()
        if math.isinf(self.most):
            return margin > self.least
        return self.least <= round(margin, 1) <= self.most


Statements = dict[str, list[Part]]
"""Sentence -> its parts. The statement holds if all parts do."""


class Scores(NamedTuple):
    """The scores in one column of a table."""

    rows: Mapping[str, BySeed]
    """Row -> seed -> score in percent."""
    failures: Mapping[str, BySeed] = {}
    """Row -> seed -> margin of `failure`."""

    def above(
        self, high: Names, low: Names, *, least: float = 0.0, most: float = math.inf
    ) -> list[Part]:
        """States that each of some rows scores above each of others, by so many points."""
        pairs = [(better, worse) for better in _listed(high) for worse in _listed(low)]
        margins = [_differences(self._row(better), self._row(worse)) for better, worse in pairs]
        return [Part(by_seed, least, most) for by_seed in margins]

    def varies_more(self, wide: Names, narrow: Names) -> list[Part]:
        """States that the scores of some rows have the higher standard deviation."""
        return [Part(_differences(self._deviation(wide), self._deviation(narrow)))]

    def fails(self, row: str) -> list[Part]:
        """States that the networks of a row diverge, or verify no better than a guess."""
        return [Part(dict(self.failures.get(row, {})))]

    def _row(self, name: str) -> BySeed:
        return self.rows.get(name, {})

    def _deviation(self, names: Names) -> dict[int, float]:
        """Returns seed -> deviation over the rows; it is infinite if a run diverged."""
        rows = [self._row(name) for name in _listed(names)]
        values = {seed: [row[seed] for row in rows] for seed in _common(rows)}
        return {n: stdev(v) if all(map(math.isfinite, v)) else math.inf for n, v in values.items()}


def _listed(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _common(rows: Sequence[BySeed]) -> list[int]:
    return sorted(set.intersection(*map(set, rows)))


def _differences(high: BySeed, low: BySeed) -> dict[int, float]:
    """Returns differences by common seed, without the seeds in which both sides diverged."""
    both = {seed: (high[seed], low[seed]) for seed in _common([high, low])}
    return {n: a - b for n, (a, b) in both.items() if math.isfinite(a) or math.isfinite(b)}


def failure(accuracy: float, norms: Sequence[float]) -> float:
    """Returns by how many points a network misses the accuracy of one that learned something.

    The loss in training does not tell this: a network can verify well although its loss is high.

    Args:
      accuracy: verification accuracy in percent, where a guess has 50.
      norms: mean feature norm at the first and at the last logged step.

    Returns:
      Points below 55 %, or infinity if the norms exploded or vanished.
    """
    first, last = norms[0], norms[-1]
    if not (math.isfinite(last) and 1 / EXPLODED < last / first < EXPLODED):
        return math.inf
    return GUESS + CLEARLY - accuracy
