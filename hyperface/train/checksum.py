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


def checksums(tree: Any) -> dict[str, int]:
    """A 32-bit checksum of each array of a tree.

    Each word is mixed with its place in the array, one to one, and the results are added up: one
    changed word always changes the sum, and devices and processes may each add up their rows.

    Args:
      tree: nested dictionaries of arrays, whole on each device or split by rows over them.

    Returns:
      By path, such as "params/head/scale"; the same on every process.

    Example:
      >>> ones, others = np.ones(3, np.float32), np.float32([1, 1, 2])
      >>> checksums({"a": {"b": ones}}) == checksums({"a": {"b": others}})
      False
    """
    leaves = named_leaves(tree)
    sums = np.array([_own_part(leaf) for leaf in leaves.values()], np.uint32)
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return dict(zip(leaves, sums.tolist(), strict=True))


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of nested dictionaries by path, "params/head/scale"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _own_part(array: Any) -> int:
    """The sum of what this process holds the first copy of."""
    if not isinstance(array, jax.Array):
        return _sum(np.asarray(array), 0)
    total = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            first_row = (shard.index[0].start or 0) if shard.index else 0
            total += _sum(np.asarray(shard.data), first_row * math.prod(array.shape[1:]))
    return total & 0xFFFFFFFF


def _sum(array: np.ndarray, first: int) -> int:
    """The sum of elements whose places in the whole array start at `first`."""
    width = min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(-1).view(f"uint{8 * width}")
    first *= array.dtype.itemsize // width
    places = np.arange(_BLOCK, dtype=np.uint32) * np.uint32(_FACTOR)
    total = 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        mixed = places[: block.size] + np.uint32((first + start) * _FACTOR & 0xFFFFFFFF)
        mixed ^= block
        mixed *= np.uint32(_FACTOR)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(_SECOND_FACTOR)
        mixed ^= mixed >> np.uint32(13)
        total += int(mixed.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF
