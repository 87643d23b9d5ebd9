"""Writes one self-contained HTML page of tables, pictures and pairs, which loads nothing else."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from hyperface import owned
from hyperface.data.images import size_and_resolution
from hyperface.report.page_style import POLICY, SCRIPT, STYLE
from hyperface.report.tables import Table

SHORT = 28
"""Largest number of characters of a cell that is never broken into lines."""
FEW_SECTIONS = 3
"""Number of sections above which a page has a table of contents."""
LONG_CONTENTS = 12
"""Number of entries above which a table of contents is folded."""
PIXELS_PER_INCH = 96
"""CSS pixels per inch of a picture."""
ONE_PANEL = 520
"""Width in CSS pixels above which a picture scrolls in its own box on a phone."""
FACE = 224
"""Largest side of an embedded face in pixels, which is twice its size on the page."""
_NUMBER = re.compile(r"[-+(<>≤≥]?\d")
"""Start of a cell that is a number, which may have a sign, a bracket or a comparison before it."""
LINKS_BEGIN, LINKS_END = "<!--links-->", "<!--/links-->"
"""Marks around the links of a page. Texts from outside are escaped, so none can contain them."""


class Link(NamedTuple):
    """A link to another page or to a file."""

    text: str
    """Text of the link."""
    target: Path
    """Path of the page or file."""


class FacePair(NamedTuple):
    """Two faces side by side on a page, with lines of text below them."""

    images: tuple[np.ndarray, np.ndarray]
    """Pixels of the two faces, [height, width, 1 or 3] uint8 each, of any sizes. A page shows them
    with at most 224 pixels per side."""
    lines: Sequence[str]
    """Lines of text below both faces."""


class Section(NamedTuple):
    """A section of a page. A section without any content is left out."""

    title: str
    """Heading of the section."""
    tables: Sequence[Table] = ()
    """Tables, each with its note below. A table with the same title as the section is shown without
    a heading of its own."""
    pictures: Mapping[str, Path] = {}
    """Caption -> path of a PNG file, whose content is copied into the HTML text."""
    pairs: Mapping[str, Sequence[FacePair]] = {}
    """Caption -> pairs of faces."""
    folded: Mapping[str, str] = {}
    """Title -> text. Only the title is shown until the reader clicks on it."""
    links: Sequence[Link] = ()
    """Links that are shown below the section. A section with links alone counts as empty."""

    @property
    def is_empty(self) -> bool:
        """Whether the section has no table rows, notes, pictures, pairs or folded texts."""
        # Links alone are no content.
        some = (table.rows or table.note for table in self.tables)
        return not (any(some) or self.pictures or any(self.pairs.values()) or self.folded)


class Page(NamedTuple):
    """The content of an HTML page, which `write_page` writes."""

    title: str
    """Heading of the page, and title of the browser's window."""
    summary: str
    """Text under the heading, which may have several lines."""
    sections: Sequence[Section]
    """Sections from top to bottom. Those without content are left out."""
    command: str = ""
    """The command that wrote the page, which the page shows; "" for a page written from Python."""
    links: Sequence[Link] = ()
    """Links to other pages and files, which must exist. The page has relative paths, so that the
    folder that contains the page and these files can be moved."""


def write_page(path: Path, page: Page) -> None:
    """Writes a page as one HTML file that contains its pictures, and loads nothing else.

    Args:
      path: path of the file. An older page is replaced in one step.
      page: the content. Its picture files must exist.
    """
    # Before the sections are numbered, since the contents link to the numbers.
    shown = [section for section in page.sections if not section.is_empty]
    folder = path.parent
    # A line of the command breaks between words and not behind the "--" of an option.
    words = " ".join(f"<span>{escape(word)}</span>" for word in page.command.split(" "))
    command = f"<pre class='command'>{words}</pre>" if page.command else ""
    body = "".join(
        (
            f"<h1>{escape(page.title)}</h1>{command}",
            f"<p class='summary'>{escape(page.summary)}</p>",
            f"{LINKS_BEGIN}{_links(page.links, folder)}{LINKS_END}",
            _contents(shown) if len(shown) > FEW_SECTIONS else "",
            *(_section(number, section, folder) for number, section in enumerate(shown, 1)),
        )
    )
    sortable = any(table.sortable for section in shown for table in section.tables)
    # Only where it is needed, so that other pages run no script at all.
    script = f"<script>{SCRIPT}</script>" if sortable else ""
    owned.write_text(
        path,
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head>"
        f"<body>{body}{script}</body></html>\n",
    )


def replace_links(path: Path, links: Sequence[Link]) -> None:
    """Replaces the links under the heading of a page that `write_page` wrote.

    The rest of the page stays as it is. `write_page` marks these links by two HTML comments; a file
    without these comments is not changed.

    Args:
      path: the page, which must exist.
      links: the new links.
    """
    text = path.read_text("utf-8")
    before, begin, rest = text.partition(LINKS_BEGIN)
    _, end, after = rest.partition(LINKS_END)
    if begin and end:
        shown = _links(links, path.parent)
        owned.write_text(path, f"{before}{begin}{shown}{end}{after}")


def href(target: Path, folder: Path) -> str:
    """Returns the relative address of a file as text for an HTML attribute in single quotes.

    Args:
      target: the file.
      folder: the folder of the page that links to the file.
    """
    # The same text with "/" on every system, and with "#", "%" and "?" of folder names as %..
    return escape(quote(Path(os.path.relpath(target, folder)).as_posix()))


def _links(links: Sequence[Link], folder: Path) -> str:
    shown = (f"<a href='{href(link.target, folder)}'>{escape(link.text)}</a>" for link in links)
    return f"<nav class='links'>{' '.join(shown)}</nav>" if links else ""


def _contents(sections: Sequence[Section]) -> str:
    entries = "".join(
        f"<li><a href='#{number}'>{escape(section.title)}</a></li>"
        for number, section in enumerate(sections, 1)
    )
    is_open = "" if len(sections) > LONG_CONTENTS else " open"
    head = f"<details class='contents'{is_open}><summary>Contents</summary>"
    return f"{head}<ol>{entries}</ol></details>"


def _section(number: int, section: Section, folder: Path) -> str:
    tables = (_table(table, section.title, folder) for table in section.tables)
    pictures = "".join(_picture(*picture) for picture in section.pictures.items())
    pairs = (_pairs(*named) for named in section.pairs.items() if named[1])
    folded = (_folded(*text) for text in section.folded.items())
    drawn = f"<div class='pictures'>{pictures}</div>" if pictures else ""
    head = f"<h2 id='{number}'>{escape(section.title)}</h2>"
    links = _links(section.links, folder)
    return f"<section>{head}{''.join((*tables, drawn, *pairs, *folded, links))}</section>"


def _table(table: Table, title: str, folder: Path) -> str:
    head = "" if table.title == title else f"<h3>{escape(table.title)}</h3>"
    note = f"<p class='note'>{escape(table.note)}</p>" if table.note else ""
    if not table.rows:
        return f"{head}{note}" if note else ""
    texts = [_is_text(column) for column in zip(*table.rows, strict=True)]
    heads = "".join(_cell("th", *cell) for cell in zip(table.header, texts, strict=True))
    rows = "".join(_row(table, place, texts, folder) for place in range(len(table.rows)))
    kind = " class='sortable'" if table.sortable else ""
    return (
        f"{head}<div class='scroll'><table{kind}><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _is_text(column: Sequence[str]) -> bool:
    """Returns whether no cell of a column is a number. Such columns are aligned at the left."""
    return not any(_NUMBER.match(cell) for cell in column)


def _row(table: Table, place: int, texts: Sequence[bool], folder: Path) -> str:
    first, *others = table.rows[place]
    target = table.links[place] if table.links else None
    shown = escape(first)
    if target is not None:
        shown = f"<a href='{href(target, folder)}'>{shown}</a>"
    is_best = place == table.best
    mark = " <strong>best</strong>" if is_best else ""
    cells = [_cell("td", first, texts[0], f"{shown}{mark}")]
    cells += [_cell("td", *cell) for cell in zip(others, texts[1:], strict=True)]
    return f"<tr{' class=best' if is_best else ''}>{''.join(cells)}</tr>"


def _cell(tag: str, text: str, is_text: bool, shown: str | None = None) -> str:
    # The length of the text decides, without the markup of `shown`.
    kinds = " ".join(["short"] * (len(text) <= SHORT) + ["text"] * is_text)
    kind = f" class='{kinds}'" if kinds else ""
    return f"<{tag}{kind}>{escape(text) if shown is None else shown}</{tag}>"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _picture(caption: str, path: Path) -> str:
    data = path.read_bytes()
    width, height, resolution = size_and_resolution(data)
    # A picture without a resolution has one CSS pixel per pixel.
    scale = PIXELS_PER_INCH / (resolution or PIXELS_PER_INCH)
    across, down = round(width * scale), round(height * scale)
    kind = "wide" if across > ONE_PANEL else "panel"
    shown = _embedded(data, "png", caption, f" width='{across}' height='{down}'")
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure class='{kind}'><div class='scroll'>{shown}</div>{text}</figure>"


def _pairs(caption: str, pairs: Sequence[FacePair]) -> str:
    cards = "".join(_pair(pair) for pair in pairs)
    return f"<h3>{escape(caption)}</h3><div class='pairs'>{cards}</div>"


def _pair(pair: FacePair) -> str:
    faces = "".join(_face(pixels) for pixels in pair.images)
    lines = "<br>".join(map(escape, pair.lines))
    return f"<figure class='pair'>{faces}<figcaption>{lines}</figcaption></figure>"


def _face(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    # `thumbnail` makes images smaller, but never larger.
    image.thumbnail((FACE, FACE))
    data = io.BytesIO()
    # Without subsampling, which blurs the colours of images this small.
    image.convert("RGB").save(data, "JPEG", quality=92, subsampling=0)
    return _embedded(data.getvalue(), "jpeg", "")


def _embedded(data: bytes, kind: str, alt: str, size: str = "") -> str:
    text = base64.b64encode(data).decode()
    return f"<img alt='{escape(alt)}'{size} src='data:image/{kind};base64,{text}'>"
