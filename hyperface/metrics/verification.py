"""Face verification over pairs: cosine scores, k-fold accuracy, TAR at FAR."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_same, unit_rows
from hyperface.metrics.roc import Roc, roc, tar_at_far
from hyperface.metrics.shapes import (
    Cuts,
    Features,
    Folds,
    Labels,
    PairRows,
    PerFold,
    Same,
    Scores,
    Tested,
)
from hyperface.metrics.threshold import supported

BLOCK_BYTES = 64 * 2**20
"""Features of this many bytes are gathered at once."""


class Pairs(NamedTuple):
    """Image pairs by index."""

    first: PairRows
    second: PairRows
    same: Same
    """[pairs] bool, True where both images show one person."""


class FoldAccuracy(NamedTuple):
    """Accuracy on each fold at the threshold chosen on the others."""

    accuracy: PerFold
    """[folds]."""
    thresholds: PerFold
    """[folds]; a pair is called the same when its score is at least this."""

    @property
    def mean(self) -> float:
        """The figure that is reported."""
        return float(self.accuracy.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread over folds (LFW's convention); nan with one fold."""
        if self.accuracy.size < 2:
            return float("nan")
        return float(self.accuracy.std(ddof=1) / np.sqrt(self.accuracy.size))


class Verification(NamedTuple):
    """How well scores tell same from different pairs."""

    folds: FoldAccuracy
    tar_at_far: dict[float, float]
    curve: Roc
    scores: Scores
    pairs: Pairs

    @property
    def unsupported(self) -> list[float]:
        """The FARs of `tar_at_far` that the different pairs cannot support: see `supported`."""
        different = int(np.sum(~self.pairs.same))
        return [far for far in self.tar_at_far if not supported(far, different)]


def verify(features: Features, labels: Labels, *, folds: int = 10) -> Verification:
    """Scores every pair of images by the cosine of their features.

    Args:
      features: [images, dim], of any length; each is normalised here.
      labels: [images] person of each image.
      folds: how many folds the pairs are dealt into.

    Raises:
      ValueError: a feature is zero or not finite, or there are fewer pairs of a kind than folds.
    """
    pairs = all_pairs(labels)
    scores = cosine_scores(features, pairs)
    return Verification(
        folds=fold_accuracy(scores, pairs.same, deal_folds(pairs.same, folds)),
        tar_at_far={far: tar_at_far(scores, pairs.same, far) for far in (0.01, 0.001)},
        curve=roc(scores, pairs.same),
        scores=scores,
        pairs=pairs,
    )


def all_pairs(labels: Labels) -> Pairs:
    """Returns every unordered pair of different images, n (n - 1) / 2 of them."""
    labels = np.asarray(labels)
    first, second = np.triu_indices(labels.size, k=1)
    return Pairs(first, second, labels[first] == labels[second])


def cosine_scores(features: Features, pairs: Pairs) -> Scores:
    """Returns the cosine of each pair's features, in float64.

    Raises:
      ValueError: a feature is zero or not finite: it has no direction.
    """
    unit = unit_rows(np.asarray(features, np.float64))
    first, second = pairs.first, pairs.second
    if 4 * first.size >= unit.shape[0] ** 2:  # As good as all pairs: one product has them.
        return (unit @ unit.T)[first, second]
    scores = np.empty(first.size)
    together = max(1, BLOCK_BYTES // (unit.itemsize * unit.shape[1]))
    for start in range(0, first.size, together):
        part = slice(start, start + together)
        # In blocks, since the gathered features of all pairs may not fit into memory.
        scores[part] = np.einsum("pd,pd->p", unit[first[part]], unit[second[part]])
    return scores


def deal_folds(same: Same, folds: int) -> Folds:
    """Returns a fold id per pair: pairs of each kind are dealt in turn, so all folds are alike.

    Raises:
      ValueError: there are fewer pairs of a kind than folds.
    """
    same = checked_same(same)
    if min(same.sum(), (~same).sum()) < folds:
        raise ValueError(
            f"expected at least {folds} pairs of each kind for {folds} folds, found {same.sum()} "
            f"same and {(~same).sum()} different"
        )
    fold = np.empty(same.size, np.int64)
    for kind in (same, ~same):
        # Each kind for itself, so that every fold has both.
        fold[kind] = np.arange(kind.sum()) % folds
    return fold


def fold_accuracy(scores: Scores, same: Same, fold: Folds) -> FoldAccuracy:
    """k-fold verification accuracy, the threshold for each fold chosen on all others.

    Same and different pairs weigh equally, as in LFW's balanced lists: accuracy is the mean of the
    share of same pairs accepted and of different pairs refused, and a guess scores one half.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      fold: [pairs] fold id, as `deal_folds` makes them.
    """
    held_out = [held_out_accuracy(scores, same, fold == i) for i in np.unique(fold)]
    accuracy, thresholds = np.array(held_out).T
    return FoldAccuracy(accuracy, thresholds)


def held_out_accuracy(
    scores: Scores,
    same: Same,
    test: Tested,
    rule: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> tuple[float, float]:
    """Balanced accuracy on the pairs of `test`, and the threshold, chosen on all others.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      test: [pairs] bool, True for the held-out pairs.
      rule: (scores, same) -> threshold; `best_threshold` by default.
    """
    same = checked_same(same)
    threshold = (rule or best_threshold)(scores[~test], same[~test])
    return balanced_accuracy(scores[test], same[test], threshold), threshold


def balanced_accuracy(scores: Scores, same: Same, threshold: float) -> float:
    """Mean of the share of same pairs at or above a threshold and of different pairs below it."""
    same = checked_same(same)
    return float(0.5 * (np.mean(scores[same] >= threshold) + np.mean(scores[~same] < threshold)))


def best_threshold(scores: Scores, same: Same) -> float:
    """Returns the threshold of the highest balanced accuracy, midway between two scores.

    Every distinct cut is tried. Of several equally good ones it is the median, the higher of the
    middle two where their number is even: a mean of cuts that are not neighbours may be a worse
    one. Where no cut is as good as a guess, everything is accepted.

    Example:
      >>> scores, same = np.array([0.9, 0.7, 0.5, 0.3]), np.array([True, False, True, False])
      >>> print(f"{best_threshold(scores, same):.1f}, not {mean_best_threshold(scores, same):.1f}")
      0.8, not 0.6
    """
    cuts = _best_cuts(scores, same)
    return float(cuts[(cuts.size - 1) // 2])


def mean_best_threshold(scores: Scores, same: Same) -> float:
    """Returns the mean of all equally good cuts of `best_threshold`: SphereFace's released rule.

    Its accuracy may be below the highest.
    """
    return float(np.mean(_best_cuts(scores, same)))


def _best_cuts(scores: Scores, same: Same) -> Cuts:
    """Thresholds of the highest balanced accuracy, falling."""
    same = checked_same(same)
    curve = roc(scores, same)
    num_same, num_different = int(np.sum(same)), int(np.sum(~same))
    # Whole numbers, so that equally good cuts are equal. The first and the last point, accepting
    # nothing and everything, are left out: their thresholds lie beyond the scores.
    accepted_same = np.rint(curve.tar[1:-1] * num_same).astype(np.int64)
    accepted_different = np.rint(curve.far[1:-1] * num_different).astype(np.int64)
    gain = accepted_same * num_different - accepted_different * num_same
    if gain.max(initial=-1) < 0:
        return curve.thresholds[-1:]
    upper, lower = curve.thresholds[1:-1], curve.thresholds[2:]
    # No number may lie between two scores: the middle is then rounded to one of them.
    midway = upper - 0.5 * (upper - lower)
    return np.where(midway > lower, midway, upper)[gain == gain.max()]
