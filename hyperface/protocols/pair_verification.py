"""Scores verification on a list of image pairs in folds, as LFW, AgeDB, CALFW and CFP have it.

The rules are plain data. The result lists every step that was taken, so that two accuracies can be
compared.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress, repeat
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from hyperface.errors import InputError
from hyperface.metrics._checks import (
    checked_columns,
    checked_features,
    checked_folds,
    checked_rows,
    checked_same,
)
from hyperface.metrics.bootstrap import bootstrap_figures, resampled_tar
from hyperface.metrics.chance import guess_warning, shift_warning
from hyperface.metrics.progress import Progress, part
from hyperface.metrics.projection import check_pca, fold_moments, spanned
from hyperface.metrics.roc import roc
from hyperface.metrics.splits import PairRates, pair_rates
from hyperface.metrics.svm import THRESHOLDS
from hyperface.metrics.threshold import RULE_STEPS, TOO_FEW, impostor_threshold, supported
from hyperface.metrics.verification import FoldAccuracy, Pairs, cosine_scores, held_out_accuracy
from hyperface.protocols.features import NamedFeatures, people_of
from hyperface.protocols.groups import group_steps, score_groups
from hyperface.protocols.image_quality import norms_as_quality
from hyperface.protocols.pair_list import PairList
from hyperface.protocols.pair_rules import PRESETS, PairRules
from hyperface.protocols.protocol import Settings
from hyperface.protocols.result import (
    OVER_FOLDS,
    DecidedPairs,
    Figure,
    Result,
    hardest,
    pair_counts,
)

PAIR_FARS = (0.01, 0.001)
"""False accept rates at which the TAR of a pair list is reported."""


class PairResult(NamedTuple):
    """The result of verification on a list of image pairs: accuracies, scores and rules."""

    folds: FoldAccuracy
    """Accuracy and threshold of each tested fold (group of pairs), the mean accuracy, and the
    standard error of this mean."""
    scores: np.ndarray
    """[pairs] similarity of each pair when its fold was tested; NaN if its fold was not tested."""
    dims: np.ndarray
    """[tested folds] number of dimensions of the compared features: those that PCA keeps, or all
    without PCA."""
    rules: PairRules
    """The rules by which each pair was called "same" or "different"."""
    steps: tuple[str, ...]
    """A description of the computation, one sentence per step."""


def verify_pairs(
    features: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    rules: PairRules = PRESETS["plain"],
    *,
    tested: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> PairResult:
    """Computes the accuracy on each fold, with all fitting on the other folds, as LFW requires.

    A same pair has two images of one person, and a different pair has images of two people. A fold
    is a group of pairs that is tested together. Mean, PCA and threshold are fitted on the images of
    all pairs in the other folds. An image in two pairs counts twice, as in the code that the
    NormFace authors published. The accuracy of a fold is the mean of two shares: the share of its
    same pairs that are called "same", and the share of its different pairs that are called
    "different".

    Args:
      features: [images, dim] of any norm, already merged with those of the mirror images.
      first: [pairs] position of one image in `features`.
      second: [pairs] position of the other image.
      same: [pairs] bool, True where both images show one person.
      fold: [pairs] id of each pair's fold.
      rules: the rules by which a pair is called "same" or "different". The default, "plain", is the
        cosine with the threshold of highest accuracy, without mean removal or PCA.
        `pair_rules.PRESETS` has the rules of published papers and codes.
      tested: ids of the folds whose accuracy is computed; None means all. LFW's View 1 is scored
        with two folds, of which only the test list is tested.
      progress: called with (number of finished folds, number of all tested folds).

    Raises:
      ValueError: a feature is zero or not finite, or all features are equal; lengths differ; a
        position does not exist; there are fewer than two folds; a tested fold does not exist; a
        tested fold or all other folds together have no same or no different pairs; or `rules.pca`
        is above the number of feature dimensions, or of images that PCA can be fitted on.

    Example:
      >>> features = np.array([[2.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 5.0]])
      >>> pairs = {"first": [0, 0, 2, 1], "second": [1, 2, 3, 3], "same": [1, 0, 1, 0]}
      >>> result = verify_pairs(features, **pairs, fold=[0, 0, 1, 1])
      >>> result.folds.mean
      1.0
      >>> print(result.steps[2])
      features scaled to unit length, similarity is the cosine

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, section
      5.1.
    """
    features = checked_features(features)
    first, second, same, fold = checked_columns(first=first, second=second, same=same, fold=fold)
    checked_rows(first, len(features), "first")
    checked_rows(second, len(features), "second")
    same = checked_same(same)
    held = checked_folds(same, fold, tested)
    # Images in no pair must not enter the mean and the PCA.
    used, index = np.unique([first, second], return_inverse=True)
    one, other = index.reshape(2, -1)
    pairs = Pairs(one, other, same)
    # Both images of each pair count, however often an image is used.
    fits = [2 * int(np.sum(fold != i)) for i in held]
    # The fold with the fewest images for fitting bounds the dimensions that PCA can keep.
    check_pca(rules.pca, min(used.size, *fits), features.shape[1])
    # NaN marks pairs of folds that are not tested.
    scores, dims, held_out = np.full(same.size, np.nan), [], []
    folds = _fold_scores(features[used], pairs, fold, held, rules)
    for i, (similarities, dim) in zip(held, folds, strict=True):
        test = fold == i
        # The rule fits the threshold on the other folds, although it is given all similarities.
        held_out.append(held_out_accuracy(similarities, same, test, THRESHOLDS[rules.threshold]))
        scores[test] = similarities[test]
        dims.append(dim)
        if progress:
            progress(len(dims), held.size)
    accuracy = FoldAccuracy(*np.array(held_out).T)
    steps = (
        f"{same.size} pairs ({same.sum()} same) of {used.size} images in {np.unique(fold).size} "
        f"folds, {held.size} of them tested",
        *rules.steps(fits, dims, features.shape[1]),
    )
    return PairResult(accuracy, scores, np.array(dims), rules, steps)


def _fold_scores(
    features: np.ndarray,
    pairs: Pairs,
    fold: np.ndarray,
    tested: np.ndarray,
    rules: PairRules,
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields ([pairs] similarities, number of compared dimensions) for each tested fold.

    The similarities are those of all pairs, with mean and PCA fitted on the other folds' pairs.
    """
    if rules.pca is None and not rules.subtract_mean:
        # Nothing is fitted, so that all folds share the similarities.
        yield from repeat((_similarities(features, pairs, rules), features.shape[1]), tested.size)
        return
    if rules.pca is not None:
        # Fewer dimensions with the same inner products, where there are fewer images than those.
        features = spanned(features)
    moments = fold_moments(
        features,
        np.concatenate([pairs.first, pairs.second]),
        # Both images of a pair belong to the pair's fold.
        np.concatenate([fold, fold]),
        scatter=rules.pca is not None,
    )

    def score(held_out: int) -> tuple[np.ndarray, int]:
        projected = moments.projection(held_out, rules.pca)(features)
        return _similarities(projected, pairs, rules), projected.shape[1]

    # An eigendecomposition gains little from a second core: one fold per core is faster.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        # `map` yields in the order of the folds, whichever of them is finished first.
        yield from pool.map(score, tested)


def _similarities(features: np.ndarray, pairs: Pairs, rules: PairRules) -> np.ndarray:
    cosines = cosine_scores(features, pairs)
    if rules.similarity == "cosine":
        return cosines
    # Rounding may take the cosine of equal features above 1.
    squared = np.maximum(0.0, 2.0 - 2.0 * cosines)
    # Negative, so that a higher score means more alike.
    return -squared if rules.similarity == "squared" else -np.sqrt(squared)


def score_pairs(
    name: str,
    named: NamedFeatures,
    pairs: PairList,
    settings: Settings,
    *,
    tested: Sequence[int] | None = None,
) -> Result:
    """Computes the accuracy over folds, EER, AUC and TAR at FAR of a pair list.

    A fold is a group of pairs. When a fold is tested, mean, PCA and threshold are fitted on the
    other folds, as in `verify_pairs`. EER, AUC and TAR are computed over the pairs of all tested
    folds together. For these three, the score of a pair is its similarity when its own fold is
    tested.

    Args:
      name: name of the protocol.
      named: the features of the list's images.
      pairs: the list of pairs.
      settings: the options, of which `rules`, `pca`, `bootstrap`, `grouping` and `progress` are
        used. `bootstrap` resamples people, and so needs image names of the form person/file.
      tested: ids of the folds that are tested; None means all.

    Raises:
      InputError: an image has no feature; `bootstrap` is set and an image's name has no slash; or
        `grouping` is set and does not fit the images (`score_groups`), for example if an image has
        no group.
      ValueError: a feature is zero or not finite, a fold has no pairs of one person or none of two
        people, or the rules ask for more PCA dimensions than features or images allow.
    """
    first, second = named.rows(pairs.first, name), named.rows(pairs.second, name)
    rules = settings.pair_rules()
    # The progress has two equal parts: the folds, then the resamples of people.
    parts = 2 if settings.bootstrap else 1
    found = verify_pairs(
        named.features,
        first,
        second,
        pairs.same,
        pairs.fold,
        rules,
        tested=tested,
        progress=part(settings.progress, 0, parts),
    )
    # Only tested folds have scores: in View 1 of LFW the training pairs have none.
    use = np.isfinite(found.scores)
    scores, same = found.scores[use], pairs.same[use]
    # One split id for all, so that the rates are those of all tested pairs together.
    rates = pair_rates(scores, same, np.zeros(same.size, np.int64), PAIR_FARS)
    figures = {"accuracy": Figure(found.folds.mean, _known(found.folds.standard_error))}
    labels = rate_labels(rates)
    figures |= {labels[name]: Figure(rate.mean) for name, rate in rates.spread().items()}
    sides = [list(compress(side, use)) for side in pairs[:2]]
    intervals = {}
    if settings.bootstrap:
        found_intervals = _intervals_over_people(name, scores, same, sides, settings)
        intervals = {labels[rate]: limits for rate, limits in found_intervals.items()}
    # Of all pairs, since positions are those in the list; pairs without a score are left out.
    accepts, rejects = hardest(found.scores, pairs.first, pairs.second, pairs.same)
    compared = Pairs(first[use], second[use], same)
    quality, quality_steps = norms_as_quality(named, compared, scores)
    # Position of each pair's fold among the tested folds, which are in rising order.
    fold = np.unique(pairs.fold[use], return_inverse=True)[1]
    right = (scores >= found.folds.thresholds[fold]) == same
    groups = {}
    if settings.grouping is not None:
        groups = score_groups(
            settings.grouping, named.names, compared, scores, right, common_thresholds(scores, same)
        )
    return Result(
        protocol=name,
        figures=figures,
        steps=(
            *named.steps,
            *found.steps,
            RULE_STEPS["strict"],
            *interval_steps(settings.bootstrap or 0),
            *quality_steps,
            *group_steps(settings.grouping),
            *guess_warning("accuracy", found.folds.mean, 0.5, same.size, least=0.02),
            *shift_warning(named.features, first, second, pairs.same),
        ),
        spread=OVER_FOLDS,
        intervals=intervals,
        curves={name: roc(scores, same)},
        scores=(scores, same),
        pairs=DecidedPairs(np.array(sides[0]), np.array(sides[1]), same, scores, right),
        false_accepts=accepts,
        false_rejects=rejects,
        quality=quality,
        groups=groups,
        details={
            "fold accuracies": found.folds.accuracy.tolist(),
            "fold thresholds": found.folds.thresholds.tolist(),
            "dimensions": found.dims.tolist(),
        },
        counts=pair_counts(same),
    )


def _intervals_over_people(
    name: str,
    scores: np.ndarray,
    same: np.ndarray,
    sides: Sequence[Sequence[str]],
    settings: Settings,
) -> dict[str, tuple[float, float]]:
    """Returns (lower, upper) limits of the TAR at each FAR, by names such as "tar_at_far_0.01".

    95 % of the bootstrap resamples of people lie between both limits.

    Args:
      name: name of the protocol, for messages.
      scores: [pairs] similarities.
      same: [pairs] bool, True where both images show one person.
      sides: names of the images, one sequence [pairs] per side of the pairs.
      settings: `bootstrap` and `progress` are used.

    Raises:
      InputError: the names of the images do not tell the people.
    """
    try:
        people = [people_of(side, name) for side in sides]
    except InputError as error:
        raise InputError(f"{error} Leave --bootstrap out.") from None
    found = bootstrap_figures(
        {f"tar_at_far_{far:g}": resampled_tar(scores, same, far) for far in PAIR_FARS},
        *people,
        draws=settings.bootstrap or 0,
        progress=part(settings.progress, 1, 2),
    )
    return {rate: (interval.low, interval.high) for rate, interval in found.items()}


def common_thresholds(scores: np.ndarray, same: np.ndarray) -> dict[float, float]:
    """Returns a dict from false accept rate to a threshold that is common to all given pairs.

    At the threshold, the false accept rate on these pairs is not above the rate in the dict. The
    rates are 0.01 and 0.001. A rate is left out if there are fewer than 1 / rate pairs of two
    people.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True where both images show one person.
    """
    impostors = scores[~same]
    return {
        far: float(impostor_threshold(impostors, far))
        for far in PAIR_FARS
        if supported(far, impostors.size)
    }


def interval_steps(draws: int) -> tuple[str, ...]:
    """Returns a tuple with one sentence that describes confidence intervals, for `Result.steps`.

    Args:
      draws: number of bootstrap resamples of people. With 0 the tuple is empty.
    """
    return (f"intervals: 95 % of {draws:,} resamples of people",) if draws else ()


def rate_labels(rates: PairRates, of: str = "") -> dict[str, str]:
    """Returns a dict from each rate's name in the JSON file of results to its label in tables.

    The names are "eer", "auc" and, for each false accept rate, one such as "tar_at_far_0.001".
    Their labels are "EER", "AUC" and "TAR at FAR 0.1 %". The label of a TAR ends with a note if
    there are too few pairs of two people to measure its FAR.

    Args:
      rates: the rates, of which only the false accept rates are used.
      of: text that is added to the label of each TAR, such as ", all splits' pairs together".
    """
    names = {"eer": "EER", "auc": "AUC"}
    for far in rates.fars:
        few = TOO_FEW if far in rates.unsupported() else ""
        names[f"tar_at_far_{far:g}"] = f"TAR at FAR {100 * far:g} %{of}{few}"
    return names


def _known(value: float) -> float | None:
    # A single tested fold has no standard error, which is then NaN.
    return float(value) if np.isfinite(value) else None
