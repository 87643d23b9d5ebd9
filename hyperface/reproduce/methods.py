"""The runs behind the tables of faces: the commands that make them, in order, and their folders.

A run of seed 0 is in a folder of its method's name, one of seed 2 in `NAME-seed2`. A run that is
fine-tuned starts from seed 0 of its start, whatever its own seed.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tyro

import hyperface
from hyperface import experiments
from hyperface.config.experiment import Experiment
from hyperface.data.datasets import find, fingerprint, made_of
from hyperface.files import digest
from hyperface.protocols.registry import SUITE
from hyperface.reproduce.item import RUNS, Context, Item, code_digest
from hyperface.reproduce.papers import published
from hyperface.runs import program, provenance
from hyperface.runs.evaluate_options import Evaluate, recorded
from hyperface.runs.prepare import AUTOMATIC
from hyperface.runs.train import Train
from hyperface.train.logs import run_digest
from hyperface.train.run_folder import DIVERGED, differences

QUICK_STEPS = 100
TRAINED, EVALUATION, SCORED = "results.json", "evaluation", "evaluation.json"
OWN_TEST = "test"
"""The protocol of a run's own results.json: all pairs of the test people of its data set."""


class Small(NamedTuple):
    """What a table's figures at small scale are read from."""

    columns: list[str]
    protocols: list[str]
    figures: list[str]

    @classmethod
    def of(cls, printed: Mapping[str, Any]) -> "Small":
        """As the table says it, or else as its rows at the paper's scale are read."""
        columns = [f"small scale: {name}".rstrip(": ") for name in printed.get("columns", [""])]
        whole = {"columns": columns, **{k: printed.get(k) for k in ("protocols", "figures")}}
        return cls(**{**whole, **printed.get("small", {})})

    def evaluations(self) -> list[str]:
        """Those that its figures are in."""
        others = [name for name in self.protocols if name != OWN_TEST]
        return list(dict.fromkeys(place(name)[0] for name in others))


def place(protocol: str) -> tuple[str, str]:
    """The evaluation that a protocol at small scale is in, and its name there.

    Example:
      >>> place("evaluation-profiles/pairs"), place("lfw")
      (('evaluation-profiles', 'pairs'), ('evaluation', 'lfw'))
    """
    evaluation, _, name = protocol.rpartition("/")
    return evaluation or EVALUATION, name


class Command(NamedTuple):
    """A call of hyperface train or hyperface evaluate."""

    program: str
    options: str
    makes: Path
    """The file that it ends with."""
    start: Path | None = None
    """The run whose network it takes."""

    def __str__(self) -> str:
        return f"hyperface {self.program} {self.options}"

    def is_done(self, data_dir: Path) -> bool:
        """Whether the file is there, made with these options of start and data as they are now."""
        if not self.makes.exists():
            return False
        if self.program == "evaluate":
            settings = json.loads(self.makes.read_text())["settings"]
            same_run = settings["run"] == run_digest(self.start)
            same_files = _are_same(settings["files"], data_dir / "protocols")
            return self._has_scored(settings["options"]) and same_run and same_files
        started = self.start is None or bool(run_digest(self.start))
        return started and not self.other_training(data_dir)

    def other_training(self, data_dir: Path) -> list[str]:
        """In what the run that is there was trained otherwise, as far as its start and its data are
        there too."""
        config = json.loads((self.makes.parent / "config.json").read_text())
        experiment = self.experiment()
        data = made_of(experiment.data.name, data_dir)
        had = {"experiment": config["experiment"], "data": {k: config["data"].get(k) for k in data}}
        wanted = {"experiment": experiment.to_dict(), "data": data}
        # What was trained beside it changes nothing of the run.
        had["experiment"]["compare"] = wanted["experiment"]["compare"]
        found = differences(had, wanted)
        origin, start = config.get("init_from", ""), self.start and run_digest(self.start)
        if start and not origin.endswith(f"({start})"):
            found.append(f"init_from was {origin or 'nothing'}, is now {self.start} as it is")
        return found

    def experiment(self) -> Experiment:
        """What a call of hyperface train trains."""
        name, *words = shlex.split(self.options)
        options = Train(experiment=experiments.load(name))
        return program.parse(
            Train, words, prog="hyperface train", description="", default=options
        ).experiment

    def _has_scored(self, had: Mapping[str, str]) -> bool:
        """Whether scores made with these options are this call's, or more of them."""
        asked = recorded(tyro.cli(Evaluate, args=shlex.split(self.options)))
        protocols = {*asked.pop("protocol").split(",")} <= {*had["protocol"].split(",")}
        placed = {"protocol", "source", "out", "data_dir"}
        options = {name: value for name, value in had.items() if name not in placed}
        return protocols and options == {n: v for n, v in asked.items() if n not in placed}


def _are_same(files: Mapping[str, str], folder: Path) -> bool:
    """Whether protocol files have the digests they had, those that are still there."""
    paths = [folder / name for name in files if (folder / name).exists()]
    return provenance.digests(paths, folder).items() <= files.items()


def folder(runs: Path, method: str, seed: int = 0) -> Path:
    """Where a run is."""
    return runs / (f"{method}-seed{seed}" if seed else method)


def seeds(runs: Path, method: str, leaves: str = TRAINED) -> list[int]:
    """The seeds of a method that were trained to the end, or left another file."""
    found = runs.glob(f"{method}-seed*/{leaves}")
    numbers = [path.parent.name.removeprefix(f"{method}-seed") for path in found]
    first = [0] if (runs / method / leaves).exists() else []
    return first + sorted(int(number) for number in numbers if number.isdigit())


def diverged(runs: Path, method: str) -> list[int]:
    """The seeds of a method that have no figures because they diverged."""
    return sorted({*seeds(runs, method, DIVERGED)} - {*seeds(runs, method)})


def item_commands(
    items: Iterable[Item], tables: Mapping[str, Any], context: Context
) -> list[Command]:
    """Those of items at small scale: of the runs they start from and of their tables' rows.

    All of seed 0 come first, then those of seed 1, and so on. What needs a data set that is not
    there is left out.

    Args:
      items: of one paper.
      tables: the paper's, as `published.toml` has them.
      context: says how many seeds, and where data and runs are.
    """
    found: dict[Command, None] = {}
    for seed in range(context.seeds):
        for item in items:
            for method in item.runs:
                found |= dict.fromkeys(small_training(method, context, seed))
            if item.measure == RUNS:
                found |= dict.fromkeys(small_commands(tables[item.name], context, seed))
    return list(found)


def foreign(tables: Iterable[Mapping[str, Any]], context: Context) -> list[str]:
    """A sentence for each trained run below the folder of runs that is not the one of its name.

    Args:
      tables: those whose runs are looked at, as `published.toml` has them.
      context: says where runs are, and whether they are shortened.
    """
    rows = [row for printed in tables for row in printed["rows"]]
    shorter = _shorter(context)
    runs = [
        training(row["small"], context.runs, seed, shorter)[-1]
        for row in rows
        if "small" in row
        for seed in seeds(context.runs, row["small"])
    ]
    runs += [training(row["run"], context.runs)[-1] for row in rows if "run" in row]
    there = [run for run in dict.fromkeys(runs) if run.makes.exists()]
    found = {run: run.other_training(context.data_dir) for run in there}
    return [f"{run.makes.parent}: {', '.join(other)}." for run, other in found.items() if other]


def small_commands(printed: Mapping[str, Any], context: Context, seed: int = 0) -> list[Command]:
    """Those of a table's rows at small scale, of one seed."""
    found: dict[Command, None] = {}
    known = published()["small"]
    evaluations = {
        name: small_options(name, context)[0]
        for name in Small.of(printed).evaluations()
        if not absent_data([known[name]["data"]], context)
    }
    for method in dict.fromkeys(row["small"] for row in printed["rows"] if "small" in row):
        trained = small_training(method, context, seed)
        found |= dict.fromkeys(trained)
        run = folder(context.runs, method, seed)
        for name, options in evaluations.items() if trained else ():
            found |= {scoring(run, options, name): None} if options else {}
    return list(found)


def small_training(method: str, context: Context, seed: int = 0) -> list[Command]:
    """What trains a method at small scale; nothing where its data set is not there.

    A run that others of all seeds start from has seed 0 alone.
    """
    shared = published()["methods"][method].get("shared")
    if (seed and shared) or absent_data([trained_on(method)], context):
        return []
    return training(method, context.runs, seed, _shorter(context))


def _shorter(context: Context) -> str:
    """Options of a training that only shows that all works."""
    steps = few_steps(context)
    return f" --steps {steps} --evaluation.snapshots 1" if steps else ""


def few_steps(asked: Any) -> int | None:
    """Those of a training that only shows that all works, by `steps` and `quick`; else None."""
    return asked.steps or (QUICK_STEPS if asked.quick else None)


def trained_on(method: str) -> str:
    """The data set of a method's experiment."""
    return experiments.load(shlex.split(published()["methods"][method]["train"])[0]).data.name


def small_data(item: Item, paper: str) -> list[str]:
    """The data sets of a table's rows at small scale: trained on, and scored by."""
    if item.measure != RUNS:
        return []
    printed, known = published()[paper][item.name], published()["small"]
    small = [row["small"] for row in printed["rows"] if "small" in row]
    scored = [known[name]["data"] for name in Small.of(printed).evaluations()] if small else []
    return list(dict.fromkeys([*map(trained_on, small), *scored]))


def absent_files(item: Item, paper: str, context: Context) -> list[str]:
    """The protocol files of a table's evaluations at small scale that are not there."""
    if item.measure != RUNS:
        return []
    evaluations = Small.of(published()[paper][item.name]).evaluations()
    absent = [path for name in evaluations for path in small_options(name, context)[1]]
    return list(dict.fromkeys(absent))


def small_options(evaluation: str, context: Context) -> tuple[str, list[str]]:
    """The options of an evaluation at small scale, and the protocol files that are not there.

    Protocols whose files they are are left out of the options, which are "" where none is left.
    """
    from hyperface.protocols.registry import SUITE

    about = published()["small"][evaluation]
    words, folder = shlex.split(about["options"]), context.data_dir / "protocols"
    place = words.index("--protocol") + 1
    own = [about["file"]] if "file" in about else []
    absent = {}
    for protocol in words[place].split(","):
        files = [*(SUITE[protocol].files if protocol in SUITE else ()), *own]
        absent[protocol] = [str(folder / file) for file in files if not (folder / file).exists()]
    words[place] = ",".join(protocol for protocol, files in absent.items() if not files)
    every = [path for paths in absent.values() for path in paths]
    return shlex.join(words) if words[place] else "", every


def absent_data(names: Iterable[str], context: Context) -> list[str]:
    """Those of some data sets that are neither there nor made by the command that needs them."""
    missing = [name for name in names if find(name, context.data_dir) is None]
    return [name for name in missing if name not in AUTOMATIC]


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
    options += f" --init-from {shlex.quote(str(runs / start))}" if start else ""
    from_run, where = runs / start if start else None, shlex.quote(str(run))
    return [*before, Command("train", f"{options} --workdir {where}", run / TRAINED, from_run)]


def scoring(run: Path, options: str, evaluation: str) -> Command:
    """What scores a run."""
    out = "" if evaluation == EVALUATION else f" --out {shlex.quote(str(run / evaluation))}"
    makes = run / evaluation / SCORED
    return Command("evaluate", f"{shlex.quote(str(run))} {options}{out}", makes, run)


def result_key(context: Context, item: Item) -> dict[str, Any]:
    """Returns what a kept result must agree in to be used again."""
    found = {"version": hyperface.__version__, "code": code_digest()}
    if item.needs:
        found |= {"quick": context.quick, "steps": context.steps, "seeds": context.seeds}
        used = (*item.needs, *item.uses)
        found["data"] = [fingerprint(name, context.data_dir) for name in used]
        of_data = [entry for entry in SUITE.values() if entry.dataset in item.uses]
        files = sorted({file for entry in of_data for file in entry.files})
        found["files"] = [digest(context.data_dir / "protocols" / file) for file in files]
    if item.runs:
        paths = [
            folder(context.runs, name, seed)
            for name in item.runs
            for seed in seeds(context.runs, name)
        ]
        found["runs"] = {path.name: run_digest(path) for path in paths}
    return found
