"""Trains an experiment, scores it, and writes its report.

    hyperface train [EXPERIMENT] [--steps 800] [--loss.ring.weight 0.01] ...
    hyperface train mine                     your photos, after hyperface prepare ... --out mine
    hyperface train my_experiment.py --steps 800

EXPERIMENT is one of these:

- nothing: the default experiment is trained.
- the name of an experiment; --list shows them.
- the name of a data set that hyperface prepare wrote: a small network is trained on it, with a
  batch size, steps and a schedule that suit its size.
- your own Python file that defines EXPERIMENT. It may contain a backbone, a loss and a function
  that receives the metrics.

Every field of the experiment is an option. The same command continues a run that was killed, and
with more --steps also a finished run. --list-models shows the backbones.

From Python:

    from hyperface.runs import train
    run = train.train("orl-normface", workdir="runs/orl", data_dir="data")
    print(run.scores["orl-normface"]["accuracy"])

`plan` turns the same options into tasks, and `run` executes the tasks.
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
    """Parses the options, then loads JAX and trains. A diverged run ends with exit status 3."""
    # The name is needed before the options can be parsed, since it decides their defaults.
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
    check(options.experiment)  # Before JAX is loaded, which takes seconds.
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
    """Trains, scores and reports an experiment: `hyperface train` for Python and notebooks.

    The same call continues a run that was interrupted, and returns the scores of a finished run.
    Progress is logged. To print the log as the command does, call `hyperface.console.show_log`.

    Args:
      experiment: an experiment, the name of one that comes with the library, the path of a Python
        file that defines one, or the name of a prepared data set. `dataclasses.replace` changes the
        fields of an experiment. If a notebook defines an experiment with objects, such as a
        backbone, commands cannot evaluate its run.
      workdir: folder of the run; by default runs/NAME.
      data_dir: folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache.
      init_from: backbone to fine-tune: the folder of a run, or a weight file.
      fresh: delete the files of an earlier run in the folder, and train from the start.
      workers: number of processes that read and decode images; 0 uses threads.
      on_nan: reaction to a loss that is not finite. Such a step never updates the parameters.
        "stop" saves the state before that step and raises DivergenceError. "skip" continues with
        the next step. "rollback" returns to the newest checkpoint, and repeats the steps from there
        to that step without updates. After 10 such steps, the next one raises DivergenceError.

    Returns:
      The run's folder, network and scores.

    Raises:
      InputError: the experiment is not valid, the data set is missing or cannot be trained on, or
        the folder has another run or cannot be written.
      DivergenceError: a loss became NaN or infinite.
      Interrupted: a signal arrived, and the run was saved.

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
    # None stays None, so that the same defaults apply as for the command.
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
    """Returns the training tasks of the experiment and of the experiments it is compared with.

    The experiment's field `compare` names the experiments it is compared with. All errors in the
    experiment, the data, the folders and the backbone to start from are found here, before anything
    is compiled.

    Raises:
      InputError: an experiment is not valid, a data set is missing or cannot be trained on, a
        folder has another run, or the backbone is not that of the experiment's model.

    Example:
      >>> from hyperface import experiments
      >>> tasks = plan(Train(experiments.load("orl-ring")))  # doctest: +SKIP
      >>> [task.experiment.name for task in tasks]  # doctest: +SKIP
      ['orl-ring', 'orl-softmax']
    """
    from hyperface.runs import train_plan

    return train_plan.plan(options)


def run(tasks: "Sequence[Task]") -> "TrainedRun":
    """Trains all tasks, logs the scores, and writes the report into the first task's folder.

    A task whose folder has checkpoints is continued. A finished one is only evaluated.

    Args:
      tasks: the tasks that `plan` returned.

    Returns:
      The folder and network of the first task, and the scores of all of them.

    Raises:
      InputError: a folder is in use, or a file cannot be written.
      DivergenceError: a loss became NaN or infinite.
      Interrupted: a signal arrived, and the run was saved.
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
    print("GFLOP: for the feature of one image. A multiply-add counts as 2.")
