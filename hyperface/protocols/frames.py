"""Scores pairs of videos by the similarities of all their frames: mean, maximum and histogram."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from hyperface.metrics._checks import (
    checked_columns,
    checked_features,
    checked_folds,
    checked_same,
    positions,
    unit_rows,
)
from hyperface.metrics.progress import Progress, part
from hyperface.metrics.svm import (
    THRESHOLD_STEPS,
    THRESHOLDS,
    histogram_intersection,
    kernel_decisions,
)
from hyperface.metrics.verification import FoldAccuracy, balanced_accuracy, held_out_accuracy
from hyperface.protocols.pair_rules import ACCURACY_STEP

BINS = 100
"""Number of bins of the histogram from -1 to 1, each 0.02 wide: NormFace, 5.3."""
RULES = ("mean", "max", "histogram")
"""Ways to score a pair of videos: the mean of the frame similarities, their maximum, or an SVM on
their histogram."""


class Videos(NamedTuple):
    """Features of frames, grouped by video."""

    features: np.ndarray
    """[frames, dim] features of all frames, of any norm and in any order."""
    ids: np.ndarray
    """[videos] ids of the videos, in rising order."""
    rows: list[np.ndarray]
    """For each video, the positions of its frames in `features`."""

    def means(self) -> np.ndarray:
        """Returns the mean feature of each video, [videos, dim] float64."""
        return np.stack([self.features[rows].mean(axis=0, dtype=np.float64) for rows in self.rows])


class VideoSimilarities(NamedTuple):
    """Summaries of the cosines between all frames of one video and all frames of another.

    For each pair of videos these cosines form a matrix [frames of one, frames of the other]. The
    matrix itself is not stored.
    """

    mean: np.ndarray
    """[pairs] mean element of the matrix."""
    max: np.ndarray
    """[pairs] largest element of the matrix."""
    histogram: np.ndarray
    """[pairs, 100] share of the matrix elements in each of 100 equal bins from -1 to 1. Each row
    sums to 1."""


def group_frames(features: np.ndarray, video: np.ndarray) -> Videos:
    """Groups frames, in any order, by video.

    Args:
      features: [frames, dim] of any norm.
      video: [frames] id of the video that each frame belongs to.

    Raises:
      ValueError: a frame is zero or not finite, all frames are equal, or lengths differ.
    """
    features = checked_features(features, "frames")
    (video,) = checked_columns(video=video)
    if video.size != len(features):
        raise ValueError(f"expected a video for each of {len(features)} frames, found {video.size}")
    order = np.argsort(video, kind="stable")
    ids, starts = np.unique(video[order], return_index=True)
    # Rows and not copies: the frames of all videos may take gigabytes.
    return Videos(features, ids, np.split(order, starts[1:]))


def video_similarities(
    videos: Videos,
    first: np.ndarray,
    second: np.ndarray,
    *,
    mean: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VideoSimilarities:
    """Computes the cosines of all frames of one video with all of the other, for each video pair.

    The result has only the mean, the maximum and the histogram of the cosines of each pair.

    Args:
      videos: as `group_frames` returns them.
      first: [pairs] id of one video.
      second: [pairs] id of the other.
      mean: [dim] feature that is subtracted from every frame before it is scaled to unit length;
        None subtracts nothing.
      progress: called with (number of finished pairs, number of all pairs).

    Raises:
      ValueError: `first` and `second` differ in length, a video has no frames, or a frame equals
        the mean.

    Example:
      >>> videos = group_frames(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), [7, 7, 8])
      >>> found = video_similarities(videos, [7], [8])
      >>> print(found.mean, found.max, np.flatnonzero(found.histogram[0]))
      [0.5] [1.] [50 99]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, section
      5.3.
    """
    first, second = checked_columns(first=first, second=second)
    first, second = (positions(videos.ids, ids, "video") for ids in (first, second))
    means, maxima = np.empty((2, first.size))
    found = VideoSimilarities(means, maxima, np.empty((first.size, BINS)))
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        cosines = _unit_frames(videos, one, mean) @ _unit_frames(videos, other, mean).T
        # Summed in float64: thousands of frame pairs are averaged.
        found.mean[pair] = cosines.mean(dtype=np.float64)
        found.max[pair] = cosines.max()
        found.histogram[pair] = _histogram(cosines)
        if progress:
            progress(pair + 1, first.size)
    return found


def _unit_frames(videos: Videos, index: int, mean: np.ndarray | None) -> np.ndarray:
    frames = videos.features[videos.rows[index]]
    # In the frames' own type: a float64 mean would double the memory of the products.
    return unit_rows(frames if mean is None else frames - np.asarray(mean, frames.dtype))


def _histogram(cosines: np.ndarray) -> np.ndarray:
    """Returns [BINS] shares; a cosine of 1, or above 1 by rounding, falls in the last bin."""
    # The cast rounds down, as the cosines plus 1 are positive up to rounding.
    bins = ((cosines.ravel() + 1.0) * (BINS / 2)).astype(np.intp)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS) / bins.size


class VideoResult(NamedTuple):
    """The accuracy of three rules that tell video pairs of one person from those of two people.

    The rules are the keys of both dicts: "mean" and "max" compare the mean and the largest cosine
    of the frames with a threshold, and "histogram" is an SVM on the histogram of these cosines.
    """

    folds: dict[str, FoldAccuracy]
    """Rule -> accuracy and threshold of each fold (group of pairs). A fold's threshold is fitted on
    the other folds."""
    scores: dict[str, np.ndarray]
    """Rule -> [pairs] score of each pair: the mean cosine, the largest cosine, or the SVM's
    decision value. Mean feature and SVM are fitted on the folds that the pair is not in."""
    histograms: np.ndarray
    """[pairs, 100] histograms as in `VideoSimilarities`, computed without a subtracted mean. So
    they do not depend on the fold, and can be shown together."""
    steps: tuple[str, ...]
    """A description of the computation, one sentence per step."""


def verify_videos(
    features: np.ndarray,
    video: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    *,
    subtract_mean: bool = True,
    threshold: Literal["accuracy", "accuracy-mean", "svm", "grid"] = "accuracy",
    progress: Progress | None = None,
) -> VideoResult:
    """Computes the accuracy of verification on video pairs, on each fold and by three rules.

    The rules "mean" and "max" compare the mean and the largest cosine between the frames of both
    videos with a threshold. "histogram" is an SVM on the histogram of these cosines. When a fold is
    tested, thresholds, SVM and mean feature are computed on the pairs of the other folds. A video
    that is in several pairs counts several times in the mean feature, as in the code that the
    NormFace authors published.

    Args:
      features: [frames, dim] of any norm.
      video: [frames] id of the video that each frame belongs to.
      first: [pairs] id of one video.
      second: [pairs] id of the other.
      same: [pairs] bool, True where both show one person.
      fold: [pairs] id of each pair's fold (group of pairs that is tested together).
      subtract_mean: whether the mean feature is subtracted from each frame. If so, the cosines of
        all pairs are computed once more per fold, since each fold has its own mean.
      threshold: rule that fits the threshold of "mean" and "max". "accuracy" uses the threshold of
        highest accuracy, or the median of equally good ones. "accuracy-mean" uses the mean of the
        equally good ones. "svm" uses the threshold of a linear SVM, as the NormFace authors' code
        does. "grid" raises ValueError, since it is for squared distances only.
      progress: called with (number of finished pairs, number of all pairs). A pair counts each time
        that its cosines are computed.

    Raises:
      ValueError: a frame is zero or not finite; lengths differ; a video has no frames; there are
        fewer than two folds; a fold has no pairs of one person or none of two people; or the
        threshold rule is "grid" or unknown.

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, section
      5.3.
    """
    # The grid is of squared distances, and the similarities of frames are cosines.
    known = [name for name in THRESHOLDS if name != "grid"]
    if threshold not in known:
        raise ValueError(f"expected threshold to be one of {', '.join(known)}, found {threshold}")
    videos = group_frames(features, video)
    first, second, same, fold = checked_columns(first=first, second=second, same=same, fold=fold)
    same, tested = checked_same(same), checked_folds(same, fold)
    tests = [fold == i for i in tested]
    passes = 1 + len(tests) * subtract_mean
    plain = video_similarities(videos, first, second, progress=part(progress, 0, passes))
    # Without a mean all folds share one set of similarities.
    sweeps = [(plain, tests)]
    if subtract_mean:
        sweeps = _without_means(videos, first, second, tests, progress)
    scores, held_out = {rule: np.empty(same.size) for rule in RULES}, {rule: [] for rule in RULES}
    for found, its_tests in sweeps:
        # One kernel of all pairs: each fold fits and tests on parts of it.
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
    steps = (counted, *_steps(subtract_mean, threshold))
    return VideoResult(folds, scores, plain.histogram, steps)


def _without_means(
    videos: Videos,
    first: np.ndarray,
    second: np.ndarray,
    tests: list[np.ndarray],
    progress: Progress | None,
) -> Iterator[tuple[VideoSimilarities, list[np.ndarray]]]:
    """Yields (similarities after the mean of the other folds is subtracted, [fold]) per fold.

    Args:
      videos: the videos.
      first: [pairs] id of one video.
      second: [pairs] id of the other.
      tests: for each fold, [pairs] bool, True for its pairs.
      progress: called as in `verify_videos`, whose first pass is finished.
    """
    means = videos.means()
    sides = [positions(videos.ids, ids, "video") for ids in (first, second)]
    for number, test in enumerate(tests, 1):
        # The mean must not know the held-out fold, so that each has its own similarities.
        mean, report = _mean_feature(means, sides, ~test), part(progress, number, 1 + len(tests))
        yield video_similarities(videos, first, second, mean=mean, progress=report), [test]


def _scored(
    found: VideoSimilarities, kernel: np.ndarray, same: np.ndarray, test: np.ndarray, threshold: str
) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """Returns, by rule, ([held-out pairs] scores, (accuracy on these pairs, threshold)).

    Args:
      found: similarities of all pairs.
      kernel: [pairs, pairs] intersections of all pairs' histograms.
      same: [pairs] bool, True where both videos show one person.
      test: [pairs] bool, True for the held-out pairs.
      threshold: name of the threshold rule for "mean" and "max".
    """
    decisions = kernel_decisions(kernel, same, test)
    # An SVM decides by the sign, so that its threshold is 0.
    scored = {"histogram": (decisions, (balanced_accuracy(decisions, same[test], 0.0), 0.0))}
    for rule, similarities in (("mean", found.mean), ("max", found.max)):
        figures = held_out_accuracy(similarities, same, test, THRESHOLDS[threshold])
        scored[rule] = similarities[test], figures
    return scored


def _mean_feature(means: np.ndarray, sides: list[np.ndarray], fitted: np.ndarray) -> np.ndarray:
    """Returns the mean feature [dim] of the videos in the fitted pairs, counted once per pair.

    Args:
      means: [videos, dim] mean feature of each video.
      sides: for each side of the pairs, [pairs] position of its video in `means`.
      fitted: [pairs] bool, True for the pairs that are not held out.
    """
    # Weights in place of a sum over pairs: a video may be in many pairs.
    counts = np.sum([np.bincount(side[fitted], minlength=len(means)) for side in sides], axis=0)
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
