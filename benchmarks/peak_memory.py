"""Reads how much memory this process uses: of its accelerator or, on a CPU, of the process."""

import resource
from typing import Literal

Library = Literal["jax", "torch"]


def bytes_in_use(library: Library) -> int:
    """Returns the memory in bytes that is used now; a later peak is compared with it.

    On a CPU it is the largest size of the process so far.
    """
    if library == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
    elif stats := _stats():
        return stats["bytes_in_use"]
    return _largest_size()


def peak_bytes(library: Library) -> int:
    """Returns the largest memory in bytes that was used so far."""
    if library == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif stats := _stats():
        return stats["peak_bytes_in_use"]
    return _largest_size()


def _stats() -> dict[str, int] | None:
    import jax

    # None on a CPU.
    return jax.local_devices()[0].memory_stats()


def _largest_size() -> int:
    # Linux gives this number in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
