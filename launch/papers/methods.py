"""The runs behind the tables of faces: the commands that make them, in order, and their folders.

A run of seed 0 is in a folder of its method's name, one of seed 2 in `NAME-seed2`. A run that is
fine-tuned starts from seed 0 of its start, whatever its own seed.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyperface.errors import InputError
from launch.cli import EXIT_DIVERGED
from launch.papers import published
from launch.papers.item import Context

QUICK_STEPS = 100
TRAINED, EVALUATION, SCORED = "results.json", "evaluation", "evaluation.json"


class Small(NamedTuple):
    """What a table's figures at small scale are read from."""

    columns: list[str]
    protocols: list[str]
    figures: list[str]
    evaluation: str = EVALUATION
    """Folder in that of a run."""
    evaluate: str = ""
    """Options of launch.evaluate."""

    @classmethod
    def of(cls, printed: Mapping[str, Any]) -> "Small":
        """As the table says it, or else as its rows at the paper's scale are read."""
        given = {"evaluate": published()["small"]["evaluate"], **printed.get("small", {})}
        columns = [f"small scale: {name}".rstrip(": ") for name in printed.get("columns", [""])]
        whole = {"columns": columns, **{k: printed.get(k) for k in ("protocols", "figures")}}
        return cls(**{**whole, **given})


class Command(NamedTuple):
    """A call of launch.train or launch.evaluate."""

    program: str
    options: str
    makes: Path
    """The file that it ends with: where it exists, there is nothing to do."""
    needs: Path | None = None
    """The file that it starts from."""

    def __str__(self) -> str:
        return f"python -m launch.{self.program} {self.options}"


def folder(runs: Path, method: str, seed: int = 0) -> Path:
    """Where a run is."""
    return runs / (f"{method}-seed{seed}" if seed else method)


def seeds(runs: Path, method: str) -> list[int]:
    """The seeds of a method that were trained to the end."""
    found = runs.glob(f"{method}-seed*/{TRAINED}")
    numbers = [path.parent.name.removeprefix(f"{method}-seed") for path in found]
    first = [0] if (runs / method / TRAINED).exists() else []
    return first + sorted(int(number) for number in numbers if number.isdigit())


def small_commands(printed: Mapping[str, Any], context: Context) -> list[Command]:
    """Those of a table's rows at small scale: all of seed 0, then of seed 1, and so on."""
    steps = context.steps or (QUICK_STEPS if context.quick else None)
    shorter = f" --steps {steps}" if steps else ""
    small, found = Small.of(printed), {}
    methods = dict.fromkeys(row["small"] for row in printed["rows"] if "small" in row)
    for seed in range(context.seeds):
        for method in methods:
            if seed and published()["methods"][method].get("shared"):
                continue
            found |= dict.fromkeys(training(method, context.runs, seed, shorter))
            if small.evaluate:
                run = folder(context.runs, method, seed)
                found[scoring(run, small.evaluate, small.evaluation)] = None
    return list(found)


def full_commands(printed: Mapping[str, Any], rows: Iterable[str], runs: Path) -> list[Command]:
    """Those of some of a table's rows at the paper's scale."""
    found: dict[Command, None] = {}
    for row in printed["rows"]:
        if "run" not in row or row["row"] not in rows:
            continue
        found |= dict.fromkeys(training(row["run"], runs))
        if printed["evaluate"]:
            tuned = "start" in published()["methods"][row["run"]]
            options = [printed["evaluate"]]
            options += [printed["snapshots"]] if tuned and "snapshots" in printed else []
            options += ["--mirror none"] if "evaluation" in row else []
            run = folder(runs, row["run"])
            found[scoring(run, " ".join(options), evaluation(printed, row))] = None
    return list(found)


def evaluation(printed: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The folder, in that of a run, of a row's figures at the paper's scale."""
    return row.get("evaluation", printed.get("evaluation", EVALUATION))


def training(method: str, runs: Path, seed: int = 0, shorter: str = "") -> list[Command]:
    """What trains a method, after what trains its start."""
    about, run = published()["methods"][method], folder(runs, method, seed)
    start = about.get("start")
    before = training(start, runs, 0, shorter) if start else []
    options = about["train"] + shorter
    options += f" --seed {seed}" if seed else ""
    options += f" --init-from {runs / start}" if start else ""
    needs = before[-1].makes if before else None
    return [*before, Command("train", f"{options} --workdir {run}", run / TRAINED, needs)]


def scoring(run: Path, options: str, evaluation: str) -> Command:
    """What scores a run."""
    out = "" if evaluation == EVALUATION else f" --out {run / evaluation}"
    makes = run / evaluation / SCORED
    return Command("evaluate", f"{run} {options}{out}", makes, run / TRAINED)


def make(commands: Sequence[Command], context: Context) -> None:
    """Runs those commands that are not done yet, each in a process; a diverged run is passed over.

    Raises:
      InputError: a command ended otherwise; what it said is above.
    """
    waiting = [command for command in commands if not command.makes.exists()]
    for number, command in enumerate(waiting, 1):
        if command.needs and not command.needs.exists():
            context.console.print(f"{command.needs} is not there: left out {command}.")
            continue
        context.console.print(f"[{number}/{len(waiting)}] {command}", markup=False, soft_wrap=True)
        arguments = [*shlex.split(command.options), "--data-dir", str(context.data_dir)]
        began = time.monotonic()
        status = subprocess.run(
            [sys.executable, "-m", f"launch.{command.program}", *arguments], check=False
        ).returncode
        if status not in (0, EXIT_DIVERGED) or (status == 0 and not command.makes.exists()):
            raise InputError(
                f"expected {command} to end well, found status {status}: what it said is above. "
                "The same command goes on from what is done."
            )
        context.console.print(f"took {time.monotonic() - began:.0f} s", highlight=False)
