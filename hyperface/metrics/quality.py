"""Measures how well a number per image, such as the feature norm, predicts image quality.

The test is an error-versus-discard curve. The threshold is fixed, and genuine pairs (two images of
one person) are left out one by one, the lowest quality first. The curve is the share of the
remaining genuine pairs that are refused. For a good quality measure it falls fast. For a measure
that is unrelated to quality it stays constant.

References:
  P. Grother, E. Tabassi. Performance of Biometric Quality Measures. IEEE TPAMI 29, 2007.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import checked_pairs, checked_rows, checked_same
from hyperface.metrics.threshold import (
    checked_scores,
    impostor_threshold,
    smallest_far,
    supported,
)
from hyperface.metrics.verification import Pairs

MOST_LEFT_OUT = 0.5
"""Largest share of genuine pairs that is left out when curves are drawn and averaged."""


class DiscardCurve(NamedTuple):
    """An error-versus-discard curve: how the error falls when pairs of low quality are left out.

    The n genuine pairs (two images of one person) are left out one by one in a fixed order, while
    the threshold stays. The error is the share of the remaining pairs that the threshold refuses.
    """

    left_out: np.ndarray
    """[n] share of the genuine pairs that is left out at each point, from 0 to (n - 1)/n."""
    refused: np.ndarray
    """[n] share of the remaining genuine pairs that is refused at each point."""

    def at(self, share: float) -> float:
        """Returns the share of refused pairs among the remaining genuine pairs, at one point.

        Between two stored points of the curve, the share is interpolated by a straight line.

        Args:
          share: share of all genuine pairs that is left out, from 0 to below 1.
        """
        return float(np.interp(share, self.left_out, self.refused))

    def mean(self, most: float = MOST_LEFT_OUT) -> float:
        """Returns the mean of the curve; lower means a better order of leaving out.

        The mean is the area under the curve from 0 to `most`, divided by `most`.

        Args:
          most: largest share of left-out pairs up to which the mean is computed, in (0, 1); 0.5 by
            default.
        """
        # The end is interpolated, since `most` need not be one of the points.
        inside = self.left_out < most
        shares = np.append(self.left_out[inside], most)
        values = np.append(self.refused[inside], self.at(most))
        return float(np.trapezoid(values, shares) / most)


class NormQuality(NamedTuple):
    """How well the length of features (the norm) predicts the quality of their images.

    The norm of a pair is the smaller norm of its two images.
    """

    far: float
    """False accept rate for which the threshold was chosen, over all pairs of two people."""
    threshold: float
    """The fixed threshold: a pair is refused if its score is below it."""
    mean: float
    """Mean feature norm of the images that occur in a pair."""
    deviation: float
    """Standard deviation of the feature norms of the images that occur in a pair."""
    curves: Mapping[str, DiscardCurve]
    """Order in which genuine pairs are left out -> curve. The keys are "lowest norm first",
    "highest norm first", "random order", and "oracle" (refused pairs first, the best possible
    order)."""
    genuine: float
    """Spearman's correlation between the norm and the score of pairs of one person; NaN if all
    norms or all scores are equal."""
    impostor: float
    """Spearman's correlation between the norm and the score of pairs of two people; NaN if all
    norms or all scores are equal."""


ORDERS = ("lowest norm first", "highest norm first", "random order", "oracle")
"""Orders in which genuine pairs are left out. A pair's norm is the smaller norm of its two images.
The oracle leaves out refused pairs first, and no order can be better."""


def discard_curve(refused: ArrayLike, quality: ArrayLike) -> DiscardCurve:
    """Returns how the share of refused genuine pairs falls as pairs of low quality are left out.

    Pairs are left out one by one, the lowest quality first. Pairs of equal quality are left out in
    random order, and the curve is the mean over all such orders.

    Args:
      refused: [genuine pairs] bool, or 0 and 1: whether a fixed threshold refuses the pair.
      quality: [genuine pairs] quality of each pair, higher for better.

    Raises:
      ValueError: there is no pair, lengths differ, or a number is not finite.

    Example:
      >>> curve = discard_curve([True, False, False, True], [0.1, 0.9, 0.5, 0.5])
      >>> print(curve.left_out, curve.refused.round(3))
      [0.   0.25 0.5  0.75] [0.5   0.333 0.25  0.   ]
    """
    quality = checked_scores(quality, "quality").astype(np.float64)
    refused = checked_same(refused)
    if refused.shape != quality.shape:
        raise ValueError(
            f"expected a quality for each of {refused.size} genuine pairs, found {quality.shape}"
        )
    count, order = quality.size, np.argsort(quality, kind="stable")
    upto = np.concatenate([[0], np.cumsum(refused[order])])
    # Within a tie each pair is equally likely to be the next, so that the mean number of refused
    # pairs that are gone rises in a straight line from one end of the tie to the other.
    ends = np.concatenate([[0], np.flatnonzero(np.diff(quality[order])) + 1, [count]])
    left_out = np.arange(count)
    gone = np.interp(left_out, ends, upto[ends])
    return DiscardCurve(left_out / count, (upto[-1] - gone) / (count - left_out))


def norm_quality(
    norms: ArrayLike, pairs: Pairs, scores: ArrayLike, *, far: float = 0.001
) -> NormQuality:
    """Measures how well the norm of features predicts the quality of their images.

    The norm of a pair is the smaller norm of its two images. The threshold is chosen once, for
    `far` over all different pairs (images of two people). Same pairs (images of one person) are
    then left out one by one, for example the lowest norm first, while the threshold stays. If the
    norm predicts quality, the refused share of the remaining same pairs falls.

    Args:
      norms: [images] length of each image's feature before it is normalised.
      pairs: the rows in `norms` of both images of each pair, and whether both show one person.
      scores: [pairs] similarities.
      far: false accept rate for which the threshold is chosen, from 1 / (number of different pairs)
        to 1.

    Raises:
      ValueError: a number is not finite, lengths differ, there are no same or no different pairs, a
        row does not exist, or there are fewer than 1 / `far` different pairs.

    Example:
      >>> pairs = Pairs(np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3]), np.array([1, 1, 0, 0]))
      >>> found = norm_quality([9.0, 8.0, 2.0, 7.0], pairs, [0.8, 0.2, 0.1, 0.3], far=0.5)
      >>> {order: curve.at(0.5) for order, curve in found.curves.items()}["lowest norm first"]
      0.0
    """
    norms = checked_scores(norms, "norm").astype(np.float64)
    scores, same = checked_pairs(scores, pairs.same)
    for side, name in ((pairs.first, "first"), (pairs.second, "second")):
        checked_rows(side, norms.size, name)
    impostors = scores[~same]
    if not supported(far, impostors.size):
        raise ValueError(
            f"expected a FAR of at least {smallest_far(impostors.size):.3g}, which "
            f"{impostors.size} different pairs can measure, found {far:g}"
        )
    threshold = float(impostor_threshold(impostors, far))
    smaller = np.minimum(norms[pairs.first], norms[pairs.second])
    # Each image once, however many pairs it is in.
    used = norms[np.union1d(pairs.first, pairs.second)]
    refused, lowest = scores[same] < threshold, smaller[same]
    # Qualities that produce the four ORDERS. Equal ones (zeros) mean random order.
    by_order = (lowest, -lowest, np.zeros(refused.size), ~refused)
    return NormQuality(
        far=far,
        threshold=threshold,
        mean=float(used.mean()),
        deviation=float(used.std()),
        curves={
            order: discard_curve(refused, quality)
            for order, quality in zip(ORDERS, by_order, strict=True)
        },
        genuine=spearman(lowest, scores[same]),
        impostor=spearman(smaller[~same], impostors),
    )


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Returns Spearman's rank correlation; tied values have their mean rank.

    Args:
      first: [values] numbers.
      second: [values] the number that belongs to each number in `first`.

    Returns:
      In [-1, 1]; NaN if all numbers of one argument are equal.

    Raises:
      ValueError: lengths differ, there is no value, or a value is not finite.

    Example:
      >>> round(spearman([1.0, 2.0, 3.0, 9.0], [0.1, 0.3, 0.2, 0.4]), 3)
      0.8
    """
    # Imported here, because scipy.stats takes longer to import than all the rest of this module.
    from scipy.stats import spearmanr

    one, other = (checked_scores(side, "compared") for side in (first, second))
    if one.size != other.size:
        raise ValueError(f"expected two lists of one length, found {one.size} and {other.size}")
    # SciPy returns NaN too, but with a warning.
    if np.all(one == one[0]) or np.all(other == other[0]):
        return float("nan")
    # A result class whose attributes SciPy's annotations do not name.
    found: Any = spearmanr(one, other)
    return float(found.statistic)
