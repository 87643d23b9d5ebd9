"""Defines sections of a page whose figures are not saved yet, and saves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from hyperface.report.canvas import save
from hyperface.report.html import FacePair, Section
from hyperface.report.tables import Table


class Drawn(NamedTuple):
    """A figure with its caption."""

    caption: str
    figure: Figure


class Draft(NamedTuple):
    """A section of a page whose figures are not saved yet.

    A command logs the tables first and writes afterwards, so that a full disk costs no result.
    """

    title: str
    tables: Sequence[Table] = ()
    figures: Mapping[str, Drawn] = {}
    """File name without its suffix -> figure with its caption."""
    pairs: Mapping[str, Sequence[FacePair]] = {}
    """Caption -> pairs of faces."""


def save_drafts(drafts: Sequence[Draft], folder: Path) -> list[Section]:
    """Writes the figures of all drafts into a folder and returns the sections of the page."""
    sections = []
    for draft in drafts:
        paths = save({name: drawn.figure for name, drawn in draft.figures.items()}, folder)
        pictures = {drawn.caption: paths[name] for name, drawn in draft.figures.items()}
        sections.append(Section(draft.title, draft.tables, pictures, draft.pairs))
    return sections


def file_name(text: str) -> str:
    """Returns a text with "-" in place of all but letters, digits, ".", "_" and "-".

    Example:
      >>> file_name("raw pixels")
      'raw-pixels'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)
