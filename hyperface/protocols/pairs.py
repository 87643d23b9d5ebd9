"""Verification on a list of image pairs in folds: LFW's 6,000 pairs, View 1, AgeDB, CALFW, CFP.

A protocol is plain data; the result tells every step that was taken, so that two figures can be
compared.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from hyperface.metrics._checks import (
    checked_columns,
    checked_features,
    checked_folds,
    checked_rows,
    checked_same,
)
from hyperface.metrics.progress import Progress
from hyperface.metrics.projection import check_pca, fold_moments, spanned
from hyperface.metrics.svm import THRESHOLDS
from hyperface.metrics.verification import FoldAccuracy, Pairs, cosine_scores, held_out_accuracy
from hyperface.protocols.pair_protocol import PROTOCOLS, PairProtocol


class PairResult(NamedTuple):
    """How well a protocol tells same from different pairs."""

    folds: FoldAccuracy
    """Accuracy and threshold of each tested fold, their mean and its standard error."""
    scores: np.ndarray
    """[pairs] similarity of each pair when its fold was held out; nan where it never was."""
    dims: np.ndarray
    """[tested folds] dimensions compared: those that PCA kept, or all."""
    protocol: PairProtocol
    steps: tuple[str, ...]
    """What was done, a sentence each."""


def verify_pairs(
    features: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    protocol: PairProtocol = PROTOCOLS["plain"],
    *,
    tested: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> PairResult:
    """Accuracy on each fold with everything fitted on the others: LFW's protocol.

    PCA is fitted on both images of every other pair, an image in two pairs counting twice, as in
    NormFace's released code. Same and different pairs of a fold weigh equally.

    Args:
      features: [images, dim] of any length, mirror already merged.
      first: [pairs] row of one image.
      second: [pairs] row of the other.
      same: [pairs] bool, True where both images show one person.
      fold: [pairs] fold id.
      protocol: the steps; PROTOCOLS has the published ones.
      tested: fold ids that are held out in turn, by default all. LFW's View 1 is two folds of
        which only the test list is tested.
      progress: called with tested folds done and all of them.

    Raises:
      ValueError: a feature is zero or not finite or all are equal; lengths differ; a row is not
        there; a fold has pairs of one kind only; or the protocol does not fit the features.

    Example:
      >>> features = np.array([[2.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 5.0]])
      >>> pairs = {"first": [0, 0, 2, 1], "second": [1, 2, 3, 3], "same": [1, 0, 1, 0]}
      >>> result = verify_pairs(features, **pairs, fold=[0, 0, 1, 1])
      >>> result.folds.mean
      1.0
      >>> print(result.steps[2])
      features scaled to unit length, similarity is the cosine

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 5.1.
    """
    features = checked_features(features)
    first, second, same, fold = checked_columns(first=first, second=second, same=same, fold=fold)
    checked_rows(first, len(features), "first")
    checked_rows(second, len(features), "second")
    same, tested = checked_same(same), checked_folds(same, fold, tested)
    used, index = np.unique([first, second], return_inverse=True)
    pairs = Pairs(*index.reshape(2, -1), same)
    fits = [2 * int(np.sum(fold != i)) for i in tested]
    check_pca(protocol.pca, min(used.size, *fits), features.shape[1])
    scores, dims, held_out = np.full(same.size, np.nan), [], []
    folds = _fold_scores(features[used], pairs, fold, tested, protocol)
    for i, (similarities, dim) in zip(tested, folds, strict=True):
        test = fold == i
        held_out.append(held_out_accuracy(similarities, same, test, THRESHOLDS[protocol.threshold]))
        scores[test] = similarities[test]
        dims.append(dim)
        if progress:
            progress(len(dims), tested.size)
    accuracy = FoldAccuracy(*np.array(held_out).T)
    steps = (
        f"{same.size} pairs ({same.sum()} same) of {used.size} images in {np.unique(fold).size} "
        f"folds, {tested.size} of them tested",
        *protocol.steps(fits, dims, features.shape[1]),
    )
    return PairResult(accuracy, scores, np.array(dims), protocol, steps)


def _fold_scores(
    features: np.ndarray,
    pairs: Pairs,
    fold: np.ndarray,
    tested: np.ndarray,
    protocol: PairProtocol,
) -> Iterator[tuple[np.ndarray, int]]:
    """Similarities of all pairs and the dimensions compared, for each tested fold."""
    if protocol.pca is None and not protocol.subtract_mean:
        yield from repeat(
            (_similarities(features, pairs, protocol), features.shape[1]), tested.size
        )
        return
    if protocol.pca is not None:
        features = spanned(features)
    moments = fold_moments(
        features,
        np.concatenate([pairs.first, pairs.second]),
        np.concatenate([fold, fold]),
        scatter=protocol.pca is not None,
    )

    def score(held_out: int) -> tuple[np.ndarray, int]:
        projected = moments.projection(held_out, protocol.pca)(features)
        return _similarities(projected, pairs, protocol), projected.shape[1]

    # An eigendecomposition gains little from a second core: a fold a core is faster.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(score, tested)


def _similarities(features: np.ndarray, pairs: Pairs, protocol: PairProtocol) -> np.ndarray:
    cosines = cosine_scores(features, pairs)
    if protocol.similarity == "cosine":
        return cosines
    return -np.sqrt(np.maximum(0.0, 2.0 - 2.0 * cosines))
