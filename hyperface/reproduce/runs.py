"""Reads the tables of faces from the scores of trained runs, row by row.

A row has the scores at the paper's scale, if there are any, and beside them the scores of the same
loss at small scale, one per seed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperface.report.run import snapshot_means
from hyperface.reproduce import claims
from hyperface.reproduce.claims import Found, Seeds
from hyperface.reproduce.item import HOLDS, OTHER_WORK, Context, Entry, Outcome
from hyperface.reproduce.methods import (
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
from hyperface.reproduce.papers import published
from hyperface.train.logs import read_metrics, run_digest


def read(printed: Mapping[str, Any], context: Context) -> Outcome:
    """Reads the scores of a table from the folder of runs, without training anything.

    Args:
      printed: the table as in `published.toml`.
      context: gives the folder of runs.
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
    failed = {row: _unlearned(context.runs, method) for row, method in methods.items()}
    entries += claims.of(printed, small, lost, failed, shared)
    notes = {row: _made(context.runs, method) for row, method in methods.items()}
    about = {method: _about(context.runs, method) for method in dict.fromkeys(methods.values())}
    return Outcome(entries, "", missing=missing, notes=notes, methods=about)


def small_figures(printed: Mapping[str, Any], runs: Path) -> dict[tuple[str, str], Seeds]:
    """Reads a table's scores at small scale: (row, column) -> seed -> score."""
    small, found = Small.of(printed), {}
    for row in printed["rows"]:
        if "small" not in row:
            continue
        names = row.get("figures", small.figures)
        for column, protocol, name in zip(small.columns, small.protocols, names, strict=True):
            of_seeds = {}
            for seed in seeds(runs, row["small"]):
                run = folder(runs, row["small"], seed)
                score = figure(run, *place(protocol), name)
                of_seeds |= {} if score is None else {seed: score}
            if of_seeds:
                found[row["row"], column] = of_seeds
    return found


def figure(run: Path, evaluation: str, protocol: str, name: str) -> Found | None:
    """Reads a score with its spread; returns None if the current run has not been scored."""
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
    """Reads the mean over a run's snapshots of a score of the run's own protocol."""
    path = run / TRAINED
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return Found(100 * snapshot_means(record)[name])


def _full(
    printed: Mapping[str, Any], row: Mapping[str, Any], runs: Path
) -> tuple[list[Entry], str]:
    """Reads a row's scores at the paper's scale; also returns which score is absent, or ""."""
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
    """Returns a row's entry at small scale, with a note if a trained seed has no score."""
    found = list(of_seeds.values())
    notes = [f"{len(found)} of {trained} seeds"] if len(found) < trained else []
    if len(found) == 1 and found[0].spread is not None:
        notes.append(f"± {found[0].spread:.2f} over {found[0].over}")
    values = tuple(one.value for one in found)
    return Entry(row, values, column, "%", 2, note=", ".join(notes))


def _unlearned(runs: Path, method: str) -> list[bool]:
    """Returns, per seed, whether the last logged softmax loss is no better than that of a guess."""
    found = []
    for seed in seeds(runs, method):
        run = folder(runs, method, seed)
        metrics = read_metrics(run / "metrics.jsonl")
        if metrics and "softmax" in metrics[-1]:
            classes = json.loads((run / "config.json").read_text())["data"]["classes"]
            found.append(not metrics[-1]["softmax"] < math.log(classes))
    return found + [True] * len(diverged(runs, method))


def _made(runs: Path, method: str) -> str:
    """Describes a method and its seeds: "faces-normface, 3 seeds"."""
    count = len(seeds(runs, method))
    parts = [method] + ([f"{count} {'seed' if count == 1 else 'seeds'}"] if count else [])
    return ", ".join([*parts, *(f"seed {seed} diverged" for seed in diverged(runs, method))])


def _about(runs: Path, method: str) -> str:
    """Describes the options, the data and the steps of a method's runs."""
    train, found = published()["methods"][method]["train"], seeds(runs, method)
    if not found:
        return train
    configs = [json.loads((folder(runs, method, n) / "config.json").read_text()) for n in found]
    data = configs[0]["data"]
    steps = " and ".join(sorted({f"{config['experiment']['steps']:,}" for config in configs}))
    return f"{train}: {data['examples']:,} images of {data['classes']:,} people, {steps} steps"
