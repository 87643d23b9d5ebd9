"""Tells whether a checkpoint that cannot be read is damaged, and computes checksums of arrays.

A damaged checkpoint is renamed and never used again. A checkpoint that only cannot be read at the
moment, for example because a disk is not mounted, must stay.
"""

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
"""Number of seconds that a checkpoint gets to disappear, if it may be in the middle of removal."""


class CorruptCheckpoint(InputError):
    """The error of a damaged checkpoint: files are missing or cut short, or numbers changed."""


class UnreadableCheckpoint(InputError):
    """The error of a checkpoint that cannot be read now, but may be undamaged.

    Examples are missing permissions, a failing disk, or too little memory. The checkpoint keeps its
    name. A damaged checkpoint is renamed to `broken-STEP` instead.
    """


class Changed(ValueError):
    """The error of data that could be read, but differ from the data that were saved."""


_OF_CONTENT = ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""TensorStore's codes for files that are missing, are cut short or have another content."""
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
    """Reads a checkpoint with `act`, even if a running training removes checkpoints meanwhile.

    If the newest checkpoint disappears while it is read, the training has written a newer one, and
    the newer checkpoint is read instead. Returns the result of `act`.

    Args:
      folder: the folder of the checkpoints.
      act: a function that gets a step and reads its checkpoint. It raises InputError if it cannot.
      step: the step of the checkpoint; None takes the newest.
      agree: a function by which several processes that read together agree on one list of steps.
        It gets a name for the message between the processes, and the steps that this process has
        found. It returns the steps that all processes use. By default a process reads alone, and
        uses the steps that it has found.

    Raises:
      CorruptCheckpoint: the checkpoint is damaged, as `act` found.
      InputError: there is no such checkpoint, it was removed while it was read, or `act` raised it.
    """
    while True:
        # A new step may appear between the looks of two processes, so all use the same list.
        steps = agree("steps", whole_steps(folder))
        if not steps or step not in (None, *steps):
            wanted = "a whole checkpoint" if step is None else f"checkpoint {step}"
            found = ", ".join(map(str, steps)) or "none"
            raise InputError(f"expected {wanted} in {folder}, found steps: {found}.")
        chosen = steps[-1] if step is None else step
        try:
            return act(chosen)
        except InputError:
            # All processes use the same list again: a process that alone read another step would
            # wait forever for the others in a collective.
            left = agree("left", _steps_left(folder, chosen, wait=step is not None))
            # The trainer removed the step meanwhile, which looks like damage but is not.
            if step is None and left and left[-1] > chosen:
                continue
            if chosen in left:
                raise
            raise InputError(
                f"expected checkpoint {chosen} in {folder}, found that it was removed while it was "
                f"read. Take another step: {', '.join(map(str, left)) or 'none is left'}."
            ) from None


def _steps_left(folder: Path, chosen: int, *, wait: bool) -> list[int]:
    """Returns the steps of the complete checkpoints after a failure to read one.

    Args:
      folder: the folder of the checkpoints.
      chosen: the step that could not be read.
      wait: whether the step gets `PATIENCE` seconds to disappear, in case it is being removed. The
        newest step needs none, since a run removes only older ones.
    """
    until = time.monotonic() + PATIENCE * wait
    while chosen in (left := whole_steps(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@contextlib.contextmanager
def reading(folder: Path, advice: str = "") -> Iterator[None]:
    """Context manager for code that reads a checkpoint by Orbax, TensorStore or json.

    Any exception in its block becomes one of the two errors below.

    Args:
      folder: folder of the checkpoint, for the message.
      advice: last sentence of the message about a damaged checkpoint, which says what the user can
        do; "" adds none.

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

    Other errors are not signs of damage. For example, another version of Orbax may raise an error
    for every checkpoint, although no checkpoint is damaged.

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
    """Returns whether this one error means damaged content; None if it has no meaning of its own.

    The errors that caused it are not examined.
    """
    if type(error) is Exception:  # Orbax raises it, with TensorStore's error as the cause.
        return None
    if isinstance(error, Changed | json.JSONDecodeError | UnicodeDecodeError | _MISSING):
        return True
    return tensorstore_code(error) in _OF_CONTENT


def tensorstore_code(error: BaseException) -> str | None:
    """Returns the code of an error of TensorStore, such as "DATA_LOSS"; None for other errors."""
    # TensorStore raises ValueErrors. XLA's errors begin with the same codes, but have another type.
    found = re.match(r"([A-Z_]{4,}): ", str(error)) if isinstance(error, ValueError) else None
    return found and found[1]


def saved_tree(state: Path) -> dict[str, Any]:
    """Returns the names of the arrays in a checkpoint, as nested dictionaries.

    Only Orbax's metadata is read, and not the arrays. Each leaf of the result is Orbax's
    description of one array, with its shape and dtype.

    Args:
      state: the folder "state" of a checkpoint.

    Raises:
      Changed: the metadata cannot be parsed.
      OSError, ValueError: the metadata cannot be read; `is_damage` tells from this error whether
        the checkpoint is damaged.
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
    """Yields an error and the errors that caused it, the first cause last."""
    while error is not None:
        yield error
        # The rule by which Python prints a chain: `raise ... from None` hides the handled error.
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def reason(error: BaseException) -> str:
    """Returns the cause of an error as one line for a message.

    The messages of TensorStore contain many paths, which are left out.

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
        # The cause is at the end of the message, behind the paths.
        first = first.rsplit(": ", 1)[-1]
        # A message that ends in "[OS error 5: EIO Input/output error]" has lost its "[" here.
        if "[" not in first:
            first = first.rstrip("]")
    return first[:200] or type(inner).__name__


_BLOCK = 1 << 14
"""Number of words that are summed at a time, so few that they stay in the processor's cache."""
# Both factors are odd, so that multiplying by them modulo 2^32 is one to one.
_FACTOR = 0x9E3779B1
_SECOND_FACTOR = 0x85EBCA77


def checksums(tree: Any, like: Any = None) -> dict[str, int]:
    """Returns a 32-bit checksum of each array of a tree.

    Each 32-bit word is mixed with its position in the array, and the results are added modulo 2^32.
    For a fixed position, different words give different results, so a single changed word always
    changes the sum. Each device or process can add up its own part of an array.

    Args:
      tree: nested dictionaries of arrays. Each array is whole on every device, or is split over the
        devices along its first or second axis.
      like: the same tree of arrays or shapes without padding. Rows of `tree` beyond these shapes
        are padding, and are not counted. None means that there is no padding.

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
        # Sums modulo 2^32 are exact, so they do not depend on how the parts are divided.
        parts = multihost_utils.process_allgather(sums)
        sums = np.where(shared, parts.sum(axis=0, dtype=np.uint32), sums)
    return dict(zip(leaves, sums.tolist(), strict=True))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path, such as "params/head/scale"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _is_here(array: jax.Array) -> bool:
    """Returns whether this process has the whole array."""
    return array.is_fully_addressable or array.is_fully_replicated


def _own_part(array: Any, shape: tuple[int, ...]) -> int:
    """Returns the checksum of the parts of an array whose first copy is on this process.

    Args:
      array: the array.
      shape: its shape without padding.
    """
    if not isinstance(array, jax.Array):
        return _sum(np.asarray(array), 0, 0)
    total = 0
    copies = array.addressable_shards
    if array.is_fully_replicated:
        return _part(np.asarray(copies[0].data), copies[0].index, shape)
    for shard in copies:
        # Other copies of the same part would count it several times.
        if shard.replica_id == 0:
            total += _part(np.asarray(shard.data), shard.index, shape)
    return total & 0xFFFFFFFF


def _part(found: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Returns the checksum of one part of an array that is split by rows or by columns.

    Args:
      found: the part.
      index: the slices of the whole array that the part covers.
      shape: the shape of the whole array without padding.
    """
    if not shape:
        return _sum(found, 0, 0)
    row, width = index[0].start or 0, math.prod(shape[1:])
    # Rows behind the saved shape are padding, which depends on the number of devices.
    found = found[: max(0, shape[0] - row)]
    if found.shape[1:] == shape[1:]:
        return _sum(found, row * width, 0)
    first = row * width + index[1].start * math.prod(shape[2:])
    return _sum(found.reshape(len(found), -1), first, width)


def _sum(array: np.ndarray, first: int, width: int) -> int:
    """Returns the checksum of a part of an array.

    Args:
      array: the part.
      first: position of its first element in the whole, flattened array.
      width: distance in elements between the starts of two rows of the part, in the whole array; 0
        if each row begins at the end of the previous row.
    """
    bits = 8 * min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(len(array) if width else -1, -1 if width else 1)
    # The bits are summed and not the values, because -0.0 and 0.0, or two NaNs, may differ in bits.
    words = words.view(f"uint{bits}")
    scale = 8 * array.dtype.itemsize // bits
    first, width = first * scale, width * scale or words.shape[1]
    rows = max(1, _BLOCK // words.shape[1])
    places = np.arange(rows)[:, None] * width + np.arange(words.shape[1])
    places = places.astype(np.uint32) * np.uint32(_FACTOR)
    total = 0
    for start in range(0, len(words), rows):
        block = words[start : start + rows]
        # Reduced modulo 2^32 as a Python number, since NumPy warns if a scalar overflows.
        before = np.uint32((first + start * width) * _FACTOR & 0xFFFFFFFF)
        mixed = places[: len(block)] + before
        mixed ^= block
        mixed *= np.uint32(_FACTOR)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(_SECOND_FACTOR)
        mixed ^= mixed >> np.uint32(13)
        # A block's sum of uint32 cannot overflow 64 bits. Python's total has no limit, and is
        # reduced modulo 2^32 at the end.
        total += int(mixed.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF
