"""Checks the papers' statements about rows of a table in the scores of runs, seed by seed."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any, NamedTuple

from hyperface.reproduce.item import Entry
from hyperface.reproduce.methods import Small


class Found(NamedTuple):
    """A score of one run, in percent."""

    value: float
    spread: float | None = None
    over: str = ""
    """What the spread is taken over: "folds"."""


Seeds = dict[int, Found]
"""Seed -> score."""
LOWEST = Found(-math.inf)
"""Stands for the score of a run that diverged."""


def of(
    printed: Mapping[str, Any],
    small: Mapping[tuple[str, str], Seeds],
    lost: Mapping[str, Sequence[int]],
    unlearned: Mapping[str, Sequence[bool]],
    shared: Collection[str],
) -> list[Entry]:
    """Checks a table's statements seed by seed; returns one entry per statement and column.

    A statement says that some rows score above others, that some rows vary more than others, or
    that a row fails to train. A run that diverged counts as below all others.

    Args:
      printed: the table as in `published.toml`.
      small: the table's scores at small scale: (row, column) -> seed -> score.
      lost: row -> seeds that diverged.
      unlearned: row -> whether it failed to train, one value per seed.
      shared: rows with a single run, which the runs of all seeds start from.
    """
    entries = []
    for row in printed["rows"]:
        if "fails" in row and (held := unlearned.get(row["fails"], [])):
            column = Small.of(printed).columns[0]
            entries.append(replace(Entry.claim(row["row"], held), column=column))
        sides = next((pair for pair in _SIDES if pair[0] in row), None)
        if sides is None:
            continue
        for column in row.get("columns", Small.of(printed).columns):
            names = [name for side in sides for name in row[side]]
            found = {name: small.get((name, column), {}) for name in names}
            found = _of_all_seeds(found, lost, shared)
            high, low = ([found[name] for name in row[side]] for side in sides)
            if margins := _SIDES[sides](high, low):
                entries.append(Entry.above(row["row"], margins, column))
    return entries


def _of_all_seeds(
    small: Mapping[str, Seeds], lost: Mapping[str, Sequence[int]], shared: Collection[str]
) -> dict[str, Seeds]:
    """Adds the seeds that diverged, and repeats the score of a shared run at every seed."""
    found = {row: dict.fromkeys(lost.get(row, ()), LOWEST) | small[row] for row in small}
    known = {seed for row in found if row not in shared for seed in found[row]}
    for row in shared & found.keys():
        for figure in list(found[row].values())[:1]:
            found[row] = dict.fromkeys(known, figure)
    return found


def _margins(above: list[Seeds], below: list[Seeds]) -> list[float]:
    """Returns the least score of one side minus the greatest of the other, per common seed."""
    return _differences(above, below, min, max)


def _spreads(wide: list[Seeds], narrow: list[Seeds]) -> list[float]:
    """Returns the standard deviation of one side minus that of the other, per common seed.

    The standard deviation counts as infinite if a run of the side diverged.
    """
    return _differences(wide, narrow, _deviation, _deviation)


def _differences(
    high: list[Seeds],
    low: list[Seeds],
    of_high: Callable[[list[float]], float],
    of_low: Callable[[list[float]], float],
) -> list[float]:
    """Returns a statistic of one side minus one of the other, without seeds where both diverged."""
    common = set.intersection(*(set(of_seeds) for of_seeds in (*high, *low)))
    pairs = [
        (of_high([one[seed].value for one in high]), of_low([one[seed].value for one in low]))
        for seed in sorted(common)
    ]
    return [above - below for above, below in pairs if math.isfinite(above) or math.isfinite(below)]


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if all(map(math.isfinite, values)) else math.inf


_SIDES = {("above", "below"): _margins, ("wider", "narrower"): _spreads}
"""The two keys of a statement in `published.toml` -> the function that compares their rows."""
