"""Lists the commands that train and score the runs behind the tables of faces.

The folder of a run of seed 0 has the name of the method; that of seed 2 is `NAME-seed2`. A
fine-tuned run starts from the run of its own seed, or from seed 0 if that run is `shared`.
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
from hyperface.protocols.registry import PROTOCOLS
from hyperface.reproduce.item import RUNS, Context, Item, code_digest
from hyperface.reproduce.papers import published
from hyperface.runs import program
from hyperface.runs.evaluate_options import Evaluate, recorded
from hyperface.runs.evaluate_run import digests
from hyperface.runs.prepare import AUTOMATIC
from hyperface.runs.train import Train
from hyperface.train.logs import run_digest
from hyperface.train.run_folder import DIVERGED, differences

QUICK_STEPS = 100
TRAINED, EVALUATION, SCORED = "results.json", "evaluation", "evaluation.json"
OWN_TEST = "test"
"""The protocol of a run's own results.json: all pairs of the test people of its data set."""


class SmallScale(NamedTuple):
    """The columns of a table at small scale, with the protocol and score that each shows."""

    columns: list[str]
    protocols: list[str]
    figures: list[str]

    @classmethod
    def of(cls, printed: Mapping[str, Any]) -> "SmallScale":
        """Reads a table's `small` entry; its defaults are the columns at the paper's scale."""
        columns = [f"small scale: {name}".rstrip(": ") for name in printed.get("columns", [""])]
        whole = {"columns": columns, **{k: printed.get(k) for k in ("protocols", "figures")}}
        return cls(**{**whole, **printed.get("small", {})})

    def evaluations(self) -> list[str]:
        """Returns the names of the evaluations that contain the scores."""
        others = [name for name in self.protocols if name != OWN_TEST]
        return list(dict.fromkeys(evaluation_of(name)[0] for name in others))


def evaluation_of(protocol: str) -> tuple[str, str]:
    """Returns the folder of the evaluation that has a protocol, and the protocol's name there.

    Example:
      >>> evaluation_of("evaluation-profiles/pairs"), evaluation_of("lfw")
      (('evaluation-profiles', 'pairs'), ('evaluation', 'lfw'))
    """
    evaluation, _, name = protocol.rpartition("/")
    return evaluation or EVALUATION, name


class Command(NamedTuple):
    """A call of `hyperface train` or `hyperface evaluate`."""

    program: str
    options: str
    makes: Path
    """The file that the command writes last."""
    start: Path | None = None
    """The folder of the run whose network the command loads."""

    def __str__(self) -> str:
        return f"hyperface {self.program} {self.options}"

    def is_done(self, data_dir: Path) -> bool:
        """Returns whether the file exists and is of these options, this start and this data."""
        if not self.makes.exists():
            return False
        if self.program == "evaluate":
            settings = json.loads(self.makes.read_text())["settings"]
            same_run = self.start is not None and settings["run"] == run_digest(self.start)
            same_files = _are_same(settings["files"], data_dir / "protocols")
            return self._has_scored(settings["options"]) and same_run and same_files
        started = self.start is None or bool(run_digest(self.start))
        return started and not self.other_training(data_dir)

    def other_training(self, data_dir: Path) -> list[str]:
        """Returns a sentence for each difference between the existing run and this command.

        A start or a data set that is absent is not compared.
        """
        config = json.loads((self.makes.parent / "config.json").read_text())
        experiment = self.experiment()
        data = made_of(experiment.data.name, data_dir)
        had = {"experiment": config["experiment"], "data": {k: config["data"].get(k) for k in data}}
        wanted = {"experiment": experiment.to_dict(), "data": data}
        # The runs that were trained for comparison do not change this run.
        had["experiment"]["compare"] = wanted["experiment"]["compare"]
        found = differences(had, wanted)
        origin, start = config.get("init_from", ""), self.start and run_digest(self.start)
        if start and not origin.endswith(f"({start})"):
            found.append(f"init_from was {origin or 'nothing'}, is now {self.start} as it is")
        return found

    def experiment(self) -> Experiment:
        """Returns the experiment that a call of `hyperface train` trains."""
        name, *words = shlex.split(self.options)
        options = Train(experiment=experiments.load(name))
        return program.parse(
            Train, words, prog="hyperface train", description="", default=options
        ).experiment

    def _has_scored(self, had: Mapping[str, str]) -> bool:
        """Returns whether scores made with the given options include those of this command."""
        asked = recorded(tyro.cli(Evaluate, args=shlex.split(self.options)))
        protocols = {*asked.pop("protocol").split(",")} <= {*had["protocol"].split(",")}
        placed = {"protocol", "source", "out", "data_dir"}
        options = {name: value for name, value in had.items() if name not in placed}
        return protocols and options == {n: v for n, v in asked.items() if n not in placed}


def _are_same(files: Mapping[str, str], folder: Path) -> bool:
    """Returns whether the protocol files that still exist have their recorded digests."""
    paths = [folder / name for name in files if (folder / name).exists()]
    return digests(paths, folder).items() <= files.items()


def folder(runs: Path, method: str, seed: int = 0) -> Path:
    """Returns the folder of a run."""
    return runs / (f"{method}-seed{seed}" if seed else method)


def seeds(runs: Path, method: str, leaves: str = TRAINED) -> list[int]:
    """Returns the seeds of a method whose run folder has a file: by default, the finished runs."""
    found = runs.glob(f"{method}-seed*/{leaves}")
    numbers = [path.parent.name.removeprefix(f"{method}-seed") for path in found]
    first = [0] if (runs / method / leaves).exists() else []
    return first + sorted(int(number) for number in numbers if number.isdigit())


def diverged(runs: Path, method: str) -> list[int]:
    """Returns the seeds of a method that diverged and have no result."""
    return sorted({*seeds(runs, method, DIVERGED)} - {*seeds(runs, method)})


def item_commands(
    items: Iterable[Item], tables: Mapping[str, Any], context: Context
) -> list[Command]:
    """Returns the commands that make the runs and scores of items at small scale.

    All commands of seed 0 come first, then those of seed 1, and so on. A command whose data set is
    absent is left out.

    Args:
      items: of one paper.
      tables: of the paper, as in `published.toml`.
      context: gives the number of seeds, and the folders of data and runs.
    """
    found: dict[Command, None] = {}
    for seed in range(context.seeds):
        for item in items:
            for method in item.runs:
                found |= dict.fromkeys(small_training(method, context, seed))
            if item.measure == RUNS:
                found |= dict.fromkeys(small_commands(tables[item.name], context, seed))
    return list(found)


def mismatched_runs(tables: Iterable[Mapping[str, Any]], context: Context) -> list[str]:
    """Returns a sentence for each trained run whose settings are not those of its method.

    Args:
      tables: whose runs are checked, as in `published.toml`.
      context: gives the folder of runs, and whether runs are shortened.
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
    """Returns the commands of a table's rows at small scale, for one seed."""
    found: dict[Command, None] = {}
    known = published()["small"]
    evaluations = {
        name: small_options(name, context)[0]
        for name in SmallScale.of(printed).evaluations()
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
    """Returns the commands that train a method at small scale; [] if its data set is absent.

    A run that the runs of all seeds start from is trained with seed 0 alone.
    """
    shared = published()["methods"][method].get("shared")
    if (seed and shared) or absent_data([trained_on(method)], context):
        return []
    return training(method, context.runs, seed, _shorter(context))


def _shorter(context: Context) -> str:
    """Returns the options that shorten a training, "" for a training of full length."""
    steps = few_steps(context.steps, context.quick)
    return f" --steps {steps} --evaluation.snapshots 1" if steps else ""


def few_steps(steps: int | None, quick: bool) -> int | None:
    """Returns the number of steps of a shortened training; None for one of full length."""
    return steps or (QUICK_STEPS if quick else None)


def trained_on(method: str) -> str:
    """Returns the name of the data set that a method is trained on."""
    return experiments.load(shlex.split(published()["methods"][method]["train"])[0]).data.name


def small_data(item: Item, paper: str) -> list[str]:
    """Returns the names of the data sets that a table at small scale trains and scores on."""
    if item.measure != RUNS:
        return []
    printed, known = published()[paper][item.name], published()["small"]
    small = [row["small"] for row in printed["rows"] if "small" in row]
    scored = [known[name]["data"] for name in SmallScale.of(printed).evaluations()] if small else []
    return list(dict.fromkeys([*map(trained_on, small), *scored]))


def absent_files(item: Item, paper: str, context: Context) -> list[str]:
    """Returns the absent protocol files of a table's evaluations at small scale."""
    if item.measure != RUNS:
        return []
    evaluations = SmallScale.of(published()[paper][item.name]).evaluations()
    absent = [path for name in evaluations for path in small_options(name, context)[1]]
    return list(dict.fromkeys(absent))


def small_options(evaluation: str, context: Context) -> tuple[str, list[str]]:
    """Returns the options of an evaluation at small scale, and its absent protocol files.

    The options leave out each protocol with an absent file; they are "" if no protocol is left.
    """
    about = published()["small"][evaluation]
    words, folder = shlex.split(about["options"]), context.data_dir / "protocols"
    place = words.index("--protocol") + 1
    own = [about["file"]] if "file" in about else []
    absent = {}
    for protocol in words[place].split(","):
        files = [*(PROTOCOLS[protocol].file_names if protocol in PROTOCOLS else ()), *own]
        absent[protocol] = [str(folder / file) for file in files if not (folder / file).exists()]
    words[place] = ",".join(protocol for protocol, files in absent.items() if not files)
    every = [path for paths in absent.values() for path in paths]
    return shlex.join(words) if words[place] else "", every


def absent_data(names: Iterable[str], context: Context) -> list[str]:
    """Returns the data sets that are absent and that no command prepares by itself."""
    missing = [name for name in names if find(name, context.data_dir) is None]
    return [name for name in missing if name not in AUTOMATIC]


def full_commands(printed: Mapping[str, Any], rows: Iterable[str], runs: Path) -> list[Command]:
    """Returns the commands of the given rows of a table, at the paper's scale."""
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
    """Returns the name of the folder in a run's folder with a row's scores at full scale."""
    return row.get("evaluation", printed.get("evaluation", EVALUATION))


def training(method: str, runs: Path, seed: int = 0, shorter: str = "") -> list[Command]:
    """Returns the commands that train a method: first those of its start, then its own."""
    about, run = published()["methods"][method], folder(runs, method, seed)
    options, start, before = about["train"] + shorter, None, []
    options += f" --seed {seed}" if seed else ""
    if "start" in about:
        of_start = 0 if is_of_one_start(about["start"]) else seed
        start = folder(runs, about["start"], of_start)
        before = training(about["start"], runs, of_start, shorter)
        options += f" --init-from {shlex.quote(str(start))}"
    options += f" --workdir {shlex.quote(str(run))}"
    return [*before, Command("train", options, run / TRAINED, start)]


def is_of_one_start(method: str) -> bool:
    """Returns whether the runs of all seeds of a method go back to a single trained run."""
    about = published()["methods"][method]
    return bool(about.get("shared")) or ("start" in about and is_of_one_start(about["start"]))


def scoring(run: Path, options: str, evaluation: str) -> Command:
    """Returns the command that scores a run."""
    out = "" if evaluation == EVALUATION else f" --out {shlex.quote(str(run / evaluation))}"
    makes = run / evaluation / SCORED
    return Command("evaluate", f"{shlex.quote(str(run))} {options}{out}", makes, run)


def result_key(context: Context, item: Item) -> dict[str, Any]:
    """Returns the versions, settings and digests that a kept result must share to be used again."""
    found: dict[str, Any] = {"version": hyperface.__version__, "code": code_digest()}
    if item.needs:
        found |= {"quick": context.quick, "steps": context.steps, "seeds": context.seeds}
        used = (*item.needs, *item.uses)
        found["data"] = [fingerprint(name, context.data_dir) for name in used]
        of_data = [entry for entry in PROTOCOLS.values() if entry.dataset in item.uses]
        files = sorted({file for entry in of_data for file in entry.file_names})
        found["files"] = [digest(context.data_dir / "protocols" / file) for file in files]
    if item.runs:
        paths = [
            folder(context.runs, name, seed)
            for name in item.runs
            for seed in seeds(context.runs, name)
        ]
        found["runs"] = {path.name: run_digest(path) for path in paths}
    return found
