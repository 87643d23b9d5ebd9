"""What any protocol gives: figures, the steps behind them, curves, and its worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hyperface.metrics.roc import Roc, thinned

HARDEST = 20
"""Pairs of each kind that are kept to be shown."""


class Figure(NamedTuple):
    """A share in [0, 1]."""

    value: float
    spread: float | None = None
    """Over what `Scored.spread` says."""


class HardPair(NamedTuple):
    """Two images that were taken for the wrong thing, or nearly."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Scored:
    """The outcome of one protocol."""

    protocol: str
    figures: dict[str, Figure]
    steps: tuple[str, ...]
    """What was done to come to them, a sentence each."""
    spread: str = ""
    """What the figures' spread is, of those that have one."""
    curves: dict[str, Roc] = field(default_factory=dict)
    scores: tuple[np.ndarray, np.ndarray] | None = None
    """Scores and whether same, for a histogram."""
    ranks: np.ndarray | None = None
    """[max_rank] cumulative match characteristic."""
    false_accepts: Sequence[HardPair] = ()
    """Different people with the highest scores."""
    false_rejects: Sequence[HardPair] = ()
    """Same people with the lowest scores."""
    details: dict[str, Any] = field(default_factory=dict)
    """By fold, trial or split; goes into JSON."""
    counts: dict[str, int | list[int]] = field(default_factory=dict)
    """Pairs, or what else is compared; a list has one a split or trial."""

    def record(self) -> dict[str, Any]:
        """All of it that goes into a JSON file."""
        return _finite(
            {
                "figures": {name: figure.value for name, figure in self.figures.items()},
                "spreads": {n: f.spread for n, f in self.figures.items() if f.spread is not None},
                "spread": self.spread,
                "steps": list(self.steps),
                "curves": {name: _curve(thinned(curve)) for name, curve in self.curves.items()},
                "cmc": None if self.ranks is None else np.asarray(self.ranks).tolist(),
                "counts": self.counts,
                "details": self.details,
            }
        )


def _curve(curve: Roc) -> dict[str, list[float]]:
    return curve.rates() | {"thresholds": np.asarray(curve.thresholds, np.float64).tolist()}


def pair_counts(*same: np.ndarray) -> dict[str, int | list[int]]:
    """`Scored.counts` of pairs, one array [pairs] bool a split."""
    kinds = {"same pairs": [int(np.sum(one)) for one in same]}
    kinds["different pairs"] = [int(np.sum(~one)) for one in same]
    return kinds if len(same) > 1 else {kind: found[0] for kind, found in kinds.items()}


def _finite(value: Any) -> Any:
    """With None for every number that JSON has no word for, such as a threshold of infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def hardest(
    scores: np.ndarray, first: Sequence[str], second: Sequence[str], same: np.ndarray
) -> tuple[list[HardPair], list[HardPair]]:
    """The different pairs with the highest and the same pairs with the lowest scores.

    Args:
      scores: [pairs]; pairs without a finite one are left out.
      first: [pairs] names.
      second: [pairs] names.
      same: [pairs] bool.

    Example:
      >>> hardest(np.array([0.9, 0.2]), ["a", "b"], ["c", "d"], np.array([False, True]))[0]
      [HardPair(first='a', second='c', score=0.9)]
    """
    found = []
    for kind, sign in ((~same, -1.0), (same, 1.0)):
        places = np.flatnonzero(kind & np.isfinite(scores))
        worst = places[np.argsort(sign * scores[places], kind="stable")[:HARDEST]]
        found.append([HardPair(first[i], second[i], float(scores[i])) for i in worst])
    return found[0], found[1]


def over_snapshots(scored: Sequence[Scored]) -> Scored:
    """Mean figures of one protocol over several snapshots, with their spread; the last one's rest.

    A step that is not the same of all says of which snapshot it is.

    Raises:
      ValueError: fewer than two, or of several protocols.
    """
    names = {found.protocol for found in scored}
    if len(scored) < 2 or len(names) > 1:
        raise ValueError(
            f"expected at least two snapshots of one protocol, found {len(scored)} of {len(names)}"
        )
    values = {
        name: np.array([found.figures[name].value for found in scored])
        for name in scored[-1].figures
    }
    shared = [step for step in scored[-1].steps if all(step in found.steps for found in scored)]
    own = [
        f"snapshot {number}: {step}"
        for number, found in enumerate(scored, 1)
        for step in found.steps
        if step not in shared
    ]
    last = f"curves and pairs are those of snapshot {len(scored)}"
    return replace(
        scored[-1],
        steps=(*own, *shared, last),
        figures={n: Figure(float(v.mean()), float(v.std(ddof=1))) for n, v in values.items()},
        spread=f"standard deviation over {len(scored)} snapshots",
        details=scored[-1].details | {"snapshots": {n: v.tolist() for n, v in values.items()}},
    )
