"""Short help of a command with many options: those that people use most, and where the rest is."""

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro


def print_short_help(
    kind: type, default: Any, names: Collection[str], *, prog: str, description: str
) -> None:
    """Prints the help of some options of a command.

    Args:
      kind: dataclass of the command's options.
      default: an instance with the defaults; None for those of the dataclass.
      names: the options, by the dotted names of their fields as the command line has them.
      prog: name of the command.
      description: description of the command.
    """
    shown, default = _with_hidden_options(kind, default, names)
    try:
        tyro.cli(
            shown,
            default=tyro.MISSING_NONPROP if default is None else default,
            args=["--help"],
            prog=prog,
            description=description,
        )
    except SystemExit:  # Help ends the program, and there is one more line.
        print(f"These are the options that are used most. All of them: {prog} --help-all")


def _with_hidden_options(
    kind: type, default: Any, names: Collection[str], prefix: str = ""
) -> tuple[type, Any]:
    """Returns a subclass with all other options suppressed, and its instance of the same values.

    tyro takes the help of a field from the source of the class that defines it, and so from the
    base class.
    """
    fields, values = [], {}
    for f, hint, bare in _fields(kind):
        value = None if default is None else getattr(default, f.name)
        name = _dotted(prefix, f.name, hint)
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            bare, value = _with_hidden_options(bare, value, names, name)
            marks = getattr(hint, "__metadata__", ())
            hint = Annotated[(bare, *marks)] if marks else bare
        elif name not in names:
            hint = tyro.conf.Suppress[hint]
        copied = {"default": f.default, "default_factory": f.default_factory, "kw_only": f.kw_only}
        fields.append((f.name, hint, dataclasses.field(**copied)))
        values[f.name] = value
    shown = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    return shown, None if default is None else shown(**values)


def _fields(kind: type) -> list[tuple[dataclasses.Field, Any, Any]]:
    """Returns the fields of a dataclass, each with its type, with and without annotations."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        (f, hints[f.name], get_args(hint)[0] if get_origin(hint) is Annotated else hint)
        for f in dataclasses.fields(kind)
        for hint in (hints[f.name],)
    ]


def _dotted(prefix: str, name: str, hint: Any) -> str:
    """Returns the name of an option; a field that is annotated with the name "" adds none."""
    if any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ())):
        return prefix
    return f"{prefix}.{name}" if prefix else name
