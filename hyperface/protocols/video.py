"""Verification of video pairs in folds: YTF's protocol."""

from typing import Literal, NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_columns, checked_folds, checked_same, positions
from hyperface.metrics.progress import Progress, part
from hyperface.metrics.svm import (
    THRESHOLD_STEPS,
    THRESHOLDS,
    histogram_intersection,
    kernel_decisions,
)
from hyperface.metrics.verification import FoldAccuracy, balanced_accuracy, held_out_accuracy
from hyperface.protocols.frames import BINS, VideoSimilarities, group_frames, video_similarities
from hyperface.protocols.pair_protocol import ACCURACY_STEP

RULES = ("mean", "max", "histogram")
"""The mean and the largest frame similarity, and the SVM on their histogram."""


class VideoResult(NamedTuple):
    """How well each of RULES tells same from different pairs of videos."""

    folds: dict[str, FoldAccuracy]
    """By rule."""
    scores: dict[str, np.ndarray]
    """[pairs] by rule, when the pair's fold was held out: similarities, or the SVM's decisions."""
    steps: tuple[str, ...]
    """What was done, a sentence each."""


def verify_videos(
    features: np.ndarray,
    video: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    *,
    subtract_mean: bool = True,
    threshold: Literal["accuracy", "accuracy-mean", "svm"] = "accuracy",
    progress: Progress | None = None,
) -> VideoResult:
    """Accuracy on each fold by the mean, the maximum and the histogram of frame similarities.

    The mean feature is that of the videos of the other folds' pairs, each video's own mean counting
    once for each pair it is in, as in NormFace's released code.

    Args:
      features: [frames, dim] of any length.
      video: [frames] id of the video that each frame is of.
      first: [pairs] id of one video.
      second: [pairs] id of the other.
      same: [pairs] bool, True where both show one person.
      fold: [pairs] fold id.
      subtract_mean: subtract that mean feature, which takes a sweep over all pairs for each fold.
      threshold: rule for "mean" and "max"; the released code has "svm".
      progress: called with pairs compared and pairs to compare, over all sweeps.

    Raises:
      ValueError: a frame is zero or not finite; lengths differ; a video has no frames; a fold has
        pairs of one kind only; or an unknown threshold.

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 5.3.
    """
    if threshold not in THRESHOLDS:
        raise ValueError(
            f"expected threshold to be one of {', '.join(THRESHOLDS)}, found {threshold}"
        )
    videos = group_frames(features, video)
    first, second, same, fold = checked_columns(first=first, second=second, same=same, fold=fold)
    same, tested = checked_same(same), checked_folds(same, fold)
    tests = [fold == i for i in tested]
    sweeps = [(tests, None)]
    if subtract_mean:
        means = videos.means()
        sides = [positions(videos.ids, ids, "video") for ids in (first, second)]
        sweeps = [([test], _mean_feature(means, sides, ~test)) for test in tests]
    scores, held_out = {rule: np.empty(same.size) for rule in RULES}, {rule: [] for rule in RULES}
    for sweep, (its_tests, mean) in enumerate(sweeps):
        found = video_similarities(
            videos, first, second, mean=mean, progress=part(progress, sweep, len(sweeps))
        )
        kernel = histogram_intersection(found.histogram, found.histogram)
        for test in its_tests:
            for rule, scored in _scored(found, kernel, same, test, threshold).items():
                scores[rule][test], figures = scored
                held_out[rule].append(figures)
    folds = {rule: FoldAccuracy(*np.array(found).T) for rule, found in held_out.items()}
    counted = (
        f"{same.size} video pairs ({same.sum()} same) of {videos.ids.size} videos with "
        f"{len(videos.features)} frames, {tested.size} folds"
    )
    return VideoResult(folds, scores, (counted, *_steps(subtract_mean, threshold)))


def _scored(
    found: VideoSimilarities, kernel: np.ndarray, same: np.ndarray, test: np.ndarray, threshold: str
) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """By rule: scores of the held-out pairs, and (accuracy, threshold)."""
    decisions = kernel_decisions(kernel, same, test)
    scored = {"histogram": (decisions, (balanced_accuracy(decisions, same[test], 0.0), 0.0))}
    for rule, similarities in (("mean", found.mean), ("max", found.max)):
        figures = held_out_accuracy(similarities, same, test, THRESHOLDS[threshold])
        scored[rule] = similarities[test], figures
    return scored


def _mean_feature(means: np.ndarray, sides: list[np.ndarray], fitted: np.ndarray) -> np.ndarray:
    """[dim] mean over both sides of the fitted pairs of each video's own mean."""
    counts = sum(np.bincount(side[fitted], minlength=len(means)) for side in sides)
    return counts @ means / counts.sum()


def _steps(subtract_mean: bool, threshold: str) -> tuple[str, ...]:
    return (
        "mean of the videos of the other folds' pairs subtracted (duplicates kept)"
        if subtract_mean
        else "no mean subtracted",
        "frames scaled to unit length, similarity of every frame with every frame is the cosine",
        f"mean, max: {THRESHOLD_STEPS[threshold]}",
        f"histogram: {BINS} bins from -1 to 1, sum 1; SVM on the histogram intersection kernel, "
        "C = 1, fitted on the other folds",
        ACCURACY_STEP,
    )
