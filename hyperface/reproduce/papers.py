"""Lists the items of both papers in their order, with what the papers print of them.

`published.toml` contains the items and the published values, each with its place in the paper. The
functions that measure an item, and those that test its statements, are found by their names.
"""

import importlib
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from hyperface.errors import unknown_name
from hyperface.reproduce.item import Context, Item, Measured

TITLES = {
    "normface": "NormFace: L2 Hypersphere Embedding for Face Verification",
    "ringloss": "Ring loss: Convex Feature Normalization for Face Recognition",
}


@cache
def published() -> dict[str, Any]:
    """Reads `published.toml`: items and values by paper, and the commands of the tables' rows."""
    return tomllib.loads(files("hyperface.reproduce").joinpath("published.toml").read_text("utf-8"))


def function(name: str) -> Callable[..., Any]:
    """Imports a function of this package by its module and name, such as "propositions.bound"."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"hyperface.reproduce.{module}"), attribute)


def measurement(item: Item) -> Callable[[Context], Measured]:
    """Imports and returns the function that measures an item."""
    return function(item.measure)


def _item(name: str, fields: Mapping[str, Any]) -> Item:
    values: dict[str, Any] = {}
    for key, value in fields.items():
        values[key] = tuple(value) if isinstance(value, list) else value
    if "statements" in values:
        values["statements"] = function(values["statements"])
    return Item(name, **values)


PAPERS: dict[str, tuple[Item, ...]] = {
    paper: tuple(_item(name, fields) for name, fields in listed.items())
    for paper, listed in published()["items"].items()
}


def items(paper: str, only: tuple[str, ...] = ()) -> list[Item]:
    """Returns the items of a paper in its order, or only the named items.

    Raises:
      InputError: the paper or item is unknown; the message has the nearest name.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    known = {item.name: item for item in PAPERS[paper]}
    for name in only:
        if name not in known:
            raise unknown_name(f"item of {paper}", name, known)
    return [item for name, item in known.items() if not only or name in only]
