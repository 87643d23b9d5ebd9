"""Builds the report's section of an item, and the verdicts on the statements of a paper.

A section has a table with the published values beside the measured ones, or the reason why nothing
was measured.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from hyperface.metrics.bootstrap import decide, is_testable
from hyperface.report.html import Link, Section
from hyperface.report.tables import Table
from hyperface.reproduce.item import HOLDS, RESULT, RUNS, Entry, Item, Outcome
from hyperface.reproduce.statements import Part, Scores

NOT_RUN, NOT_JUDGED = "not run", "not judged here"
"""The text of a cell without a value, and that of a statement without a verdict."""
RUN_COLUMN, SOURCE_COLUMN = "run", "source"
"""The titles of two columns: with the runs of a row, and with its place in the paper."""
AGAINST = "the printed values say otherwise"
HELD, FAILED, UNDECIDED = "yes", "no", "undecided"
"""The three verdicts."""
_KINDS = ("measured as the paper has it", "at small scale or on other data", "drawn", NOT_RUN)
SMALL = 1e-4
"""Smaller values are written with an exponent."""
READING = (
    "± is the standard deviation over seeds. For fine-tuned runs it does not include the variation "
    "of the run from which they all start. The spread that a protocol reports for a single seed is "
    "in brackets. "
    "A comparison shows its mean difference, the 95 % interval in square brackets, and the true "
    "difference that such an experiment finds in 4 of 5 repetitions. Intervals are over seeds, and "
    "also over people if the scores of single people are known. "
    "A comparison is decided only with three or more independently trained networks per method; "
    "seeds 'of one start' were all fine-tuned from one network. All comparisons of a paper are "
    "tested together by Holm's method: the chance of one or more wrong verdicts is at most 5 %. A "
    "statement with several parts holds if every part holds. Each statement is judged by one "
    "number; its other differences are shown without a verdict. "
    "In brackets beside a published statement is the difference of the printed values. Beside a "
    "published value, ± is the paper's own."
)
Verdicts = Mapping[tuple[str, str, str], str]
"""Item, row and column of a statement -> HELD, FAILED or UNDECIDED."""


class Shown(NamedTuple):
    """One item (table, figure, equation or proposition of a paper) as the report shows it."""

    item: Item
    """Its name, its place in the paper, and the function that measures it."""
    outcome: Outcome | None
    """The result of its measurement; None if it was not measured."""
    folder: Path
    """Folder of the item's pictures."""
    command: str
    """The command line that measures the item; several commands are on several lines."""
    reason: str = ""
    """The reason why the item, or a part of it, was not measured; "" if there is none."""


def section(shown: Shown, printed: Mapping[str, Any], verdicts: Verdicts) -> Section:
    """Builds the report's section of one item: the published values beside the measured ones.

    Args:
      shown: the item and its outcome.
      printed: the item as in `published.toml`; {} if the paper prints no value of it.
      verdicts: (item, row, column) of each tested sentence of the paper -> "yes", "no" or
        "undecided", as `judge` returns.
    """
    item, outcome = shown.item, shown.outcome
    notes = [printed["note"]] if "note" in printed else []
    notes += [f"Run: {outcome.scale}."] if outcome and outcome.entries and outcome.scale else []
    # Many rows have one reason, which is stated once.
    missing = dict.fromkeys(outcome.missing.values()) if outcome else {}
    reasons = [shown.reason] if shown.reason else [f"{reason}." for reason in missing]
    notes += [f"Not run: {' '.join(reasons)}"] if reasons else []
    header, rows = _table(item, outcome, printed, verdicts)
    table = Table(f"{item.place}: {item.title}", header, rows, "\n".join(notes))
    pictures = outcome.pictures if outcome else {}
    paths = {caption: shown.folder / name for caption, name in pictures.items()}
    methods = outcome.methods if outcome else {}
    about = "\n".join(f"{name}: {text}" for name, text in methods.items())
    folded = {"Runs at small scale": about} if about else {}
    folded |= {"Commands": shown.command}
    result = shown.folder / RESULT
    links = [Link(RESULT, result)] if result.is_file() else []
    return Section(table.title, [table], paths, folded=folded, links=links)


def judge(outcomes: Mapping[str, Outcome | None]) -> Verdicts:
    """Returns a verdict for each statement (sentence) of a paper that was tested.

    A statement without a comparison of scores, such as that a bound is never exceeded, gets "yes"
    if it is true for every seed, "no" if for none, and "undecided" if for some. A statement that
    compares scores gets "yes" or "no" only if the difference is significant, with Holm's correction
    for the number of such statements.

    Args:
      outcomes: name of each item -> its outcome; None for an item that was not measured.

    Returns:
      (name of the item, row, column) of each statement -> "yes", "no" or "undecided".
    """
    found, compared = {}, {}
    for item, outcome in outcomes.items():
        for entry in outcome.entries if outcome else ():
            if entry.unit == HOLDS and entry.judged:
                # A statement that holds in some seeds only is neither true nor false.
                share = mean(entry.values)
                found[item, entry.row, entry.column] = (
                    UNDECIDED if 0 < share < 1 else HELD if share else FAILED
                )
                if entry.parts:
                    compared[item, entry.row, entry.column] = entry.parts
    # Together, because Holm's correction depends on the number of all comparisons.
    return found | dict(zip(compared, decide(list(compared.values())), strict=True))


def shown_entry(entry: Entry, verdict: str = "") -> str:
    """Formats an entry: '98.66 ± 0.050 %', 'yes', 'yes, 3 of 3 seeds, by 0.20 [0.10, 0.30] points'.

    Args:
      entry: a measured value, or a statement: a tested sentence of the paper.
      verdict: "yes", "no" or "undecided" for a statement. "" for a value, and for a statement that
        is only shown (`entry.judged` is False).
    """
    if entry.unit != HOLDS:
        value = f"{_number(entry.values, entry.digits, entry.spread)} {entry.unit}".strip()
        return f"{value} ({entry.note})" if entry.note else value
    if entry.parts and not verdict:
        return _difference(entry)
    count, seeds = int(sum(entry.values)), len(entry.values)
    parts = [verdict] if verdict else []
    parts += [f"{count} of {seeds} seeds"] if seeds > 1 else []
    if entry.parts:
        # Fine-tuned runs of one start are not independent, which the reader must know.
        starts = min(part.seeds for part in entry.parts)
        parts += ["of one start"] if starts < seeds else []
        parts += filter(None, [_difference(entry, with_power=True)])
    return ", ".join(parts)


def _difference(entry: Entry, *, with_power: bool = False) -> str:
    """Formats the difference of a comparison. Of several parts, the least certain one is shown.

    Args:
      entry: the comparison.
      with_power: whether the difference that such an experiment finds is added.
    """
    # A part without a finite difference was compared by signs alone.
    known = [part for part in entry.parts if math.isfinite(part.value)]
    if not known:
        return ""
    # The statement holds only if each part holds, so the least certain part is the one to show.
    least = max(known, key=lambda part: part.p_not_above)
    text = f"by {least.value:.2f}"
    if math.isfinite(least.error):
        text += f" [{least.low:.2f}, {least.high:.2f}]"
    text += f" {entry.note}" if entry.note else ""
    if with_power and math.isfinite(least.error):
        text += f" (finds {least.detectable:.2f})"
    return f"{text}, the least certain of {len(known)} parts" if len(known) > 1 else text


def _number(values: Sequence[float], digits: int, spread: float | None = None) -> str:
    """Formats the mean and the standard deviation, or a single value with its own spread."""
    # Errors of rounding ask for 15 decimals; they are below SMALL, and get an exponent instead.
    value, digits = mean(values), min(digits, 6)
    spread = stdev(values) if len(values) > 1 else spread
    text = f"{value:.1e}" if 0 < abs(value) < SMALL else f"{value:.{digits}f}"
    return text if spread is None else f"{text} ± {spread:.{digits + 1}f}"


def _table(
    item: Item, outcome: Outcome | None, printed: Mapping[str, Any], verdicts: Verdicts
) -> tuple[list[str], list[list]]:
    """Returns the header and the rows of an item's table.

    The rows of the paper come first, then further measured rows. Each measured column is beside its
    published column. It is left out if nothing in it was measured and there are other columns.

    Args:
      item: the item.
      outcome: its outcome; None if it was not measured.
      printed: the item as in `published.toml`.
      verdicts: the verdicts of `judge`.
    """
    rows = {row["row"]: row for row in printed.get("rows", ())}
    entries, runs = (outcome.entries, outcome.notes) if outcome else ([], {})
    measured = {
        (entry.row, entry.column): shown_entry(
            entry, verdicts.get((item.name, entry.row, entry.column), "")
        )
        for entry in entries
    }
    unjudged = outcome.unjudged if outcome else {}
    # The paper's columns in their order, and then those that were only measured.
    columns = list(dict.fromkeys([*printed.get("columns", [""]), *(e.column for e in entries)]))
    published = _published(item, rows, printed)
    in_print = {column for _, column in published}
    protocols = zip(printed.get("columns", ()), printed.get("protocols", ()), strict=False)
    # Columns that nothing here can score are left empty: "not run" would promise a run.
    unscored = {column for column, protocol in protocols if not protocol}
    beside = {column for _, column in measured}
    columns = [column for column in columns if column in in_print | beside]
    # Printed columns without a measured one beside them. A table's only column keeps both, so that
    # it says "not run" in each row.
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
                expected = column not in unscored and _is_expected(
                    name, column, rows, published, column in in_print
                )
                found = f"{NOT_JUDGED}: {unjudged[name]}" if name in unjudged else NOT_RUN
                found = found if expected else ""
            line += [published.get((name, column), "")] if column in in_print else []
            line += [] if column in alone else [found]
        line += [runs.get(name, "")] if runs else []
        lines.append([*line, _source(name, rows)] if rows else line)
    header += [RUN_COLUMN] if runs else []
    return [*header, *([SOURCE_COLUMN] if rows else [])], lines


def _published(
    item: Item, rows: Mapping[str, Mapping[str, Any]], printed: Mapping[str, Any]
) -> dict[tuple[str, str], str]:
    """Returns (row, column) -> the published text.

    The text of a statement also has the difference of the printed values.
    """
    found = {}
    for index, column in enumerate(printed.get("columns", [""])):
        tested = item.statements(_printed_scores(rows, index)) if item.statements else {}
        for name, row in rows.items():
            unit = row.get("unit", printed.get("unit", ""))
            value = row["values"][index] if index < len(row["values"]) else ""
            if value and unit == HOLDS:
                value += _margin_in_print(tested.get(name, []))
            elif value and value != "-":
                value = f"{value} {unit}".strip()
            if value:
                found[name, column] = value
    return found


def _printed_scores(rows: Mapping[str, Mapping[str, Any]], index: int) -> Scores:
    """Returns the printed scores of the column with this index, as if they were of seed 0."""
    texts = {
        name: row["values"][index]
        for name, row in rows.items()
        if row.get("unit") != HOLDS and index < len(row["values"])
    }
    # "99.16 ± 0.025" is the score 99.16; "-" is the paper's sign for no score.
    return Scores({n: {0: float(v.split()[0])} for n, v in texts.items() if v not in ("", "-")})


def _margin_in_print(parts: Sequence[Part]) -> str:
    """Formats the difference of the printed values that a statement compares; "" without values."""
    if not parts or not all(part.margins for part in parts):
        return ""
    found = sorted(margin for part in parts for margin in part.margins.values())
    shown = f"{found[0]:+.2f}"
    if math.isfinite(parts[0].most):
        shown = " to ".join(dict.fromkeys([shown, f"{found[-1]:+.2f}"]))
    held = all(part.is_as_printed() for part in parts)
    return f" ({shown})" if held else f" ({shown}: {AGAINST})"


def _is_expected(
    name: str,
    column: str,
    rows: Mapping[str, Mapping[str, Any]],
    published: Mapping[tuple[str, str], str],
    at_full_scale: bool,
) -> bool:
    """Returns whether a cell without a measured value is shown as "not run", and not left empty.

    Args:
      name: name of the row.
      column: name of the column.
      rows: name -> row of the table in `published.toml`.
      published: (row, column) -> published text.
      at_full_scale: whether the paper has this column; others are those at small scale.
    """
    if name not in rows:
        return False
    row = rows[name]
    if not at_full_scale:
        return "small" in row
    # In a table with runs, a row without a run is a method of other authors, which is never run.
    if any("run" in other for other in rows.values()):
        return "run" in row and ((name, column) in published or not any(row["values"]))
    return (name, column) in published


def _source(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the place of a row in the paper: its `source`, or its number in the printed table."""
    row = rows.get(name, {"source": ""})
    if "source" in row or row.get("unit") == HOLDS or not any(row["values"]):
        return row.get("source", "")
    # Statements, and rows that were added here, have no line in the printed table.
    in_table = [n for n, other in rows.items() if any(other["values"]) and "unit" not in other]
    return f"row {in_table.index(name) + 1}"


def state(outcome: Outcome | None) -> str:
    """Describes an outcome in a word or two: "12 values", "drawn" for a figure, or "not run".

    Args:
      outcome: the outcome; None if the item was not measured.
    """
    if outcome and outcome.entries:
        return f"{len(outcome.entries)} values"
    return "drawn" if outcome and outcome.pictures else NOT_RUN


def summary(
    shown: Sequence[Shown],
    printed: Mapping[str, Any],
    verdicts: Verdicts,
    *,
    shortened: bool = False,
) -> str:
    """Returns a text that says how much of a paper was measured, and which of its sentences hold.

    It has one line per statement (tested sentence) that does not hold or is undecided.

    Args:
      shown: the paper's items.
      printed: the paper as in `published.toml`: name of the item -> its printed values.
      verdicts: (item, row, column) of each tested sentence of the paper -> "yes", "no" or
        "undecided", as `judge` returns.
      shortened: whether training runs were shortened, so that their scores mean little.
    """
    kinds = [_kind(one, printed.get(one.item.name, {})) for one in shown]
    counts = [f"{kinds.count(kind)} {kind}" for kind in _KINDS]
    lines = [f"Items: {', '.join(counts)}."]
    if shortened:
        lines.append("Training was cut short: the values show that all works, and are not valid.")
    found: dict[str, list[str]] = {kind: [] for kind in (HELD, FAILED, UNDECIDED)}
    comparisons = 0
    for one in shown:
        rows = printed.get(one.item.name, {}).get("rows", ())
        # Statements that the paper does not make are shown in the tables, but not counted here.
        published = {row["row"] for row in rows if any(row["values"])}
        for entry in one.outcome.entries if one.outcome else ():
            verdict = verdicts.get((one.item.name, entry.row, entry.column))
            if verdict and entry.row in published:
                where = ", ".join(filter(None, [one.item.place, entry.column]))
                text = shown_entry(entry, verdict)
                found[verdict].append(f"{where}: {entry.row} ({text})")
            comparisons += entry.judged and is_testable(entry.parts)
    total = sum(map(len, found.values()))
    tested = f" {comparisons} comparisons were tested together." if comparisons else ""
    lines += [f"Statements: {len(found[HELD])} of {total} hold here.{tested}"] if total else []
    for kind, title in ((FAILED, "Do not hold here:"), (UNDECIDED, "Undecided here:")):
        lines += [title, *(f"– {text}" for text in found[kind])] if found[kind] else []
    return "\n".join(lines)


def _kind(shown: Shown, printed: Mapping[str, Any]) -> str:
    """Returns which of `_KINDS` describes an item."""
    if shown.outcome is None or not (shown.outcome.entries or shown.outcome.pictures):
        return _KINDS[3]
    if not shown.outcome.entries:
        return _KINDS[2]
    full = {entry.column for entry in shown.outcome.entries} & {*printed.get("columns", [""])}
    small = shown.item.other_data or (shown.item.measure == RUNS and not full)
    return _KINDS[1] if small else _KINDS[0]
