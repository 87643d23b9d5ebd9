"""Settings of the process that the commands make before jax is loaded: its memory and its cache."""

import contextlib
import ctypes
import importlib.util
import os
import platform
import zlib
from pathlib import Path

CACHE_BYTES = 4 * 2**30
"""Size of the cache of compiled programs; those that were unused longest are removed first."""
MALLOC = {
    "M_ARENA_MAX": (-8, 1),  # One heap for all threads, so that they reuse each other's blocks.
    "M_MMAP_MAX": (-4, 0),  # Large blocks come from the heap too; mapped ones are unmapped at once.
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),  # The heap is not trimmed; the value is the largest int.
}
"""Name of a parameter of glibc's mallopt -> (its number in malloc.h, the value that we set)."""


def keep_memory() -> None:
    """Makes glibc keep freed memory for the next step, if JAX runs on the CPU only.

    XLA allocates the workspace of a program each time the program runs. By default glibc maps and
    unmaps blocks of that size, and the kernel clears every page. Clearing the pages takes a tenth
    of the time of a small network's training step. Afterwards there is a single heap, which keeps
    the blocks. Call this function before threads start, which would have heaps of their own. If
    environment variables configure malloc or replace it, nothing is changed.
    """
    tuned = {"GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys()
    if tuned or any(name.startswith("MALLOC_") for name in os.environ) or not _has_cpu_alone():
        return
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)


def _has_cpu_alone() -> bool:
    """Returns whether JAX can use the CPU only, by JAX_PLATFORMS or else by the installed plugins.

    JAX itself is not asked, because loading it takes seconds and starts threads.
    """
    asked = os.environ.get("JAX_PLATFORMS")
    plugins = ("jax_plugins", "libtpu")
    return asked == "cpu" if asked else not any(map(importlib.util.find_spec, plugins))


def keep_compiled() -> None:
    """Makes JAX store compiled programs in the user's cache, so that a later process starts faster.

    Call it before JAX is imported. Set the environment variable JAX_COMPILATION_CACHE_DIR to use
    another folder, or JAX_ENABLE_COMPILATION_CACHE=0 to store nothing. Each kind of processor has
    its own folder, because a program that was compiled for one kind may not run on another. If the
    cache cannot be written, nothing is changed.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # Without a home folder, or without permission to write there, programs are compiled each time.
    with contextlib.suppress(OSError, RuntimeError):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "hyperface-compiled" / f"{platform.machine()}-{_processor():08x}"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(CACHE_BYTES))


def _processor() -> int:
    """Returns a checksum of the processor's model and of its instruction sets."""
    # XLA compiles for the instruction sets of the processor, such as AVX-512.
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return zlib.crc32("".join(sorted(features or lines[:1])).encode())
