"""An item's section of the report: published beside measured, or why it was not run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from hyperface.report.html import Section
from hyperface.report.tables import Table
from launch.papers.item import HOLDS, Entry, Item, Outcome

NOT_RUN = "not run"
SMALL = 1e-4
"""Figures below it are written with an exponent."""


class Shown(NamedTuple):
    """An item with what there is of it."""

    item: Item
    outcome: Outcome | None
    folder: Path
    command: str
    reason: str = ""
    """Why nothing, or not everything, was measured."""


def section(shown: Shown, printed: Mapping[str, Any]) -> Section:
    """The section of one item.

    Args:
      shown: the item and its outcome.
      printed: the item as `published.toml` has it, {} where the paper prints no figure of it.
    """
    item, outcome = shown.item, shown.outcome
    notes = [f"Run: {outcome.scale}."] if outcome and outcome.entries else []
    missing = dict.fromkeys(outcome.missing.values()) if outcome else {}
    reasons = [shown.reason] if shown.reason else [f"{reason}." for reason in missing]
    notes += [f"Not run: {' '.join(reasons)}"] if reasons else []
    notes += [printed["note"]] if "note" in printed else []
    table = Table(f"{item.place}: {item.title}", *_table(outcome, printed), "\n".join(notes))
    pictures = outcome.pictures if outcome else {}
    paths = {caption: shown.folder / name for caption, name in pictures.items()}
    return Section(table, paths, shown.command)


def shown_entry(entry: Entry) -> str:
    """A measured figure: '98.66 ± 0.050 %', 'yes', 'yes in 2 of 3, by 0.20 ± 0.310 %'."""
    if entry.unit == HOLDS:
        count, seeds = int(sum(entry.values)), len(entry.values)
        by = f", by {_number(entry.by, entry.digits)} %" if entry.by else ""
        if 0 < count < seeds:
            return f"yes in {count} of {seeds}{by}"
        return f"{'yes' if count else 'no'}{by}"
    return f"{_number(entry.values, entry.digits, entry.spread)} {entry.unit}".strip()


def _number(values: Sequence[float], digits: int, spread: float | None = None) -> str:
    """The mean with the deviation of several, or the spread of a single one."""
    value, digits = mean(values), min(digits, 6)
    spread = stdev(values) if len(values) > 1 else spread
    text = f"{value:.1e}" if 0 < abs(value) < SMALL else f"{value:.{digits}f}"
    return text if spread is None else f"{text} ± {spread:.{digits + 1}f}"


def _table(outcome: Outcome | None, printed: Mapping[str, Any]) -> tuple[list[str], list[list]]:
    """Header and rows: printed rows in their order, then those that were measured beside."""
    rows = {row["row"]: row for row in printed.get("rows", ())}
    entries, notes = (outcome.entries, outcome.notes) if outcome else ([], {})
    measured = {(entry.row, entry.column): shown_entry(entry) for entry in entries}
    columns = list(dict.fromkeys([*printed.get("columns", [""]), *(e.column for e in entries)]))
    published = {
        (name, column): _with_unit(value, row.get("unit", printed.get("unit", "")))
        for name, row in rows.items()
        for column, value in zip(printed.get("columns", [""]), row["values"], strict=False)
    }
    in_print = [column for column in columns if any(place[1] == column for place in published)]
    header = [""]
    for column in columns:
        kinds = ("published", "measured") if column in in_print else ("",)
        header += [f"{column} {kind}".strip() or "measured" for kind in kinds]
    lines = []
    for name in dict.fromkeys([*rows, *(entry.row for entry in entries)]):
        line = [name]
        for column in columns:
            kind = {(name, c) for c in columns if (c in in_print) == (column in in_print)}
            expected = name in rows and _is_expected(rows[name], column in in_print)
            empty = NOT_RUN if expected and not kind & measured.keys() else ""
            found = measured.get((name, column), empty)
            line += [published.get((name, column), ""), found] if column in in_print else [found]
        line += [notes.get(name, "")] if notes else []
        lines.append([*line, _source(name, rows)] if rows else line)
    return [*header, *(["at small scale"] if notes else []), *(["source"] if rows else [])], lines


def _is_expected(row: Mapping[str, Any], at_full_scale: bool) -> bool:
    """Whether a row without a measured figure lacks one."""
    if not {"run", "small", "above"} & row.keys():
        return at_full_scale
    return ("run" if at_full_scale else "small") in row


def _source(name: str, rows: Mapping[str, Any]) -> str:
    if name not in rows:
        return ""
    return rows[name].get("source", f"row {list(rows).index(name) + 1}")


def _with_unit(value: str, unit: str) -> str:
    return f"{value} {unit}".strip() if value and unit != HOLDS else value


def state(outcome: Outcome | None) -> str:
    """What there is of an item, in two words."""
    if outcome and outcome.entries:
        return f"{len(outcome.entries)} figures"
    return "drawn" if outcome and outcome.pictures else NOT_RUN


def summary(shown: Sequence[Shown], *, shortened: bool = False) -> str:
    """How much of a paper was measured, and which of its statements did not hold.

    Args:
      shown: its items.
      shortened: whether training runs were, so that their figures mean little.
    """
    measured = [one for one in shown if one.outcome and one.outcome.entries]
    failed = [
        f"{', '.join(filter(None, [one.item.name, entry.column]))}: {entry.row} "
        f"({shown_entry(entry)})"
        for one in measured
        for entry in one.outcome.entries
        if entry.unit == HOLDS and sum(entry.values) < len(entry.values)
    ]
    text = f"{len(measured)} of {len(shown)} items have measured figures."
    if shortened:
        text += "\nTraining was cut short: its figures show that all works, not what it scores."
    if failed:
        text += "\nStatements that did not hold here: " + "; ".join(failed) + "."
    return text
