"""Reads a gallery, the features of the images that are searched, once and block by block.

A gallery may be larger than the memory.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """A block of a gallery: the features of some images, and their positions."""

    features: np.ndarray
    """[rows, dim] float32."""
    where: np.ndarray
    """[rows] position of each image in the whole gallery."""


class Gallery:
    """A gallery: one array of features, which may be memory-mapped, or a sequence of arrays.

    Args:
      features: [images, dim] or a sequence of such arrays.
      dim: the dimension that the features must have.
      keep: [images] bool over all arrays, False for images that are left out; None keeps all.

    Raises:
      ValueError: an array has another shape, `keep` has not one bool per image, or no image is
        kept.
    """

    def __init__(
        self,
        features: np.ndarray | Sequence[np.ndarray],
        dim: int,
        keep: np.ndarray | None = None,
    ) -> None:
        alone = isinstance(features, np.ndarray) and features.ndim == 2
        self._parts: list[np.ndarray] = [np.asarray(features)] if alone else list(features)
        shapes = [part.shape for part in self._parts]
        wrong = [shape for shape in shapes if len(shape) != 2 or shape[1] != dim]
        if wrong:
            raise ValueError(f"expected distractors of shape [images, {dim}], found {wrong[0]}")
        total = sum(shape[0] for shape in shapes)
        self._keep = checked_mask(keep, total, "distractors")
        self.size = int(self._keep.sum())
        """Number of images that are kept."""
        if not self.size:
            raise ValueError(f"expected distractors, found none kept of {total}")

    def blocks(self, rows: int) -> Iterator[Block]:
        """Yields the kept images in blocks of at most `rows` images, with features in float32."""
        offset = 0
        for part in self._parts:
            for start in range(0, len(part), rows):
                # One block at a time, since a memory-mapped part may be larger than the memory.
                features = np.asarray(part[start : start + rows], np.float32)
                kept = self._keep[offset + start : offset + start + len(features)]
                where = offset + start + np.flatnonzero(kept)
                if where.size:
                    # Without a copy in the usual case that nothing is left out.
                    yield Block(features if kept.all() else features[kept], where)
            offset += len(part)


def checked_mask(keep: np.ndarray | None, size: int, name: str) -> np.ndarray:
    """Returns the mask of the kept items as an array [size] of bool; None keeps all items.

    Args:
      keep: [size] bool, or None.
      size: number of items.
      name: what the items are called in the error message, which names the mask `keep_NAME`.

    Raises:
      ValueError: the mask has another shape or type.
    """
    if keep is None:
        return np.ones(size, bool)
    keep = np.asarray(keep)
    # Only bools: an array of whole numbers may be a list of row numbers, and no mask.
    if keep.shape != (size,) or keep.dtype != bool:
        raise ValueError(f"expected keep_{name} to be {size} bools, found {keep.dtype}{keep.shape}")
    return keep
