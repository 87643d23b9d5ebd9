"""Checksums of arrays: the same for any sharding, another one for any changed element."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_BLOCK = 1 << 14
"""Words at a time, so that they stay in the cache."""
_FACTOR = 0x9E3779B1
"""Odd, as is the next, so that multiplying by it is one to one."""
_SECOND_FACTOR = 0x85EBCA77


def checksums(tree: Any, like: Any = None) -> dict[str, int]:
    """A 32-bit checksum of each array of a tree.

    Each word is mixed with its place in the array, one to one, and the results are added up: one
    changed word always changes the sum, and devices and processes may each add up their part.

    Args:
      tree: nested dictionaries of arrays, whole on each device or split over them by the first or
        the second axis.
      like: the same with arrays or shapes: rows beyond theirs are padding, which does not count.

    Returns:
      By path, such as "params/head/scale"; the same on every process, unless one's own copy of an
      array that all have whole differs.

    Example:
      >>> ones, others = np.ones(3, np.float32), np.float32([1, 1, 2])
      >>> checksums({"a": {"b": ones}}) == checksums({"a": {"b": others}})
      False
    """
    leaves, like = named_leaves(tree), named_leaves(tree if like is None else like)
    sums = [_own_part(leaf, like[name].shape) for name, leaf in leaves.items()]
    sums = np.array(sums, np.uint32)
    shared = [isinstance(x, jax.Array) and not _is_here(x) for x in leaves.values()]
    if any(shared):
        parts = multihost_utils.process_allgather(sums)
        sums = np.where(shared, parts.sum(axis=0, dtype=np.uint32), sums)
    return dict(zip(leaves, sums.tolist(), strict=True))


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of nested dictionaries by path, "params/head/scale"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _is_here(array: jax.Array) -> bool:
    """Whether this process has all of it."""
    return array.is_fully_addressable or array.is_fully_replicated


def _own_part(array: Any, shape: tuple[int, ...]) -> int:
    """The sum of what this process holds the first copy of."""
    if not isinstance(array, jax.Array):
        return _sum(np.asarray(array), 0, 0)
    total = 0
    copies = array.addressable_shards
    if array.is_fully_replicated:
        return _part(np.asarray(copies[0].data), copies[0].index, shape)
    for shard in copies:
        if shard.replica_id == 0:
            total += _part(np.asarray(shard.data), shard.index, shape)
    return total & 0xFFFFFFFF


def _part(found: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """The sum of the part of an array of this shape that begins where `index` does."""
    if not shape:
        return _sum(found, 0, 0)
    row, width = index[0].start or 0, math.prod(shape[1:])
    found = found[: max(0, shape[0] - row)]
    if found.shape[1:] == shape[1:]:
        return _sum(found, row * width, 0)
    first = row * width + index[1].start * math.prod(shape[2:])
    return _sum(found.reshape(len(found), -1), first, width)


def _sum(array: np.ndarray, first: int, width: int) -> int:
    """The sum of elements whose places in the whole array start at `first`.

    Args:
      array: their rows.
      first: place of the first.
      width: from row to row; 0 where each goes on where the one before it ends.
    """
    bits = 8 * min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(len(array) if width else -1, -1 if width else 1)
    words = words.view(f"uint{bits}")
    scale = 8 * array.dtype.itemsize // bits
    first, width = first * scale, width * scale or words.shape[1]
    rows = max(1, _BLOCK // words.shape[1])
    places = np.arange(rows)[:, None] * width + np.arange(words.shape[1])
    places = places.astype(np.uint32) * np.uint32(_FACTOR)
    total = 0
    for start in range(0, len(words), rows):
        block = words[start : start + rows]
        before = np.uint32((first + start * width) * _FACTOR & 0xFFFFFFFF)
        mixed = places[: len(block)] + before
        mixed ^= block
        mixed *= np.uint32(_FACTOR)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(_SECOND_FACTOR)
        mixed ^= mixed >> np.uint32(13)
        total += int(mixed.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF
