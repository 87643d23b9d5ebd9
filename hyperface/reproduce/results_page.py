"""Stores measured values in `measured.json`, and writes the tables of `docs/results` from them.

Runs and reports are not in the repository. These few values are committed with the pages, so that
a test can compare both, and no value is typed by hand.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperface.errors import InputError
from hyperface.files import replace_text
from hyperface.report.tables import Table, as_markdown
from hyperface.reproduce.item import Outcome, from_record, to_record
from hyperface.reproduce.page import NOT_RUN, RUN_COLUMN, SOURCE_COLUMN, Shown, judge, section
from hyperface.reproduce.papers import PAPERS, items, published

KEPT = Path(__file__).with_name("measured.json")
SHOWN = {
    "normface": (
        "scales",
        "convergence-faces",
        "untrained",
        "from-scratch-faces",
        "released-network",
        "table-2",
        "from-scratch",
        "table-3",
        "table-4",
        "table-5",
    ),
    "ringloss": (
        "figure-1",
        "from-scratch-faces",
        "table-1",
        "table-2",
        "from-scratch",
        "figure-8",
    ),
}
"""Paper -> the items whose tables are on its page."""


def keep(paper: str, shown: Sequence[Shown]) -> None:
    """Stores the measured values of a paper in `measured.json`, for the pages of `docs/results`.

    Only the items in `SHOWN`, which have a table on the paper's page, are stored. If an item was
    not measured in this call, its older values stay in the file.

    Args:
      paper: "normface" or "ringloss".
      shown: items of the paper with their outcomes.
    """
    measured = {
        one.item.name: one.outcome
        for one in shown
        if one.item.name in SHOWN[paper] and one.outcome and one.outcome.entries
    }
    found = {
        name: {
            "command": _command(paper, name, outcome),
            # The reasons contain folders of this machine, and the pictures are not committed.
            **to_record(dataclasses.replace(outcome, missing={}, pictures={})),
        }
        for name, outcome in measured.items()
    }
    kept = read()
    kept[paper] = kept.get(paper, {}) | found
    # In the order of SHOWN, so that the same values always give the same file.
    whole = {
        name: {item: kept[name][item] for item in SHOWN[name] if item in kept.get(name, {})}
        for name in PAPERS
    }
    replace_text(KEPT, as_json(whole))


def as_json(kept: Mapping[str, Any]) -> str:
    """Formats the stored values as JSON with one line per table cell, so that diffs are short.

    Args:
      kept: paper -> item -> record of its outcome, as `read` returns.
    """
    entries: list[str] = []

    # `json` cannot format parts of a value on one line, so each entry is replaced by a marker
    # first, and the markers by the formatted entries afterwards.
    def shortened(value: Any) -> Any:
        if isinstance(value, dict) and "row" in value:
            entries.append(json.dumps(value))
            return f"<entry {len(entries) - 1}>"
        if isinstance(value, dict):
            return {name: shortened(one) for name, one in value.items()}
        return [shortened(one) for one in value] if isinstance(value, list) else value

    text = json.dumps(shortened(kept), indent=1)
    return re.sub(r'"<entry (\d+)>"', lambda found: entries[int(found[1])], text) + "\n"


def _command(paper: str, name: str, outcome: Outcome) -> str:
    """Returns the command line that measures an item with the default folders."""
    seeds = max(len(entry.values) for entry in outcome.entries)
    several = f" --seeds {seeds}" if seeds > 1 else ""
    return f"hyperface reproduce {paper} --only {name}{several}"


def read() -> dict[str, Any]:
    """Reads the stored values from `measured.json`.

    Returns:
      Paper -> item -> record of its outcome, with the command that measures it. {} if there is no
      file.
    """
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def tables(paper: str) -> str:
    """Formats the stored values of a paper as Markdown: one table per item, with its command.

    Args:
      paper: "normface" or "ringloss".
    """
    parts, kept = [], read().get(paper, {})
    outcomes = {name: from_record(record) for name, record in kept.items()}
    verdicts = judge(outcomes)
    for name, record in kept.items():
        (item,), outcome = items(paper, (name,)), outcomes[name]
        one = Shown(item, outcome, Path(), record["command"])
        printed = published()[paper].get(name, {})
        (table,) = section(one, printed, verdicts).tables
        notes = [printed["note"]] if "note" in printed else []
        notes += [f"Run: {outcome.scale}."] if outcome.scale else []
        parts += [
            f"## {table.title}",
            f"`{record['command']}`",
            *notes,
            as_markdown(_shortened(table)),
        ]
    return "\n\n".join(parts)


def _shortened(table: Table) -> Table:
    """Removes the column of places in the paper, and rows and columns without a measured value."""
    own = [index for index, name in enumerate(table.header) if "published" not in name]
    texts = {SOURCE_COLUMN, RUN_COLUMN}
    measured = [index for index in own[1:] if table.header[index] not in texts]
    empty = {"", NOT_RUN}
    # Rows first: a column may have values only in rows that are removed.
    rows = [row for row in table.rows if {row[index] for index in measured} - empty]
    columns = [
        index
        for index, name in enumerate(table.header)
        if name != SOURCE_COLUMN and (index == 0 or {row[index] for row in rows} - empty)
    ]
    kept = [[row[index] for index in columns] for row in rows]
    return table._replace(header=[table.header[index] for index in columns], rows=kept)


def write(paper: str, path: Path) -> None:
    """Replaces the text between a paper's two markers in a file by the paper's tables.

    The markers are the lines "<!-- measured: PAPER -->" and "<!-- end: PAPER -->". The tables are
    those of the values in `measured.json`.

    Args:
      paper: "normface" or "ringloss".
      path: the Markdown file.

    Raises:
      InputError: the file cannot be read or lacks a marker.
    """
    first, last = f"<!-- measured: {paper} -->", f"<!-- end: {paper} -->"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"--page: expected a file, found: {error}.") from None
    between = re.compile(f"({first}\n).*?({last})", re.DOTALL)
    if not between.search(text):
        raise InputError(f"--page: expected {first} and {last} in {path}, found neither or one.")
    text_of_tables = tables(paper)
    block = f"{text_of_tables}\n" if text_of_tables else ""
    # A function as replacement: in a string, backslashes of the tables would be group references.
    replace_text(path, between.sub(lambda found: found[1] + block + found[2], text))
