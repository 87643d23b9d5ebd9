"""Defines sections of a page whose figures are not saved yet, and saves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from hyperface.report.canvas import save
from hyperface.report.html import FacePair, Section
from hyperface.report.tables import Table


class Drawn(NamedTuple):
    """A matplotlib figure that is not saved to a file yet, with its caption."""

    caption: str
    """Text that is shown below the figure."""
    figure: Figure
    """The drawn figure."""


class Draft(NamedTuple):
    """A section of a page whose figures are not saved to files yet.

    A command can log the tables before anything is written, so that a full disk loses no result.
    """

    title: str
    """Heading of the section."""
    tables: Sequence[Table] = ()
    """Tables, which are shown first."""
    figures: Mapping[str, Drawn] = {}
    """File name without its suffix -> figure with its caption."""
    pairs: Mapping[str, Sequence[FacePair]] = {}
    """Caption -> pairs of faces, which are shown after the figures."""


def save_drafts(drafts: Sequence[Draft], folder: Path) -> list[Section]:
    """Writes the figures of all drafts as PNG files, and returns the sections of the page.

    Args:
      drafts: one draft per section; file names of figures must differ between drafts.
      folder: folder that receives the files.
    """
    sections = []
    for draft in drafts:
        paths = save({name: drawn.figure for name, drawn in draft.figures.items()}, folder)
        pictures = {drawn.caption: paths[name] for name, drawn in draft.figures.items()}
        sections.append(Section(draft.title, draft.tables, pictures, draft.pairs))
    return sections


def file_name(text: str) -> str:
    """Returns a text as a safe part of a file name.

    Each character that is not a letter, a digit, ".", "_" or "-" is replaced by "-".

    Example:
      >>> file_name("raw pixels")
      'raw-pixels'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)
