"""Computes the ROC curve exactly from sorted scores, and from it TAR at a FAR, EER, AUC and DET."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import checked_pairs
from hyperface.metrics.shapes import Genuine, Impostors, OfRates, Points, Same, Scores
from hyperface.metrics.threshold import Rule, accepted_share, checked_scores, impostor_threshold


class Roc(NamedTuple):
    """A ROC curve with one point per distinct score; it begins where no pair is accepted."""

    far: Points
    """[points] false accept rate: share of the pairs of two people that are accepted. The values
    never fall from point to point."""
    tar: Points
    """[points] true accept rate: share of the pairs of one person that are accepted. The values
    never fall from point to point."""
    thresholds: Points
    """[points] threshold of each point; a pair is accepted if its score is at least the threshold.
    The first threshold is inf."""

    def rates(self) -> dict[str, list[float]]:
        """Returns {"far": false accept rates, "tar": true accept rates} as lists, for JSON."""
        return {"far": self.far.tolist(), "tar": self.tar.tolist()}


class Det(NamedTuple):
    """A detection error trade-off (DET) curve: the two error rates at each threshold.

    The curve is usually drawn on axes that are scaled by the normal quantile function.
    """

    far: Points
    """[points] false accept rate: share of the pairs of two people that are accepted. The values
    never fall from point to point."""
    frr: Points
    """[points] false reject rate: share of the pairs of one person that are refused. The values
    never rise from point to point."""
    thresholds: Points
    """[points] threshold of each point; a pair is accepted if its score is at least the threshold.
    The first threshold is inf, at which no pair is accepted."""


def roc(scores: Scores, same: Same) -> Roc:
    """Returns the ROC curve over all distinct scores.

    This function takes about 50 bytes of memory per pair. `true_accept_rate` computes only rates,
    with 8 bytes per pair, and `streaming.ScoreStream` computes the curve for any number of pairs.

    Args:
      scores: [pairs] similarities, higher for more alike.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).

    Raises:
      ValueError: shapes differ, a score is not finite, `same` has other values than 0 and 1, or
        there are no same or no different pairs.

    Example:
      >>> curve = roc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
      >>> print(curve.far, curve.tar)
      [0.  0.  0.5 0.5 1. ] [0.  0.5 0.5 1.  1. ]
    """
    scores, same = checked_pairs(scores, same, dtype=None)
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(same[order])
    # One point per distinct score: no threshold can accept only some of several equal scores.
    last_of_ties = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    accepted_same = hits[last_of_ties]
    accepted = last_of_ties + 1
    return Roc(
        far=np.concatenate([[0.0], (accepted - accepted_same) / (same.size - hits[-1])]),
        tar=np.concatenate([[0.0], accepted_same / hits[-1]]),
        # An inf of type float64 would turn float32 thresholds into float64, twice the memory.
        thresholds=np.concatenate([np.full(1, np.inf, ranked.dtype), ranked[last_of_ties]]),
    )


def thinned(curve: Roc, points: int = 300) -> Roc:
    """Returns some points of a long curve, enough to draw it on a logarithmic FAR axis.

    Args:
      curve: the ROC curve.
      points: approximate number of points to keep; a shorter curve is returned unchanged.

    Example:
      >>> long = roc(np.linspace(1, 0, 5000), np.arange(5000) % 2 == 0)
      >>> thinned(long).far.size, bool(thinned(long).tar[-1] == 1)
      (198, True)
    """
    if curve.far.size <= points:
        return curve
    # A logarithmic axis has no zero, which is therefore kept apart below.
    wanted = np.geomspace(curve.far[curve.far > 0][0], 1.0, points)
    # The last point of a FAR has the highest TAR.
    kept = np.searchsorted(curve.far, np.append(0.0, wanted), side="right") - 1
    return Roc(*(column[np.unique(kept)] for column in curve))


def true_accept_rate(
    genuine: Genuine, impostors: Impostors, far: ArrayLike, *, rule: Rule = "strict"
) -> OfRates:
    """Returns true accept rates at false accept rates, from genuine scores and impostor scores.

    float32 scores are not converted, so the sorted copy of 87 million scores takes 350 MB. If the
    scores do not fit into memory, add them in blocks to a `streaming.ScoreStream`.

    Args:
      genuine: [genuine pairs] scores of pairs of one person.
      impostors: [impostor pairs] scores of pairs of two people.
      far: one false accept rate in [0, 1], or an array of them. With the rule "strict", no
        impostor pair is accepted for a rate below 1 / (number of impostor scores).
      rule: how the threshold is computed from `far`. "strict": the lowest threshold whose measured
        FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the k-th highest of
        the N scores of the impostor pairs, where k is `far` * N rounded to the nearest number. Its
        measured FAR may exceed `far`. At k = 0 no such score is accepted.

    Returns:
      The share of genuine scores that are accepted, in the shape of `far`.

    Raises:
      ValueError: a score is not finite, there are no genuine or no impostor scores, or far is
        outside [0, 1].

    Example:
      >>> true_accept_rate([0.9, 0.7, 0.4], [0.8, 0.4, 0.1], [0.0, 1 / 3]).round(2)
      array([0.33, 0.67])
    """
    genuine = checked_scores(genuine, "genuine")
    impostors = checked_scores(impostors, "impostor")
    # "strict" takes the next number above a score. It is the next one in a type that both kinds of
    # scores have: the next float32 may lie above a float64 genuine score.
    kind = np.result_type(genuine, impostors)
    thresholds = impostor_threshold(impostors.astype(kind, copy=False), far, rule=rule)
    return accepted_share(genuine, thresholds)


def tar_at_far(scores: Scores, same: Same, far: float, *, rule: Rule = "strict") -> float:
    """Returns the true accept rate at the threshold for a false accept rate (FAR).

    With `rule` "strict", it is the true accept rate at the lowest threshold whose measured false
    accept rate is at most `far`.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).
      far: false accept rate in [0, 1]. With the rule "strict", no different pair is accepted for a
        rate below 1 / (number of different pairs).
      rule: how the threshold is computed from `far`. "strict": the lowest threshold whose measured
        FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the k-th highest of
        the N scores of the different pairs, where k is `far` * N rounded to the nearest number. Its
        measured FAR may exceed `far`. At k = 0 no such score is accepted.

    Returns:
      The share of same pairs that are accepted.

    Raises:
      ValueError: shapes differ, a score is not finite, `same` has other values than 0 and 1, there
        are no same or no different pairs, or far is outside [0, 1].

    Example:
      >>> tar_at_far(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]), 0.5)
      1.0
    """
    scores, same = checked_pairs(scores, same, dtype=None)
    return float(true_accept_rate(scores[same], scores[~same], far, rule=rule))


def eer(curve: Roc) -> float:
    """Returns the equal error rate: the FAR at which FAR = 1 - TAR.

    If no point of the curve has exactly FAR = 1 - TAR, the rate is interpolated linearly between
    the two points where FAR passes 1 - TAR.

    Example:
      >>> eer(roc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False])))
      0.5
    """
    # FAR = 1 - TAR where the excess is zero. It rises along the curve, so that it crosses once.
    excess = curve.far + curve.tar - 1.0
    # The excess begins at -1 and ends at 1, so that there is a crossing and a point before it.
    after = int(np.argmax(excess >= 0.0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(curve.far[after - 1] + share * (curve.far[after] - curve.far[after - 1]))


def auc(curve: Roc) -> float:
    """Returns the area under the ROC curve.

    The area is the probability that a random pair of one person scores higher than a random pair of
    two people, where equal scores count one half.

    Example:
      >>> auc(roc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False])))
      0.75
    """
    return float(np.trapezoid(curve.tar, curve.far))


def det(curve: Roc) -> Det:
    """Returns the detection error trade-off (DET) of a ROC curve: FAR against FRR = 1 - TAR."""
    return Det(curve.far, 1.0 - curve.tar, curve.thresholds)
