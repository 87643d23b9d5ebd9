"""Finds protocols by name, and scores features by them."""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from hyperface import protocols
from hyperface.errors import unknown_name
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import Result


def _discovered() -> Iterator[Protocol]:
    """Yields the protocols of every module of this package that lists some in `PROTOCOLS`."""
    for module in pkgutil.iter_modules(protocols.__path__):
        # The registry itself is being imported, and has no `PROTOCOLS` yet.
        if module.name != "registry":
            found = import_module(f"{protocols.__name__}.{module.name}")
            # Other modules have readers and rules only.
            yield from getattr(found, "PROTOCOLS", ())


PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _discovered()}
"""All protocols by name. To add one, add a module with its own `PROTOCOLS` to this package."""


def find(name: str) -> Protocol:
    """Returns the protocol of this name, such as "lfw".

    Raises:
      InputError: no protocol has this name. The message suggests the nearest name.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, list(PROTOCOLS))
    return PROTOCOLS[name]


def takers(option: str) -> list[str]:
    """Returns the sorted names of the protocols that accept a command-line option.

    Args:
      option: name of the option with underscores and without dashes, such as "template_rule".
    """
    return sorted(protocol.name for protocol in PROTOCOLS.values() if option in protocol.options)


def score(
    name: str,
    features: NamedFeatures,
    folder: Path,
    settings: Settings = Settings(),  # noqa: B008  Frozen.
) -> Result:
    """Scores features by the protocol of this name.

    Args:
      name: name of the protocol.
      features: the features of at least the images that the protocol compares.
      folder: the folder of protocol files, in which the protocol's lists have fixed paths, such as
        `lfw/pairs.txt`.
      settings: the options; those that do not apply to the protocol are ignored.

    Raises:
      InputError: the protocol is unknown, a file is missing or damaged, an image has no feature, or
        the features cannot be scored.
    """
    protocol = find(name)
    return protocol.score(features, protocol.files(folder, settings), settings)
