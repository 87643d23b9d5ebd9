"""Reads `published.toml`: the items of both papers in their order, and the values that they print.

Each value has its place in the paper. The functions that measure an item and that test its
statements are named there, and are imported by these names.
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
    """Returns the content of `published.toml` as a dictionary with these keys:

    - "items": paper -> name of the item (figure, table, ...) -> the fields of its `Item`.
    - "normface" and "ringloss", the papers: name of the item -> a table. The table's "rows" have
      the printed values; its other entries are settings of the measurement.
    - "methods": name of a method (a set of training options) -> its entries. "train" has the
      options of hyperface train. A fine-tuned method also has "start", the name of the method whose
      run it starts from, or "weights", the name of a released network in "data". "shared" is True
      for a method with only one run, whatever the seed.
    - "small": name of an evaluation on small data sets -> its options, data set and protocol file.
    - "data": name of a data set or of a released network -> what it is, and how it is prepared.
      "file" is the path of a network in the data folder.
    """
    return tomllib.loads(files("hyperface.reproduce").joinpath("published.toml").read_text("utf-8"))


def function(name: str) -> Callable[..., Any]:
    """Imports a function of this package by its module and name, such as "propositions.bound"."""
    # At call time, because measurements load jax and matplotlib, which a list of items must not.
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"hyperface.reproduce.{module}"), attribute)


def measurement(item: Item) -> Callable[[Context], Measured]:
    """Imports and returns the function that measures an item.

    The function gets the folders and settings of `hyperface reproduce`, and returns (outcome,
    figures). `outcome` contains the measured values, and `figures` is a dictionary caption ->
    figure.

    Args:
      item: a figure, equation, ... of a paper, but no table of trained runs (`measure` "runs"). The
        scores of such a table are read by `runs.read` instead.
    """
    return function(item.measure)


def _item(name: str, fields: Mapping[str, Any]) -> Item:
    """Builds an item from its entry in `published.toml`."""
    values: dict[str, Any] = {}
    for key, value in fields.items():
        # TOML has lists where the fields of `Item` are tuples.
        values[key] = tuple(value) if isinstance(value, list) else value
    if "statements" in values:
        values["statements"] = function(values["statements"])
    return Item(name, **values)


PAPERS: dict[str, tuple[Item, ...]] = {
    paper: tuple(_item(name, fields) for name, fields in listed.items())
    for paper, listed in published()["items"].items()
}


def items(paper: str, only: tuple[str, ...] = ()) -> list[Item]:
    """Returns the items of a paper, in the order of the paper.

    Args:
      paper: "normface" or "ringloss".
      only: names of the items to return; () returns all.

    Raises:
      InputError: the paper or an item is unknown; the message proposes the most similar name.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    known = {item.name: item for item in PAPERS[paper]}
    # All names are checked first: an unknown one must not be found after hours of measuring.
    for name in only:
        if name not in known:
            raise unknown_name(f"item of {paper}", name, known)
    return [item for name, item in known.items() if not only or name in only]
