"""Keeps the values that `docs/results` shows in `measured.json`, and writes those pages' tables.

Runs and reports stay out of the repository. These few values are committed with the pages, so that
a test can compare both and nobody types a value by hand.
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
        "untrained",
        "table-2",
        "from-scratch",
        "table-3",
        "table-4",
        "table-5",
    ),
    "ringloss": ("figure-1", "table-1", "table-2", "from-scratch", "figure-8"),
}
"""Paper -> the items whose tables are on its page."""


def keep(paper: str, shown: Sequence[Shown]) -> None:
    """Writes the outcomes of the paper's shown items to `measured.json`; other items stay there."""
    measured = {
        one.item.name: one.outcome
        for one in shown
        if one.item.name in SHOWN[paper] and one.outcome and one.outcome.entries
    }
    found = {
        name: {
            "command": _command(paper, name, outcome),
            # Reasons with folders of this machine, and pictures, are of no use to other readers.
            **to_record(dataclasses.replace(outcome, missing={}, pictures={})),
        }
        for name, outcome in measured.items()
    }
    kept = read()
    kept[paper] = kept.get(paper, {}) | found
    whole = {
        name: {item: kept[name][item] for item in SHOWN[name] if item in kept.get(name, {})}
        for name in PAPERS
    }
    replace_text(KEPT, as_json(whole))


def as_json(kept: Mapping[str, Any]) -> str:
    """Formats the kept values with one line per entry, so that changes are easy to review."""
    entries: list[str] = []

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
    """Returns the command that measures an item, with the default folders."""
    seeds = max(len(entry.values) for entry in outcome.entries)
    several = f" --seeds {seeds}" if seeds > 1 else ""
    return f"hyperface reproduce {paper} --only {name}{several}"


def read() -> dict[str, Any]:
    """Reads paper -> item -> outcome; returns {} if nothing was kept."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def tables(paper: str) -> str:
    """Formats the tables of a paper's page as Markdown."""
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
    """Removes the places in the paper, and rows and columns in which nothing was measured."""
    places = [place for place, name in enumerate(table.header) if "published" not in name]
    texts = {SOURCE_COLUMN, RUN_COLUMN}
    figures = [place for place in places[1:] if table.header[place] not in texts]
    empty = {"", NOT_RUN}
    rows = [row for row in table.rows if {row[place] for place in figures} - empty]
    columns = [
        place
        for place, name in enumerate(table.header)
        if name != SOURCE_COLUMN and (place == 0 or {row[place] for row in rows} - empty)
    ]
    kept = [[row[place] for place in columns] for row in rows]
    return table._replace(header=[table.header[place] for place in columns], rows=kept)


def write(paper: str, path: Path) -> None:
    """Writes a paper's tables between its two markers of a file.

    Raises:
      InputError: the file has no such markers, or cannot be read.
    """
    first, last = f"<!-- measured: {paper} -->", f"<!-- end: {paper} -->"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"--page: expected a file, found: {error}.") from None
    between = re.compile(f"({first}\n).*?({last})", re.DOTALL)
    if not between.search(text):
        raise InputError(f"--page: expected {first} and {last} in {path}, found neither or one.")
    made = tables(paper)
    block = f"{made}\n" if made else ""
    replace_text(path, between.sub(lambda found: found[1] + block + found[2], text))
