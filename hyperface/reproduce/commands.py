"""Lists the commands that train and score the runs from which the tables of faces are read.

A method is a named set of training options in `published.toml`; it is trained with one or more
seeds. The run of seed 0 is in the folder METHOD, that of seed 2 in METHOD-seed2. A fine-tuned run
starts from a run of another method with the same seed, or with seed 0 if that method is `shared`.
Or it starts from a file of released weights (`weights`).
"""

import itertools
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
"""Number of steps of a training with --quick."""
TRAINED, EVALUATION, SCORED = "results.json", "evaluation", "evaluation.json"
"""The file that a finished training writes last, the default folder of an evaluation, and the file
with its scores."""
OWN_TEST = "test"
"""Name of the protocol whose scores are in a run's results.json: all pairs of images of the test
people of its own data set."""


class SmallScale(NamedTuple):
    """The columns of a table for runs at small scale: runs on smaller data than the paper's.

    The three lists have one element per column.
    """

    columns: list[str]
    """Title of each column."""
    protocols: list[str]
    """Protocol of each column, such as "lfw", or "FOLDER/PROTOCOL" if its scores are in another
    folder of the run than "evaluation". "test" means the scores on the run's own test people."""
    figures: list[str]
    """Name of the score of each column, such as "accuracy"."""

    @classmethod
    def of(cls, printed: Mapping[str, Any]) -> "SmallScale":
        """Returns the columns that a table of a paper gets for its runs at small scale.

        Args:
          printed: the table as in `published.toml`. Its entry "small", if there is one, has some of
            the fields of this class. The other fields are those of the table's columns at the
            paper's scale; "small scale: " is put before each title.
        """
        columns = [f"small scale: {name}".rstrip(": ") for name in printed.get("columns", [""])]
        whole = {"columns": columns, **{k: printed.get(k) for k in ("protocols", "figures")}}
        return cls(**{**whole, **printed.get("small", {})})

    def evaluations(self) -> list[str]:
        """Returns the names of the folders with scores, each of which is inside a run's folder.

        The scores on the run's own test people are not in such a folder, because the training
        itself writes them.
        """
        # A run scores itself by OWN_TEST at the end of training; no evaluation is needed for it.
        others = [name for name in self.protocols if name != OWN_TEST]
        return list(dict.fromkeys(evaluation_of(name)[0] for name in others))


def evaluation_of(protocol: str) -> tuple[str, str]:
    """Splits a name FOLDER/PROTOCOL into the folder of an evaluation and the name of a protocol.

    If the name has no folder, the folder is "evaluation".

    Example:
      >>> evaluation_of("evaluation-profiles/pairs"), evaluation_of("lfw")
      (('evaluation-profiles', 'pairs'), ('evaluation', 'lfw'))
    """
    evaluation, _, name = protocol.rpartition("/")
    return evaluation or EVALUATION, name


class Command(NamedTuple):
    """A call of `hyperface train` or `hyperface evaluate`, which writes one run or its scores."""

    program: str
    """Name of the subcommand: train or evaluate."""
    options: str
    """The options, as one would type them."""
    makes: Path
    """The file that the command writes last, so that it exists only after a complete command."""
    start: Path | None = None
    """The folder of the run whose network the command loads: the run to score, or the one from
    which a training starts. It is a file if a training starts from released weights, and None if it
    starts from random ones."""

    def __str__(self) -> str:
        return f"hyperface {self.program} {self.options}"

    @property
    def needs(self) -> Path | None:
        """The file that must exist before the command can run; None if it needs no other run."""
        if self.start is None or self.start.is_file():
            return self.start
        return self.start / TRAINED

    def is_done(self, data_dir: Path) -> bool:
        """Returns whether the command was completed already, so that it need not run again.

        It was completed if its result exists and comes from the same options. For a training, the
        data set and the run in `start` must not have changed since then; for an evaluation, the
        scored run and the protocol files. Recorded digests are compared, not file times.

        Args:
          data_dir: the folder of prepared data sets and protocol files.
        """
        if not self.makes.exists():
            return False
        if self.program == "evaluate":
            # By digests and not by file times: a run that is copied or trained again to the same
            # weights is not scored again.
            settings = json.loads(self.makes.read_text())["settings"]
            same_run = self.start is not None and settings["run"] == run_digest(self.start)
            same_files = _are_same(settings["files"], data_dir / "protocols")
            return self._has_scored(settings["options"]) and same_run and same_files
        started = self.start is None or bool(_digest_of(self.start))
        return started and not self.other_training(data_dir)

    def other_training(self, data_dir: Path) -> list[str]:
        """Returns one sentence per difference between the run in the folder and this command.

        The command must be a training, and its run must have been trained. Options, data and the
        run to fine-tune (`start`) are compared. A data set or a `start` that does not exist is not
        compared.

        Args:
          data_dir: the folder of prepared data sets.
        """
        config = json.loads((self.makes.parent / "config.json").read_text())
        experiment = self.experiment()
        data = made_of(experiment.data.name, data_dir)
        had = {"experiment": config["experiment"], "data": {k: config["data"].get(k) for k in data}}
        wanted = {"experiment": experiment.to_dict(), "data": data}
        # The names of runs to compare with are for reports: they do not change the weights.
        had["experiment"]["compare"] = wanted["experiment"]["compare"]
        found = differences(had, wanted)
        origin, start = config.get("init_from", ""), self.start and _digest_of(self.start)
        if start and not origin.endswith(f"({start})"):
            found.append(f"init_from was {origin or 'nothing'}, is now {self.start} as it is")
        return found

    def experiment(self) -> Experiment:
        """Returns the experiment that this call of `hyperface train` trains, with its options."""
        # By the parser of the command itself, so that both read the options in one way.
        name, *words = shlex.split(self.options)
        options = Train(experiment=experiments.load(name))
        return program.parse(
            Train, words, prog="hyperface train", description="", default=options
        ).experiment

    def _has_scored(self, had: Mapping[str, str]) -> bool:
        """Returns whether an evaluation with other options contains the scores of this command.

        Args:
          had: the recorded options of the evaluation.
        """
        asked = recorded(tyro.cli(Evaluate, args=shlex.split(self.options)))
        protocols = {*asked.pop("protocol").split(",")} <= {*had["protocol"].split(",")}
        # Where files lie does not change scores; the folders may have been moved since.
        placed = {"protocol", "source", "out", "data_dir"}
        options = {name: value for name, value in had.items() if name not in placed}
        return protocols and options == {n: v for n, v in asked.items() if n not in placed}


def _digest_of(start: Path) -> str:
    """Returns the digest of a run's folder or of a file of weights; "" if there is none."""
    return digest(start) if start.is_file() else run_digest(start)


def _are_same(files: Mapping[str, str], folder: Path) -> bool:
    """Returns whether those protocol files that still exist have their recorded digests."""
    paths = [folder / name for name in files if (folder / name).exists()]
    return digests(paths, folder).items() <= files.items()


def folder(runs: Path, method: str, seed: int = 0) -> Path:
    """Returns the folder of a run: METHOD for seed 0, and METHOD-seed2 for seed 2.

    Args:
      runs: folder that contains the runs.
      method: name of a set of training options in `published.toml`, such as "faces-normface".
      seed: the seed of the run.
    """
    return runs / (f"{method}-seed{seed}" if seed else method)


def seeds(runs: Path, method: str, leaves: str = TRAINED) -> list[int]:
    """Returns the seeds with which a method was trained to the end, in rising order.

    Args:
      runs: folder that contains the runs.
      method: name of a set of training options in `published.toml`, such as "faces-normface".
      leaves: name of a file; a run counts if its folder has this file. The default is the file that
        a finished training writes last.
    """
    found = runs.glob(f"{method}-seed*/{leaves}")
    numbers = [path.parent.name.removeprefix(f"{method}-seed") for path in found]
    first = [0] if (runs / method / leaves).exists() else []
    return first + sorted(int(number) for number in numbers if number.isdigit())


def diverged(runs: Path, method: str) -> list[int]:
    """Returns the seeds with which the training of a method diverged, in rising order.

    Args:
      runs: folder that contains the runs.
      method: name of a set of training options in `published.toml`, such as "faces-normface".
    """
    # A run that diverged first and was then trained to its end counts as trained.
    return sorted({*seeds(runs, method, DIVERGED)} - {*seeds(runs, method)})


def item_commands(
    items: Iterable[Item], tables: Mapping[str, Any], context: Context
) -> list[Command]:
    """Returns the commands that train and score the runs of some items at small scale.

    Runs at small scale use smaller data sets than the paper's. All commands of seed 0 come first,
    then those of seed 1, 2, ... A command whose data set is absent is left out.

    Args:
      items: items (figures, tables, ...) of one paper.
      tables: name of the item -> its table in `published.toml`.
      context: contains the number of seeds, and the folders of data and runs.
    """
    # A dictionary as an ordered set: several tables use the same run, which is trained once.
    found: dict[Command, None] = {}
    for seed in range(context.seeds):
        for item in items:
            for method in item.runs:
                found |= dict.fromkeys(small_training(method, context, seed))
            if item.measure == RUNS:
                found |= dict.fromkeys(small_commands(tables[item.name], context, seed))
    return list(found)


def mismatched_runs(tables: Iterable[Mapping[str, Any]], context: Context) -> list[str]:
    """Returns one sentence per trained run whose options or data are not those of `published.toml`.

    A table must not show the scores of such runs. The result is [] if there is none.

    Args:
      tables: the tables whose runs are checked, as in `published.toml`.
      context: contains the folder of runs, and whether runs are shortened.
    """
    rows = [row for printed in tables for row in printed["rows"]]
    shorter = _shorter(context)
    # [-1]: the last command trains the run itself, those before it the runs that it starts from.
    runs = [
        training(row["small"], context, seed, shorter)[-1]
        for row in rows
        if "small" in row
        for seed in seeds(context.runs, row["small"])
    ]
    runs += [training(row["run"], context)[-1] for row in rows if "run" in row]
    there = [run for run in dict.fromkeys(runs) if run.makes.exists()]
    found = {run: run.other_training(context.data_dir) for run in there}
    return [f"{run.makes.parent}: {', '.join(other)}." for run, other in found.items() if other]


def small_commands(printed: Mapping[str, Any], context: Context, seed: int = 0) -> list[Command]:
    """Returns the commands that train and score the rows of a table at small scale, for one seed.

    Each row names a method, a set of training options. If the data set of a method or of an
    evaluation is absent, its commands are left out.

    Args:
      printed: the table as in `published.toml`.
      context: contains the folders of data and runs.
      seed: the seed of the runs.
    """
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
        # Without its data set a method is not trained, and there is nothing to score.
        for name, options in evaluations.items() if trained else ():
            found |= {scoring(run, options, name): None} if options else {}
    return list(found)


def small_training(method: str, context: Context, seed: int = 0) -> list[Command]:
    """Returns the commands that train a method with one seed; [] if data that it needs are absent.

    The last command trains the run itself. If the run is fine-tuned from another one, the commands
    before it train that run. A method that `published.toml` marks as `shared` has one run for
    all seeds, from which other methods may start. This run has seed 0, and for another seed the
    result is [].

    Args:
      method: name of a set of training options in `published.toml`, such as "faces-normface".
      context: contains the folders of data and runs, and whether training is shortened.
      seed: the seed of the run.
    """
    shared = published()["methods"][method].get("shared")
    if (seed and shared) or absent_data(needed_by(method), context):
        return []
    return training(method, context, seed, _shorter(context))


def _shorter(context: Context) -> str:
    """Returns the options that shorten a training; "" for a training of full length."""
    steps = few_steps(context.steps, context.quick)
    # A short run has no room for the several snapshots that a full one averages over.
    return f" --steps {steps} --evaluation.snapshots 1" if steps else ""


def few_steps(steps: int | None, quick: bool) -> int | None:
    """Returns the number of steps of a shortened training; None for one of full length.

    Args:
      steps: the option --steps, which takes precedence over --quick; None without it.
      quick: the option --quick, which shortens a training to 100 steps.
    """
    return steps or (QUICK_STEPS if quick else None)


def needed_by(method: str) -> list[str]:
    """Returns the names of the data that a method of `published.toml` is trained on.

    They are the name of the data set and, if the method fine-tunes a released network, that of the
    network.
    """
    about = published()["methods"][method]
    data_set = experiments.load(shlex.split(about["train"])[0]).data.name
    return [data_set, *([about["weights"]] if "weights" in about else [])]


def small_data(item: Item, paper: str) -> list[str]:
    """Returns the names of the data that the runs of a table at small scale use.

    They are the data sets of training and of evaluation, and released networks. The result is [] if
    the item is not a table of trained runs.

    Args:
      item: the item.
      paper: "normface" or "ringloss".
    """
    if item.measure != RUNS:
        return []
    printed, known = published()[paper][item.name], published()["small"]
    small = [row["small"] for row in printed["rows"] if "small" in row]
    scored = [known[name]["data"] for name in SmallScale.of(printed).evaluations()] if small else []
    return list(dict.fromkeys([*itertools.chain(*map(needed_by, small)), *scored]))


def absent_files(item: Item, paper: str, context: Context) -> list[str]:
    """Returns the paths of the protocol files that are missing but needed to measure an item.

    A protocol file is for example LFW's list of pairs. Only a table of runs that are trained here,
    on smaller data sets than the paper's, needs such files; for any other item the result is [].

    Args:
      item: the table, figure or equation of the paper that is to be measured.
      paper: "normface" or "ringloss".
      context: contains the folder of the data.
    """
    if item.measure != RUNS:
        return []
    evaluations = SmallScale.of(published()[paper][item.name]).evaluations()
    absent = [path for name in evaluations for path in small_options(name, context)[1]]
    return list(dict.fromkeys(absent))


def small_options(evaluation: str, context: Context) -> tuple[str, list[str]]:
    """Returns the options of an evaluation at small scale, and the protocol files that are absent.

    A protocol is a rule by which a network is scored, such as LFW's.

    Args:
      evaluation: name of the evaluation, a key of `small` in `published.toml`.
      context: contains the folder of the data.

    Returns:
      (options, absent). `options` is one text for `hyperface evaluate`, without the protocols whose
      files are absent; it is "" if no protocol is left. `absent` are the paths of absent files.
    """
    about = published()["small"][evaluation]
    words, folder = shlex.split(about["options"]), context.data_dir / "protocols"
    value = words.index("--protocol") + 1
    own = [about["file"]] if "file" in about else []
    absent = {}
    for protocol in words[value].split(","):
        files = [*(PROTOCOLS[protocol].file_names if protocol in PROTOCOLS else ()), *own]
        absent[protocol] = [str(folder / file) for file in files if not (folder / file).exists()]
    words[value] = ",".join(protocol for protocol, files in absent.items() if not files)
    every = [path for paths in absent.values() for path in paths]
    return shlex.join(words) if words[value] else "", every


def absent_data(names: Iterable[str], context: Context) -> list[str]:
    """Returns those of the given data that the user still has to prepare.

    They are absent from the data folder. A data set that a command prepares by itself, such as
    "orl_faces", is not returned even if it is absent.

    Args:
      names: names of data sets and of released networks.
      context: contains the folder of the data.
    """
    missing = [name for name in names if not _is_present(name, context.data_dir)]
    return [name for name in missing if name not in AUTOMATIC]


def _is_present(name: str, data_dir: Path) -> bool:
    """Returns whether the folder of the data contains a data set or a released network."""
    about = published()["data"].get(name, {})
    if "file" in about:
        return (data_dir / about["file"]).is_file()
    return find(name, data_dir) is not None


def full_commands(
    printed: Mapping[str, Any], rows: Iterable[str], context: Context
) -> list[Command]:
    """Returns the commands that train and score some rows of a table at the paper's scale.

    Args:
      printed: the table as in `published.toml`.
      rows: names of the rows. A row without a run of its own, such as a method of other authors,
        has no commands.
      context: contains the folders of data and runs.
    """
    found: dict[Command, None] = {}
    for row in printed["rows"]:
        if "run" not in row or row["row"] not in rows:
            continue
        found |= dict.fromkeys(training(row["run"], context))
        if printed["evaluate"]:
            # NormFace averages the scores of five snapshots of each fine-tuned network (5.1), and
            # the row with an evaluation of its own has no mirror images (Table 4).
            tuned = "start" in published()["methods"][row["run"]]
            options = [printed["evaluate"]]
            options += [printed["snapshots"]] if tuned and "snapshots" in printed else []
            options += ["--mirror none"] if "evaluation" in row else []
            run = folder(context.runs, row["run"])
            found[scoring(run, " ".join(options), evaluation(printed, row))] = None
    return list(found)


def evaluation(printed: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Returns the name of the folder that contains the scores of a row's run at the paper's scale.

    The folder is inside the run's folder. Its name is the entry "evaluation" of the row or, if the
    row has no such entry, that of the table. Without both entries the name is "evaluation".

    Args:
      printed: the table as in `published.toml`.
      row: one of its rows.
    """
    return row.get("evaluation", printed.get("evaluation", EVALUATION))


def training(method: str, context: Context, seed: int = 0, shorter: str = "") -> list[Command]:
    """Returns the commands that train a method, a set of training options, with one seed.

    The last command trains the run itself. If the run is fine-tuned, the commands before it train
    the run from which it starts.

    Args:
      method: name of a set of training options in `published.toml`, such as "faces-normface".
      context: contains the folders of data and runs.
      seed: the seed of the run.
      shorter: options of hyperface train that shorten the training, beginning with a space, such as
        " --steps 100"; "" for full length.
    """
    about, run = published()["methods"][method], folder(context.runs, method, seed)
    options, start, before = about["train"] + shorter, None, []
    options += f" --seed {seed}" if seed else ""
    if "start" in about:
        # A start that exists only once has seed 0, whatever the seed of this run is.
        of_start = 0 if is_of_one_start(about["start"]) else seed
        start = folder(context.runs, about["start"], of_start)
        before = training(about["start"], context, of_start, shorter)
    if "weights" in about:
        start = context.data_dir / published()["data"][about["weights"]]["file"]
    options += f" --init-from {shlex.quote(str(start))}" if start else ""
    options += f" --workdir {shlex.quote(str(run))}"
    return [*before, Command("train", options, run / TRAINED, start)]


def is_of_one_start(method: str) -> bool:
    """Returns whether the runs of all seeds of a method were fine-tuned from one and the same run.

    A method is a named set of training options. Runs that were fine-tuned from the same run are not
    independent, so comparisons have to count them as one.
    """
    about = published()["methods"][method]
    return bool(about.get("shared")) or ("start" in about and is_of_one_start(about["start"]))


def scoring(run: Path, options: str, evaluation: str) -> Command:
    """Returns the command that scores a run.

    Args:
      run: folder of the run.
      options: options of hyperface evaluate, as one would type them.
      evaluation: name of the folder, in the run's folder, into which the scores are written. The
        usual one is "evaluation".
    """
    out = "" if evaluation == EVALUATION else f" --out {shlex.quote(str(run / evaluation))}"
    makes = run / evaluation / SCORED
    return Command("evaluate", f"{shlex.quote(str(run))} {options}{out}", makes, run)


def result_key(context: Context, item: Item) -> dict[str, Any]:
    """Returns everything on which an item's result depends, as a dictionary for JSON.

    A stored result is used again only if its dictionary is equal. The keys are:

    - "version" (of the package) and "code" (a digest of the source files).
    - for an item with data: "quick", "steps" and "seeds" (the settings), and "data" and "files"
      (lists of digests of data sets and protocol files).
    - for an item with trained runs: "runs" (name of a run -> digest of its logged metrics).
    """
    found: dict[str, Any] = {"version": hyperface.__version__, "code": code_digest()}
    # Items without data, such as the propositions, depend on nothing but the code.
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
