"""Confidence intervals from resampled people: pairs that share a person are not independent."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import checked_same
from hyperface.metrics.progress import Progress
from hyperface.metrics.roc import Roc, eer
from hyperface.metrics.threshold import Rule, allowed_impostors, checked_scores, impostor_threshold

Statistic = Callable[[np.ndarray], float]
"""A function from how often each pair is taken, [pairs] whole numbers, to a figure; NaN where the
pairs taken have none."""


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float
    draws: np.ndarray
    """[draws] the statistic of every resample; NaN where it had none of a kind of pairs."""


def bootstrap_people(
    statistic: Statistic,
    first: ArrayLike,
    second: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interval:
    """Draws as many people as there are, with replacement, and takes the pairs that they form.

    A person drawn twice brings their own pairs twice, and pairs with another person as often as the
    product of both counts; two copies of one person form no pair. Pairs taken one by one would look
    independent and give intervals that are far too narrow.

    Args:
      statistic: the figure of the pairs as taken.
      first: [pairs] person on one side of each pair.
      second: [pairs] person on the other; the same one for a genuine pair, or for a single image.
      draws: how many resamples.
      level: share of the draws in the interval.
      seed: of the draws.
      progress: called with draws done and all draws.

    Raises:
      ValueError: shapes differ, there are fewer than two people, or no draw has a figure.

    Example:
      >>> right = np.array([1.0, 0.0, 1.0, 1.0])
      >>> people = np.array([0, 0, 1, 2])
      >>> share = bootstrap_people(lambda taken: taken @ right / taken.sum(), people, people)
      >>> (share.low, share.high)
      (0.5, 1.0)
    """
    (found,) = bootstrap_figures(
        {"": statistic}, first, second, draws=draws, level=level, seed=seed, progress=progress
    ).values()
    return found


def bootstrap_figures(
    statistics: Mapping[str, Statistic],
    first: ArrayLike,
    second: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Interval]:
    """Returns the intervals of several figures of the same pairs, on the same draws.

    Args:
      statistics: by name; the rest is as of `bootstrap_people`.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"expected a person a side, found {first.shape} and {second.shape}")
    people, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    if people.size < 2:
        raise ValueError(f"expected two people or more, found {people.size}")
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError(f"expected level in (0, 1) and draws, found {level} and {draws}")
    a, b = place[: first.size], place[first.size :]
    rng = np.random.default_rng(seed)
    figures = {name: np.empty(draws) for name in statistics}
    for draw in range(draws):
        taken = np.bincount(rng.integers(people.size, size=people.size), minlength=people.size)
        pairs = np.where(a == b, taken[a], taken[a] * taken[b])
        for name, statistic in statistics.items():
            figures[name][draw] = statistic(pairs)
        if progress:
            progress(draw + 1, draws)
    return {name: _interval(found, level) for name, found in figures.items()}


def _interval(figures: np.ndarray, level: float) -> Interval:
    if np.isnan(figures).all():
        raise ValueError(f"expected a figure from some of {figures.size} draws, found NaN in all")
    low, high = np.nanquantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), figures)


def resampled_tar(
    scores: ArrayLike, same: ArrayLike, far: float, *, rule: Rule = "strict"
) -> Statistic:
    """True accept rate at a FAR of pairs that are taken several times or not at all.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      far: in [0, 1].
      rule: that of `impostor_threshold`.

    Returns:
      A statistic for `bootstrap_people`: the figure of `tar_at_far` on the pairs as taken.

    Example:
      >>> tar = resampled_tar([0.9, 0.8, 0.3, 0.1], [True, False, True, False], 0.0)
      >>> tar(np.array([3, 1, 1, 1]))
      0.75
    """
    scores, same = checked_scores(scores, "pair"), checked_same(same)
    if scores.shape != same.shape:
        raise ValueError(f"expected {scores.size} bools, one a score, found {same.shape}")
    genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
    impostor = impostor[np.argsort(-scores[impostor], kind="stable")]
    falling = scores[impostor]

    def statistic(taken: np.ndarray) -> float:
        upto = np.cumsum(taken[impostor])
        if not upto.size or not upto[-1] or not taken[genuine].any():
            return np.nan
        allowed = int(allowed_impostors(far, upto[-1], rule))
        top = slice(np.searchsorted(upto, allowed, side="right") + 1)
        highest = np.repeat(falling[top], taken[impostor[top]])
        threshold = impostor_threshold(highest, far, rule=rule, num_impostors=int(upto[-1]))
        return float(taken[genuine] @ (scores[genuine] >= threshold) / taken[genuine].sum())

    return statistic


def resampled_accuracy(right: ArrayLike, same: ArrayLike) -> Statistic:
    """Accuracy, both kinds weighing equally, of pairs that are taken several times or not at all.

    Args:
      right: [pairs] bool, whether the pair is decided rightly.
      same: [pairs] bool, or 0 and 1.

    Example:
      >>> accuracy = resampled_accuracy([True, False, True], [True, True, False])
      >>> accuracy(np.array([3, 1, 1]))
      0.875
    """
    same = checked_same(same)
    kinds = [(same == kind).astype(np.float64) for kind in (True, False)]
    hits = [kind * checked_same(right) for kind in kinds]

    def statistic(taken: np.ndarray) -> float:
        totals = [float(taken @ kind) for kind in kinds]
        if not all(totals):
            return np.nan
        shares = (float(taken @ hit) / total for hit, total in zip(hits, totals, strict=True))
        return sum(shares) / 2

    return statistic


def resampled_eer(scores: ArrayLike, same: ArrayLike) -> Statistic:
    """Equal error rate of pairs that are taken several times or not at all.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1.

    Returns:
      A statistic for `bootstrap_people`: the figure of `eer` on the pairs as taken.

    Example:
      >>> resampled_eer([0.9, 0.8, 0.3, 0.1], [True, False, True, False])(np.ones(4, int))
      0.5
    """
    scores, same = checked_scores(scores, "pair"), checked_same(same)
    order = np.argsort(-scores, kind="stable")
    same = same[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)

    def statistic(taken: np.ndarray) -> float:
        taken = taken[order]
        accepted = [np.cumsum(taken * kind) for kind in (~same, same)]
        if not all(count[-1] for count in accepted):
            return np.nan
        far, tar = (np.concatenate([[0.0], count[last_of_ties] / count[-1]]) for count in accepted)
        return eer(Roc(far, tar, np.empty(0)))

    return statistic
