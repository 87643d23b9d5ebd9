"""The tables of faces: figures that `launch.evaluate` has written for runs, row by row."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.papers import published
from launch.papers.item import Context, Entry, Outcome


def read(printed: Mapping[str, Any], context: Context) -> Outcome:
    """What there is of a table in the evaluations below the folder of runs; nothing is trained.

    Args:
      printed: the table as `published.toml` has it.
      context: says where the runs are.
    """
    entries, missing = [], {}
    columns = printed.get("columns", [""])
    for row in printed["rows"]:
        name, run = row["row"], row.get("run")
        if run is None:
            missing[name] = "other work"
            continue
        protocols, figures = (row.get(key, printed[key]) for key in ("protocols", "figures"))
        for column, protocol, figure in zip(columns, protocols, figures, strict=True):
            found = _figure(context.runs / run, row.get("evaluation"), protocol, figure)
            if found is None:
                missing[name] = f"no {protocol} in {context.runs / run}"
            else:
                value, spread = found
                entries.append(Entry(name, (value,), column, "%", 2, spread))
    return Outcome(entries, f"evaluations below {context.runs}", missing=missing)


def commands(printed: Mapping[str, Any], rows: set[str], runs: Path) -> str:
    """The commands that make rows of a table: training, what it starts from, and scoring."""
    lines: dict[str, None] = {}
    for row in printed["rows"]:
        run = row.get("run")
        if run is None or row["row"] not in rows:
            continue
        lines |= dict.fromkeys(_training(run, runs))
        if printed["evaluate"]:
            folder, tuned = row.get("evaluation"), "start" in published()["methods"][run]
            options = [printed["evaluate"]]
            options += [printed["snapshots"]] if tuned and "snapshots" in printed else []
            options += [f"--mirror none --out {runs / run / folder}"] if folder else []
            lines[f"python -m launch.evaluate {runs / run} {' '.join(options)}"] = None
    return "\n".join(lines)


def _training(run: str, runs: Path) -> list[str]:
    method = published()["methods"][run]
    start = method.get("start")
    before = _training(start, runs) if start else []
    options = f" --init-from {runs / start}" if start else ""
    return [*before, f"python -m launch.train {method['train']}{options} --workdir {runs / run}"]


def _figure(
    run: Path, folder: str | None, protocol: str, name: str
) -> tuple[float, float | None] | None:
    """A figure of a protocol with its spread, in percent; None where there is none."""
    path = run / (folder or "evaluation") / "evaluation.json"
    if not path.exists():
        return None
    scored = json.loads(path.read_text())["protocols"].get(protocol)
    if scored is None or name not in scored["figures"]:
        return None
    spread = scored["spreads"].get(name)
    return 100 * scored["figures"][name], None if spread is None else 100 * spread
