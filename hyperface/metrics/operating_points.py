"""Operating points: the thresholds of an error rate, and their rates on other pairs."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hyperface.metrics._checks import check_both_kinds, checked_same
from hyperface.metrics.threshold import checked_scores, impostor_threshold, supported

Decision = Literal["same", "different", "not sure"]


class OperatingPoint(NamedTuple):
    """The thresholds of one error rate, and the rates that they have on other people."""

    far: float
    """The requested rate, for both kinds of errors."""
    threshold: float
    """A pair is called the same when its similarity is at least this: at most `far` of the
    different pairs are."""
    reject_threshold: float
    """A pair below `threshold` is called different when its similarity is at most this: at most
    `far` of the same pairs are."""
    supported: bool
    """Whether there are enough different pairs to show this rate; with fewer `threshold` is that of
    no false accept at all. `reject_threshold` is treated alike with few same pairs."""
    measured_far: float | None = None
    """Share of different pairs of other people at `threshold` or above."""
    measured_tar: float | None = None
    """Share of their same pairs at `threshold` or above."""
    measured_frr: float | None = None
    """Share of their same pairs that are called different."""
    measured_far_low: float | None = None
    """Lower limit of `measured_far`: 95 % of resamples of these people lie between both limits."""
    measured_far_high: float | None = None

    def decide(self, score: float) -> Decision:
        """Returns the decision about a pair of this similarity.

        Example:
          >>> point = OperatingPoint(0.01, threshold=0.5, reject_threshold=0.3, supported=True)
          >>> point.decide(0.5), point.decide(0.4), point.decide(0.3)
          ('same', 'not sure', 'different')
        """
        if score >= self.threshold:
            return "same"
        return "different" if score <= self.reject_threshold else "not sure"


def operating_points(
    scores: np.ndarray, same: np.ndarray, fars: Sequence[float]
) -> tuple[OperatingPoint, ...]:
    """Returns the thresholds at which at most a share `far` of each kind is decided wrongly.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1.
      fars: error rates in [0, 1].

    Example:
      >>> scores, same = np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0])
      >>> (point,) = operating_points(scores, same, [0.5])
      >>> print(f"{point.threshold:.2f} {point.reject_threshold:.2f}")
      0.10 0.90
    """
    scores, same = checked_pairs(scores, same)
    genuine, impostors = scores[same], scores[~same]
    return tuple(
        OperatingPoint(
            far=float(far),
            threshold=float(impostor_threshold(impostors, far)),
            # The same rule, seen from the other side.
            reject_threshold=-float(impostor_threshold(-genuine, far)),
            supported=bool(supported(far, impostors.size)),
        )
        for far in fars
    )


def measured(point: OperatingPoint, scores: np.ndarray, same: np.ndarray) -> OperatingPoint:
    """Returns the operating point with the rates that it has on other pairs."""
    scores, same = checked_pairs(scores, same)
    accepted = scores >= point.threshold
    refused = ~accepted & (scores <= point.reject_threshold)
    return point._replace(
        measured_far=float(accepted[~same].mean()),
        measured_tar=float(accepted[same].mean()),
        measured_frr=float(refused[same].mean()),
    )


def checked_pairs(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores as float64 and `same` as bool.

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.
    """
    scores, same = checked_scores(scores, "pair").astype(np.float64), checked_same(same)
    if scores.shape != same.shape:
        raise ValueError(
            f"expected scores and same of one length, found {scores.shape} and {same.shape}"
        )
    check_both_kinds(same, "the pairs")
    return scores, same
