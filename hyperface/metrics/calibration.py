"""Similarities as probabilities: logistic and isotonic calibration, and how good they are.

A calibration turns a similarity into a log-likelihood ratio: the logarithm of how much more often
such a similarity comes from two images of one person than from two people. Same and different pairs
weigh equally here, so that the result does not depend on how many pairs of each kind there are.
`Logistic.probability` takes the prior of the user into account: the expected share of same pairs.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_pairs
from hyperface.metrics.operating_points import OperatingPoint, measured, operating_points

BINS = 15
"""Bins of a reliability diagram, and of the expected calibration error."""
LEAST_PROBABILITY = 1e-12
"""Smallest probability in the logarithm of `cllr`: with 0 one wrong certainty would cost
infinity."""


class Logistic(NamedTuple):
    """A logistic calibration: log-likelihood ratio = slope * similarity + offset.

    The likelihood ratio tells how much more often such a similarity comes from two images of one
    person than from images of two people.
    """

    slope: float
    """Factor of the similarity."""
    offset: float
    """Log-likelihood ratio at similarity 0."""

    def log_ratio(self, scores: np.ndarray | float) -> np.ndarray:
        """Returns the natural logarithm of the likelihood ratio, in the shape of the scores.

        The result is above 0 where one person is more likely than two.

        Args:
          scores: similarities.
        """
        return self.slope * np.asarray(scores, np.float64) + self.offset

    def probability(self, scores: np.ndarray | float, prior: float = 0.5) -> np.ndarray:
        """Returns the probability that a pair shows one person.

        Args:
          scores: similarities.
          prior: share of pairs of one person among all pairs that the user compares, in (0, 1).

        Raises:
          ValueError: the prior is not in (0, 1).

        Example:
          >>> found = Logistic(10.0, -4.0)
          >>> print(f"{found.probability(0.4):.2f} {found.probability(0.4, prior=0.1):.2f}")
          0.50 0.10
        """
        if not 0 < prior < 1:
            raise ValueError(f"expected a prior in (0, 1), found {prior}")
        log_odds = self.log_ratio(scores) + np.log(prior / (1 - prior))
        return _probability(log_odds)


class Isotonic(NamedTuple):
    """A calibration by a rising curve: straight lines between points.

    The curve turns a similarity into a probability. Below the first point and above the last one,
    the probability is constant.
    """

    scores: np.ndarray
    """[points] similarities, rising."""
    probabilities: np.ndarray
    """[points] probability, in (0, 1) and rising, that a pair with this similarity shows one
    person, if pairs of one person and of two people are equally frequent."""

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Returns the probability that a pair shows one person, in the shape of the scores.

        Pairs of one person and pairs of two people are assumed to be equally frequent.

        Args:
          scores: similarities.
        """
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


class Quality(NamedTuple):
    """How good the probabilities are, measured on people that the calibration was not fitted on."""

    cllr: float
    """Cost of the log-likelihood ratio, in bits lost per pair: 0 is perfect, and 1 is the cost of
    always answering 0.5."""
    reliability: "Reliability"
    """Diagram that compares the probabilities with the observed shares of pairs of one person."""


class Reliability(NamedTuple):
    """A reliability diagram: computed probabilities against observed shares of same pairs.

    A same pair is two images of one person, a different pair two images of two people. Pairs are
    divided into bins by their probability; empty bins are left out. For good probabilities,
    `stated` and `observed` are equal in each bin. All same pairs together weigh as much as all
    different pairs together.
    """

    stated: np.ndarray
    """[bins] weighted mean of the probabilities in the bin."""
    observed: np.ndarray
    """[bins] weighted share of same pairs among the pairs in the bin."""
    weight: np.ndarray
    """[bins] weight of the pairs in the bin; the sum over the bins is 1."""

    @property
    def error(self) -> float:
        """The expected calibration error: the weighted mean over bins of |stated - observed|."""
        return float(np.sum(self.weight * np.abs(self.stated - self.observed)))


class Calibration(NamedTuple):
    """A calibration of similarities: thresholds for decisions, and functions for probabilities.

    `calibrate` fits it on pairs of some people. `measured_on` then measures its error rates on
    pairs of people who are in none of these pairs.
    """

    points: tuple[OperatingPoint, ...]
    """One operating point (two thresholds and their measured rates) per requested error rate, the
    highest rate first."""
    logistic: Logistic
    """Similarity -> probability by two numbers, slope and offset."""
    isotonic: Isotonic
    """Similarity -> probability by a rising curve, which fits more shapes but needs more pairs."""
    num_same: int
    """Number of same pairs (two images of one person) that the calibration was fitted on."""
    num_different: int
    """Number of different pairs (images of two people) that the calibration was fitted on."""
    quality: Mapping[str, Quality] = MappingProxyType({})
    """Quality of the probabilities on people that the calibration was not fitted on, under the keys
    "similarity as probability" (the baseline (1 + cosine) / 2), "logistic" and "isotonic"; empty
    before `measured_on`."""

    def measured_on(self, scores: np.ndarray, same: np.ndarray) -> "Calibration":
        """Returns a copy in which the measured rates of all points and `quality` are filled in.

        Args:
          scores: [pairs] cosines of pairs of people that the calibration was not fitted on.
          same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person),
            False or 0 for a different pair (they show two people).

        Raises:
          ValueError: a score is not finite, lengths differ, or there are no same or no different
            pairs.
        """
        stated = {
            "similarity as probability": cosine_as_probability(scores),
            "logistic": self.logistic.probability(scores),
            "isotonic": self.isotonic.probability(scores),
        }
        return self._replace(
            points=tuple(measured(point, scores, same) for point in self.points),
            quality={
                name: Quality(cllr(p, same), reliability(p, same)) for name, p in stated.items()
            },
        )

    def with_far_limits(self, limits: Mapping[float, tuple[float, float]]) -> "Calibration":
        """Returns a copy whose points have confidence limits of the measured false accept rate.

        Args:
          limits: requested rate (`OperatingPoint.far`) -> (low, high), which become the point's
            `measured_far_low` and `measured_far_high`. A point whose rate is missing gets None for
            both.
        """
        return self._replace(
            points=tuple(
                point._replace(measured_far_low=low, measured_far_high=high)
                for point in self.points
                for low, high in (limits.get(point.far, (None, None)),)
            )
        )


def calibrate(scores: np.ndarray, same: np.ndarray, fars: Sequence[float]) -> Calibration:
    """Fits thresholds, a logistic calibration and an isotonic calibration on pairs.

    Args:
      scores: [pairs] cosines.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      fars: error rates in [0, 1]. For each rate, one threshold wrongly accepts at most this share
        of the different pairs, and one wrongly rejects at most this share of the same pairs.

    Raises:
      ValueError: a score is not finite, lengths differ, there are no same or no different pairs, or
        an error rate is outside [0, 1].

    Example:
      >>> found = calibrate(np.array([0.9, 0.7, 0.3, 0.1]), np.array([1, 1, 0, 0]), [0.5])
      >>> found.points[0].decide(0.8), found.num_same
      ('same', 2)
    """
    scores, same = checked_pairs(scores, same)
    return Calibration(
        points=operating_points(scores, same, sorted(fars, reverse=True)),
        logistic=fit_logistic(scores, same),
        isotonic=fit_isotonic(scores, same),
        num_same=int(same.sum()),
        num_different=int(np.sum(~same)),
    )


def fit_logistic(scores: np.ndarray, same: np.ndarray) -> Logistic:
    """Fits the slope and the offset of a logistic calibration by scikit-learn.

    All same pairs together weigh as much as all different pairs together. As Platt proposed, the
    target probability of the n same pairs is (n + 1) / (n + 2) instead of 1, and that of the m
    different pairs is 1 / (m + 2) instead of 0. So the slope stays finite even if every same pair
    scores higher than every different pair.

    Args:
      scores: [pairs] similarities, higher for more alike.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.

    Example:
      >>> found = fit_logistic(np.array([0.9, 0.7, 0.3, 0.1]), np.array([1, 1, 0, 0]))
      >>> print(f"{found.slope:.2f} {found.probability(0.5):.2f}")
      3.37 0.50

    References:
      J. Platt. Probabilistic outputs for support vector machines. Advances in Large Margin
      Classifiers, 1999.
    """
    from sklearn.linear_model import LogisticRegression

    scores, same = checked_pairs(scores, same)
    # Per pair, the number of pairs of its kind.
    counts = np.where(same, same.sum(), np.sum(~same))
    target = np.where(same, counts + 1, 1) / (counts + 2)
    # The solver accepts only whole classes as targets. So each pair is given twice, once per class,
    # with the target and its complement as weights.
    weights = np.concatenate([target, 1 - target]) / np.tile(counts, 2)
    # Standardised, because the solver's tolerance is an absolute number. If all scores are equal,
    # the deviation is 0 and would divide by zero.
    centre, width = scores.mean(), scores.std() or 1.0
    # Without a penalty, which would pull the slope towards zero.
    machine = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    machine.fit(
        np.tile((scores - centre) / width, 2)[:, None],
        np.repeat([True, False], scores.size),
        weights * (scores.size / weights.sum()),
    )
    # Back to the scale of the similarities.
    slope = float(machine.coef_[0, 0]) / width
    return Logistic(slope, float(np.ravel(machine.intercept_)[0]) - slope * centre)


def fit_isotonic(scores: np.ndarray, same: np.ndarray) -> Isotonic:
    """Fits a rising calibration by scikit-learn's pool-adjacent-violators algorithm.

    All same pairs together weigh as much as all different pairs together. One same pair and one
    different pair are added at the lowest score, and again at the highest score, so that no
    probability is 0 or 1.

    Args:
      scores: [pairs] similarities, higher for more alike.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.

    Example:
      >>> found = fit_isotonic(np.array([0.9, 0.5, 0.4, 0.1]), np.array([1, 0, 1, 0]))
      >>> print(found.probability(np.array([0.0, 0.45, 1.0])).round(2))
      [0.33 0.5  0.67]
    """
    from sklearn.isotonic import IsotonicRegression

    scores, same = checked_pairs(scores, same)
    low, high = scores.min(), scores.max()
    values = np.concatenate([scores, [low, low, high, high]])
    kind = np.concatenate([same, [True, False, True, False]])
    # Same pairs together weigh as much as different pairs together: the prior is one half.
    weights = 1.0 / np.where(kind, kind.sum(), np.sum(~kind))
    machine = IsotonicRegression(out_of_bounds="clip").fit(values, kind, sample_weight=weights)
    return Isotonic(machine.X_thresholds_, machine.y_thresholds_)


def cosine_as_probability(scores: np.ndarray) -> np.ndarray:
    """Returns (1 + cosine) / 2, which is often used as a probability without any calibration.

    This value is the baseline that a calibration must beat.

    Args:
      scores: cosines, of any shape. Rounding may have put the cosine of two equal images slightly
        above 1; it counts as 1.
    """
    return (1.0 + np.clip(np.asarray(scores, np.float64), -1.0, 1.0)) / 2.0


def cllr(probabilities: np.ndarray, same: np.ndarray) -> float:
    """Returns the cost of the log-likelihood ratio (Cllr): the mean number of bits lost per pair.

        Cllr = (mean over same of log2(1 + 1/LR) + mean over different of log2(1 + LR)) / 2

    p is the probability of a pair, and LR = p / (1 - p) is its likelihood ratio. "Same" are the
    pairs of one person, "different" the pairs of two people. 0 is perfect, and 1 is the cost of a
    probability of 0.5 (LR = 1) for every pair.

    Args:
      probabilities: [pairs] probability, in [0, 1], that the pair shows one person, if same and
        different pairs are equally frequent.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: lengths differ, a probability is outside [0, 1], or there are no same or no
        different pairs.

    Example:
      >>> print(cllr(np.array([0.5, 0.5]), np.array([1, 0])))
      1.0

    References:
      N. Brümmer, J. du Preez. Application-independent evaluation of speaker detection. Computer
      Speech & Language 20, 2006.
    """
    stated, same = _checked_probabilities(probabilities, same)
    right = np.where(same, stated, 1.0 - stated)
    bits = -np.log2(np.maximum(right, LEAST_PROBABILITY))
    return float(0.5 * (bits[same].mean() + bits[~same].mean()))


def reliability(probabilities: np.ndarray, same: np.ndarray, bins: int = BINS) -> Reliability:
    """Compares stated probabilities with the observed shares of same pairs, in equal bins.

    For good probabilities, a share p of the pairs with a probability near p are same pairs. All
    same pairs together weigh as much as all different pairs together.

    Args:
      probabilities: [pairs] probability, in [0, 1], that the pair shows one person, if same and
        different pairs are equally frequent.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      bins: number of bins of equal width over [0, 1], 15 by default; the result leaves out empty
        bins.

    Raises:
      ValueError: lengths differ, a probability is outside [0, 1], or there are no same or no
        different pairs.

    Example:
      >>> found = reliability(np.array([0.9, 0.9, 0.1, 0.1]), np.array([1, 0, 0, 0]), bins=2)
      >>> print(found.observed.round(2), f"{found.error:.2f}")
      [0.   0.75] 0.13
    """
    stated, same = _checked_probabilities(probabilities, same)
    # The pairs of each kind have a total weight of one half, however many they are.
    weights = 0.5 / np.where(same, same.sum(), np.sum(~same))
    # A probability of 1 belongs to the last bin.
    bin_of_pair = np.minimum((stated * bins).astype(np.int64), bins - 1)
    total, said, right = (
        np.bincount(bin_of_pair, weights=weights * column, minlength=bins)
        for column in (np.ones_like(stated), stated, same)
    )
    used = total > 0
    return Reliability(said[used] / total[used], right[used] / total[used], total[used])


def _probability(log_odds: np.ndarray) -> np.ndarray:
    """Returns the logistic function of the log odds, in the shape of the argument."""
    # 1 / (1 + exp(-x)) overflows for large negative x; logaddexp does not, at either end.
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _checked_probabilities(stated: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stated, same = checked_pairs(stated, same)
    if stated.min() < 0 or stated.max() > 1:
        raise ValueError(
            f"expected probabilities in [0, 1], found {stated.min():g} to {stated.max():g}"
        )
    return stated, same
