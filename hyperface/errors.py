"""The exceptions that commands show as a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what was expected and found."""


class MissingExtra(ModuleNotFoundError):
    """A part of the package needs an optional dependency that is not installed."""


def expect(condition: object, name: str, expected: str, found: object) -> None:
    """Refuses a setting unless the condition holds.

    Raises:
      InputError: naming the setting, what was expected and what was found.
    """
    if not condition:
        raise InputError(f"{name}: expected {expected}, found {found}.")


def unknown_name(kind: str, found: str, known: Iterable[str]) -> InputError:
    """Returns the InputError for an unknown name, with the nearest known name in its message."""
    known = sorted(known)
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {found!r}.{hint} Known: {', '.join(known)}.")
