"""Compares the faces of photos by their features, and decides by a calibration."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError, expect
from hyperface.evaluate.calibration_file import StoredCalibration
from hyperface.metrics.operating_points import Decision, OperatingPoint
from hyperface.runs.photos import Face, Features, NotUsed

SHOWN = 20
"""Largest number of pairs that are printed and drawn."""
LARGEST = 25_000_000
"""Largest number of pairs that are compared. They take about a gigabyte of memory."""
MOST_PAIRS = 10_000
"""Largest number of pairs that are recorded. The pairs of the highest similarity are taken."""


class Comparison(NamedTuple):
    """The comparison of two faces by the features of a network."""

    first: str
    """Name of the first face's photo, such as "a.jpg". A second face of that photo is named
    "a.jpg#2"."""
    second: str
    """Name of the second face's photo, in the same form."""
    similarity: float
    """Cosine of the two features, in [-1, 1]."""
    norms: tuple[float, float]
    """Euclidean norms of the features of the two faces themselves, before the features of their
    mirror images are merged in. A small norm indicates a bad image."""
    decision: Decision | None = None
    """"same" (one person) if the similarity is at least a threshold, "different" if it is at most
    another, lower threshold, and "not sure" in between. The calibration of the network contains
    both thresholds; None without one."""
    probability: float | None = None
    """Probability that both faces are of one person; None if the network has no calibration."""


class Verified(NamedTuple):
    """The result of comparing photos by a network: similarities and decisions.

    Decisions need a calibration: thresholds that `hyperface evaluate --protocol folder` fitted on
    pairs of known people.
    """

    pairs: list[Comparison]
    """The compared pairs, with the highest similarity first; at most the first 10,000."""
    compared: int
    """Number of all compared pairs, of which `pairs` may contain only the first ones."""
    decisions: dict[str, int]
    """Decision ("same", "different" or "not sure") -> number of pairs, counted over all compared
    pairs. A decision that no pair has is not a key. Empty without a calibration."""
    point: OperatingPoint | None
    """The thresholds for the requested false accept rate (FAR, the share of pairs of two people
    that are accepted), with the error rates that were measured on other people than those of the
    fit; None without a calibration."""
    uncalibrated: str
    """The reason why there is no calibration and so no decision; "" if there are decisions."""
    not_used: list[NotUsed]
    """Photos that were left out, such as those without a face, and the reasons."""

    @property
    def best(self) -> Comparison:
        """The pair with the highest similarity."""
        return self.pairs[0]


class Side(NamedTuple):
    """The photos on one side of a comparison: one photo, or those of a folder."""

    faces: list[Face]
    """One face per photo."""
    features: Features
    """The features of the faces, in the same order."""
    not_used: list[NotUsed]
    """Photos without a usable face."""
    files: list[Path]
    """Absolute path of each face's photo, with symbolic links resolved."""


def compare(
    one: Side,
    other: Side,
    stored: StoredCalibration | None,
    point: OperatingPoint | None,
    prior: float,
) -> tuple[Verified, list[tuple[Face, Face]]]:
    """Compares each face of one side with each face of the other side.

    Both sides may have photos in common. No photo is compared with itself, and no pair of photos is
    compared twice.

    Args:
      one: the photos of one side.
      other: the photos of the other side.
      stored: the calibration of the network, from which the probabilities are computed; None if
        it has none.
      point: the calibration's thresholds at the requested false accept rate; None without a
        calibration.
      prior: the user's estimate of the share of pairs that show one person, in (0, 1). The
        probability of a pair depends on it.

    Returns:
      (verified, faces). `verified` contains similarities and decisions. Its field `uncalibrated` is
      ""; the caller sets it if there is no calibration. `faces` contains the two faces of each of
      the 20 most similar pairs, for the picture.

    Raises:
      InputError: there is no pair to compare, or there are more than 25 million.
    """
    similarity = _similarities(one.features.features, other.features.features)
    rows, columns = _pairs(one.files, other.files)
    scores = similarity[rows, columns]
    # Only these become objects: one `Comparison` for each of millions of pairs would take minutes
    # and gigabytes. The counts of decisions below are still those of all pairs.
    highest = _highest(scores).tolist()
    pairs = [
        Comparison(
            first=one.faces[i].name,
            second=other.faces[j].name,
            similarity=score,
            norms=(float(one.features.norms[i]), float(other.features.norms[j])),
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
        not_used=[*one.not_used, *(() if other is one else other.not_used)],
    )
    return found, [(one.faces[rows[k]], other.faces[columns[k]]) for k in highest[:SHOWN]]


def _similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the cosines [first, second] of all pairs of rows.

    Like `cosine_scores`, which scored the pairs of the calibration, it computes in float64.
    """
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in
            (np.asarray(first, np.float64), np.asarray(second, np.float64))]  # fmt: skip
    return unit[0] @ unit[1].T


def _pairs(one: Sequence[Path], other: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row and the column of each pair, [pairs] each, in rising order.

    Args:
      one: the file of each face of the first side.
      other: the file of each face of the second side. A file may be on both sides. It is not paired
        with itself, and two such files are paired once.

    Raises:
      InputError: there is no pair, or there are more than `LARGEST`.
    """
    count = len(one) * len(other)
    expect(count <= LARGEST, "photos", f"at most {LARGEST:,} pairs to compare", f"{count:,}")
    number = {file: place for place, file in enumerate(dict.fromkeys([*one, *other]))}
    rows, columns = (np.array([number[file] for file in side]) for side in (one, other))
    common = np.zeros(len(number), bool)
    common[np.intersect1d(rows, columns)] = True
    # Two common files are a pair in both orders, of which one is left out.
    again = (common[rows, None] & common[columns]) & (rows[:, None] > columns)
    first, second = np.nonzero(~again & (rows[:, None] != columns))
    if not first.size:
        raise InputError("expected two photos to compare, found the same one twice.")
    return first, second


def _highest(scores: np.ndarray) -> np.ndarray:
    """Returns the positions of the `MOST_PAIRS` highest scores, with the highest one first."""
    # Partitioned first, because sorting millions of scores would take seconds.
    places = np.argpartition(-scores, min(MOST_PAIRS, scores.size) - 1)[:MOST_PAIRS]
    # The last key is the main one. Equal scores keep the order of the photos, which argpartition
    # alone would not.
    return places[np.lexsort((places, -scores[places]))]


def _counts(point: OperatingPoint, scores: np.ndarray) -> dict[str, int]:
    """Returns the number of pairs per decision, without the decisions that no pair has."""
    # The rules are those of `OperatingPoint.decide`: with few errors the reject threshold can lie
    # above the other one, and "same" then goes first.
    same = scores >= point.threshold
    different = ~same & (scores <= point.reject_threshold)
    counts = {"same": same.sum(), "different": different.sum()}
    counts["not sure"] = scores.size - sum(counts.values())
    return {name: int(np.asarray(count)) for name, count in counts.items() if count}
