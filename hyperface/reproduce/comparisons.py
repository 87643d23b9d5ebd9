"""Builds table entries for statements that compare scores, with the statistics of the comparison.

A statement is a sentence of a paper, such as that one loss verifies better than another. It may
have several parts, which must all be true.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, t

from hyperface.metrics.bootstrap import Difference, difference_of_accuracies
from hyperface.reproduce.item import HOLDS, Entry


class Decisions(NamedTuple):
    """A network's decisions about pairs of images: which of them are correct.

    A pair is classified as one person if its similarity reaches the threshold, and else as two
    people. The threshold is the one with the highest accuracy: on these pairs or, if they are
    divided into folds (parts), on the other folds.
    """

    right: np.ndarray
    """[pairs] bool, whether each pair is classified correctly."""
    first: np.ndarray
    """[pairs] id or name of the person in the first image of each pair."""
    second: np.ndarray
    """[pairs] id or name of the person in the second image."""

    def accuracy(self) -> float:
        """Returns the accuracy in percent: its mean over pairs of one person and pairs of two."""
        # Of all pairs of a set only a few are of one person; unweighted, these would not count.
        same = self.first == self.second
        return float(50 * (self.right[same].mean() + self.right[~same].mean()))


def entry(
    row: str,
    parts: Sequence[Mapping[int, float]],
    column: str = "",
    *,
    unit: str = "points",
    starts: int | None = None,
    judged: bool = True,
    over_people: Sequence[Difference | None] = (),
) -> list[Entry]:
    """Builds the table entry of a sentence that compares scores, such as "A beats B".

    The sentence consists of one or more comparisons, the parts, which must all be true. The result
    is a list with this entry. The list is empty if a part has no margin with any seed.

    Args:
      row: the sentence, which is the name of the row.
      parts: for each part, seed -> margin. A margin is a difference of scores, which is above zero
        if the comparison is true with this seed.
      column: column of the table.
      unit: unit of the margins.
      starts: number of independently trained networks per method. It is smaller than the number of
        seeds if runs were fine-tuned from the same network. None means the number of seeds.
      judged: whether this entry decides if the sentence is true. False if another entry does, and
        this one is only shown.
      over_people: for each part, the difference of scores with its confidence interval from a
        bootstrap over people and seeds. For a part with None, the interval is computed here by the
        paired t-test over seeds; an empty sequence means None for every part.
    """
    if not parts or not all(parts):
        return []
    seeds = sorted({seed for margins in parts for seed in margins})
    # A part lacks a seed in which both sides diverged: that speaks neither for nor against it.
    held = [all(margins.get(seed, math.inf) > 0 for margins in parts) for seed in seeds]
    differences = tuple(
        found or paired_t(list(margins.values()), starts=starts)
        for margins, found in zip(parts, over_people or [None] * len(parts), strict=True)
    )
    values = tuple(map(float, held))
    return [Entry(row, values, column, HOLDS, parts=differences, judged=judged, note=unit)]


def per_seed(row: str, *parts: Sequence[float] | np.ndarray, unit: str = "points") -> list[Entry]:
    """Builds the table entry of a sentence from arrays of margins with one number per seed.

    The sentence consists of one or more comparisons of scores, such as "A beats B". The result is a
    list with this entry. The list is empty if a comparison has no margin but NaN.

    Args:
      row: the sentence, which is the name of the row.
      *parts: for each comparison, [seeds] margins: differences of scores, which are above zero if
        the comparison is true. NaN marks a seed that is left out.
      unit: unit of the margins.
    """
    finite = [dict(enumerate(map(float, part))) for part in parts]
    return entry(
        row, [{n: v for n, v in p.items() if not math.isnan(v)} for p in finite], unit=unit
    )


def paired_t(
    margins: Sequence[float], *, starts: int | None = None, level: float = 0.95
) -> Difference:
    """Returns the mean margin over seeds, with the confidence interval of the paired t-test.

    The t-test is not possible if a margin is infinite, because a run diverged, or if all margins
    are equal. Then the result has no interval, and its p-values are those of the sign test.

    Args:
      margins: one difference of scores per seed; infinite if one of the two runs diverged.
      starts: number of independently trained networks, which the result records. It is smaller than
        the number of seeds if runs were fine-tuned from the same network. None means the number of
        seeds.
      level: confidence level of the interval.
    """
    values = np.asarray(margins, float)
    finite = values[np.isfinite(values)]
    count, value = values.size, float(finite.mean()) if finite.size else math.nan
    starts = count if starts is None else min(starts, count)
    error = float(finite.std(ddof=1) / math.sqrt(count)) if finite.size == count > 1 else 0.0
    if not error:
        # The chance of so many margins of one sign if both signs were equally likely.
        by_sign = [float(binom.sf(np.sum(side > 0) - 1, count, 0.5)) for side in (values, -values)]
        return Difference(value, math.nan, math.nan, math.nan, by_sign[0], by_sign[1], starts)
    # With few seeds the t distribution matters: for three its quantile is 4.3, where the normal
    # distribution has 2.0.
    half = float(t.ppf((1 + level) / 2, count - 1)) * error
    sides = [float(t.sf(side / error, count - 1)) for side in (value, -value)]
    return Difference(value, value - half, value + half, error, sides[0], sides[1], starts)


def of_decisions(
    row: str,
    better: Sequence[Decisions],
    than: Sequence[Decisions],
    *,
    starts: int | None = None,
) -> Entry:
    """Returns the table entry of a sentence such as "method A verifies better than method B".

    The entry contains the difference of the accuracies in percentage points. Its confidence
    interval comes from a bootstrap that resamples people and seeds.

    Args:
      row: the sentence, which is the name of the row.
      better: for each seed, the decisions of the method that should verify better: which pairs of
        images it classifies correctly.
      than: for each seed, the other method's decisions about the same pairs.
      starts: number of independently trained networks per method. It is smaller than the number of
        seeds if runs were fine-tuned from the same network. None means the number of seeds.
    """
    gains = [
        first.accuracy() - second.accuracy() for first, second in zip(better, than, strict=True)
    ]
    held = tuple(float(gain > 0) for gain in gains)
    found = difference(better, than, starts=starts)
    return Entry(row, held, unit=HOLDS, parts=(found,), note="points")


def difference(
    better: Sequence[Decisions], than: Sequence[Decisions], *, starts: int | None = None
) -> Difference:
    """Returns by how much the accuracy of `better` exceeds that of `than`, in percentage points.

    The result contains a confidence interval, from a bootstrap that resamples people and seeds.

    Args:
      better: for each seed, which pairs of images the first method classifies correctly.
      than: for each seed, the second method's decisions about the same pairs.
      starts: number of independently trained networks per method. It is smaller than the number of
        seeds if runs were fine-tuned from the same network. None means the number of seeds.
    """
    return difference_of_accuracies(
        np.array([first.right for first in better]),
        np.array([second.right for second in than]),
        better[0].first,
        better[0].second,
        starts=starts,
    )
