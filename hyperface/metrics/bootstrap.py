"""Computes intervals and verdicts from resampled people and seeds.

Two pairs that share a person are not independent, and neither are two scores of one trained
network. So people and seeds of training are resampled, and pairs never are.

Two methods are compared in three steps:

1. `paired_difference` returns the difference of their scores, its confidence interval, and its
   p-values.
2. A claim of several comparisons ("better at every weight", "the best of all") holds only if each
   comparison holds, so the largest of their p-values counts.
3. `decide` returns the verdicts on all claims of a paper at once. Holm's correction keeps the
   chance of even one wrong verdict among them at 5 %.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import checked_same
from hyperface.metrics.progress import Progress
from hyperface.metrics.roc import Roc, eer
from hyperface.metrics.threshold import Rule, allowed_impostors, checked_scores, impostor_threshold

LEAST_SEEDS = 3
"""With fewer independently trained networks per method the verdict is always "undecided"."""
POWER = 0.8416
"""The 80 % quantile of the normal distribution: a detectable difference is found 4 times of 5."""
BLOCK = 500
"""Number of draws that are in memory at the same time."""

Verdict = Literal["yes", "no", "undecided"]

Statistic = Callable[[np.ndarray], float]
"""A function that computes a score of a resample.

Its argument, [pairs] whole numbers, tells how often the resample contains each pair. It returns NaN
if the score is undefined, for example because the resample contains no same pair."""


class Interval(NamedTuple):
    """A confidence interval of one score, from resamples of the test people."""

    low: float
    """Lower end: for level 0.95, the 2.5 % quantile of `draws`, NaN left out."""
    high: float
    """Upper end: for level 0.95, the 97.5 % quantile of `draws`, NaN left out."""
    draws: np.ndarray
    """[draws] score of each resample; NaN if the score is undefined for the resample, for example
    because it contains no pair of one person or no pair of two people."""


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
    """Returns a confidence interval of a score, by resampling the people in a test set.

    For each resample, as many people as the test set has are drawn at random with replacement. A
    pair of images of one person counts as often as this person was drawn. A pair of two people
    counts as often as the product of their two numbers of draws. Pairs are not drawn themselves,
    because pairs that share a person are not independent, and the intervals would be far too
    narrow.

    Args:
      statistic: function that computes the score of one resample. Its argument, [pairs] whole
        numbers, tells how often each pair counts. It returns NaN if the score is undefined, for
        example because no pair of one person counts.
      first: [pairs] person in one image of each pair, as a number or a name.
      second: [pairs] person in the other image; equal to `first` for a pair of one person. For a
        score over single images instead of pairs, pass the person of each image as both `first` and
        `second`.
      draws: number of resamples.
      level: share of the resamples that the interval contains, in (0, 1).
      seed: seed of the draws.
      progress: called with (number of finished draws, number of all draws).

    Raises:
      ValueError: shapes differ, there are fewer than two people, `draws` or `level` is out of
        range, or the score is NaN on all resamples.

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
    """Returns confidence intervals of several scores, all from the same resamples of the people.

    For each resample, as many people as the test set has are drawn at random with replacement. A
    pair of images of one person counts as often as this person was drawn. A pair of two people
    counts as often as the product of their two numbers of draws. Element i of the field `draws`
    belongs to the same resample in all returned intervals, so that scores can be compared resample
    by resample.

    Args:
      statistics: name of the score -> function that computes it for one resample, from [pairs]
        whole numbers, which tell how often each pair counts. It returns NaN if the score is
        undefined.
      first: [pairs] person in one image of each pair.
      second: [pairs] person in the other image; equal to `first` for a pair of one person.
      draws: number of resamples.
      level: share of the resamples that each interval contains, in (0, 1).
      seed: seed of the draws.
      progress: called with (number of finished draws, number of all draws).

    Returns:
      The interval of each score, under the names in `statistics`.

    Raises:
      ValueError: shapes differ, there are fewer than two people, `draws` or `level` is out of
        range, or a score is NaN on all resamples.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"expected one person per side of each pair, found {first.shape} and {second.shape}"
        )
    # Both sides are numbered together, so that a person has the same number on either side.
    people, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    if people.size < 2:
        raise ValueError(f"expected two people or more, found {people.size}")
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError(f"expected level in (0, 1) and draws, found {level} and {draws}")
    a, b = index[: first.size], index[first.size :]
    rng = np.random.default_rng(seed)
    scores = {name: np.empty(draws) for name in statistics}
    for draw in range(draws):
        # Counts in place of copies: no pair has to be repeated.
        taken = np.bincount(rng.integers(people.size, size=people.size), minlength=people.size)
        # A pair of one person is taken once per copy; two copies of a person form no pair.
        pairs = np.where(a == b, taken[a], taken[a] * taken[b])
        for name, statistic in statistics.items():
            scores[name][draw] = statistic(pairs)
        if progress:
            progress(draw + 1, draws)
    return {name: _interval(found, level) for name, found in scores.items()}


def _interval(scores: np.ndarray, level: float) -> Interval:
    if np.isnan(scores).all():
        raise ValueError(f"expected a score from some of {scores.size} draws, found NaN in all")
    # A draw without same pairs or without different pairs has no score, and is left out.
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), scores)


def resampled_tar(
    scores: ArrayLike, same: ArrayLike, far: float, *, rule: Rule = "strict"
) -> Statistic:
    """Returns a function that computes the true accept rate of a resample at a false accept rate.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).
      far: false accept rate, in [0, 1]. Each resample gets its own threshold for this rate.
      rule: how the threshold is computed from `far`. "strict": the lowest threshold whose measured
        FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the k-th highest of
        the N scores of the different pairs, where k is `far` * N rounded to the nearest number. Its
        measured FAR may exceed `far`. At k = 0 no such score is accepted.

    Returns:
      A function for `bootstrap_people`. Its argument, [pairs] whole numbers, tells how often each
      pair occurs in a resample. It returns the true accept rate, or NaN if the resample has no same
      pairs or no different pairs.

    Example:
      >>> tar = resampled_tar([0.9, 0.8, 0.3, 0.1], [True, False, True, False], 0.0)
      >>> tar(np.array([3, 1, 1, 1]))
      0.75
    """
    scores, same = checked_scores(scores, "pair"), checked_same(same)
    if scores.shape != same.shape:
        raise ValueError(f"expected {scores.size} bools, one per score, found {same.shape}")
    genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
    # Sorted once: a draw then only needs the sums of its counts.
    impostor = impostor[np.argsort(-scores[impostor], kind="stable")]
    falling = scores[impostor]

    def statistic(taken: np.ndarray) -> float:
        # Number of resampled impostor pairs from the highest score down to each position.
        upto = np.cumsum(taken[impostor])
        if not upto.size or not upto[-1] or not taken[genuine].any():
            return np.nan
        allowed = int(allowed_impostors(far, upto[-1], rule))
        # Only the impostors that may be accepted are repeated, plus the first one that is refused:
        # the rule "strict" puts the threshold just above it.
        top = slice(np.searchsorted(upto, allowed, side="right") + 1)
        highest = np.repeat(falling[top], taken[impostor[top]])
        threshold = impostor_threshold(highest, far, rule=rule, num_impostors=int(upto[-1]))
        return float(taken[genuine] @ (scores[genuine] >= threshold) / taken[genuine].sum())

    return statistic


def resampled_share(hits: ArrayLike, among: ArrayLike) -> Statistic:
    """Returns a function that computes the share of hits among some pairs of a resample.

    For example, it computes the false accept rate at a fixed threshold, if `hits` are the accepted
    pairs and `among` the different pairs.

    Args:
      hits: [pairs] bool, True for the pairs that count as hits; pairs outside of `among` are
        ignored.
      among: [pairs] bool, True for the pairs of which the share is computed.

    Returns:
      A function for `bootstrap_people`. Its argument, [pairs] whole numbers, tells how often each
      pair occurs in a resample. It returns the share of the pairs in `among` that are hits, or NaN
      if the resample has no pair in `among`.

    Example:
      >>> far = resampled_share([True, True, False], [False, True, True])
      >>> far(np.array([5, 1, 3]))
      0.25
    """
    among = checked_same(among).astype(np.float64)
    hits = among * checked_same(hits)

    def statistic(taken: np.ndarray) -> float:
        total = float(taken @ among)
        return float(taken @ hits) / total if total else np.nan

    return statistic


def resampled_accuracy(right: ArrayLike, same: ArrayLike) -> Statistic:
    """Returns a function that computes the accuracy of fixed decisions in a resample.

    The accuracy is the mean of two shares of correct decisions, one over same pairs and one over
    different pairs.

    Args:
      right: [pairs] bool, True where the decision about the pair is correct.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Returns:
      A function for `bootstrap_people`. Its argument, [pairs] whole numbers, tells how often each
      pair occurs in a resample. It returns the accuracy in [0, 1], or NaN if the resample has no
      same pairs or no different pairs.

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
    """Returns a function that computes the equal error rate (EER) of a resample.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).

    Returns:
      A function for `bootstrap_people`. Its argument, [pairs] whole numbers, tells how often each
      pair occurs in a resample. It returns the EER in [0, 1], or NaN if the resample has no same
      pairs or no different pairs.

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
        # At the last of equal scores, since no threshold parts a tie.
        far, tar = (np.concatenate([[0.0], count[last_of_ties] / count[-1]]) for count in accepted)
        return eer(Roc(far, tar, np.empty(0)))

    return statistic


class Difference(NamedTuple):
    """The difference between the scores of two methods, with its uncertainty.

    `decide` takes such differences, and returns whether one method is better than another.
    """

    value: float
    """Score of the first method minus score of the second, in the unit of the scores."""
    low: float
    """Lower end of the confidence interval (95 % by default) of `value`. It is NaN if no interval
    can be computed, for example because the difference is the same with every training seed."""
    high: float
    """Upper end of the confidence interval; NaN if `low` is."""
    error: float
    """Standard error of `value`; NaN if no interval can be computed."""
    p_not_above: float
    """One-sided p-value of "the first method is better": the chance of a value at least this high
    if the true difference were zero. A small number means that the first method is better."""
    p_not_below: float
    """One-sided p-value of "the first method is worse": the chance of a value at least this low if
    the true difference were zero."""
    seeds: int
    """Number of independently trained networks per method, with different seeds. With fewer than
    LEAST_SEEDS (3), `decide` returns "undecided"."""

    @property
    def detectable(self) -> float:
        """The smallest true difference that 4 of 5 repetitions of the experiment would detect.

        A difference counts as detected if its confidence interval does not contain zero. The result
        is NaN if no interval can be computed.
        """
        return (self.high - self.low) / 2 + POWER * self.error


def paired_difference(
    statistic: Callable[[np.ndarray], np.ndarray],
    people: int,
    *,
    starts: int | None = None,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Returns the difference of two methods' scores, with its confidence interval and p-values.

    The interval covers two sources of chance: the test people, and the training seeds. The test
    people are resampled: for each resample, as many people as the test set has are drawn with
    replacement. Both methods and all seeds are scored on the same people. With few people or few
    seeds a plain resample would vary too little. Two corrections prevent this; without them, at 3
    seeds, more than a fifth of all comparisons of equally good methods would look significant.

    - The deviation of each resample from the measured difference is multiplied by sqrt(people / c),
      where c is a random number of the chi-squared distribution with people - 1 degrees of freedom.
      This turns a normal distribution into Student's t.
    - Training seeds are not resampled. Instead, a random number of Student's t with (number of
      seeds) - 1 degrees of freedom, times the standard error over seeds, is added to each resample.

    Args:
      statistic: function that computes the difference of the scores on several resamples at once.
        Its argument, [resamples, people] whole numbers, tells how often each person was drawn. It
        returns [resamples, training seeds], the score of the first method minus that of the second;
        NaN where a score is undefined.
      people: number of people in the test set.
      starts: number of independently trained networks per method, which becomes `Difference.seeds`.
        None uses the number of training seeds in the result of `statistic`. Give a smaller number
        if several of these seeds share one trained network.
      draws: number of resamples.
      level: share of the resamples that the interval contains, in (0, 1).
      seed: seed of the resampling; it has nothing to do with the training seeds.

    Raises:
      ValueError: there are fewer than two people, or the difference is NaN on all resamples.

    Example:
      >>> gains = np.array([[1.0, 2.0, 1.5, 2.5], [1.2, 1.8, 1.4, 2.6], [1.1, 2.1, 1.6, 2.4]])
      >>> result = paired_difference(lambda taken: taken @ gains.T / 4, people=4)
      >>> round(result.value, 2), result.low > 0, result.seeds
      (1.77, True, 3)
    """
    if people < 2:
        raise ValueError(f"expected two people or more, found {people}")
    rng = np.random.default_rng(seed)
    by_seed = statistic(np.ones((1, people), int))[0]
    value, seeds = float(by_seed.mean()), by_seed.size
    # One seed says nothing about its spread; `decide` refuses so few.
    spread = float(by_seed.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else 0.0
    even, blocks = np.full(people, 1 / people), range(0, draws, BLOCK)
    # In blocks, since all draws of many people would not fit into memory.
    drawn = [statistic(rng.multinomial(people, even, min(BLOCK, draws - n))) for n in blocks]
    moved = np.concatenate(drawn).mean(axis=1) - value
    # The docstring's first correction. chi^2 has the mean people - 1, so that the factor
    # sqrt(people / (people - 1)) for the too small deviation is included.
    moved = moved * np.sqrt(people / rng.chisquare(people - 1, draws))
    drawn = value + moved + spread * rng.standard_t(max(seeds - 1, 1), draws)
    # A draw without same pairs or without different pairs has no difference.
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        raise ValueError(f"expected a difference from some of {draws} draws, found NaN in all")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Difference(
        value,
        float(low),
        float(high),
        # The two parts are independent, so that their variances add.
        float(np.hypot(moved[np.isfinite(moved)].std(), spread)),
        # One is added to both counts, so that no number of draws ever gives certainty.
        (1 + int(np.count_nonzero(drawn <= 0))) / (1 + drawn.size),
        (1 + int(np.count_nonzero(drawn >= 0))) / (1 + drawn.size),
        seeds if starts is None else starts,
    )


def difference_of_means(
    first: ArrayLike, second: ArrayLike, *, weights: ArrayLike | None = None, draws: int = 10_000
) -> Difference:
    """Compares two methods whose score is a mean over people, such as an identification rate.

    The difference is the weighted mean over people of `first` - `second`, averaged over training
    seeds. Its confidence interval (95 %) covers two sources of chance, as in `paired_difference`:
    which people are in the test set, and the training seeds. The field `seeds` of the result is the
    smaller of two numbers: the number of rows of `first` and that of `second`.

    Args:
      first: [seeds, people] score of each person by the first method, one row per training seed.
      second: [seeds, people] score by the second method. The shape is [1, people] if one network of
        the second method is compared with the networks of all seeds.
      weights: [people] weight of each person; None weighs all people equally.
      draws: number of resamples of the people.

    Example:
      >>> ours, theirs = np.array([[0.9, 0.8, 0.9]] * 3), np.array([[0.5, 0.6, 0.4]])
      >>> result = difference_of_means(ours, theirs)
      >>> round(result.value, 3), result.seeds, decide([[result]])
      (0.367, 1, ['undecided'])
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    gains = first - second
    counted = np.ones(gains.shape[1]) if weights is None else np.asarray(weights, float)

    def mean(taken: np.ndarray) -> np.ndarray:
        weight = taken * counted
        return weight @ gains.T / weight.sum(axis=1, keepdims=True)

    # The method with fewer networks limits what is known about other trainings.
    starts = min(len(first), len(second))
    return paired_difference(mean, gains.shape[1], starts=starts, draws=draws)


def difference_of_accuracies(
    first_right: ArrayLike,
    second_right: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    starts: int | None = None,
    draws: int = 4_000,
) -> Difference:
    """Compares the verification accuracies of two methods on the same pairs, in percentage points.

    The accuracy is the mean of two shares of correct decisions, one over pairs of one person and
    one over pairs of two people. The decisions about the pairs stay fixed: thresholds are not
    chosen again for each resample of the people. The confidence interval (95 %) covers two sources
    of chance, as in `paired_difference`: which people are in the test set, and the training seeds.

    Args:
      first_right: [seeds, pairs] bool, True where the first method's decision about a pair is
        correct, one row per training seed.
      second_right: [seeds, pairs] bool, True where the second method's decision is correct.
      first: [pairs] person in one image of each pair.
      second: [pairs] person in the other image.
      starts: number of independently trained networks per method, which becomes `Difference.seeds`;
        None uses the number of training seeds. Give a smaller number if several seeds share one
        trained network.
      draws: number of resamples of the people.

    Example:
      >>> people = np.arange(30)
      >>> first, second = np.tile(people, 2), np.concatenate([people, np.roll(people, 1)])
      >>> ours, theirs = np.ones((3, 60), bool), np.tile(people % 2 == 0, 2)[None].repeat(3, 0)
      >>> round(difference_of_accuracies(ours, theirs, first, second).value, 1)
      50.0
    """
    people, index = np.unique(np.stack([first, second]), return_inverse=True)
    # Sorted, so that (a, b) and (b, a) are one group.
    low, high = np.sort(index.reshape(2, -1), axis=0)
    # All pairs of the same two people are taken equally often, so that their sums are enough.
    groups, group = np.unique(low * people.size + high, return_inverse=True)
    a, b = np.divmod(groups, people.size)
    same = a == b
    # As floats: NumPy refuses to subtract bools.
    gains = np.subtract(first_right, second_right, dtype=float)
    sums = np.stack([np.bincount(group, gain, groups.size) for gain in gains], axis=1)
    sizes = np.bincount(group)

    def accuracies(taken: np.ndarray) -> np.ndarray:
        of_one = taken[:, a[same]], sums[same], sizes[same]
        of_two = taken[:, a[~same]] * taken[:, b[~same]], sums[~same], sizes[~same]
        with np.errstate(invalid="ignore"):  # A draw may have no pair of a kind.
            shares = [
                times @ gained / (times @ size)[:, None] for times, gained, size in (of_one, of_two)
            ]
        # The mean of both shares, in percent.
        return 50 * (shares[0] + shares[1])

    return paired_difference(accuracies, people.size, starts=starts, draws=draws)


def holm(p_values: ArrayLike, level: float = 0.05) -> np.ndarray:
    """Returns [tests] bool: True for each test that is significant after Holm's correction.

    Many tests are made at once. The correction limits to `level` the probability that even one of
    them is called significant by mistake. Of m p-values, the k-th smallest is compared with level /
    (m - k + 1). The smallest p-value that exceeds its limit, and all larger ones, are not
    significant (S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    Args:
      p_values: [tests] p-values, in any order.
      level: largest probability that even one test is called significant by mistake.

    Example:
      >>> holm([0.01, 0.04, 0.02])
      array([ True,  True,  True])
      >>> holm([0.02, 0.04, 0.03])
      array([False, False, False])
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    small = p_values[order] * np.arange(p_values.size, 0, -1) <= level
    decided = np.empty(p_values.size, bool)
    # After the first that fails, none is decided, however small it is.
    decided[order] = np.logical_and.accumulate(small)
    return decided


def decide(statements: Sequence[Sequence[Difference]], level: float = 0.05) -> list[Verdict]:
    """Returns a verdict on each claim that one method is better than another.

    A claim consists of comparisons. "The best of three methods", for example, consists of two, and
    is true if both differences are above zero. The verdict is "yes" if all differences of the claim
    are significantly above zero, "no" if at least one is significantly below zero, and "undecided"
    otherwise. Holm's correction for many tests (`holm`) covers all claims together.

    Args:
      statements: the claims: for each, a list with the `Difference` of each of its comparisons. The
        verdict on a claim is "undecided", and the correction does not count the claim, if its list
        is empty or one of its differences has fewer than `LEAST_SEEDS` (3) `seeds`.
      level: largest probability that even one "yes" or "no" is wrong.

    Example:
      >>> sure = Difference(2.0, 1.5, 2.5, 0.25, 1e-4, 0.99, 3)
      >>> unsure = Difference(0.1, -0.4, 0.6, 0.25, 0.3, 0.7, 3)
      >>> decide([[sure], [sure, unsure], [sure._replace(seeds=2)]])
      ['yes', 'undecided', 'undecided']
    """
    verdicts: list[Verdict] = ["undecided"] * len(statements)
    # A statement that cannot be decided must not cost the others any certainty.
    tested = [n for n, parts in enumerate(statements) if is_testable(parts)]
    sides = [_sides(statements[n]) for n in tested]
    # Twice, because both sides are tested and the better one is taken.
    decided = holm([min(1.0, 2 * min(side)) for side in sides], level)
    for n, (p_yes, p_no), sure in zip(tested, sides, decided, strict=True):
        if sure:
            verdicts[n] = "yes" if p_yes < p_no else "no"
    return verdicts


def is_testable(parts: Sequence[Difference]) -> bool:
    """Returns whether a claim has enough training seeds for a verdict other than "undecided".

    Args:
      parts: the differences of the claim's comparisons. The result is True if each has `seeds` of
        at least `LEAST_SEEDS` (3); it is False for an empty list.
    """
    return bool(parts) and min(part.seeds for part in parts) >= LEAST_SEEDS


def _sides(parts: Sequence[Difference]) -> tuple[float, float]:
    """Returns (p_yes, p_no), the p-values of "all parts are above zero" and "a part is below zero".

    Args:
      parts: the differences that a statement consists of.
    """
    # Bonferroni: with several parts, the chance that one of them looks below zero is the sum.
    below = len(parts) * min(part.p_not_below for part in parts)
    # All parts have to hold, so that the largest p-value decides, without a correction.
    return max(part.p_not_above for part in parts), min(1.0, below)
