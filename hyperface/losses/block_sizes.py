"""How many classes the engine's scans read at a time, where the caller leaves it to the engine."""

import os
from functools import cache
from pathlib import Path

import jax

ACCELERATOR_BLOCK_BYTES = 64 * 2**20
"""Similarities in a block on a GPU or TPU. Each block costs some ten launches of kernels, of some
microseconds each. A block of 4 MiB, at batch 256 and 512 dimensions, is a product of 1 GFLOP, which
a current GPU finishes sooner than its launches. A block of 64 MiB takes it longer than they do. The
number comes from data sheets: no accelerator has measured it yet."""


def choose_block_size(asked: int | None, batch: int, classes: int) -> int:
    """Returns the number of classes that a loss processes at once, at most `classes`.

    Args:
      asked: the number that the user asked for. With None it is chosen such that the similarities
        [classes per block, batch] have about `block_bytes` bytes.
      batch: number of examples.
      classes: number of classes on this device.
    """
    if asked is not None:
        return min(asked, classes)
    if 4 * batch * classes <= one_block_bytes():
        return classes
    return min(classes, max(128, block_bytes() // (4 * batch)))


def one_block_bytes() -> int:
    """Returns the size in bytes up to which all similarities [batch, classes] form a single block.

    At this size, several blocks would only cost time. The single block is also saved for the
    backward pass.
    """
    return max(16 * 2**20, block_bytes())


def block_bytes() -> int:
    """Returns the size in bytes of a block's similarities, if the user chooses no block size.

    On a CPU it is the size of the second-level caches of all cores together, at least 1 and at most
    4 MiB. The similarities of a block then stay in these caches while they are used. On an
    accelerator the size is the constant `ACCELERATOR_BLOCK_BYTES`.
    """
    return ACCELERATOR_BLOCK_BYTES if jax.default_backend() != "cpu" else _cache_bytes()


# Asked for at every trace, and the file cannot change while the process runs.
@cache
def _cache_bytes() -> int:
    """Returns the bytes of the cores' second-level caches, between 1 and 4 MiB."""
    try:
        kibibytes = int(_SECOND_LEVEL_CACHE.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):  # Only Linux tells, and not on every processor.
        kibibytes = 0
    # Beyond 4 MiB a block gains nothing, and costs memory.
    return min(max(1024 * kibibytes * (os.cpu_count() or 1), 2**20), 4 * 2**20)


_SECOND_LEVEL_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
