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
    """A list of pairs of images; an image is given by its row in an array of features."""

    first: PairRows
    """[pairs] row of the first image of each pair."""
    second: PairRows
    """[pairs] row of the second image of each pair."""
    same: Same
    """[pairs] bool, True where both images show one person."""


class FoldAccuracy(NamedTuple):
    """The accuracy on each fold (group of pairs), at the threshold chosen on all other folds.

    The folds are in rising order of their ids.
    """

    accuracy: PerFold
    """[folds] accuracy on the fold, in [0, 1]. It is the mean of two shares: the accepted share of
    the pairs of one person, and the refused share of the pairs of two people."""
    thresholds: PerFold
    """[folds] threshold used on the fold; a pair is accepted if its score is at least this."""

    @property
    def mean(self) -> float:
        """The mean accuracy over the folds, which is the reported number."""
        return float(self.accuracy.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean: deviation over folds / sqrt(folds), as LFW asks.

        It is NaN for one fold.
        """
        if self.accuracy.size < 2:
            return float("nan")
        return float(self.accuracy.std(ddof=1) / np.sqrt(self.accuracy.size))


class Verification(NamedTuple):
    """The result of `verify`: how well scores tell whether a pair shows one person."""

    folds: FoldAccuracy
    """Accuracy of k-fold cross-validation, one value per fold, and the thresholds."""
    tar_at_far: dict[float, float]
    """False accept rate (0.01 and 0.001) -> true accept rate, over all pairs."""
    curve: Roc
    """ROC curve over all pairs."""
    scores: Scores
    """[pairs] cosines."""
    pairs: Pairs
    """The pairs that were scored."""

    @property
    def unsupported(self) -> list[float]:
        """The false accept rates of `tar_at_far` for which there are too few pairs of two people.

        A rate needs at least 1 / rate pairs of two people. With fewer, the threshold for the rate
        accepts no pair of two people.
        """
        different = int(np.sum(~self.pairs.same))
        return [far for far in self.tar_at_far if not supported(far, different)]


def verify(features: Features, labels: Labels, *, folds: int = 10) -> Verification:
    """Scores all pairs of images by the cosine of their features, and computes verification rates.

    These are the k-fold accuracy, the true accept rate (TAR) at the false accept rates (FAR) 0.01
    and 0.001, and the ROC curve.

    Args:
      features: [images, dim] features of any norm above zero.
      labels: [images] person of each image.
      folds: number of folds into which the pairs are divided for the accuracy. The threshold for
        each fold is chosen on all other folds.

    Raises:
      ValueError: a feature is zero or not finite, or there are fewer pairs of one person, or fewer
        pairs of two people, than folds.
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
    """Returns every unordered pair of different images, n (n - 1) / 2 of them for n images.

    Args:
      labels: [images] person of each image, by which `Pairs.same` is computed.
    """
    labels = np.asarray(labels)
    first, second = np.triu_indices(labels.size, k=1)
    return Pairs(first, second, labels[first] == labels[second])


def cosine_scores(features: Features, pairs: Pairs) -> Scores:
    """Returns the cosine of each pair's features, in float64.

    Args:
      features: [images, dim] features of any norm above zero.
      pairs: the rows in `features` of both images of each pair.

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
    """Divides pairs into folds (groups for cross-validation), and returns the fold of each pair.

    The same pairs are assigned to the folds in turn (0, 1, ..., 0, 1, ...), and so are the
    different pairs. So all folds have equally many pairs of each kind, or one more.

    Args:
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      folds: number of folds; the ids are 0 to folds - 1.

    Returns:
      [pairs] int64, the id of each pair's fold.

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
    pairs that are refused. So the accuracy of a random guess is one half, even if there are more
    pairs of one kind.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).
      fold: [pairs] id of the fold of each pair, as `deal_folds` returns it. Each fold needs pairs
        of both kinds; otherwise its accuracy is NaN.

    Raises:
      ValueError: all other folds of a fold together have no same pairs or no different pairs.
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
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).
      test: [pairs] bool, True for the held-out pairs, on which the accuracy is computed.
      rule: function (scores, same) -> threshold, called with the pairs that are not held out. None
        uses `best_threshold`.

    Returns:
      (accuracy, threshold). `accuracy` is computed on the held-out pairs, as the mean of two
      shares: the accepted same pairs, and the refused different pairs. `threshold` is the number
      that `rule` returned.
    """
    same = checked_same(same)
    threshold = (rule or best_threshold)(scores[~test], same[~test])
    return balanced_accuracy(scores[test], same[test], threshold), threshold


def balanced_accuracy(scores: Scores, same: Same, threshold: float) -> float:
    """Returns the mean of two shares: accepted same pairs, and refused different pairs.

    So the accuracy of a random guess is one half, even if there are more pairs of one kind.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      threshold: a pair is accepted if its score is at least this.
    """
    same = checked_same(same)
    return float(0.5 * (np.mean(scores[same] >= threshold) + np.mean(scores[~same] < threshold)))


def best_threshold(scores: Scores, same: Same) -> float:
    """Returns the threshold of the highest accuracy, midway between two scores.

    Accuracy is the mean of two shares: the accepted same pairs, and the refused different pairs.
    The midpoints between neighbouring scores are tried. If several midpoints are equally good,
    their median is returned. For an even number of them, it is the higher of the two in the middle,
    because the mean of these two may have a lower accuracy. If all midpoints are worse than a
    random guess, the threshold is the lowest score, which accepts every pair.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.

    Example:
      >>> scores, same = np.array([0.9, 0.7, 0.5, 0.3]), np.array([True, False, True, False])
      >>> print(f"{best_threshold(scores, same):.1f}, not {mean_best_threshold(scores, same):.1f}")
      0.8, not 0.6
    """
    cuts = _best_cuts(scores, same)
    return float(cuts[(cuts.size - 1) // 2])


def mean_best_threshold(scores: Scores, same: Same) -> float:
    """Returns the mean of all thresholds that have the highest accuracy.

    This threshold is the one that SphereFace's published code uses. Accuracy is the mean of two
    shares: the accepted same pairs, and the refused different pairs. The thresholds are midpoints
    between neighbouring scores. The accuracy at the mean of several thresholds may be lower than at
    each of them; `best_threshold` returns their median instead.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.
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
