"""Tests the papers' statements on the scores of trained runs.

The tests of a table's statements are a function in `normface.py` or `ringloss.py`. It gets the
scores in one column of the table. It returns each statement with its parts: differences of scores
which the statement says are above zero. The same function tests the printed scores of the paper.

    >>> scores = Scores({"a": {0: 87.0, 1: 88.0}, "b": {0: 86.0, 1: 86.5}})
    >>> scores.above("a", "b")
    [Part(margins={0: 1.0, 1: 1.5}, least=0.0, most=inf, rows=('a', 'b'))]
"""

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import NamedTuple

LOWEST = -math.inf
"""The score of a run that diverged: it is lower than any other."""
GUESS, CLEARLY = 50.0, 5.0
"""Verification accuracy of a guess in percent, and by how many points a network that learned
something must be above it."""
EXPLODED = 100.0
"""A network failed if its mean feature norm grew or shrank by this factor during training."""

BySeed = Mapping[int, float]
"""Seed -> value."""
Names = str | Sequence[str]
"""The name of one row of a table, or the names of several."""


class Part(NamedTuple):
    """One comparison in a statement, such as "A scores above B".

    A statement is a sentence of a paper. It is true if all its comparisons are true.
    """

    margins: dict[int, float]
    """Seed -> margin in percentage points. The margin is a difference of two scores or of two
    standard deviations. For the statement that a network fails to learn, it is 55 less the
    network's accuracy, or infinity. Empty if no seed has the scores of the comparison."""
    least: float = 0.0
    """The smallest margin, in points, that agrees with the statement."""
    most: float = math.inf
    """The largest margin, in points, that agrees with the statement."""
    rows: tuple[str, str] | None = None
    """Names of the rows with the higher and with the lower score; None for another comparison than
    that of two rows."""

    def is_as_printed(self) -> bool:
        """Returns whether the comparison is true for the scores that the paper prints.

        The printed scores have no seeds, so `margins` must have exactly one element: the difference
        of two printed scores. The comparison is true if this difference, rounded to one decimal, is
        in [`least`, `most`]. If `most` is infinite, the unrounded difference must be above `least`.
        """
        # The printed scores of a column count as those of one seed.
        (margin,) = self.margins.values()
        if math.isinf(self.most):
            return margin > self.least
        # "0.2 to 0.4 points" in the papers are differences rounded to one digit.
        return self.least <= round(margin, 1) <= self.most


Statements = dict[str, list[Part]]
"""Sentence -> its parts. The statement holds if all parts do."""


class Scores(NamedTuple):
    """The scores in one column of a table, on which the paper's statements are tested."""

    rows: Mapping[str, BySeed]
    """Name of the row -> seed -> score in percent; -infinity for a run that diverged."""
    failures: Mapping[str, BySeed] = {}
    """Name of the row -> seed -> a number that is above zero if the network failed to learn. It is
    55 less the accuracy in percent, or infinity if the feature norms exploded or vanished."""

    def above(
        self, high: Names, low: Names, *, least: float = 0.0, most: float = math.inf
    ) -> list[Part]:
        """Returns the comparisons of a statement: each row of `high` scores above each of `low`.

        There is one comparison per pair of rows. If a row has no scores, the field `margins` of its
        comparisons is empty.

        Args:
          high: name or names of the rows that should score higher.
          low: name or names of the rows that should score lower.
          least: smallest difference that agrees with the statement, in percentage points.
          most: largest difference that agrees with the statement, in percentage points; by default
            there is no limit.
        """
        pairs = [(better, worse) for better in _listed(high) for worse in _listed(low)]
        return [
            Part(_differences(self._row(better), self._row(worse)), least, most, (better, worse))
            for better, worse in pairs
        ]

    def varies_more(self, wide: Names, narrow: Names) -> list[Part]:
        """Returns the comparison of a statement: scores vary more over some rows than over others.

        The variation is the standard deviation of the scores over the rows, per seed. The result is
        a list with this one comparison.

        Args:
          wide: names of the rows over which the scores should vary more.
          narrow: names of the rows over which they should vary less.
        """
        return [Part(_differences(self._deviation(wide), self._deviation(narrow)))]

    def fails(self, row: str) -> list[Part]:
        """Returns the comparison of a statement: the networks of a row fail to learn.

        A network fails if it diverges, or if it verifies hardly better than a guess (below 55 %).
        The result is a list with one comparison. Its margins are those of the row in `failures`:
        one number per seed, which is above zero if the network failed.

        Args:
          row: name of the row.
        """
        return [Part(dict(self.failures.get(row, {})))]

    def _row(self, name: str) -> BySeed:
        # A row without trained runs has no scores; the statement then gets no verdict.
        return self.rows.get(name, {})

    def _deviation(self, names: Names) -> dict[int, float]:
        """Returns seed -> standard deviation over the rows; it is infinite if a run diverged."""
        rows = [self._row(name) for name in _listed(names)]
        # Only seeds of all rows: the deviation of fewer rows is not comparable. A loss with which
        # training can diverge varies more than one with which it cannot.
        values = {seed: [row[seed] for row in rows] for seed in _common(rows)}
        return {n: stdev(v) if all(map(math.isfinite, v)) else math.inf for n, v in values.items()}


def _listed(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _common(rows: Sequence[BySeed]) -> list[int]:
    return sorted(set.intersection(*map(set, rows)))


def _differences(high: BySeed, low: BySeed) -> dict[int, float]:
    """Returns seed -> difference, for the seeds of both sides.

    A seed in which both sides diverged is left out: it favours neither.
    """
    both = {seed: (high[seed], low[seed]) for seed in _common([high, low])}
    return {n: a - b for n, (a, b) in both.items() if math.isfinite(a) or math.isfinite(b)}


def failure_margin(accuracy: float, norms: Sequence[float]) -> float:
    """Returns whether a network failed to learn, as a number that is above zero if it failed.

    The training loss cannot tell this: a network can verify well although its loss is high.

    Args:
      accuracy: verification accuracy in percent, where a guess has 50.
      norms: mean feature norm at each logged step, of which the first and the last are used.

    Returns:
      55 less the accuracy, in points. It is infinity if the norm grew or shrank by a factor of 100
      or more during training.
    """
    first, last = norms[0], norms[-1]
    # Verification looks at directions alone, and does not notice that the norms explode.
    if not (math.isfinite(last) and 1 / EXPLODED < last / first < EXPLODED):
        return math.inf
    return GUESS + CLEARLY - accuracy
