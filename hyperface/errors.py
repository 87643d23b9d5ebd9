"""The one exception that commands show as a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what was expected and found."""


def unknown_name(kind: str, found: str, known: Iterable[str]) -> InputError:
    """An InputError for a name that is not known, with the nearest valid one."""
    known = sorted(known)
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {found!r}.{hint} Known: {', '.join(known)}.")
