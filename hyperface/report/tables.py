"""Formats tables of measured numbers as text, HTML or Markdown."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

SHORT = 28
"""Largest number of characters of a cell that is never broken into lines."""


class Table(NamedTuple):
    """A titled table of strings."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def percent(value: float, spread: float | None = None) -> str:
    """Formats a share in percent: 0.9912 as '99.12 %', or as '99.12 ± 0.21 %' with a spread."""
    shown = f"{100 * value:.2f}"
    return f"{shown} %" if spread is None else f"{shown} ± {100 * spread:.2f} %"


def as_text(table: Table) -> str:
    """Formats a table as aligned columns for a terminal."""
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


def as_html(table: Table) -> str:
    """Formats a table as HTML, with its title and note."""
    note = f"<p class='note'>{escape(table.note)}</p>" if table.note else ""
    return f"<h2>{escape(table.title)}</h2>{rows_as_html(table)}{note}"


def rows_as_html(table: Table) -> str:
    """Formats the rows alone as HTML; returns "" for a table without rows."""
    if not table.rows:
        return ""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = (" class='short'" if len(cell) <= SHORT else "" for cell in cells)
        shown = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return f"<table><thead>{row(table.header, 'th')}</thead><tbody>{body}</tbody></table>"


def as_markdown(table: Table) -> str:
    """Formats the rows as a Markdown table, without title and note.

    Example:
      >>> print(as_markdown(Table("", ("", "accuracy"), [("softmax", "98.28 %")])))
      |  | accuracy |
      |---|---|
      | softmax | 98.28 % |
    """
    lines = [table.header, *table.rows]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|---" * len(table.header) + "|", *shown[1:]])
