"""Reads a gallery, the features of the images that are searched, once and block by block.

A gallery may be larger than the memory.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """Some images of a gallery (the images that are searched): their features and positions."""

    features: np.ndarray
    """[rows, dim] float32 features of any norm."""
    where: np.ndarray
    """[rows] position of each image in the whole gallery, where left-out images count too."""


class Gallery:
    """The features of the images that are searched (the gallery), read block by block.

    The attribute `size` is the number of images that are kept.

    Args:
      features: an array [images, dim], which may be memory-mapped, or a sequence of such arrays.
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
        """Yields the kept images, in order, in blocks of at most `rows` images.

        Args:
          rows: number of images that are read at a time. Images that are left out are removed
            afterwards, so that blocks can be smaller.
        """
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
    """Returns an array [size] of bool, True for each image or row to keep, after checks.

    Args:
      keep: [size] bool, False for images or rows that are left out; None keeps all.
      size: number of images or rows.
      name: the name of the images or rows, such as "probes"; the error message then calls the mask
        "keep_probes".

    Raises:
      ValueError: the mask has another shape, or values other than bools.
    """
    if keep is None:
        return np.ones(size, bool)
    keep = np.asarray(keep)
    # Only bools: an array of whole numbers may be a list of row numbers, and no mask.
    if keep.shape != (size,) or keep.dtype != bool:
        raise ValueError(f"expected keep_{name} to be {size} bools, found {keep.dtype}{keep.shape}")
    return keep
