"""Whether the papers' statements about rows of a table hold in its runs, seed by seed."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any, NamedTuple

from hyperface.reproduce.item import Entry
from hyperface.reproduce.methods import Small


class Found(NamedTuple):
    """A figure of one run, in percent."""

    value: float
    spread: float | None = None
    over: str = ""
    """What it is spread over: "folds"."""


Seeds = dict[int, Found]
LOWEST = Found(-math.inf)


def of(
    printed: Mapping[str, Any],
    small: Mapping[tuple[str, str], Seeds],
    lost: Mapping[str, Sequence[int]],
    unlearned: Mapping[str, Sequence[bool]],
    shared: Collection[str],
) -> list[Entry]:
    """Whether a table's statements hold, seed by seed, and by how much at least.

    Some rows are above others, differ more than others do, or fail to train. A seed that diverged
    is below all.

    Args:
      printed: the table as `published.toml` has it.
      small: its figures at small scale: (row, column) -> seed -> figure.
      lost: row -> seeds that diverged.
      unlearned: row -> whether it failed to train, one a seed.
      shared: rows of one run that others of all seeds start from.
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
    """Rows with the seeds that diverged, and a run that others share at each of their seeds."""
    found = {row: dict.fromkeys(lost.get(row, ()), LOWEST) | small[row] for row in small}
    known = {seed for row in found if row not in shared for seed in found[row]}
    for row in shared & found.keys():
        for figure in list(found[row].values())[:1]:
            found[row] = dict.fromkeys(known, figure)
    return found


def _margins(above: list[Seeds], below: list[Seeds]) -> list[float]:
    """The least of some figures less the greatest of others, one a seed that all of them have."""
    return _differences(above, below, min, max)


def _spreads(wide: list[Seeds], narrow: list[Seeds]) -> list[float]:
    """The deviation over some figures less that over others, one a seed that all of them have.

    It is infinite over figures of which one diverged.
    """
    return _differences(wide, narrow, _deviation, _deviation)


def _differences(
    high: list[Seeds],
    low: list[Seeds],
    of_high: Callable[[list[float]], float],
    of_low: Callable[[list[float]], float],
) -> list[float]:
    """A figure of one side less that of the other; a seed in which both diverged has none."""
    common = set.intersection(*(set(of_seeds) for of_seeds in (*high, *low)))
    pairs = [
        (of_high([one[seed].value for one in high]), of_low([one[seed].value for one in low]))
        for seed in sorted(common)
    ]
    return [above - below for above, below in pairs if math.isfinite(above) or math.isfinite(below)]


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if all(map(math.isfinite, values)) else math.inf


_SIDES = {("above", "below"): _margins, ("wider", "narrower"): _spreads}
"""What a statement compares, and how."""
