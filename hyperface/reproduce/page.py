"""Builds an item's section of the report: published beside measured values, or why none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from hyperface.report.html import Section
from hyperface.report.tables import Table
from hyperface.reproduce.item import HOLDS, RUNS, Entry, Item, Outcome

NOT_RUN, NOT_JUDGED = "not run", "not judged here"
RUN_COLUMN, SOURCE_COLUMN = "run", "source"
AGAINST = "the printed figures say otherwise"
HELD, FAILED, UNDECIDED = "yes", "no", "undecided"
_KINDS = ("measured as the paper has it", "at small scale or on other data", "drawn", NOT_RUN)
SMALL = 1e-4
"""Values below it are written with an exponent."""
READING = (
    "± is the standard deviation over seeds, of fine-tuned runs without that of the run they all "
    "start from; what the protocol gives of a single seed is in brackets. A statement that "
    "compares figures is decided where there are at least two seeds, all agree, and the mean "
    "difference is larger than its deviation. In brackets beside a published statement is the "
    "difference of the printed figures; beside a published figure, ± is the paper's own."
)


class Shown(NamedTuple):
    """An item with its outcome, and the command that measures it."""

    item: Item
    outcome: Outcome | None
    folder: Path
    command: str
    reason: str = ""
    """The reason why nothing, or not everything, was measured."""


def section(shown: Shown, printed: Mapping[str, Any]) -> Section:
    """Builds the section of one item.

    Args:
      shown: the item and its outcome.
      printed: the item as in `published.toml`; {} if the paper prints no value of it.
    """
    item, outcome = shown.item, shown.outcome
    notes = [printed["note"]] if "note" in printed else []
    notes += [f"Run: {outcome.scale}."] if outcome and outcome.entries and outcome.scale else []
    missing = dict.fromkeys(outcome.missing.values()) if outcome else {}
    reasons = [shown.reason] if shown.reason else [f"{reason}." for reason in missing]
    notes += [f"Not run: {' '.join(reasons)}"] if reasons else []
    table = Table(f"{item.place}: {item.title}", *_table(outcome, printed), "\n".join(notes))
    pictures = outcome.pictures if outcome else {}
    paths = {caption: shown.folder / name for caption, name in pictures.items()}
    methods = outcome.methods if outcome else {}
    about = "\n".join(f"{name}: {text}" for name, text in methods.items())
    folded = {"Runs at small scale": about} if about else {}
    return Section(table, paths, folded | {"Commands": shown.command})


def verdict(entry: Entry) -> str:
    """Returns whether a statement holds here: HELD, FAILED or UNDECIDED.

    A comparison needs two seeds at least, agreement of all seeds, and a mean difference that is
    larger than its standard deviation over seeds; otherwise it is undecided.
    """
    share = mean(entry.values)
    if 0 < share < 1 or (entry.compares and len(entry.values) < 2):
        return UNDECIDED
    if len(entry.by) > 1 and abs(mean(entry.by)) <= stdev(entry.by):
        return UNDECIDED
    return HELD if share else FAILED


def shown_entry(entry: Entry) -> str:
    """Formats an entry: '98.66 ± 0.050 %', 'yes', 'yes, 3 of 3 seeds, by 0.20 ± 0.110 points'."""
    if entry.unit != HOLDS:
        figure = f"{_number(entry.values, entry.digits, entry.spread)} {entry.unit}".strip()
        return f"{figure} ({entry.note})" if entry.note else figure
    count, seeds = int(sum(entry.values)), len(entry.values)
    parts = [verdict(entry)]
    parts += [f"{count} of {seeds} seeds"] if seeds > 1 else []
    parts += [f"by {_number(entry.by, entry.digits)} points"] if entry.by else []
    return ", ".join(parts)


def _number(values: Sequence[float], digits: int, spread: float | None = None) -> str:
    """Formats the mean with the standard deviation, or a single value with its own spread."""
    value, digits = mean(values), min(digits, 6)
    spread = stdev(values) if len(values) > 1 else spread
    text = f"{value:.1e}" if 0 < abs(value) < SMALL else f"{value:.{digits}f}"
    return text if spread is None else f"{text} ± {spread:.{digits + 1}f}"


def _table(outcome: Outcome | None, printed: Mapping[str, Any]) -> tuple[list[str], list[list]]:
    """Returns header and rows: first the rows of the paper, then further measured rows.

    The measured column stands beside the published one. It is left out if nothing of it was
    measured and there are other columns.
    """
    rows = {row["row"]: row for row in printed.get("rows", ())}
    entries, runs = (outcome.entries, outcome.notes) if outcome else ([], {})
    measured = {(entry.row, entry.column): shown_entry(entry) for entry in entries}
    unjudged = outcome.unjudged if outcome else {}
    columns = list(dict.fromkeys([*printed.get("columns", [""]), *(e.column for e in entries)]))
    published = _published(rows, printed)
    in_print = {column for _, column in published}
    beside = {column for _, column in measured}
    columns = [column for column in columns if column in in_print | beside]
    alone = in_print - beside if beside - in_print or len(in_print) > 1 else set()
    header = [""]
    for column in columns:
        kinds = ["published", "measured"] if column in in_print else [""]
        kinds = kinds[:1] if column in alone else kinds
        header += [f"{column} {kind}".strip() or "measured" for kind in kinds]
    lines = []
    for name in dict.fromkeys([*rows, *(entry.row for entry in entries)]):
        line = [name]
        for column in columns:
            found = measured.get((name, column))
            if found is None:
                expected = _is_expected(name, column, rows, published, column in in_print)
                found = f"{NOT_JUDGED}: {unjudged[name]}" if name in unjudged else NOT_RUN
                found = found if expected else ""
            line += [published.get((name, column), "")] if column in in_print else []
            line += [] if column in alone else [found]
        line += [runs.get(name, "")] if runs else []
        lines.append([*line, _source(name, rows)] if rows else line)
    header += [RUN_COLUMN] if runs else []
    return [*header, *([SOURCE_COLUMN] if rows else [])], lines


def _published(
    rows: Mapping[str, Mapping[str, Any]], printed: Mapping[str, Any]
) -> dict[tuple[str, str], str]:
    """Returns (row, column) -> published text; statements show the difference of printed values."""
    found = {}
    for name, row in rows.items():
        unit = row.get("unit", printed.get("unit", ""))
        for place, column in enumerate(printed.get("columns", [""])):
            value = row["values"][place] if place < len(row["values"]) else ""
            if value and unit == HOLDS:
                value += _in_print(row, rows, place)
            elif value and value != "-":
                value = f"{value} {unit}".strip()
            if value:
                found[name, column] = value
    return found


def _in_print(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], place: int) -> str:
    """Formats the margin of a statement in the printed values of a column; "" without values."""
    found = printed_differences(row, rows, place)
    if not found:
        return ""
    shown = f"{found[0]:+.2f}"
    if "between" in row:
        shown = " to ".join(dict.fromkeys([shown, f"{found[-1]:+.2f}"]))
        low, high = row["between"]
        held = all(low <= round(difference, 1) <= high for difference in found)
    else:
        held = found[0] > 0
    return f" ({shown})" if held else f" ({shown}: {AGAINST})"


def printed_differences(
    row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], place: int
) -> list[float]:
    """Returns the margins of a statement in a column's printed values, in ascending order.

    A margin is a value of an `above` row minus the greatest value of the `below` rows. The list is
    empty if the row compares nothing or if a value is not printed.
    """
    if "above" not in row:
        return []
    texts = [[rows[name]["values"][place] for name in row[key]] for key in ("above", "below")]
    if {"", "-"} & {*texts[0], *texts[1]}:
        return []
    above, below = ([float(text.split()[0]) for text in side] for side in texts)
    return sorted(figure - max(below) for figure in above)


def _is_expected(
    name: str,
    column: str,
    rows: Mapping[str, Mapping[str, Any]],
    published: Mapping[tuple[str, str], str],
    at_full_scale: bool,
) -> bool:
    """Returns whether a cell without a measured value should have one."""
    if name not in rows:
        return False
    row = rows[name]
    if not at_full_scale:
        return "small" in row
    if any(
        "run" in other for other in rows.values()
    ):  # Rows without a run are other authors' methods.
        return "run" in row and ((name, column) in published or not any(row["values"]))
    return (name, column) in published


def _source(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a row's place in the paper: its `source`, or else its number in the printed table."""
    row = rows.get(name, {"source": ""})
    if "source" in row or row.get("unit") == HOLDS or not any(row["values"]):
        return row.get("source", "")
    in_table = [n for n, other in rows.items() if any(other["values"]) and "unit" not in other]
    return f"row {in_table.index(name) + 1}"


def state(outcome: Outcome | None) -> str:
    """Describes the outcome of an item in a word or two."""
    if outcome and outcome.entries:
        return f"{len(outcome.entries)} figures"
    return "drawn" if outcome and outcome.pictures else NOT_RUN


def summary(shown: Sequence[Shown], printed: Mapping[str, Any], *, shortened: bool = False) -> str:
    """Summarises how much of a paper was measured and which statements hold, one line each.

    Args:
      shown: the paper's items.
      printed: the paper as in `published.toml`.
      shortened: whether training runs were shortened, so that their scores mean little.
    """
    kinds = [_kind(one, printed.get(one.item.name, {})) for one in shown]
    counts = [f"{kinds.count(kind)} {kind}" for kind in _KINDS]
    lines = [f"Items: {', '.join(counts)}."]
    if shortened:
        lines.append("Training was cut short: its figures show that all works, not what it scores.")
    found: dict[str, list[str]] = {kind: [] for kind in (HELD, FAILED, UNDECIDED)}
    for one in shown:
        rows = printed.get(one.item.name, {}).get("rows", ())
        published = {row["row"] for row in rows if any(row["values"])}
        for entry in one.outcome.entries if one.outcome else ():
            if entry.unit == HOLDS and entry.row in published:
                where = ", ".join(filter(None, [one.item.place, entry.column]))
                found[verdict(entry)].append(f"{where}: {entry.row} ({shown_entry(entry)})")
    total = sum(map(len, found.values()))
    lines += [f"Statements: {len(found[HELD])} of {total} hold here."] if total else []
    for kind, title in ((FAILED, "Do not hold here:"), (UNDECIDED, "Undecided here:")):
        lines += [title, *(f"– {text}" for text in found[kind])] if found[kind] else []
    return "\n".join(lines)


def _kind(shown: Shown, printed: Mapping[str, Any]) -> str:
    """Returns the one of `_KINDS` that describes an item."""
    if shown.outcome is None or not (shown.outcome.entries or shown.outcome.pictures):
        return _KINDS[3]
    if not shown.outcome.entries:
        return _KINDS[2]
    full = {entry.column for entry in shown.outcome.entries} & {*printed.get("columns", [""])}
    small = shown.item.other_data or (shown.item.measure == RUNS and not full)
    return _KINDS[1] if small else _KINDS[0]
