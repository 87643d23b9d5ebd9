"""Frame by frame similarities of video pairs: their mean, maximum and NormFace's histogram."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_columns, checked_features, positions, unit_rows

BINS = 100
"""Bins of the histogram, each 0.02 wide, from -1 to 1: NormFace, 5.3."""


class Videos(NamedTuple):
    """Features of frames, grouped by video."""

    features: np.ndarray
    """[frames, dim]."""
    ids: np.ndarray
    """[videos] rising."""
    rows: list[np.ndarray]
    """[videos] rows of features that hold a video's frames."""

    def means(self) -> np.ndarray:
        """[videos, dim] mean feature of each video, float64."""
        return np.stack([self.features[rows].mean(axis=0, dtype=np.float64) for rows in self.rows])


class VideoSimilarities(NamedTuple):
    """What the matrix of frame by frame cosines says of each pair of videos."""

    mean: np.ndarray
    """[pairs] mean of its elements."""
    max: np.ndarray
    """[pairs] largest element."""
    histogram: np.ndarray
    """[pairs, BINS] share of its elements in each bin; rows sum to 1."""


def group_frames(features: np.ndarray, video: np.ndarray) -> Videos:
    """Groups frames, in any order, by video.

    Args:
      features: [frames, dim] of any length.
      video: [frames] id of the video that each frame is of.

    Raises:
      ValueError: a frame is zero or not finite, all are equal, or lengths differ.
    """
    features = checked_features(features, "frames")
    (video,) = checked_columns(video=video)
    if video.size != len(features):
        raise ValueError(f"expected a video for each of {len(features)} frames, found {video.size}")
    order = np.argsort(video, kind="stable")
    ids, starts = np.unique(video[order], return_index=True)
    return Videos(features, ids, np.split(order, starts[1:]))


def video_similarities(
    videos: Videos,
    first: np.ndarray,
    second: np.ndarray,
    *,
    mean: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VideoSimilarities:
    """Compares every frame of one video with every frame of the other, pair by pair.

    Args:
      videos: as `group_frames` makes them.
      first: [pairs] id of one video.
      second: [pairs] id of the other.
      mean: [dim] subtracted from every frame before it is scaled to unit length, or None.
      progress: called with pairs done and pairs in all.

    Raises:
      ValueError: a video has no frames, or a frame equals the mean.

    Example:
      >>> videos = group_frames(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), [7, 7, 8])
      >>> found = video_similarities(videos, [7], [8])
      >>> print(found.mean, found.max, np.flatnonzero(found.histogram[0]))
      [0.5] [1.] [50 99]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 5.3.
    """
    first, second = checked_columns(first=first, second=second)
    first, second = (positions(videos.ids, ids, "video") for ids in (first, second))
    found = VideoSimilarities(*np.empty((2, first.size)), np.empty((first.size, BINS)))
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        cosines = _unit_frames(videos, one, mean) @ _unit_frames(videos, other, mean).T
        found.mean[pair] = cosines.mean(dtype=np.float64)
        found.max[pair] = cosines.max()
        found.histogram[pair] = _histogram(cosines)
        if progress:
            progress(pair + 1, first.size)
    return found


def _unit_frames(videos: Videos, index: int, mean: np.ndarray | None) -> np.ndarray:
    frames = videos.features[videos.rows[index]]
    return unit_rows(frames if mean is None else frames - np.asarray(mean, frames.dtype))


def _histogram(cosines: np.ndarray) -> np.ndarray:
    """[BINS] shares; a cosine of 1, or beyond by rounding, is of the last bin."""
    bins = ((cosines.ravel() + 1.0) * (BINS / 2)).astype(np.intp)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS) / bins.size
