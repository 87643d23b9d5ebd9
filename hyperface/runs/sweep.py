"""Trains an experiment with several settings and seeds, and compares the scores.

    hyperface sweep orl-ring loss.ring.weight=0,0.001,0.01,0.1,1 --seeds 3
    hyperface sweep orl-normface loss.softmax.scale=learned,10 model.feature_dim=64,128
    hyperface sweep orl-softmax optimizer.boundaries="400 600,500" -- --steps 800 --workers 2

Every combination of the values is a setting, and is trained with every seed. Fields are those of
hyperface train, whose other options follow after --. All settings are checked before the first run.

Each run has its own folder, as hyperface train writes it. These files are written again after each
run: sweep.csv with one row per run, settings.csv with the mean and deviation of each setting,
sweep.json and sweep.html. If a run has several snapshots, its scores are their means.

The same command continues a sweep that was killed. Finished runs are not trained again, and more
values or seeds can be added. If a run diverges or fails, it is recorded, and the other runs
continue. The command then ends with status 3 or 2, and the same command tries that run again.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import tyro

from hyperface import experiments, owned
from hyperface.config.experiment import Experiment, check
from hyperface.errors import InputError, expect, unknown_name
from hyperface.files import read_json
from hyperface.runs import own_data, program, train
from hyperface.runs.train_options import Train

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.report.swept import SweptRun

log = logging.getLogger("hyperface")

FILES = ("sweep.json", "sweep.csv", "settings.csv", "sweep.html")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Options of `hyperface sweep`."""

    experiment: tyro.conf.Positional[str]
    """Name of the experiment, or a Python file of your own that defines one."""
    fields: tyro.conf.Positional[tuple[str, ...]]
    """Fields of the experiment with their values, FIELD=VALUE,VALUE,... such as
    loss.ring.weight=0.01,0.1. Every combination is trained. Write a value that is a sequence as
    several words, such as "data.crop=96 80,112 96"."""
    seeds: int = 1
    """Number of runs of each setting (combination of values). Their seeds count up from the seed of
    the experiment."""
    out: Path | None = None
    """Folder for the runs and tables; by default runs/sweep-NAME."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of the sweep: a setting with a seed."""

    values: dict[str, Any]
    """The setting: dotted name of each swept field, such as "loss.ring.weight", -> its value."""
    options: Train
    """The options of hyperface train for this run."""

    @property
    def folder(self) -> Path:
        """The folder of the run, inside of the sweep's folder."""
        return cast(Path, self.options.workdir)

    @property
    def name(self) -> str:
        """The name of the run's folder: "loss.ring.weight=0.01,seed=2"."""
        return self.folder.name


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX, trains all runs of the sweep and ends the program.

    Args:
      args: the options of the sweep and, after "--", options of hyperface train for every run.
    """
    args = list(args)
    split = args.index("--") if "--" in args else len(args)
    options = program.parse(Sweep, args[:split], prog="hyperface sweep", description=__doc__ or "")
    expect(options.seeds >= 1, "--seeds", "at least 1", options.seeds)
    planned = plan(options, args[split + 1 :])
    with program.ending_in_order(planned[0].options.exit_on_preemption):
        status = run(options, planned)
    sys.exit(status)


def plan(options: Sweep, more: Sequence[str]) -> list[Planned]:
    """Returns all runs of the sweep, after their settings were checked.

    The runs of one setting (one combination of values) are next to each other, since they share
    compiled programs.

    Args:
      options: the options of the sweep.
      more: words of the command line: options of hyperface train that every run gets.

    Raises:
      InputError: there is no such field, a value or a combination of values is not valid, or two
        settings are equal.
    """
    chosen = own_data.load(options.experiment, own_data.data_dir_in(more))
    # Each run would otherwise train the experiments that it is compared with as well.
    experiment = dataclasses.replace(chosen, compare=())
    # The file is recorded by each run, which needs it when it is continued or evaluated.
    base = Train(experiment, file=experiments.file_of(options.experiment))
    fields = _fields(options.fields, base.experiment)
    out = options.out or Path("runs") / f"sweep-{base.experiment.name}"
    planned: dict[str, Planned] = {}
    for texts in itertools.product(*fields.values()):
        swept = [arg for field, text in zip(fields, texts, strict=True) for arg in
                 _arguments(field, text, base.experiment)]  # fmt: skip
        chosen = program.parse(
            Train, [*more, *swept], prog="hyperface train", description="", default=base
        )
        # One folder for all runs would be an error only at the second run.
        if chosen.workdir is not None:
            raise InputError(f"--workdir: expected --out of the sweep, found {chosen.workdir}.")
        check(chosen.experiment)
        values = {field: _value(chosen.experiment, field) for field in fields}
        # Two texts may give the same value, such as 0.1 and 0.10, and so the same folder.
        for one in _seeded(chosen, values, options.seeds, out):
            if planned.setdefault(one.name, one) is not one:
                raise InputError(f"expected different settings, found {one.name} twice.")
    return list(planned.values())


def run(options: Sweep, planned: list[Planned]) -> int:
    """Trains the runs that are not finished, writes the tables, and returns the exit status.

    All runs share one process, so that JAX is loaded only once. A run that fails or diverges does
    not stop the others.

    Args:
      options: the options of the sweep, which the report records.
      planned: the runs that `plan` returned.

    Returns:
      0 if all runs were trained, 2 if a run failed, or 3 if a run diverged and none failed.

    Raises:
      InputError: the sweep's folder is in use, or belongs to other runs.
      Interrupted: a signal arrived. The current run was saved, and this was logged.
    """
    import jax

    from hyperface.devices.launchers import cluster_of
    from hyperface.report.sweep import sweep_table
    from hyperface.report.tables import as_text

    # Each process of a launcher would start the same sweep in the same folder.
    if cluster_of(os.environ) is not None:
        raise InputError("expected one process for a sweep, found a launcher of several.")
    program.quiet_libraries()
    out = planned[0].folder.parent
    owned.check_free(*(out / name for name in FILES))
    with owned.writing(out), owned.locked(out, "being swept in"), _kept_programs():
        finished = _check(planned)
        waiting = [one for one in planned if one not in finished]
        log.info(f"{len(planned)} runs, {len(finished)} of them done.")
        runs = {one.name: _unfinished(one, "not run", "") for one in planned}
        runs |= {one.name: _scored(one) for one in finished}
        # Also before the first run, so that a folder that cannot be written is noticed at once.
        _write(out, options, runs.values(), planned[0])
        began = time.monotonic()
        for number, one in enumerate(waiting):
            left = (time.monotonic() - began) / max(number, 1) * (len(waiting) - number) / 60
            about = f", about {left:,.1f} minutes left" if number else ""
            log.info(f"\n{one.name}: {number + 1} of {len(waiting)}{about}")
            if number and one.values != waiting[number - 1].values:
                # The compiled programs of all settings together would fill the memory.
                jax.clear_caches()
            runs[one.name] = _outcome(one)
            _write(out, options, runs.values(), planned[0])
    log.info(f"\n{as_text(sweep_table(list(runs.values())))}")
    log.info(f"\nReport: {out / 'sweep.html'}")
    # A failed run needs the user's help, so its status outweighs that of a diverged run.
    states = {one.status for one in runs.values()}
    return (
        program.EXIT_INPUT if "failed" in states else program.EXIT_DIVERGED * ("diverged" in states)
    )


def _write(out: Path, options: Sweep, runs: Iterable["SweptRun"], first: Planned) -> None:
    """Writes the tables and the page of the sweep.

    Args:
      out: folder of the sweep.
      options: the options of the sweep, which are recorded.
      runs: all runs, whatever their status is.
      first: the first planned run, whose experiment is recorded.
    """
    from hyperface.report.sweep import write_sweep_report

    settings = {
        "fields": list(options.fields),
        "seeds": options.seeds,
        "first run": first.options.experiment.to_dict(),
    }
    write_sweep_report(
        out,
        name=first.options.experiment.name,
        runs=list(runs),
        command=program.command_line(),
        settings=settings,
    )


@contextlib.contextmanager
def _kept_programs() -> Iterator[None]:
    """Stores compiled programs in a temporary folder, for the other seeds of the same setting.

    A folder that the user has set for compiled programs is used instead.
    """
    import jax

    # JAX creates the attributes of its options at run time, so a type checker does not know them.
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        yield
        return
    with tempfile.TemporaryDirectory(prefix="hyperface-sweep-") as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


def _fields(given: Sequence[str], experiment: Experiment) -> dict[str, list[str]]:
    """Parses texts FIELD=VALUE,VALUE,... and returns field -> its values as texts.

    Raises:
      InputError: a text has another form, or the experiment has no such field.
    """
    fields = {}
    for text in given:
        field, equals, values = text.partition("=")
        field = field.replace("-", "_")
        if not equals:
            raise InputError(f"expected FIELD=VALUE,VALUE,..., found {text!r}.")
        # The second list of values would silently replace the first one.
        expect(field not in fields, field, "one list of values", "two")
        expect(field != "seed", "seed", "no values, but --seeds for how many runs", values)
        expect(
            not dataclasses.is_dataclass(_value(experiment, field)),
            field,
            "a field with a value",
            "a group of fields",
        )
        fields[field] = [value.strip() for value in values.split(",")]
    if not fields:
        raise InputError(
            "expected a field to sweep, such as loss.ring.weight=0.01,0.1, found none."
        )
    return fields


def _value(experiment: Experiment, field: str) -> Any:
    """Returns the value of an experiment's field, given by its dotted name."""
    value, path = experiment, ""
    for name in field.split("."):
        # A number is an index, as in loss.custom.0.weight.
        if isinstance(value, tuple) and name.isdecimal() and int(name) < len(value):
            value, path = value[int(name)], f"{path}{name}."
            continue
        inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        known = [f.name for f in inner]
        if name not in known:
            raise unknown_name("field", path + name, [path + other for other in known])
        value, path = getattr(value, name), f"{path}{name}."
    return value


def _arguments(field: str, text: str, experiment: Experiment) -> list[str]:
    """Returns the words of the command line that set a field to a value."""
    *groups, last = field.replace("_", "-").split(".")
    # tyro has the options --name and --no-name for a field that is True or False.
    if isinstance(_value(experiment, field), bool):
        expect(text in ("True", "False"), field, "True or False", text)
        last, text = last if text == "True" else f"no-{last}", ""
    return ["--" + ".".join([*groups, last]), *text.split()]


def _seeded(chosen: Train, values: dict[str, Any], seeds: int, out: Path) -> Iterator[Planned]:
    """Yields the runs of a setting, one per seed.

    Args:
      chosen: the options of hyperface train with this setting.
      values: field -> value of the setting, which the names of the folders contain.
      seeds: number of seeds, counted from the experiment's own.
      out: folder of the sweep.
    """
    setting = ",".join(f"{field}={_shown(value)}" for field, value in values.items())
    for seed in range(chosen.experiment.seed, chosen.experiment.seed + seeds):
        experiment = dataclasses.replace(chosen.experiment, seed=seed)
        folder = out / f"{setting},seed={seed}"
        yield Planned(values, dataclasses.replace(chosen, experiment=experiment, workdir=folder))


def _shown(value: Any) -> str:
    """Returns a value as text for a folder's name, with special characters quoted."""
    return quote("x".join(map(str, value)) if isinstance(value, tuple) else str(value), safe="+")


def _check(planned: Sequence[Planned]) -> list[Planned]:
    """Checks data and folders of all runs, and returns the runs that are finished.

    Raises:
      InputError: a run could not be scored, or its folder belongs to another run.
    """
    from hyperface.data.datasets import data_directory, open_experiment_split
    from hyperface.evaluate.evaluator import check_scorable
    from hyperface.runs.prepare import prepare_missing
    from hyperface.runs.train_plan import origin
    from hyperface.train.loop import run_meta
    from hyperface.train.run_folder import check_same_run

    finished, scorable = [], set()
    for one in planned:
        options, experiment = one.options, one.options.experiment
        data, data_dir = experiment.data, data_directory(options.data_dir)
        # Many runs share data and protocol, which are checked only once.
        if (data, experiment.evaluation) not in scorable:
            prepare_missing(data.name, data_dir)
            check_scorable(experiment, data_dir)
            scorable.add((data, experiment.evaluation))
        if options.fresh:
            continue
        split = open_experiment_split(data, "train", data_dir)
        start = options.init_from and origin(options.init_from)
        check_same_run(one.folder, run_meta(experiment, split, start))
        if _has_results(one.folder, experiment.steps):
            finished.append(one)
    return finished


def _has_results(folder: Path, steps: int) -> bool:
    """Returns whether a run has results for this number of steps.

    A finished run whose number of steps was increased has results for fewer steps.
    """
    try:
        record = read_json(folder / "results.json")
        return record["settings"]["experiment"]["steps"] == steps
    # A missing or damaged file: the run is not trained again, but scored again.
    except (InputError, KeyError, TypeError):
        return False


def _outcome(one: Planned) -> "SweptRun":
    """Trains one run and returns its scores, or the error that ended it."""
    from hyperface.train.divergence import DivergenceError
    from hyperface.train.interrupt import Interrupted

    try:
        train.run(train.plan(one.options))
    except Interrupted:  # An exception like others, which the last branch would record as failed.
        raise
    except DivergenceError as error:
        return _unfinished(one, "diverged", str(error))
    except InputError as error:
        log.error(f"{one.name} failed: {error}")
        return _unfinished(one, "failed", str(error))
    # Also a programming error, so that one run cannot end a sweep of many hours.
    except Exception as error:
        log.error(traceback.format_exc())
        return _unfinished(one, "failed", f"{type(error).__name__}: {error}")
    return _scored(one)


def _scored(one: Planned) -> "SweptRun":
    """Returns a finished run with its scores, which are the means over its snapshots."""
    from hyperface.report.run import snapshot_means
    from hyperface.report.swept import DONE, SweptRun

    record = read_json(one.folder / "results.json")
    seed = one.options.experiment.seed
    return SweptRun(one.name, one.values, seed, DONE, snapshot_means(record))


def _unfinished(one: Planned, status: str, message: str) -> "SweptRun":
    """Returns a run without scores, with its status and the reason."""
    from hyperface.report.swept import SweptRun

    return SweptRun(one.name, one.values, one.options.experiment.seed, status, {}, message)
