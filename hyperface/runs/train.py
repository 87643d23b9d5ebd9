"""Trains an experiment, scores it, and writes its report.

    hyperface train [EXPERIMENT] [--steps 800] [--loss.ring.weight 0.01] ...
    hyperface train mine                     your photos, after hyperface prepare ... --out mine
    hyperface train my_experiment.py --steps 800

Without a name the default experiment is trained. The name of a data set that hyperface prepare
wrote trains a small network on it; batch, steps and schedule suit its size. A Python file of your
own defines EXPERIMENT, and may contain a backbone, a loss and a function for metrics. Every field
of the experiment is an option. The same command continues a run that was killed; with more --steps
it also continues a finished run. --list shows the experiments, and --list-models the backbones.

From Python:

    from hyperface.runs import train
    run = train.train("orl-normface", workdir="runs/orl", data_dir="data")
    print(run.scores["orl-normface"]["accuracy"])

`plan` turns the same options into tasks and `run` carries them out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hyperface import experiments
from hyperface.config.backbones import BACKBONES
from hyperface.config.experiment import Experiment, check
from hyperface.runs import own_data, program
from hyperface.runs.train_options import MAIN_OPTIONS, Train

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.runs.train_plan import Task
    from hyperface.runs.train_run import TrainedRun

__all__ = ["MAIN_OPTIONS", "Train", "main", "plan", "run", "train"]


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and runs; a run that diverges has a status of its own."""
    name, args = (args[0], args[1:]) if args and not args[0].startswith("-") else (None, args)
    name = name or experiments.DEFAULT
    data_dir = own_data.data_dir_in(args)
    chosen = own_data.load(name, data_dir)
    options = program.parse(
        Train,
        args,
        prog=f"hyperface train {name}",
        description=f"{__doc__}\n{name}: {own_data.run_card(name, data_dir)}",
        default=Train(experiment=chosen, file=experiments.file_of(name)),
        main_options=MAIN_OPTIONS,
    )
    if options.list:
        _list_experiments()
        return
    if options.list_models:
        _list_models()
        return
    check(options.experiment)  # Before jax is loaded, which takes seconds.
    with program.ending_in_order(options.exit_on_preemption):
        program.join(options)
        program.quiet_libraries()
        from hyperface.train.divergence import DivergenceError

        try:
            run(plan(options))
        except DivergenceError:
            sys.exit(program.EXIT_DIVERGED)


def train(
    experiment: Experiment | str | Path,
    *,
    workdir: Path | str | None = None,
    data_dir: Path | str | None = None,
    init_from: Path | str | None = None,
    fresh: bool = False,
    workers: int = 0,
    on_nan: Literal["stop", "skip", "rollback"] = "stop",
) -> "TrainedRun":
    """Does what `hyperface train` does, for Python and notebooks.

    The same call goes on with a run that was interrupted, and returns the scores of a finished one.
    Progress is logged; `hyperface.console.show_log` shows it as the command does.

    Args:
      experiment: an experiment, the name of one of ours, the path of a Python file with one, or the
        name of a prepared data set. `dataclasses.replace` changes its fields. A run of an
        experiment that was defined in a notebook can be evaluated by commands only if it holds no
        objects.
      workdir: the run's folder; runs/NAME by default.
      data_dir: folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default.
      init_from: backbone to fine-tune: a run's folder or a file of weights.
      fresh: delete the files of an earlier run that the folder records, and train anew.
      workers: number of processes that read and decode images; 0 uses threads.
      on_nan: what a loss that is not finite does, as `hyperface.train.loop.train` documents.

    Raises:
      InputError: the experiment, the data or the folder does not fit.
      DivergenceError: a loss became NaN or infinite.
      Interrupted: a signal came, and the run is saved.

    Example:
      >>> import dataclasses
      >>> from hyperface import experiments
      >>> ring = dataclasses.replace(experiments.load("orl-ring"), steps=400)
      >>> run = train(ring, workdir="runs/ring")  # doctest: +SKIP
      >>> run.scores["orl-ring"]["accuracy"]  # doctest: +SKIP
      0.87
    """
    file = None
    if not isinstance(experiment, Experiment):
        file = experiments.file_of(str(experiment))
        experiment = own_data.load(str(experiment), None if data_dir is None else Path(data_dir))
    options = Train(
        experiment=experiment,
        workdir=None if workdir is None else Path(workdir),
        data_dir=None if data_dir is None else Path(data_dir),
        init_from=None if init_from is None else Path(init_from),
        fresh=fresh,
        workers=workers,
        on_nan=on_nan,
        file=file,
    )
    program.quiet_libraries()
    return run(plan(options))


def plan(options: Train) -> "list[Task]":
    """Returns the tasks that the options ask for: the experiment, and those it is compared with.

    Everything that can be wrong with the experiment, the data, the run's folders and the backbone
    to start from is found here, before anything is compiled.

    Raises:
      InputError: something does not fit.

    Example:
      >>> from hyperface import experiments
      >>> tasks = plan(Train(experiments.load("orl-ring")))  # doctest: +SKIP
      >>> [task.experiment.name for task in tasks]  # doctest: +SKIP
      ['orl-ring', 'orl-softmax']
    """
    from hyperface.runs import train_plan

    return train_plan.plan(options)


def run(tasks: "Sequence[Task]") -> "TrainedRun":
    """Trains every task, logs the scores and writes the report into the first one's folder.

    Args:
      tasks: as `plan` returns them.

    Raises:
      InputError: a folder is in use, or something cannot be written.
      DivergenceError: a loss became NaN or infinite.
      Interrupted: a signal came, and the run is saved.
    """
    from hyperface.runs import train_run

    return train_run.run(tasks)


def _list_experiments() -> None:
    for name in experiments.names():
        default = " (default)" if name == experiments.DEFAULT else ""
        print(f"{name + default:28} {experiments.run_card(name).splitlines()[0]}")


def _list_models() -> None:
    print(f"{'model':27}{'input':>13}{'features':>10}{'parameters':>13}{'GFLOP':>8}  source")
    for name, found in BACKBONES.items():
        print(
            f"{name:27}{' x '.join(map(str, found.image_shape)):>13}{found.feature_dim:10}"
            f"{found.parameters:13,}{found.flops / 1e9:8.2f}  {found.source}"
        )
    print("GFLOP: for the feature of one image, a multiply-add counted as 2.")
