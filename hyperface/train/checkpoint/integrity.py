"""Distinguishes damaged checkpoints, which are renamed, from those that can be read later."""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from hyperface.errors import InputError

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds in which a checkpoint that is being removed disappears."""


class CorruptCheckpoint(InputError):
    """The error of a damaged checkpoint: files are missing or cut short, or numbers changed."""


class UnreadableCheckpoint(InputError):
    """The error of a checkpoint that cannot be read now, but may be undamaged."""


class Changed(ValueError):
    """The error of data that differ from the data that were saved."""


_OF_CONTENT = ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""TensorStore's codes for files that are missing, cut short or of other content."""
_MISSING = FileNotFoundError | IsADirectoryError | NotADirectoryError


def is_whole(folder: Path) -> bool:
    """Returns whether both parts of a checkpoint, "state" and "meta", are in its folder."""
    return all((folder / item).is_dir() for item in ("state", "meta"))


def whole_steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, in rising order."""
    names = (path.name for path in folder.glob("[0-9]*"))
    return sorted(int(name) for name in names if name.isdigit() and is_whole(folder / name))


def read_step(
    folder: Path,
    act: Callable[[int], T],
    step: int | None = None,
    agree: Callable[[str, list[int]], list[int]] = lambda name, steps: steps,
) -> T:
    """Reads a checkpoint with `act`, even if a running trainer removes checkpoints meanwhile.

    If the newest checkpoint disappears while it is read, the trainer has written a newer one, and
    that one is read instead.

    Args:
      folder: the folder of the checkpoints.
      act: reads the checkpoint of a step; its result is returned.
      step: the step of the checkpoint; the newest by default.
      agree: (a name, this process's steps) -> the steps that all processes use.

    Raises:
      CorruptCheckpoint: the checkpoint is damaged. A checkpoint that was removed raises InputError.
      InputError: there is no such checkpoint, it was removed while it was read, or `act` raised it.
    """
    while True:
        # A step may appear between two looks, so that all processes go by one list.
        steps = agree("steps", whole_steps(folder))
        if not steps or step not in (None, *steps):
            wanted = "a whole checkpoint" if step is None else f"checkpoint {step}"
            found = ", ".join(map(str, steps)) or "none"
            raise InputError(f"expected {wanted} in {folder}, found steps: {found}.")
        chosen = steps[-1] if step is None else step
        try:
            return act(chosen)
        except InputError:
            # Agreed too: a process that tried again alone would wait for the others.
            left = agree("left", _steps_left(folder, chosen, wait=step is not None))
            # The trainer removed the step meanwhile, which looks like damage but is none.
            if step is None and left and left[-1] > chosen:
                continue
            if chosen in left:
                raise
            raise InputError(
                f"expected checkpoint {chosen} in {folder}, found that it was removed while it was "
                f"read. Take another step: {', '.join(map(str, left)) or 'none is left'}."
            ) from None


def _steps_left(folder: Path, chosen: int, *, wait: bool) -> list[int]:
    """Returns the whole steps after a failure; a step that is being removed gets time to disappear.

    The newest one needs none, since a run removes only older ones.
    """
    until = time.monotonic() + PATIENCE * wait
    while chosen in (left := whole_steps(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@contextlib.contextmanager
def reading(folder: Path, advice: str = "") -> Iterator[None]:
    """Turns errors of Orbax, TensorStore and json into two: corrupt, or unreadable at the moment.

    Args:
      folder: folder of the checkpoint, for the message.
      advice: the last sentence of the message about a damaged checkpoint.

    Raises:
      CorruptCheckpoint: a file that was read is missing, cut short or changed.
      UnreadableCheckpoint: a file could not be read for another reason.
    """
    try:
        yield
    except Exception as error:
        # Damage must be certain, because such a checkpoint is renamed and never tried again.
        if is_damage(error):
            raise CorruptCheckpoint(
                f"{folder}: expected a whole checkpoint, found a damaged one "
                f"({reason(error)}).{advice}"
            ) from error
        raise UnreadableCheckpoint(
            f"{folder}: expected to read it, found: {reason(error)}. Nothing was set aside; mend "
            "that, and the same command goes on from there."
        ) from error


def is_damage(error: BaseException) -> bool:
    """Returns whether an error means that a checkpoint's files are missing, cut short or changed.

    Other errors do not show damage. For example, a mistake in the code, or a version of Orbax with
    other arguments, fails for all checkpoints, which must not be discarded for it.

    Args:
      error: an error of Orbax, TensorStore, json or the system. The errors that caused it are
        examined too.

    Example:
      >>> is_damage(ValueError("DATA_LOSS: Error reading d/0")), is_damage(MemoryError())
      (True, False)
    """
    verdicts = {_of_content(found) for found in _chain(error)} - {None}
    # All causes must agree: a missing file behind a failing disk says nothing of the file.
    return verdicts == {True}


def _of_content(error: BaseException) -> bool | None:
    """Returns whether this one error says that content is damaged; None if it does not tell."""
    if type(error) is Exception:  # Orbax's, around TensorStore's.
        return None
    if isinstance(error, Changed | json.JSONDecodeError | UnicodeDecodeError | _MISSING):
        return True
    return tensorstore_code(error) in _OF_CONTENT


def tensorstore_code(error: BaseException) -> str | None:
    """Returns the code of an error of TensorStore; XLA has the same codes in another type."""
    found = re.match(r"([A-Z_]{4,}): ", str(error)) if isinstance(error, ValueError) else None
    return found and found[1]


def saved_tree(state: Path) -> dict[str, Any]:
    """Returns Orbax's own description of the arrays, as nested dictionaries.

    Args:
      state: folder of the state in a checkpoint.

    Raises:
      Changed: the description cannot be parsed.
      OSError, ValueError: it cannot be read; `is_damage` tells whether it is damaged.
    """
    # The method takes a `pathlib.Path` despite its annotation.
    read = cast(Callable[[Path], Any], ocp.StandardCheckpointHandler().metadata)
    try:
        return read(state).tree
    except (KeyError, ValueError) as error:
        if tensorstore_code(error) is not None or is_damage(error):
            raise
        raise Changed("Orbax's metadata changed") from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # As Python prints a chain: `raise ... from None` hides what was handled.
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def reason(error: BaseException) -> str:
    """Returns the cause of an error in one line, without the many paths of TensorStore's messages.

    Example:
      >>> reason(OSError(5, "Input/output error", "d/0")), reason(MemoryError())
      ('Input/output error: d/0', 'MemoryError')
    """
    *_, inner = _chain(error)
    if isinstance(inner, OSError) and inner.strerror:
        return f"{inner.strerror}: {inner.filename}" if inner.filename else inner.strerror
    if isinstance(inner, KeyError):
        return f"no key {inner}"
    first = str(inner).strip().partition("\n")[0]
    if tensorstore_code(inner) is not None:
        # The cause stands last, after the paths.
        first = first.rsplit(": ", 1)[-1]
        if "[" not in first:  # Of "[OS error 5: EIO Input/output error]".
            first = first.rstrip("]")
    return first[:200] or type(inner).__name__


_BLOCK = 1 << 14
"""Words at a time, so that they stay in the cache."""
_FACTOR = 0x9E3779B1
"""Odd, as is the next, so that multiplying by it is one to one."""
_SECOND_FACTOR = 0x85EBCA77


def checksums(tree: Any, like: Any = None) -> dict[str, int]:
    """Returns a 32-bit checksum of each array of a tree.

    Each 32-bit word is mixed with its position in the array by a one-to-one function, and the
    results are added up. So a single changed word always changes the sum, and each device or
    process can add up its own part.

    Args:
      tree: nested dictionaries of arrays. Each array is whole on every device, or is split over the
        devices along its first or second axis.
      like: the same tree of arrays or shapes without padding. Rows of `tree` beyond these shapes
        are padding, and are not counted.

    Returns:
      Path, such as "params/head/scale", -> checksum. All processes get the same checksums, unless
      the copy of a replicated array differs on one of them.

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
        # Exact sums modulo 2^32 do not depend on which process holds which part.
        parts = multihost_utils.process_allgather(sums)
        sums = np.where(shared, parts.sum(axis=0, dtype=np.uint32), sums)
    return dict(zip(leaves, sums.tolist(), strict=True))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path, "params/head/scale"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _is_here(array: jax.Array) -> bool:
    """Returns whether this process has all of it."""
    return array.is_fully_addressable or array.is_fully_replicated


def _own_part(array: Any, shape: tuple[int, ...]) -> int:
    """Returns the sum of what this process holds the first copy of."""
    if not isinstance(array, jax.Array):
        return _sum(np.asarray(array), 0, 0)
    total = 0
    copies = array.addressable_shards
    if array.is_fully_replicated:
        return _part(np.asarray(copies[0].data), copies[0].index, shape)
    for shard in copies:
        # The copies of a shard would count several times.
        if shard.replica_id == 0:
            total += _part(np.asarray(shard.data), shard.index, shape)
    return total & 0xFFFFFFFF


def _part(found: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Returns the sum of the part of an array of this shape that begins where `index` does."""
    if not shape:
        return _sum(found, 0, 0)
    row, width = index[0].start or 0, math.prod(shape[1:])
    # Rows beyond the saved shape are padding, and another number of devices has others.
    found = found[: max(0, shape[0] - row)]
    if found.shape[1:] == shape[1:]:
        return _sum(found, row * width, 0)
    first = row * width + index[1].start * math.prod(shape[2:])
    return _sum(found.reshape(len(found), -1), first, width)


def _sum(array: np.ndarray, first: int, width: int) -> int:
    """Returns the sum of elements whose positions in the whole array start at `first`.

    Args:
      array: their rows.
      first: place of the first.
      width: distance from row to row; 0 if each row begins at the end of the previous row.
    """
    bits = 8 * min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(len(array) if width else -1, -1 if width else 1)
    # Bits and not values: -0.0 and the payload of a NaN belong to what was saved.
    words = words.view(f"uint{bits}")
    scale = 8 * array.dtype.itemsize // bits
    first, width = first * scale, width * scale or words.shape[1]
    rows = max(1, _BLOCK // words.shape[1])
    places = np.arange(rows)[:, None] * width + np.arange(words.shape[1])
    places = places.astype(np.uint32) * np.uint32(_FACTOR)
    total = 0
    for start in range(0, len(words), rows):
        block = words[start : start + rows]
        # Masked as a Python number: NumPy warns of a scalar that overflows.
        before = np.uint32((first + start * width) * _FACTOR & 0xFFFFFFFF)
        mixed = places[: len(block)] + before
        mixed ^= block
        mixed *= np.uint32(_FACTOR)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(_SECOND_FACTOR)
        mixed ^= mixed >> np.uint32(13)
        # A sum of uint32 in 64 bits cannot overflow within a block; the mask comes at the end.
        total += int(mixed.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF
