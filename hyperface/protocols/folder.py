"""Scores verification on all pairs of the user's own images, with the people in two halves.

The thresholds and the calibration are fitted on the pairs of one half and measured on those of the
other. No person is in both halves, so that the rates are measured on people to whom nothing was
fitted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.bootstrap import (
    Statistic,
    bootstrap_figures,
    resampled_accuracy,
    resampled_eer,
    resampled_share,
    resampled_tar,
)
from hyperface.metrics.calibration import Calibration, calibrate
from hyperface.metrics.chance import guess_warning, shift_warning
from hyperface.metrics.roc import auc, eer, roc, tar_at_far
from hyperface.metrics.threshold import RULE_STEPS, TOO_FEW, supported
from hyperface.metrics.verification import (
    Pairs,
    balanced_accuracy,
    best_threshold,
    cosine_scores,
)
from hyperface.protocols.features import NamedFeatures, people_of
from hyperface.protocols.groups import group_steps, score_groups
from hyperface.protocols.image_quality import norms_as_quality
from hyperface.protocols.pair_verification import interval_steps
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import Figure, Result, hardest, pair_counts

FARS = (0.1, 0.01, 0.001, 0.0001)
"""False accept rates for which a threshold is fitted."""
MOST_PAIRS = 500_000
"""Largest number of same pairs, and of different pairs, that are scored in a half of the people. If
there are more, this many are drawn at random."""
RESAMPLES = 1000
"""Number of bootstrap resamples of people for the intervals, unless the user names a number."""
FEW_PEOPLE = 20
"""If there are fewer test people than this number, the `steps` of the result have a warning."""


class Half(NamedTuple):
    """The pairs of images of one half of the people, as `pairs_of` returns them.

    Thresholds are fitted on one half, and rates are measured on the other. A same pair has two
    images of one person, and a different pair has images of two people.
    """

    pairs: Pairs
    """The pairs that are scored, as positions of their images' features."""
    available: tuple[int, int]
    """(number of all same pairs, number of all different pairs) of the half. Of a kind with very
    many pairs, `pairs` has only a random sample."""


def split_people(people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Splits people into two halves at random: one to fit thresholds, one to measure rates.

    The people with several images are divided evenly, and so are those with one image. So each half
    has pairs of images of one person, if at least two people have several images.

    Args:
      people: [images] number of each image's person, from 0.
      seed: seed of the shuffle.

    Returns:
      [people] bool: element p is True if person p is in the half on which thresholds and
      probabilities are fitted.

    Example:
      >>> first = split_people(np.array([0, 0, 1, 1, 2, 3]))
      >>> print(first[:2].sum(), first[2:].sum())
      1 1
    """
    counts = np.bincount(people)
    rng = np.random.default_rng(seed)
    first = np.zeros(counts.size, bool)
    first[rng.permutation(np.flatnonzero(counts > 1))[::2]] = True
    # An odd one goes to the other half, so that four people always make two halves of two.
    first[rng.permutation(np.flatnonzero(counts == 1))[1::2]] = True
    return first


def pairs_of(people: np.ndarray, rows: np.ndarray, most: int, seed: int = 0) -> Half:
    """Returns all pairs of some images, or random samples of them if there are too many.

    A same pair has two images of one person, and a different pair has images of two people.

    Args:
      people: [images] number of each image's person.
      rows: [selected images] positions in `people` of the images whose pairs are returned.
      most: largest number of same pairs, and also of different pairs. If there are more pairs of a
        kind, a random sample of `most` of them is returned.
      seed: seed of the random samples.

    Returns:
      The pairs, whose images are positions in `people`; and the numbers of same and of different
      pairs before sampling, in the field `available`.

    Example:
      >>> half = pairs_of(np.array([0, 0, 1]), np.array([0, 1, 2]), most=10)
      >>> half.pairs.first.tolist(), half.pairs.second.tolist(), half.available
      ([0, 0, 1], [1, 2, 2], (1, 2))
    """
    # Sorted by person, so that the number of a pair tells its two images by arithmetic.
    rows = rows[np.argsort(people[rows], kind="stable")]
    _, starts, counts = np.unique(people[rows], return_index=True, return_counts=True)
    each = counts * (counts - 1) // 2
    same_total, total = int(each.sum()), rows.size * (rows.size - 1) // 2
    rng = np.random.default_rng(seed)
    same = _same_pairs(starts, counts, _pair_numbers(rng, same_total, most))
    different = _different_pairs(starts, counts, _pair_numbers(rng, total - same_total, most))
    first, second = (np.concatenate(sides) for sides in zip(same, different, strict=True))
    kind = np.arange(first.size) < same[0].size
    order = np.lexsort((second, first))
    pairs = Pairs(rows[first[order]], rows[second[order]], kind[order])
    return Half(pairs, (same_total, total - same_total))


def _pair_numbers(rng: np.random.Generator, total: int, most: int) -> np.ndarray:
    """Returns numbers of pairs in rising order: 0 to total - 1, or `most` of them at random."""
    if total <= most:
        return np.arange(total)
    # Numbers of pairs and not pairs: all of them need never be in memory. They are sorted anyway,
    # so that `choice` need not shuffle them.
    return np.sort(rng.choice(total, most, replace=False, shuffle=False))


def _same_pairs(
    starts: np.ndarray, counts: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first, second) images of same pairs, as positions in images sorted by person.

    Args:
      starts: [people] position of each person's first image.
      counts: [people] number of each person's images.
      numbers: [pairs] numbers of the wanted same pairs, which are counted person by person.
    """
    upto = np.cumsum(counts * (counts - 1) // 2)
    # "right", since the number upto[k] is the first pair of the person after k.
    person = np.searchsorted(upto, numbers, side="right")
    i, j = _triangle(numbers - np.concatenate([[0], upto])[person])
    return starts[person] + i, starts[person] + j


def _triangle(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (i, j) of each pair number; the order is (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    j = ((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    # The root of a large number may be rounded across a whole number.
    j -= j * (j - 1) // 2 > numbers
    j += (j + 1) * j // 2 <= numbers
    return numbers - j * (j - 1) // 2, j


def _different_pairs(
    starts: np.ndarray, counts: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first, second) images of different pairs, as positions in images sorted by person.

    The first image of a pair is of an earlier person than the second.

    Args:
      starts: [people] position of each person's first image.
      counts: [people] number of each person's images.
      numbers: [pairs] numbers of the wanted different pairs, counted by their first image.
    """
    ends = np.repeat(starts + counts, counts)  # Of the person of each image.
    # Each image forms pairs with all images of later people, which start at `ends`.
    upto = np.cumsum(ends.size - ends)
    first = np.searchsorted(upto, numbers, side="right")
    return first, ends[first] + numbers - np.concatenate([[0], upto])[first]


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    """Fits thresholds and calibration on one half of the people, and scores the other half."""
    who, people = np.unique(people_of(named.names, name), return_inverse=True)
    calibrates = split_people(people, settings.seed)
    one, other = (
        pairs_of(people, np.flatnonzero(calibrates[people] == half), MOST_PAIRS, settings.seed)
        for half in (True, False)
    )
    _check_halves(name, one, other, np.bincount(people))
    fitted, tested = (cosine_scores(named.features, half.pairs) for half in (one, other))
    found = calibrate(fitted, one.pairs.same, FARS).measured_on(tested, other.pairs.same)
    threshold = best_threshold(fitted, one.pairs.same)
    figures, statistics = _figures(tested, other.pairs.same, threshold)
    draws = RESAMPLES if settings.bootstrap is None else settings.bootstrap
    intervals = {}
    if draws:
        measured = _measured_fars(found, tested, other.pairs.same)
        sides = people[other.pairs.first], people[other.pairs.second]
        resampled = bootstrap_figures(
            # Named by the FAR alone, which no label of a score is.
            statistics | {f"{far}": statistic for far, statistic in measured.items()},
            *sides,
            draws=draws,
            progress=settings.progress,
        )
        limits = {label: (x.low, x.high) for label, x in resampled.items()}
        intervals = {label: limits[label] for label in statistics}
        found = found.with_far_limits({far: limits[f"{far}"] for far in measured})
    quality, quality_steps = norms_as_quality(named, other.pairs, tested)
    groups = {}
    if settings.grouping is not None:
        right = (tested >= threshold) == other.pairs.same
        # The thresholds of the calibration half: an application would use these for all groups.
        stored = {point.far: point.threshold for point in found.points if point.supported}
        groups = score_groups(settings.grouping, named.names, other.pairs, tested, right, stored)
    first, second = ([str(named.names[i]) for i in side.tolist()] for side in other.pairs[:2])
    accepts, rejects = hardest(tested, first, second, other.pairs.same)
    return Result(
        protocol=name,
        figures={label: Figure(value) for label, value in figures.items()},
        steps=(
            *named.steps,
            *_steps(one, other, calibrates, len(named.names), settings.seed),
            *interval_steps(draws),
            *quality_steps,
            *group_steps(settings.grouping),
            *_few_people(int(np.sum(~calibrates))),
            *guess_warning("accuracy", figures["accuracy"], 0.5, tested.size, least=0.02),
            *shift_warning(named.features, *other.pairs),
        ),
        intervals=intervals,
        curves={name: roc(tested, other.pairs.same)},
        scores=(tested, other.pairs.same),
        false_accepts=accepts,
        false_rejects=rejects,
        calibration=found,
        quality=quality,
        groups=groups,
        details={
            "seed": settings.seed,
            "threshold of the accuracy": threshold,
            "people who calibrate": who[calibrates].tolist(),
        },
        counts=pair_counts(one.pairs.same, other.pairs.same),
    )


def _figures(
    scores: np.ndarray, same: np.ndarray, threshold: float
) -> tuple[dict[str, float], dict[str, Statistic]]:
    """Returns (scores of the test half by label, functions that compute them on resampled pairs).

    Both dicts have the same labels, except for AUC, which has no function and so no interval.

    Args:
      scores: [pairs] similarities of the test half.
      same: [pairs] bool, True where both images show one person.
      threshold: threshold of the accuracy, fitted on the other half.
    """
    curve, different = roc(scores, same), int(np.sum(~same))
    figures = {
        "accuracy": balanced_accuracy(scores, same, threshold),
        "EER": eer(curve),
        "AUC": auc(curve),
    }
    right = (scores >= threshold) == same
    statistics = {"accuracy": resampled_accuracy(right, same), "EER": resampled_eer(scores, same)}
    for far in FARS:
        label = f"TAR at FAR {100 * far:g} %{'' if supported(far, different) else TOO_FEW}"
        figures[label] = tar_at_far(scores, same, far)
        statistics[label] = resampled_tar(scores, same, far)
    return figures, statistics


def _measured_fars(
    found: Calibration, scores: np.ndarray, same: np.ndarray
) -> dict[float, Statistic]:
    """Returns, by FAR, functions that compute the measured FAR at its threshold on resampled pairs.

    A threshold at which no different pair is accepted is left out: resamples of those pairs accept
    none either, and would show an interval without width.

    Args:
      found: the calibration, with thresholds.
      scores: [pairs] similarities of the test half.
      same: [pairs] bool, True where both images show one person.
    """
    return {
        point.far: resampled_share(scores >= point.threshold, ~same)
        for point in found.points
        if point.measured_far
    }


def _check_halves(name: str, one: Half, other: Half, images: np.ndarray) -> None:
    """Raises InputError if a half has no same or no different pairs.

    `images` is the number of images of each person, for the message.
    """
    if all(min(half.available) for half in (one, other)):
        return
    raise InputError(
        f"{name}: expected at least four people, two of them with several images, so that each "
        f"half has pairs of both kinds; found {images.size} people, "
        f"{np.sum(images > 1)} of them with several images."
    )


def _steps(
    one: Half, other: Half, calibrates: np.ndarray, images: int, seed: int
) -> tuple[str, ...]:
    """Returns the procedure, one sentence per step.

    Args:
      one: the pairs of the calibration half.
      other: the pairs of the test half.
      calibrates: [people] bool, True for the calibration half.
      images: number of all images.
      seed: seed by which people were dealt into halves.
    """
    halves = [
        f"{title} half: {people:,} people, {_drawn(half)}"
        for title, half, people in (
            ("calibration", one, np.sum(calibrates)),
            ("test", other, np.sum(~calibrates)),
        )
    ]
    return (
        f"{calibrates.size:,} people with {images:,} images, dealt into two halves at random "
        f"(seed {seed}); nobody is in both",
        *halves,
        "features scaled to unit length, similarity is the cosine",
        "accuracy: threshold of highest accuracy on the calibration half, measured on the test "
        "half; same and different pairs weigh equally",
        "EER, AUC and TAR at FAR are of the test half, at its own thresholds",
        RULE_STEPS["strict"],
    )


def _drawn(half: Half) -> str:
    used = int(half.pairs.same.sum()), int(np.sum(~half.pairs.same))
    return " and ".join(
        f"all {total:,} {kind} pairs" if count == total else f"{count:,} of {total:,} {kind} pairs"
        for kind, count, total in zip(("same", "different"), used, half.available, strict=True)
    )


def _few_people(people: int) -> tuple[str, ...]:
    if people >= FEW_PEOPLE:
        return ()
    return (f"WARNING: the test half has {people} people: expect other figures on other people",)


def _no_files(name: str, folder: Path, settings: Settings, dataset: Path | None) -> list[Path]:
    """Returns an empty list: the protocol has no files, since image names tell the people."""
    return []


PROTOCOLS = (
    Protocol(
        name="folder",
        title="Identity folders",
        dataset=None,
        options=frozenset({"bootstrap", "seed", "group_by"}),
        find_files=_no_files,
        scorer=_score,
    ),
)
