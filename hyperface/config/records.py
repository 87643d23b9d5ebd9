"""Converts experiments to plain JSON values and back, with a text in place of each object.

A user's backbone or loss is an object that cannot be written to JSON, so its record is the text of
`describe(object)`. To read such an experiment, the experiment file is run again. It builds the
objects anew, and each must have the recorded text.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from hyperface.errors import InputError

OBJECT = {"object": True, "rare": True}
"""Metadata of a dataclass field that contains a user's object, such as a backbone."""
RARE = {"rare": True}
"""Metadata of a dataclass field that is recorded only if it differs from its default."""


def describe(value: Any) -> str:
    """Returns a text that describes a user's object (a network, loss or function), for records.

    The text contains the module and the name of the object's class or function, and its settings.
    Objects of one class with equal settings have the same text in every process. The text does not
    depend on the code: two versions of a function with the same name have the same text.

    Example:
      >>> describe(functools.partial(max, default=0))
      'partial(builtins.max, default=0)'
    """
    if isinstance(value, functools.partial):
        settings = [*map(describe, (value.func, *value.args)), *_settings(value.keywords)]
        return f"partial({', '.join(settings)})"
    if hasattr(value, "__qualname__"):  # A class or a function.
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        settings = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        # A flax module also has the fields of its place in another module, which are no settings.
        if hasattr(value, "apply"):
            settings = {k: v for k, v in settings.items() if k not in ("parent", "name")}
        return f"{describe(type(value))}({', '.join(_settings(settings))})"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(_settings(value))}}}"
    # The usual repr contains the object's address, which differs between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _settings(values: Mapping[str, Any]) -> list[str]:
    """Returns "name=description" for each value."""
    return [f"{name}={describe(value)}" for name, value in values.items()]


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as nested dictionaries, lists, numbers and texts, for JSON.

    Args:
      config: an instance of a dataclass, whose fields may be such instances too. A user's object,
        such as a network, becomes the text that `describe` returns. Rarely used fields that have
        their default value are left out.
    """
    # A rare field with its default value is left out; `from_dict` then takes the default.
    return {
        f.name: _plain(getattr(config, f.name), f)
        for f in dataclasses.fields(config)
        if not f.metadata.get("rare") or getattr(config, f.name) != _default(f)
    }


def _default(field: dataclasses.Field) -> Any:
    """Returns the default value of a field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any, field: dataclasses.Field) -> Any:
    """Returns the value of a field in the form for JSON."""
    if field.metadata.get("object"):
        return None if value is None else describe(value)
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item, field) for item in value] if isinstance(value, tuple) else value


def from_dict(cls: Any, values: Mapping[str, Any]) -> Any:
    """Returns the configuration that `to_dict` converted to dictionaries.

    In place of a user's objects, such as a network, the result contains the texts that describe
    them. `with_objects` replaces these texts by the objects.

    Args:
      cls: the dataclass of the configuration.
      values: the dictionary that `to_dict` returned.

    Raises:
      TypeError: `values` lacks a field of `cls` that has no default, or has a field that `cls`
        lacks.
    """
    kinds, fields = get_type_hints(cls), {}
    for name, value in values.items():
        kind = kinds.get(name)
        if isinstance(value, dict):
            if not dataclasses.is_dataclass(kind):
                raise TypeError(f"unknown field {name!r} of {cls.__name__}")
            value = from_dict(kind, value)
        elif isinstance(value, list):
            # JSON has no tuples. A tuple of configurations is annotated as tuple[Config, ...].
            item = get_args(kind)[0] if get_origin(kind) is tuple else None
            is_config = dataclasses.is_dataclass(item)
            value = tuple(from_dict(item, one) if is_config else one for one in value)
        fields[name] = value
    return cls(**fields)


def with_objects(found: Any, given: Any, where: str = "") -> Any:
    """Returns a recorded configuration with a user's objects in place of their descriptions.

    A record is JSON, so a user's network or loss is stored only as a text that describes it.

    Args:
      found: the recorded configuration, as `from_dict` returned it, with texts.
      given: the configuration of the user's file, from which the objects are taken; None if there
        is no such file. If the record describes an object, None is an error.
      where: path of the configuration within the experiment, such as "loss.", for messages; "" for
        the experiment itself.

    Raises:
      InputError: `given` has no object in a field, or one whose description is not the recorded
        text. The message names the field.
    """
    changes = {}
    for f in dataclasses.fields(found):
        value, other = getattr(found, f.name), getattr(given, f.name, None)
        name = f"{where}{f.name}"
        if f.metadata.get("object"):
            if isinstance(value, str):
                changes[f.name] = _checked(name, value, other)
        elif dataclasses.is_dataclass(value):
            changes[f.name] = with_objects(value, other, f"{name}.")
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            # Padded, in case the user's file has fewer losses than the record.
            others = (*(other or ()), *(None for _ in value))
            changes[f.name] = tuple(
                with_objects(item, others[i], f"{name}.{i}.") for i, item in enumerate(value)
            )
    return dataclasses.replace(found, **changes)


def _checked(name: str, text: str, given: Callable | None) -> Callable:
    """Returns the object of the user's file if its description is the recorded text.

    Args:
      name: name of the field, for messages.
      text: the recorded description.
      given: the object; None if the file has none.

    Raises:
      InputError: there is no object, or its description is another text.
    """
    found = "none" if given is None else describe(given)
    if given is None or found != text:
        raise InputError(
            f"{name}: expected the object {text} that the run was trained with, found {found}. "
            "Only the experiment file of the run can make it."
        )
    return given
