"""Why a checkpoint could not be read: damage, which sets it aside, or what a later try may mend."""

import json
import re
from collections.abc import Iterator

from hyperface.errors import InputError


class CorruptCheckpoint(InputError):
    """A checkpoint of which files are missing or cut short, or whose numbers changed."""


class UnreadableCheckpoint(InputError):
    """A checkpoint that may be sound: memory, the disk, the network or a permission failed."""


class Changed(ValueError):
    """What was read is not what was saved."""


_OF_CONTENT = ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""TensorStore's codes for files that are missing, cut short or of other content."""
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def is_damage(error: BaseException) -> bool:
    """Whether an error says that a checkpoint's files are missing, cut short or changed.

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
    if isinstance(error, _MISSING):
        return True
    code = re.match(r"([A-Z_]{4,}): ", str(error))
    if code is not None and not isinstance(error, json.JSONDecodeError):
        return code[1] in _OF_CONTENT
    return isinstance(error, ValueError | LookupError | TypeError | AttributeError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def reason(error: Exception) -> str:
    """The end of the first line: TensorStore starts with a page of paths."""
    first = str(error).strip().partition("\n")[0]
    return first.rsplit(": ", 1)[-1][:200] or type(error).__name__
