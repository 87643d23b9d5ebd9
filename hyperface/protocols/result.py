"""Defines the result of a protocol: scores, how they were computed, curves, worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_same
from hyperface.metrics.calibration import Calibration
from hyperface.metrics.quality import MOST_LEFT_OUT, NormQuality
from hyperface.metrics.roc import Roc, thinned
from hyperface.protocols.groups import Group

HARDEST = 20
"""Number of false accepts, and of false rejects, that a result keeps to be shown."""
SHARES = 51
"""Number of points of an error-versus-discard curve in the JSON record."""
OVER_FOLDS = "standard error over folds"
OVER_TRIALS = "standard deviation over trials"
OVER_SPLITS = "standard deviation over splits"
"""The kinds of spread that the scores of a protocol may have."""


class Figure(NamedTuple):
    """A score (a number, not a plot) as a share in [0, 1], with its spread if it is known."""

    value: float
    """The score."""
    spread: float | None = None
    """Spread of the score, also as a share, such as its standard error over folds. The field
    `spread` of `Result` names the kind of spread. None if the spread is not known."""


class HardPair(NamedTuple):
    """A pair of images that was classified wrongly, or is near to the threshold."""

    first: str
    """Name of one image."""
    second: str
    """Name of the other image."""
    score: float
    """Similarity of both images."""


class DecidedPairs(NamedTuple):
    """Every pair of a list, with its score and whether it was classified correctly.

    With these records, two networks that scored the same pairs can be compared pair by pair.
    """

    first: np.ndarray
    """[pairs] names of one image of each pair."""
    second: np.ndarray
    """[pairs] names of the other image."""
    same: np.ndarray
    """[pairs] bool, True where both images show one person."""
    score: np.ndarray
    """[pairs] similarity, higher for pairs that are more alike."""
    right: np.ndarray
    """[pairs] bool, True if the pair is classified correctly at the threshold of its fold (the
    group of pairs that it is tested with)."""


@dataclass(frozen=True)
class Result:
    """The result of one protocol: its scores, and the data for its plots, tables and JSON files."""

    protocol: str
    """Name of the protocol."""
    figures: dict[str, Figure]
    """Label of a score, such as "accuracy" -> the score with its spread."""
    steps: tuple[str, ...]
    """The text that describes the computation, one sentence per step."""
    spread: str = ""
    """The kind of spread that the scores have, such as "standard error over folds"; "" if they have
    none."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Label of a score -> (lower, upper) limit of its 95 % interval. The score is computed on many
    bootstrap resamples of the people, and for 95 % of them it lies between the two limits. Empty
    without resamples."""
    curves: dict[str, Roc] = field(default_factory=dict)
    """Name -> ROC curve. The name is that of the protocol, or for videos that of a rule, such as
    "mean"."""
    scores: tuple[np.ndarray, np.ndarray] | None = None
    """(similarities [pairs], same [pairs]), for a histogram. `same` is bool, True where both images
    show one person. None if the protocol has no single list of image pairs."""
    ranks: np.ndarray | None = None
    """[max_rank] cumulative match characteristic: element r - 1 is the share of searches whose mate
    (the image of the same person) has at most rank r. None if the protocol does not search."""
    false_accepts: Sequence[HardPair] = ()
    """At most 20 pairs of different people with the highest scores, the highest first."""
    false_rejects: Sequence[HardPair] = ()
    """At most 20 pairs of one person with the lowest scores, the lowest first."""
    pairs: DecidedPairs | None = None
    """Every pair with its score. None if the protocol has no list of image pairs, or if the scores
    are means over several checkpoints."""
    calibration: Calibration | None = None
    """Thresholds and probabilities for new pairs; None if the protocol does not fit them."""
    quality: NormQuality | None = None
    """The measured relation of feature norm and image quality; None if it is not measured."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Name of a group of images -> the scores of its pairs; empty if the user gives no groups."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further values for the JSON file by name, such as "fold accuracies", a list of one number per
    fold. They contain only types that JSON has."""
    counts: dict[str, int | list[int]] = field(default_factory=dict)
    """Kind -> number of pairs, probes or templates of this kind, for example "same pairs". The
    value is a list of one number per part if the protocol has several parts, such as splits."""

    def record(self) -> dict[str, Any]:
        """Returns the part of the result that goes into a JSON file; NaN and infinity become None.

        The keys are "figures" (score by label), "spreads" (spread by label), "spread" (its kind),
        "intervals", "steps", "curves", "cmc" (for `ranks`), "calibration", "quality", "groups",
        "counts" and "details".
        """
        return _finite(
            {
                "figures": {name: figure.value for name, figure in self.figures.items()},
                "spreads": {n: f.spread for n, f in self.figures.items() if f.spread is not None},
                "spread": self.spread,
                "intervals": {n: list(limits) for n, limits in self.intervals.items()},
                "steps": list(self.steps),
                # A full curve has a point for each distinct score, which may be millions.
                "curves": {name: _curve(thinned(curve)) for name, curve in self.curves.items()},
                "cmc": None if self.ranks is None else np.asarray(self.ranks).tolist(),
                "calibration": self.calibration and _calibration(self.calibration),
                "quality": self.quality and _quality(self.quality),
                "groups": {name: group._asdict() for name, group in self.groups.items()},
                "counts": self.counts,
                "details": self.details,
            }
        )


def _calibration(found: Calibration) -> dict[str, Any]:
    return {
        "points": [point._asdict() for point in found.points],
        "logistic": found.logistic._asdict(),
        "quality": {
            name: {"cllr": quality.cllr, "ece": quality.reliability.error}
            for name, quality in found.quality.items()
        },
    }


def _quality(found: NormQuality) -> dict[str, Any]:
    # A full curve has a point per genuine pair.
    shares = np.linspace(0, MOST_LEFT_OUT, SHARES)
    return {
        "far": found.far,
        "threshold": found.threshold,
        "mean norm": found.mean,
        "deviation of norms": found.deviation,
        "correlation with genuine score": found.genuine,
        "correlation with impostor score": found.impostor,
        "left out": shares.tolist(),
        "genuine pairs refused": {
            order: [curve.at(share) for share in shares] for order, curve in found.curves.items()
        },
        "mean over shares": {order: curve.mean() for order, curve in found.curves.items()},
    }


def _curve(curve: Roc) -> dict[str, list[float]]:
    return curve.rates() | {"thresholds": np.asarray(curve.thresholds, np.float64).tolist()}


def pair_counts(*same: np.ndarray) -> dict[str, int | list[int]]:
    """Returns a dict with the numbers of pairs, for `Result.counts`.

    The keys are "same pairs" (images of one person) and "different pairs" (images of two people).
    With one array the values are numbers, and with several arrays they are lists of one number per
    array.

    Args:
      same: one array per part of the protocol, such as a split: [pairs] bool, True where both
        images show one person.
    """
    kinds = {"same pairs": [int(np.sum(one)) for one in same]}
    kinds["different pairs"] = [int(np.sum(~one)) for one in same]
    return {kind: found if len(same) > 1 else found[0] for kind, found in kinds.items()}


def _finite(value: Any) -> Any:
    """Returns the value with None in place of every NaN and infinity; tuples become lists."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    # A tuple would be written as a list too, but its numbers as they are.
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    # JSON has neither NaN nor infinity.
    return None if isinstance(value, float) and not np.isfinite(value) else value


def hardest(
    scores: np.ndarray, first: Sequence[str], second: Sequence[str], same: np.ndarray
) -> tuple[list[HardPair], list[HardPair]]:
    """Returns (false accepts, false rejects): the pairs with the most misleading scores.

    The first list has the pairs of two people with the highest scores, the highest first. The
    second has the pairs of one person with the lowest scores, the lowest first. Each list has at
    most 20 pairs.

    Args:
      scores: [pairs] similarities; pairs whose score is not finite are left out.
      first: [pairs] name of one image.
      second: [pairs] name of the other image.
      same: [pairs] bool, True where both images show one person.

    Example:
      >>> hardest(np.array([0.9, 0.2]), ["a", "b"], ["c", "d"], np.array([False, True]))[0]
      [HardPair(first='a', second='c', score=0.9)]
    """
    accepts, rejects = (
        [HardPair(first[i], second[i], float(scores[i])) for i in map(int, rows)]
        for rows in hardest_rows(scores, same)
    )
    return accepts, rejects


def hardest_rows(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (false_accepts, false_rejects): positions of pairs with the most misleading scores.

    `false_accepts` are the positions, in `scores`, of the pairs of two people with the highest
    scores, the highest first. `false_rejects` are those of the pairs of one person with the lowest
    scores, the lowest first. Each array is int64 and has at most 20 positions.

    Args:
      scores: [pairs] similarities; pairs whose score is not finite are left out.
      same: [pairs] bool, True where both images show one person.
    """
    same, worst_of_kind = checked_same(same), []
    # The sign puts the highest scores of different pairs first, and the lowest of same pairs.
    for kind, sign in ((~same, -1.0), (same, 1.0)):
        # A pair of a fold that is not tested has no score.
        rows = np.flatnonzero(kind & np.isfinite(scores))
        # Stable, so that pairs of equal score keep the order of the list.
        worst_of_kind.append(rows[np.argsort(sign * scores[rows], kind="stable")[:HARDEST]])
    return worst_of_kind[0], worst_of_kind[1]


def over_snapshots(results: Sequence[Result]) -> Result:
    """Averages the scores of one protocol over several checkpoints (snapshots of one training).

    The spread of a score is its standard deviation over the checkpoints. The fields `pairs`,
    `intervals` and `calibration` of the returned result are empty, and other fields such as
    `curves` and `groups` are those of the last checkpoint. A sentence of `steps` that is not the
    same for all checkpoints begins with the number of its checkpoint, such as "snapshot 1: ".

    Args:
      results: one result per checkpoint, in the order of the checkpoints.

    Raises:
      ValueError: there are fewer than two results, or they belong to different protocols.
    """
    names = {result.protocol for result in results}
    if len(results) < 2 or len(names) > 1:
        raise ValueError(
            f"expected at least two snapshots of one protocol, found {len(results)} of {len(names)}"
        )
    values = {
        name: np.array([result.figures[name].value for result in results])
        for name in results[-1].figures
    }
    # A sentence that is the same for all checkpoints is stated once.
    shared = [step for step in results[-1].steps if all(step in result.steps for result in results)]
    own = [
        f"snapshot {number}: {step}"
        for number, result in enumerate(results, 1)
        for step in result.steps
        if step not in shared
    ]
    last = f"curves, pairs, groups and feature norms are those of snapshot {len(results)}"
    return replace(
        results[-1],
        steps=(*own, *shared, last),
        figures={n: Figure(float(v.mean()), float(v.std(ddof=1))) for n, v in values.items()},
        # The averaged figures belong to no single set of decisions.
        pairs=None,
        spread=f"standard deviation over {len(results)} snapshots",
        # Resampled people vary for one network; here networks vary.
        intervals={},
        calibration=None,  # It belongs to one network.
        details=results[-1].details | {"snapshots": {n: v.tolist() for n, v in values.items()}},
    )
