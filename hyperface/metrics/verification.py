"""Face verification over pairs: cosine scores, k-fold accuracy, and TAR at FAR."""

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
"""Size in bytes of the features of one side of the pairs that are scored at a time."""


class Pairs(NamedTuple):
    """Pairs of images, by the row numbers of both images."""

    first: PairRows
    """[pairs] row of the first image."""
    second: PairRows
    """[pairs] row of the second image."""
    same: Same
    """[pairs] bool, True where both images show one person."""


class FoldAccuracy(NamedTuple):
    """The accuracy on each fold, at the threshold that was chosen on the other folds."""

    accuracy: PerFold
    """[folds] balanced accuracy on the held-out fold, in [0, 1]."""
    thresholds: PerFold
    """[folds] threshold; a pair is decided to be the same if its score is at least this."""

    @property
    def mean(self) -> float:
        """The mean accuracy over the folds, which is the reported number."""
        return float(self.accuracy.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over folds (LFW's convention); nan for one fold."""
        if self.accuracy.size < 2:
            return float("nan")
        return float(self.accuracy.std(ddof=1) / np.sqrt(self.accuracy.size))


class Verification(NamedTuple):
    """The verification result: how well scores separate same pairs from different pairs."""

    folds: FoldAccuracy
    """Accuracy on each fold."""
    tar_at_far: dict[float, float]
    """False accept rate -> true accept rate, over all pairs."""
    curve: Roc
    """ROC curve over all pairs."""
    scores: Scores
    """[pairs] cosines."""
    pairs: Pairs
    """The pairs that were scored."""

    @property
    def unsupported(self) -> list[float]:
        """The FARs of `tar_at_far` that have too few different pairs (see `supported`)."""
        different = int(np.sum(~self.pairs.same))
        return [far for far in self.tar_at_far if not supported(far, different)]


def verify(features: Features, labels: Labels, *, folds: int = 10) -> Verification:
    """Returns accuracy, TAR at FAR 0.01 and 0.001, and the ROC curve over all pairs of images.

    The score of a pair is the cosine of both features.

    Args:
      features: [images, dim] features of any length.
      labels: [images] person of each image.
      folds: number of folds into which the pairs are split for the accuracy.

    Raises:
      ValueError: a feature is zero or not finite, or there are fewer same or different pairs than
        folds.
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
      ValueError: a feature is zero or not finite, and so has no direction.
    """
    unit = unit_rows(np.asarray(features, np.float64))
    first, second = pairs.first, pairs.second
    # With a quarter of all ordered pairs or more, one matrix product of all images is faster.
    if 4 * first.size >= unit.shape[0] ** 2:
        return (unit @ unit.T)[first, second]
    scores = np.empty(first.size)
    together = max(1, BLOCK_BYTES // (unit.itemsize * unit.shape[1]))
    for start in range(0, first.size, together):
        part = slice(start, start + together)
        # In blocks, since the gathered features of all pairs may not fit into memory.
        scores[part] = np.einsum("pd,pd->p", unit[first[part]], unit[second[part]])
    return scores


def deal_folds(same: Same, folds: int) -> Folds:
    """Returns one fold id per pair, which spreads each kind of pairs evenly over the folds.

    Args:
      same: [pairs] bool, or 0 and 1.
      folds: number of folds; the ids are 0 to folds - 1.

    Raises:
      ValueError: there are fewer same or different pairs than folds.
    """
    same = checked_same(same)
    if min(same.sum(), (~same).sum()) < folds:
        raise ValueError(
            f"expected at least {folds} pairs of each kind for {folds} folds, found {same.sum()} "
            f"same and {(~same).sum()} different"
        )
    fold = np.empty(same.size, np.int64)
    for kind in (same, ~same):
        # Same and different pairs are dealt separately, so that every fold contains both kinds.
        fold[kind] = np.arange(kind.sum()) % folds
    return fold


def fold_accuracy(scores: Scores, same: Same, fold: Folds) -> FoldAccuracy:
    """Computes the k-fold accuracy; the threshold for each fold is chosen on all other folds.

    The accuracy is the mean of two shares: the same pairs that are accepted, and the different
    pairs that are refused. So a guess scores one half, even if there are more pairs of one kind.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      fold: [pairs] fold id, as `deal_folds` returns it.
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
    """Chooses a threshold on some pairs and computes the accuracy on the others.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      test: [pairs] bool, True for the held-out pairs.
      rule: function (scores, same) -> threshold; `best_threshold` by default.

    Returns:
      (accuracy, threshold): the balanced accuracy on the held-out pairs, and the threshold that
      `rule` chooses on all other pairs.
    """
    same = checked_same(same)
    threshold = (rule or best_threshold)(scores[~test], same[~test])
    return balanced_accuracy(scores[test], same[test], threshold), threshold


def balanced_accuracy(scores: Scores, same: Same, threshold: float) -> float:
    """Returns the mean of two shares: same pairs that are accepted, different pairs that are not.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1.
      threshold: a pair is accepted if its score is at least this.
    """
    same = checked_same(same)
    return float(0.5 * (np.mean(scores[same] >= threshold) + np.mean(scores[~same] < threshold)))


def best_threshold(scores: Scores, same: Same) -> float:
    """Returns the threshold of the highest balanced accuracy, midway between two scores.

    A cut is a threshold between two neighbouring scores, and all cuts are tried. If several cuts
    are equally good, their median is returned, or the higher of the middle two. The mean of these
    cuts is not used, because it may be a worse cut. If no cut is as good as a guess, the threshold
    accepts every pair.

    Example:
      >>> scores, same = np.array([0.9, 0.7, 0.5, 0.3]), np.array([True, False, True, False])
      >>> print(f"{best_threshold(scores, same):.1f}, not {mean_best_threshold(scores, same):.1f}")
      0.8, not 0.6
    """
    cuts = _best_cuts(scores, same)
    return float(cuts[(cuts.size - 1) // 2])


def mean_best_threshold(scores: Scores, same: Same) -> float:
    """Returns the mean of all equally good cuts of `best_threshold`.

    SphereFace's released code chooses its threshold so. The accuracy at the mean may be lower than
    at any of these cuts.
    """
    return float(np.mean(_best_cuts(scores, same)))


def _best_cuts(scores: Scores, same: Same) -> Cuts:
    """Returns all thresholds [cuts] of the highest balanced accuracy, in falling order."""
    same = checked_same(same)
    curve = roc(scores, same)
    num_same, num_different = int(np.sum(same)), int(np.sum(~same))
    # Counted in whole numbers, so that equally good cuts compare as equal. The first point, which
    # accepts nothing, and the last, which accepts everything, are left out: their thresholds do not
    # lie between two scores.
    accepted_same = np.rint(curve.tar[1:-1] * num_same).astype(np.int64)
    accepted_different = np.rint(curve.far[1:-1] * num_different).astype(np.int64)
    gain = accepted_same * num_different - accepted_different * num_same
    if gain.max(initial=-1) < 0:
        return curve.thresholds[-1:]
    upper, lower = curve.thresholds[1:-1], curve.thresholds[2:]
    # If no number of this type lies between two scores, the middle is rounded to one of them. The
    # lower one would accept a pair more, so the upper one is taken.
    midway = upper - 0.5 * (upper - lower)
    return np.where(midway > lower, midway, upper)[gain == gain.max()]
