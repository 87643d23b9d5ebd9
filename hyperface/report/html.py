"""Writes one self-contained HTML file with tables and pictures, which loads nothing else."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from hyperface import owned
from hyperface.report.tables import Table, as_html, rows_as_html

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; min-width: 11rem; }
.short { white-space: nowrap; }
thead tr { border-bottom: 2px solid #888; } tbody tr { border-bottom: 1px solid #ddd; }
.note { color: #555; font-size: .9rem; max-width: 50rem; white-space: pre-line; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: 1rem; font-size: .85rem; white-space: pre-wrap; }
details { margin-top: .8rem; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #16181c; } a { color: #8ab4f8; }
  .note, figcaption { color: #aaa; } pre { background: #22252b; }
  tbody tr { border-color: #33363c; } img { border-radius: 4px; }
}
"""


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    tables: Sequence[Table],
    pictures: Mapping[str, Path],
    settings: str,
) -> None:
    """Writes the report; an older report is replaced in one step.

    Args:
      path: the HTML file.
      title: the heading.
      summary: a paragraph under the heading.
      tables: in the order of the page.
      pictures: caption -> PNG file, embedded in the page.
      settings: the experiment and versions as JSON, shown folded.
    """
    images = "".join(
        f"<h2>{escape(caption)}</h2>{_image(caption, picture)}"
        for caption, picture in pictures.items()
    )
    body = (
        f"<p>{escape(summary)}</p>{''.join(map(as_html, tables))}{images}"
        f"{_folded('Settings and versions', f'<pre>{escape(settings)}</pre>')}"
    )
    _write(path, title, body)


class Section(NamedTuple):
    """A section of a page: title, text, table and pictures of one item of a paper."""

    table: Table
    """The table's title is the heading of the section; its note stands below the heading."""
    pictures: Mapping[str, Path] = {}
    """Caption -> PNG file."""
    folded: Mapping[str, str] = {}
    """Title -> text, shown as blocks that the reader opens by a click on the title."""


def write_sections(path: Path, *, title: str, summary: str, sections: Sequence[Section]) -> None:
    """Writes a page: links to all sections, then the sections. An older page is replaced at once.

    Args:
      path: the HTML file.
      title: the heading.
      summary: lines under the heading.
      sections: in the order of the page.
    """
    links = "".join(
        f"<li><a href='#{number}'>{escape(section.table.title)}</a></li>"
        for number, section in enumerate(sections, 1)
    )
    body = "".join(_section(number, *section) for number, section in enumerate(sections, 1))
    about = f"<p class='note'>{escape(summary)}</p>"
    _write(path, title, f"{about}{_folded('Contents', f'<ul>{links}</ul>')}{body}")


def _section(
    number: int, table: Table, pictures: Mapping[str, Path], folded: Mapping[str, str]
) -> str:
    drawn = "".join(
        f"<figure>{_image(caption, picture)}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in pictures.items()
    )
    texts = "".join(_folded(name, f"<pre>{escape(text)}</pre>") for name, text in folded.items())
    note = f"<p class='note'>{escape(table.note)}</p>" if table.note else ""
    head = f"<h2 id='{number}'>{escape(table.title)}</h2>"
    return f"{head}{note}{rows_as_html(table)}{drawn}{texts}"


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _image(caption: str, picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return f"<img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"


def _write(path: Path, title: str, body: str) -> None:
    owned.write_text(
        path,
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n",
    )
