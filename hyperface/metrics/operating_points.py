"""Operating points: two thresholds for an error rate, and the error rates that they have."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_pairs
from hyperface.metrics.threshold import impostor_threshold, supported

Decision = Literal["same", "different", "not sure"]


class OperatingPoint(NamedTuple):
    """Two thresholds for one error rate, and the error rates that were measured with them.

    A same pair is two images of one person, a different pair two images of two people. Thresholds
    are chosen on some pairs ("the pairs of the fit"). The error rates are measured on pairs of
    people who are in none of these pairs ("the other people"). The decision about a pair with a
    similarity between the two thresholds is "not sure". All measured rates are None as long as
    nothing was measured.
    """

    far: float
    """The requested error rate, in [0, 1]: the largest share of different pairs that may be wrongly
    accepted, and of same pairs that may be wrongly rejected."""
    threshold: float
    """A pair is called "same" if its similarity is at least this number. At most a share `far` of
    the different pairs of the fit are called "same"."""
    reject_threshold: float
    """A pair below `threshold` is called "different" if its similarity is at most this number. At
    most a share `far` of the same pairs of the fit are called "different"."""
    supported: bool
    """True if there are at least 1 / `far` different pairs in the fit. With fewer, `threshold`
    accepts no different pair of the fit. The flag tells nothing about `reject_threshold`, which
    rejects no same pair of the fit if there are fewer than 1 / `far` same pairs."""
    measured_far: float | None = None
    """Share of the different pairs of the other people that are called "same"."""
    measured_tar: float | None = None
    """Share of the same pairs of the other people that are called "same"."""
    measured_frr: float | None = None
    """Share of the same pairs of the other people that are called "different"."""
    measured_far_low: float | None = None
    """Lower end of a 95 % confidence interval of `measured_far`, from resamples of the other
    people."""
    measured_far_high: float | None = None
    """Upper end of the confidence interval of `measured_far`."""

    def decide(self, score: float) -> Decision:
        """Returns the decision about a pair whose similarity is `score`.

        The decision is "same" if the score is at least `threshold`. Otherwise it is "different" if
        the score is at most `reject_threshold`, and "not sure" if the score lies between both
        thresholds.

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
    """Chooses two thresholds for each error rate on the given pairs.

    For an error rate `far`, the first threshold accepts at most a share `far` of the different
    pairs, and the second rejects at most a share `far` of the same pairs. The measured rates of the
    points stay None.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      fars: error rates in [0, 1].

    Returns:
      One operating point per error rate, in the same order.

    Raises:
      ValueError: a score is not finite, lengths differ, there are no same or no different pairs, or
        an error rate is outside [0, 1].

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
            # Negated scores turn "at least" into "at most", so that one rule serves both sides.
            reject_threshold=-float(impostor_threshold(-genuine, far)),
            supported=bool(supported(far, impostors.size)),
        )
        for far in fars
    )


def measured(point: OperatingPoint, scores: np.ndarray, same: np.ndarray) -> OperatingPoint:
    """Returns a copy of an operating point with its error rates on the given pairs filled in.

    The fields `measured_far`, `measured_tar` and `measured_frr` are set. The confidence limits of
    the copy are those of `point`.

    Args:
      point: the operating point.
      scores: [pairs] similarities. The pairs should show people who are in none of the pairs on
        which the thresholds were chosen.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.
    """
    scores, same = checked_pairs(scores, same)
    accepted = scores >= point.threshold
    # Where both kinds of errors are rare, `reject_threshold` may exceed `threshold`. A pair between
    # both is then accepted, as in `decide`.
    refused = ~accepted & (scores <= point.reject_threshold)
    return point._replace(
        measured_far=float(accepted[~same].mean()),
        measured_tar=float(accepted[same].mean()),
        measured_frr=float(refused[same].mean()),
    )
