"""Confidence intervals from resampled people: pairs that share a person are not independent."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.progress import Progress
from hyperface.metrics.threshold import Rule, allowed_impostors, checked_scores, impostor_threshold


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float
    draws: np.ndarray
    """[draws] the statistic of every resample; NaN where it had none of a kind of pairs."""


def bootstrap_people(
    statistic: Callable[[np.ndarray], float],
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
      statistic: [pairs] how often each pair is taken, whole numbers -> a figure, or NaN where the
        pairs taken have none.
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
    figures = np.empty(draws)
    for draw in range(draws):
        taken = np.bincount(rng.integers(people.size, size=people.size), minlength=people.size)
        figures[draw] = statistic(np.where(a == b, taken[a], taken[a] * taken[b]))
        if progress:
            progress(draw + 1, draws)
    if np.isnan(figures).all():
        raise ValueError(f"expected a figure from some of {draws} draws, found NaN in all")
    low, high = np.nanquantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), figures)


def resampled_tar(
    scores: ArrayLike, same: ArrayLike, far: float, *, rule: Rule = "strict"
) -> Callable[[np.ndarray], float]:
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
    scores, same = checked_scores(scores, "pair"), np.asarray(same, bool)
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
