"""Computes EER, AUC and TAR at FAR on each split of a pair list, and their spread over splits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import check_both_kinds, checked_columns, checked_same
from hyperface.metrics.roc import auc, eer, roc, tar_at_far
from hyperface.metrics.shapes import Folds, PerFold, Same, Scores, SplitCounts, SplitRates
from hyperface.metrics.threshold import allowed_impostors


class Spread(NamedTuple):
    """The mean of a score over the splits of a pair list, and how much the score varies.

    A split is a group of pairs that is scored by itself.
    """

    mean: float
    """Mean of the score over all splits."""
    deviation: float
    """Standard deviation of the score over splits (ddof 1); nan with one split."""


class PairRates(NamedTuple):
    """The verification rates of each split of a pair list.

    A split is a group of pairs that is scored by itself, as the protocols of CFP and IJB-A ask.
    """

    eer: PerFold
    """[splits] equal error rate."""
    auc: PerFold
    """[splits] area under the ROC."""
    tar: SplitRates
    """[splits, fars] true accept rate at each false accept rate."""
    fars: tuple[float, ...]
    """The requested false accept rates."""
    allowed: SplitCounts
    """[splits, fars] number of different pairs (pairs of two people) of the split that may be
    accepted at the rate. If it is zero, the split has too few different pairs for the rate, and
    `tar` is the true accept rate without any false accept."""

    def spread(self) -> dict[str, Spread]:
        """Returns score name -> mean and deviation over splits.

        The names are "eer", "auc", and one such as "tar_at_far_0.001" per false accept rate.
        """
        figures = {"eer": self.eer, "auc": self.auc}
        figures |= {f"tar_at_far_{far:g}": self.tar[:, i] for i, far in enumerate(self.fars)}
        return {name: _spread(values) for name, values in figures.items()}

    def unsupported(self) -> list[float]:
        """Returns the false accept rates for which at least one split has too few different pairs.

        A different pair is a pair of two people. A rate needs at least 1 / rate different pairs in
        each split. In a split with fewer, `tar` is the true accept rate without any false accept.
        """
        return [far for i, far in enumerate(self.fars) if np.any(self.allowed[:, i] == 0)]


def pair_rates(
    scores: Scores, same: Same, split: Folds, fars: Sequence[float] = (1e-3,)
) -> PairRates:
    """Computes verification rates on each split by itself, as the protocols of CFP and IJB-A do.

    A split is a group of pairs. If all pairs have the same split id, the rates are those of all
    pairs together.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True where both sides of the pair (images, or sets of images as in IJB-A)
        show one person.
      split: [pairs] whole number, the split that each pair belongs to.
      fars: false accept rates in [0, 1].

    Raises:
      ValueError: lengths differ, a score is not finite, a far is outside [0, 1], or a split has
        only pairs of one person or only pairs of two people.

    Example:
      >>> scores, same = [0.9, 0.8, 0.3, 0.1, 0.7, 0.2], [1, 0, 1, 0, 1, 0]
      >>> rates = pair_rates(scores, same, split=[1, 1, 1, 1, 2, 2], fars=[0.5])
      >>> print(rates.tar[:, 0], rates.allowed[:, 0], rates.spread()["eer"].mean)
      [1. 1.] [1 0] 0.25
    """
    scores = np.asarray(scores)
    same, split = checked_columns(same=same, split=split)
    if scores.shape != same.shape:
        raise ValueError(f"expected a score for each of {same.size} pairs, found {scores.shape}")
    same = checked_same(same)
    rates, allowed = [], []
    # Each split by itself, because scores of different splits may need different thresholds.
    for i in np.unique(split):
        part = split == i
        check_both_kinds(same[part], f"split {i}")
        pairs = scores[part], same[part]
        curve = roc(*pairs)
        rates.append([eer(curve), auc(curve), *(tar_at_far(*pairs, far) for far in fars)])
        allowed.append(allowed_impostors(fars, int(np.sum(~same[part]))))
    table = np.array(rates)
    return PairRates(table[:, 0], table[:, 1], table[:, 2:], tuple(fars), np.array(allowed))


def _spread(values: PerFold) -> Spread:
    # NaN for one split, since NumPy would warn of a division by zero.
    deviation = np.std(values, ddof=1) if values.size > 1 else np.nan
    return Spread(float(np.mean(values)), float(deviation))
