"""Compares the faces of photos by their features, and decides by a calibration."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError, expect
from hyperface.evaluate.calibration_file import StoredCalibration
from hyperface.metrics.operating_points import Decision, OperatingPoint
from hyperface.runs.photos import Face, Features, NotUsed

SHOWN = 20
"""Pairs that are printed and drawn."""
LARGEST = 25_000_000
"""Pairs that are compared at most: they take some gigabyte of memory."""
MOST_PAIRS = 10_000
"""Pairs that are recorded, those of the highest similarity."""


class Comparison(NamedTuple):
    """The comparison of two faces."""

    first: str
    """Name of the photo."""
    second: str
    similarity: float
    """Cosine of the features."""
    norms: tuple[float, float]
    """Lengths of the features of both images."""
    decision: Decision | None = None
    """"same", "different" or "not sure"; None without a calibration."""
    probability: float | None = None
    """Probability of one person; None without a calibration."""


class Verified(NamedTuple):
    """The result of comparing photos by a network: similarities and decisions."""

    pairs: list[Comparison]
    """The compared pairs, with the highest similarity first."""
    compared: int
    """Number of all compared pairs; `pairs` may contain only the first of them."""
    decisions: dict[str, int]
    """Number of all pairs by decision; empty without a calibration."""
    point: OperatingPoint | None
    """The thresholds of the requested FAR and their measured rates; None without a calibration."""
    uncalibrated: str
    """The reason why there is no decision; "" if there are decisions."""
    not_used: list[NotUsed]
    """Photos that were left out, and the reasons."""

    @property
    def best(self) -> Comparison:
        """The pair with the highest similarity."""
        return self.pairs[0]


def compare(
    sides: Sequence[tuple[list[Face], Features, list[NotUsed]]],
    is_within: bool,
    stored: StoredCalibration | None,
    point: OperatingPoint | None,
    prior: float,
) -> tuple[Verified, list[tuple[Face, Face]]]:
    """Compares the faces of one side with those of the other.

    Args:
      sides: for each side the faces, their features, and the photos without a face.
      is_within: whether both sides are the same photos; then each pair is compared once.
      stored: the calibration of the network, if it has one.
      point: the calibration's thresholds at the requested rate.
      prior: share of same pairs among all that are compared.

    Returns:
      The comparison, and the faces of its most similar pairs, for the picture.

    Raises:
      InputError: there is no pair, or there are too many.
    """
    (one, features, left), (other, others, left_too) = sides
    similarity = _similarities(features.features, others.features)
    rows, columns = _pairs(similarity.shape, is_within)
    scores = similarity[rows, columns]
    highest = _highest(scores).tolist()
    pairs = [
        Comparison(
            first=one[i].name,
            second=other[j].name,
            similarity=score,
            norms=(float(features.norms[i]), float(others.norms[j])),
            decision=point and point.decide(score),
            probability=stored and float(stored.logistic.probability(score, prior)),
        )
        for i, j, score in ((rows[k], columns[k], float(scores[k])) for k in highest)
    ]
    found = Verified(
        pairs=pairs,
        compared=scores.size,
        decisions=_counts(point, scores) if point else {},
        point=point,
        uncalibrated="",
        not_used=left if is_within else [*left, *left_too],
    )
    return found, [(one[rows[k]], other[columns[k]]) for k in highest[:SHOWN]]


def _similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines [first, second], in float64."""
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in
            (np.asarray(first, np.float64), np.asarray(second, np.float64))]  # fmt: skip
    return unit[0] @ unit[1].T


def _pairs(shape: tuple[int, ...], is_within: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and column of each pair; within one folder each pair once.

    Raises:
      InputError: a photo would be compared with itself alone, or there are too many pairs.
    """
    count = shape[0] * shape[1]
    expect(count <= LARGEST, "photos", f"at most {LARGEST:,} pairs to compare", f"{count:,}")
    rows, columns = np.triu_indices(shape[0], k=1) if is_within else np.indices(shape)
    if not rows.size:
        raise InputError("expected two photos to compare, found the same one twice.")
    return rows.ravel(), columns.ravel()


def _highest(scores: np.ndarray) -> np.ndarray:
    """Places of the highest similarities, falling, at most MOST_PAIRS."""
    places = np.argpartition(-scores, min(MOST_PAIRS, scores.size) - 1)[:MOST_PAIRS]
    return places[np.lexsort((places, -scores[places]))]


def _counts(point: OperatingPoint, scores: np.ndarray) -> dict[str, int]:
    """Returns the number of pairs by decision; decisions that nothing got are left out."""
    same = scores >= point.threshold
    different = ~same & (scores <= point.reject_threshold)
    counts = {"same": same.sum(), "different": different.sum()}
    counts["not sure"] = scores.size - sum(counts.values())
    return {name: int(np.asarray(count)) for name, count in counts.items() if count}
