"""The exceptions that commands show as a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The error of an input that cannot be used. Its message says what was expected and found."""


class MissingExtra(ModuleNotFoundError):
    """The error of a feature of the library that needs a package which is not installed.

    The message names the extra (the group of optional packages) to install, as in
    `pip install 'hyperface[train]'`.
    """


def expect(condition: object, name: str, expected: str, found: object) -> None:
    """Raises an error about a setting unless a condition holds.

    Args:
      condition: true if the setting is right.
      name: name of the setting.
      expected: description of the expected values.
      found: the setting's value.

    Raises:
      InputError: the condition is false. The message is "NAME: expected EXPECTED, found FOUND.",
        with the other three arguments.
    """
    if not condition:
        raise InputError(f"{name}: expected {expected}, found {found}.")


def unknown_name(kind: str, found: str, known: Iterable[str]) -> InputError:
    """Returns the InputError for an unknown name, for the caller to raise.

    Its message lists all known names, and proposes the most similar one if there is one.

    Args:
      kind: the kind of thing that has such names, such as "experiment".
      found: the unknown name.
      known: the names that exist.
    """
    known = sorted(known)
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {found!r}.{hint} Known: {', '.join(known)}.")
