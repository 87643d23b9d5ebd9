"""One self-contained HTML file: tables and pictures, nothing fetched."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from hyperface.files import replace_text
from hyperface.report.tables import Table, as_html

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead tr { border-bottom: 2px solid #888; } tbody tr { border-bottom: 1px solid #ddd; }
.note { color: #555; font-size: .9rem; max-width: 50rem; white-space: pre-line; }
img { max-width: 100%; }
details pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }
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
    """Writes the report, replacing an older one in one step.

    Args:
      path: the HTML file.
      title: the heading.
      summary: a paragraph under it.
      tables: in order.
      pictures: caption -> PNG file, embedded in the page.
      settings: the experiment and versions as JSON, shown folded.
    """
    images = "".join(
        f"<h2>{escape(caption)}</h2><img alt='{escape(caption)}' src='data:image/png;base64,"
        f"{base64.b64encode(picture.read_bytes()).decode()}'>"
        for caption, picture in pictures.items()
    )
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(summary)}</p>"
        f"{''.join(map(as_html, tables))}{images}"
        f"<details><summary>Settings and versions</summary><pre>{escape(settings)}</pre></details>"
        "</body></html>\n"
    )
    replace_text(path, page)
