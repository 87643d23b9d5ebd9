"""Lists the items of both papers: propositions, equations, figures and tables, in their order.

Items are plain data; the functions that measure them are imported when they run. `published.toml`
contains the published values, each with its place in the paper.
"""

import importlib
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from hyperface.errors import unknown_name
from hyperface.reproduce.item import Context, Item, Measured
from hyperface.reproduce.normface import ITEMS as NORMFACE
from hyperface.reproduce.ringloss import ITEMS as RINGLOSS

PAPERS: dict[str, tuple[Item, ...]] = {"normface": NORMFACE, "ringloss": RINGLOSS}
TITLES = {
    "normface": "NormFace: L2 Hypersphere Embedding for Face Verification",
    "ringloss": "Ring loss: Convex Feature Normalization for Face Recognition",
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


@cache
def published() -> dict[str, Any]:
    """Reads `published.toml`: values by paper and item, and the commands of the tables' rows."""
    return tomllib.loads(files("hyperface.reproduce").joinpath("published.toml").read_text("utf-8"))


def measurement(item: Item) -> Callable[[Context], Measured]:
    """Imports and returns the function that measures an item."""
    module, function = item.measure.rsplit(".", 1)
    return getattr(importlib.import_module(f"hyperface.reproduce.{module}"), function)
