"""The memory of this process' accelerator or, if it computes on a CPU, of the process itself."""

import resource
from typing import Literal

Library = Literal["jax", "torch"]


def bytes_in_use(library: Library) -> int:
    """Returns the memory now, from which a peak is counted."""
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
    """Returns the largest memory so far."""
    if library == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif stats := _stats():
        return stats["peak_bytes_in_use"]
    return _largest_size()


def _stats() -> dict[str, int] | None:
    import jax

    # A CPU has none.
    return jax.local_devices()[0].memory_stats()


def _largest_size() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
