"""Formats tables of measured numbers as text or Markdown; `html` formats them for pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TAR = "tar_at_far_"
"""Start of the recorded name of a true accept rate; the false accept rate follows."""


class Table(NamedTuple):
    """A table of formatted texts, which can be printed in a terminal or shown on an HTML page.

    `links`, `best` and `sortable` change HTML pages only.
    """

    title: str
    """Title above the table."""
    header: Sequence[str]
    """[columns] names of the columns."""
    rows: Sequence[Sequence[str]]
    """[rows][columns] texts of the cells; "" is an empty cell."""
    note: str = ""
    """Text below the table, which may have several lines; "" for none."""
    links: Sequence[Path | None] = ()
    """[rows] the file to which the first cell of each row is linked; None for a row without a link.
    () links no row at all."""
    best: int | None = None
    """Position, from 0, of the row that is marked as the best one; None marks no row."""
    sortable: bool = False
    """Whether the reader can sort the rows by a click on the head of a column."""


def percent(value: float, spread: float | None = None) -> str:
    """Formats a share in percent: 0.9912 as '99.12 %', or as '99.12 ± 0.21 %' with a spread."""
    shown = f"{100 * value:.2f}"
    return f"{shown} %" if spread is None else f"{shown} ± {100 * spread:.2f} %"


def score_title(name: str) -> str:
    """Returns the title that tables show for the name of a score in a JSON file of results.

    "tar_at_far_RATE" and "equal_error_rate" have the titles in the example. In other names each "_"
    becomes a blank.

    Example:
      >>> score_title("tar_at_far_0.001"), score_title("equal_error_rate")
      ('TAR at FAR 0.1 %', 'EER')
    """
    if name.startswith(TAR):
        return f"TAR at FAR {100 * float(name.removeprefix(TAR)):g} %"
    return "EER" if name == "equal_error_rate" else name.replace("_", " ")


def as_text(table: Table) -> str:
    """Formats a table with title and note for a terminal, as lines of aligned columns."""
    lines = [list(table.header), *map(list, table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    shown = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    ]
    rule = "-" * len(shown[0])
    return "\n".join([table.title, rule, shown[0], rule, *shown[1:], *filter(None, [table.note])])


def as_markdown(table: Table) -> str:
    """Formats the rows as a Markdown table, without title and note.

    Example:
      >>> print(as_markdown(Table("", ("", "accuracy"), [("softmax", "98.28 %")])))
      |  | accuracy |
      |---|---|
      | softmax | 98.28 % |
    """
    lines = [table.header, *table.rows]
    # A bar inside a cell would end the cell.
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|---" * len(table.header) + "|", *shown[1:]])
