"""Warns of scores that are no better than chance, for example because names and features differ.

A file of features and a list of image names belong together row by row. If the names are in another
order than the features, all scores are as low as those of a guess.
"""

import numpy as np

from hyperface.metrics._checks import checked_same
from hyperface.metrics.shapes import Features, PairRows, Same
from hyperface.metrics.verification import Pairs, best_threshold, cosine_scores

TRIED = 500
"""Number of same pairs, and of different pairs, that `shift_warning` scores with shifted names."""


def sampling_error(rate: float, trials: int) -> float:
    """Returns four standard deviations of the share of successes in independent trials.

    A measured share that differs from `rate` by more than this is very unlikely to do so by chance.

    Args:
      rate: probability of success of one trial, in [0, 1].
      trials: number of trials.
    """
    return 4.0 * float(np.sqrt(rate * (1.0 - rate) / trials))


def guess_warning(
    score: str, rate: float, chance: float, trials: int, *, least: float = 0.0
) -> tuple[str, ...]:
    """Returns a warning if a measured rate is not clearly above that of a guess.

    Such a rate often means that the names and the features of the images are in different orders.
    The rate has to exceed `chance` by more than `least`, and by more than four standard deviations
    (`sampling_error`).

    Args:
      score: name of the rate in the warning, such as "accuracy".
      rate: the measured rate, in [0, 1].
      chance: the rate, in [0, 1], that a random guess would have.
      trials: number of trials (pairs or searches) that the rate was measured on.
      least: number in [0, 1] that `rate` - `chance` has to exceed, even if four standard deviations
        are less.

    Returns:
      A tuple of one sentence, or an empty tuple if the rate is high enough.

    Example:
      >>> guess_warning("accuracy", 0.6, 0.5, 6000), len(guess_warning("accuracy", 0.6, 0.5, 300))
      ((), 1)
    """
    if rate > chance + max(least, sampling_error(chance, trials)):
        return ()
    return (
        f"WARNING: {score} of {100 * rate:.3g} % is no more than the {100 * chance:.3g} % that a "
        "guess, or names in a random order, may give; are the names those of the features?",
    )


def shift_warning(
    features: Features, first: PairRows, second: PairRows, same: Same
) -> tuple[str, ...]:
    """Returns a warning if the list of image names looks shifted by one row against the features.

    In a sorted list, the images of a person are neighbours. If such a list is shifted by one row,
    most features still have the name of the right person. The accuracy is then lower, but well
    above chance, so that a comparison with chance (`guess_warning`) does not notice the shift. This
    function decides up to 1,000 pairs three times: with the given rows, with every row one higher,
    and with every row one lower. It returns a warning if one of the shifted orders gives clearly
    more correct decisions.

    Args:
      features: [images, dim], in the order of their file.
      first: [pairs] row in `features` of one image of each pair, as the list of names gives it.
      second: [pairs] row in `features` of the other image.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).

    Returns:
      A tuple of one sentence, or an empty tuple if the names do not look shifted, or if there are
      no same or no different pairs.
    """
    same = checked_same(same)
    kinds = [np.flatnonzero(same == kind) for kind in (True, False)]
    if not all(kind.size for kind in kinds):
        return ()
    # Spread evenly within each kind: a list may alternate same and different pairs, and an even
    # spread over the whole list could then find pairs of one kind only.
    spread = [
        kind[np.linspace(0, kind.size - 1, min(TRIED, kind.size)).astype(int)] for kind in kinds
    ]
    tried = np.concatenate(spread)
    same = same[tried]
    right = {}
    for shift in (0, 1, -1):
        rows, index = np.unique(
            (np.stack([first[tried], second[tried]]) + shift) % len(features), return_inverse=True
        )
        scores = cosine_scores(features[rows], Pairs(*index.reshape(2, -1), same=same))
        right[shift] = (scores >= best_threshold(scores, same)) == same
    best = max(right, key=lambda shift: right[shift].sum())
    gained = right[best].sum() - right[0].sum()
    # A sign test: by chance each order wins half of the pairs that only one of both decides
    # correctly, so 4 standard deviations of the difference are 4 sqrt(number of such pairs).
    if gained <= max(0.02 * same.size, 4.0 * np.sqrt(np.sum(right[best] != right[0]))):
        return ()
    return (
        f"WARNING: with every name on the row {'after' if best > 0 else 'before'} its own, "
        f"{100 * right[best].mean():.1f} % of {same.size:,} pairs are right at the best threshold, "
        f"where now {100 * right[0].mean():.1f} % are; are the names shifted by a row?",
    )
