"""Prints the short help of a command: its most used options, and the option that shows all."""

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro


def print_short_help(
    kind: type, default: Any, names: Collection[str], *, prog: str, description: str
) -> None:
    """Prints the help of a command's most used options, and how to see all of them.

    Args:
      kind: dataclass of the command's options.
      default: an instance with the default values; None for those of the dataclass.
      names: dotted names of the fields to show, such as "optimizer.learning_rate". All other
        options are hidden.
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
    """Returns a subclass of a dataclass in which tyro shows only some fields, with an instance.

    tyro reads the help of a field from the source of the class that defines it. For a subclass that
    is still the original class.

    Args:
      kind: the dataclass.
      default: an instance of it, whose values the new instance has; None gives no instance.
      names: dotted names of the fields that stay visible.
      prefix: dotted name of this dataclass among the options of the command.
    """
    fields, values = [], {}
    for f, hint, bare in _fields(kind):
        value = None if default is None else getattr(default, f.name)
        name = _dotted(prefix, f.name, hint)
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            bare, value = _with_hidden_options(bare, value, names, name)
            # The annotations stay: an empty name in them lifts the group's fields to the top level.
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
    """Returns (field, its annotated type, its type without annotations) for each field."""
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
