"""The tables of faces: figures that launch.train and launch.evaluate wrote for runs, row by row.

A row has its figures of the runs at the paper's scale, where there are any, and beside them those
of the same loss at small scale, one a seed.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from hyperface.report.run import snapshot_means
from hyperface.train.metrics import run_digest
from launch.papers import published
from launch.papers.item import HOLDS, OTHER_WORK, Context, Entry, Outcome
from launch.papers.methods import (
    OWN_TEST,
    SCORED,
    TRAINED,
    Small,
    diverged,
    evaluation,
    folder,
    place,
    seeds,
)


class Found(NamedTuple):
    """A figure of one run, in percent."""

    value: float
    spread: float | None = None
    over: str = ""
    """What it is spread over: "folds"."""


Seeds = dict[int, Found]
LOWEST = Found(-math.inf)


def read(printed: Mapping[str, Any], context: Context) -> Outcome:
    """What there is of a table in the results below the folder of runs; nothing is trained.

    Args:
      printed: the table as `published.toml` has it.
      context: says where the runs are.
    """
    entries, missing = [], {}
    for row in printed["rows"]:
        if "run" in row:
            found, absent = _full(printed, row, context.runs)
            entries += found
            missing |= {row["row"]: absent} if absent else {}
        elif "small" not in row and row.get("unit") != HOLDS:
            missing[row["row"]] = OTHER_WORK
    small = small_figures(printed, context.runs)
    methods = {row["row"]: row["small"] for row in printed["rows"] if "small" in row}
    for (row, column), of_seeds in small.items():
        trained = len(seeds(context.runs, methods[row]))
        entries.append(_entry(row, column, of_seeds, trained))
    lost = {row: diverged(context.runs, method) for row, method in methods.items()}
    known = published()["methods"]
    shared = {row for row, method in methods.items() if known[method].get("shared")}
    entries += _claims(printed, small, lost, shared)
    notes = {row: _made(context.runs, method) for row, method in methods.items()}
    about = {method: _about(context.runs, method) for method in dict.fromkeys(methods.values())}
    return Outcome(entries, "", missing=missing, notes=notes, methods=about)


def small_figures(printed: Mapping[str, Any], runs: Path) -> dict[tuple[str, str], Seeds]:
    """The table's figures at small scale: (row, column) -> seed -> figure."""
    small, found = Small.of(printed), {}
    for row in printed["rows"]:
        if "small" not in row:
            continue
        names = row.get("figures", small.figures)
        for column, protocol, name in zip(small.columns, small.protocols, names, strict=True):
            of_seeds = {}
            for seed in seeds(runs, row["small"]):
                run = folder(runs, row["small"], seed)
                found_one = figure(run, *place(protocol), name)
                of_seeds |= {} if found_one is None else {seed: found_one}
            if of_seeds:
                found[row["row"], column] = of_seeds
    return found


def figure(run: Path, evaluation: str, protocol: str, name: str) -> Found | None:
    """A figure of a protocol with its spread; None where there is none of the last training."""
    if protocol == OWN_TEST:
        return _own_figure(run, name)
    path = run / evaluation / SCORED
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    scored = record["protocols"].get(protocol, {"figures": {}})
    if name not in scored["figures"] or record["settings"]["run"] != run_digest(run):
        return None
    spread = scored["spreads"].get(name)
    over = scored.get("spread", "").rpartition(" over ")[2]
    return Found(100 * scored["figures"][name], None if spread is None else 100 * spread, over)


def _own_figure(run: Path, name: str) -> Found | None:
    """The mean over a run's snapshots of a figure of its own protocol."""
    path = run / TRAINED
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return Found(100 * snapshot_means(record)[name])


def _full(
    printed: Mapping[str, Any], row: Mapping[str, Any], runs: Path
) -> tuple[list[Entry], str]:
    """A row's figures at the paper's scale, and what is absent of them."""
    entries, absent = [], ""
    columns, run = printed.get("columns", [""]), folder(runs, row["run"])
    protocols, figures = (row.get(key, printed[key]) for key in ("protocols", "figures"))
    for column, protocol, name in zip(columns, protocols, figures, strict=True):
        if not protocol:
            continue
        found = figure(run, evaluation(printed, row), protocol, name)
        if found is None:
            absent = f"no {protocol} in {run}"
        else:
            entries.append(Entry(row["row"], (found.value,), column, "%", 2, found.spread))
    return entries, absent


def _entry(row: str, column: str, of_seeds: Seeds, trained: int) -> Entry:
    """The entry of a row at small scale; `trained` seeds may be more than those scored."""
    found = list(of_seeds.values())
    notes = [f"{len(found)} of {trained} seeds"] if len(found) < trained else []
    if len(found) == 1 and found[0].spread is not None:
        notes.append(f"± {found[0].spread:.2f} over {found[0].over}")
    values = tuple(one.value for one in found)
    return Entry(row, values, column, "%", 2, note=", ".join(notes))


def _claims(
    printed: Mapping[str, Any],
    small: Mapping[tuple[str, str], Seeds],
    lost: Mapping[str, Sequence[int]],
    shared: Collection[str],
) -> list[Entry]:
    """Whether a table's statements hold, seed by seed, and by how much at least.

    Some rows are above others, differ more than others do, or diverge. A seed that diverged is
    below all.
    """
    entries = []
    for row in printed["rows"]:
        if "diverges" in row:
            entries += _divergence(row, printed, small, lost)
        sides = next((pair for pair in _SIDES if pair[0] in row), None)
        if sides is None:
            continue
        for column in row.get("columns", Small.of(printed).columns):
            names = [name for side in sides for name in row[side]]
            found = {name: small.get((name, column), {}) for name in names}
            found = _of_all_seeds(found, lost, shared)
            high, low = ([found[name] for name in row[side]] for side in sides)
            if margins := _SIDES[sides](high, low):
                entries.append(Entry.above(row["row"], margins, column))
    return entries


def _divergence(
    row: Mapping[str, Any],
    printed: Mapping[str, Any],
    small: Mapping[tuple[str, str], Seeds],
    lost: Mapping[str, Sequence[int]],
) -> list[Entry]:
    """Whether the seeds of a row diverged, in the first column."""
    name, column = row["diverges"], Small.of(printed).columns[0]
    ended = {seed for (other, _), of_seeds in small.items() if other == name for seed in of_seeds}
    seeds = sorted({*ended, *lost.get(name, ())})
    held = [seed not in ended for seed in seeds]
    return [replace(Entry.claim(row["row"], held), column=column)] if held else []


def _of_all_seeds(
    small: Mapping[str, Seeds], lost: Mapping[str, Sequence[int]], shared: Collection[str]
) -> dict[str, Seeds]:
    """Rows with the seeds that diverged, and a run that others share at each of their seeds."""
    found = {row: dict.fromkeys(lost.get(row, ()), LOWEST) | small[row] for row in small}
    known = {seed for row in found if row not in shared for seed in found[row]}
    for row in shared & found.keys():
        for figure in list(found[row].values())[:1]:
            found[row] = dict.fromkeys(known, figure)
    return found


def _margins(above: list[Seeds], below: list[Seeds]) -> list[float]:
    """The least of some figures less the greatest of others, one a seed that all of them have.

    A seed in which both sides diverged compares nothing.
    """
    common = set.intersection(*(set(of_seeds) for of_seeds in (*above, *below)))
    pairs = [
        (min(one[seed].value for one in above), max(one[seed].value for one in below))
        for seed in sorted(common)
    ]
    return [high - low for high, low in pairs if math.isfinite(high) or math.isfinite(low)]


def _spreads(wide: list[Seeds], narrow: list[Seeds]) -> list[float]:
    """The deviation over some figures less that over others, one a seed that all of them have.

    It is infinite over figures of which one diverged.
    """
    common = set.intersection(*(set(of_seeds) for of_seeds in (*wide, *narrow)))
    pairs = [
        (_deviation([one[seed].value for one in wide]), _deviation([o[seed].value for o in narrow]))
        for seed in sorted(common)
    ]
    return [high - low for high, low in pairs if math.isfinite(high) or math.isfinite(low)]


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if all(map(math.isfinite, values)) else math.inf


_SIDES = {("above", "below"): _margins, ("wider", "narrower"): _spreads}
"""What a statement compares, and how."""


def _made(runs: Path, method: str) -> str:
    """A method and its seeds: "faces-normface, 3 seeds"."""
    count = len(seeds(runs, method))
    parts = [method] + ([f"{count} {'seed' if count == 1 else 'seeds'}"] if count else [])
    return ", ".join([*parts, *(f"seed {seed} diverged" for seed in diverged(runs, method))])


def _about(runs: Path, method: str) -> str:
    """Options and size of a method's runs."""
    train, found = published()["methods"][method]["train"], seeds(runs, method)
    if not found:
        return train
    configs = [json.loads((folder(runs, method, n) / "config.json").read_text()) for n in found]
    data = configs[0]["data"]
    steps = " and ".join(sorted({f"{config['experiment']['steps']:,}" for config in configs}))
    return f"{train}: {data['examples']:,} images of {data['classes']:,} people, {steps} steps"
