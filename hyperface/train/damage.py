"""Why a checkpoint could not be read: damage, which sets it aside, or what a later try may mend."""

import contextlib
import json
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from hyperface.errors import InputError


class CorruptCheckpoint(InputError):
    """A checkpoint of which files are missing or cut short, or whose numbers changed."""


class UnreadableCheckpoint(InputError):
    """A checkpoint that may be sound: memory, the disk, the network or a permission failed."""


class Changed(ValueError):
    """What was read is not what was saved."""


_OF_CONTENT = ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""TensorStore's codes for files that are missing, cut short or of other content."""
_MISSING = FileNotFoundError | IsADirectoryError | NotADirectoryError
_METADATA = "/orbax/checkpoint/_src/metadata/"
"""Where Orbax reads its own files; a key that is missing there is missing in them."""


def is_whole(folder: Path) -> bool:
    """Whether both parts of a checkpoint are in its folder."""
    return all((folder / item).is_dir() for item in ("state", "meta"))


@contextlib.contextmanager
def reading(folder: Path, advice: str = "") -> Iterator[None]:
    """A damaged checkpoint fails in Orbax, TensorStore or json, each in its own way.

    Args:
      folder: the checkpoint's, for the message.
      advice: what is said after the message of damage.

    Raises:
      CorruptCheckpoint: what was read within is missing, cut short or changed.
      UnreadableCheckpoint: it could not be read for another reason.
    """
    try:
        yield
    except Exception as error:
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
    """Whether an error says that a checkpoint's files are missing, cut short or changed.

    Any other, a mistake of the code or an Orbax that takes other arguments among them, says nothing
    of the files: it would set all checkpoints aside.

    Args:
      error: of Orbax, TensorStore, json or the system; what caused it counts too.

    Example:
      >>> is_damage(ValueError("DATA_LOSS: Error reading d/0")), is_damage(MemoryError())
      (True, False)
    """
    verdicts = {_of_content(found) for found in _chain(error)} - {None}
    return verdicts == {True}


def _of_content(error: BaseException) -> bool | None:
    """None where it alone does not tell."""
    if type(error) is Exception:  # Orbax's, around TensorStore's.
        return None
    if isinstance(error, Changed | json.JSONDecodeError | UnicodeDecodeError | _MISSING):
        return True
    code = _tensorstore_code(error)
    if code is not None:
        return code in _OF_CONTENT
    return isinstance(error, KeyError | ValueError) and _is_of_metadata(error)


def _tensorstore_code(error: BaseException) -> str | None:
    """XLA has the same codes, in errors of another type."""
    found = re.match(r"([A-Z_]{4,}): ", str(error)) if isinstance(error, ValueError) else None
    return found and found[1]


def _is_of_metadata(error: BaseException) -> bool:
    """Whether it was raised while Orbax took apart what it says of the arrays."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(_METADATA in frame.f_code.co_filename for frame, _ in frames)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def reason(error: BaseException) -> str:
    """What lies under an error, in a line: TensorStore starts with a page of paths.

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
    if _tensorstore_code(inner) is not None:
        first = first.rsplit(": ", 1)[-1]
        if "[" not in first:  # Of "[OS error 5: EIO Input/output error]".
            first = first.rstrip("]")
    return first[:200] or type(inner).__name__
