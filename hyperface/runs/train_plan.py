"""Turns the options of a training into tasks, and checks everything before the first step."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hyperface import experiments
from hyperface.config.experiment import Experiment, check
from hyperface.data.datasets import data_directory
from hyperface.devices import processes
from hyperface.errors import InputError
from hyperface.evaluate.evaluator import check_scorable
from hyperface.files import digest
from hyperface.runs.prepare import prepare_missing
from hyperface.runs.train_options import Train
from hyperface.train.checkpoint.manager import check_path
from hyperface.train.divergence import OnNan
from hyperface.train.logs import run_digest
from hyperface.train.loop import Start, checked_split, run_meta
from hyperface.train.run_folder import check_same_run
from hyperface.train.state import abstract_state
from hyperface.weights import load_backbone

log = logging.getLogger("hyperface")


class Task(NamedTuple):
    """One experiment to train in one folder, with all settings of its training."""

    experiment: Experiment
    """The experiment to train. If the user's experiment divides people into groups by its field
    `evaluation.people_folds`, there is one task per group. The experiment of a task then trains on
    the people of all other groups."""
    folder: Path
    """The run's folder."""
    data_dir: Path
    """Folder of prepared data sets."""
    start: Start | None
    """The backbone to fine-tune; None starts from new parameters."""
    fresh: bool
    """Whether the files of an earlier run in the folder are deleted first. If not, that run is
    continued."""
    workers: int
    """Number of processes that read images; 0 uses threads."""
    on_nan: OnNan
    """Reaction to a loss that is not finite. Such a step never updates the parameters: "stop" with
    an error, "skip" to the next step, or "rollback" to the last checkpoint."""
    profile_steps: tuple[int, int] | None
    """First and last step to profile; None profiles nothing."""
    file: Path | None
    """The user's Python file that defines the experiment, of which the run's folder keeps a copy;
    None for other experiments."""


def plan(options: Train) -> list[Task]:
    """Returns the tasks of the experiment, then those of the experiments to compare it with.

    The experiment's field `compare` names the experiments to compare with. Only their losses are
    taken; all other settings are those of this experiment. An experiment has one task, or several
    if its field `evaluation.people_folds` divides the people into groups. Then there is one task
    per group, which trains on the people of the other groups. The data set "orl_faces" is prepared
    if it is absent; any other data set must have been prepared.

    Raises:
      InputError: an experiment is not valid, a data set is missing or cannot be trained on, a
        folder has another run, or the backbone is not that of the experiment's model.
    """
    experiment = check(options.experiment)
    data_dir = data_directory(options.data_dir)
    # One process prepares, and the others wait, since all may see the same folder.
    if processes.is_writer():
        prepare_missing(experiment.data.name, data_dir)
    processes.wait_for_all("prepared")
    # Before training: a test split that cannot be scored must not be noticed hours later.
    for part, _ in _by_group(experiment, Path()):
        check_scorable(part, data_dir)
    workdir = options.workdir or Path("runs") / experiment.name
    compared = [(part, workdir / "compare" / part.name) for part in _compared(experiment)]
    parts = [*_by_group(experiment, workdir)]
    for part, folder in compared:
        parts += _by_group(part, folder)
    # All tasks start from the same backbone, so that the compared losses differ in nothing else.
    start = options.init_from and _start(options.init_from, experiment, data_dir)
    tasks = [
        Task(
            experiment=part,
            folder=folder,
            data_dir=data_dir,
            start=start,
            fresh=options.fresh,
            workers=options.workers,
            on_nan=options.on_nan,
            profile_steps=options.profile_steps,
            file=options.file,
        )
        for part, folder in parts
    ]
    for task in tasks:
        _check(task)
    return tasks


def _by_group(part: Experiment, folder: Path) -> Iterator[tuple[Experiment, Path]]:
    """Yields the (experiment, folder) of each group of people.

    The first group has the given folder, and the other groups have folders below it. An experiment
    without groups is yielded unchanged.

    Args:
      part: an experiment; `evaluation.people_folds` is its number of groups.
      folder: folder of the experiment's run.
    """
    groups = part.evaluation.people_folds
    if groups == 1:
        yield part, folder
        return
    # Each group is trained like an experiment of its own, on all people but those of the group.
    evaluation = dataclasses.replace(part.evaluation, people_folds=1)
    for group in range(1, groups + 1):
        data = dataclasses.replace(part.data, people_fold=(group, groups))
        place = folder if group == 1 else folder / "groups" / str(group)
        yield dataclasses.replace(part, data=data, evaluation=evaluation), place


def _compared(experiment: Experiment) -> list[Experiment]:
    """Returns copies of this experiment, each with the loss of an experiment to compare with."""
    # Runs are told apart by their names, in folders and tables.
    if experiment.name in experiment.compare:
        raise InputError(f"compare: expected other experiments, found {experiment.name!r} itself.")
    return [
        check(
            dataclasses.replace(experiment, name=name, loss=experiments.load(name).loss, compare=())
        )
        for name in experiment.compare
    ]


def _start(path: Path, experiment: Experiment, data_dir: Path) -> Start:
    """Loads the backbone to fine-tune, and logs what was loaded.

    Args:
      path: folder of a run, or a weight file.
      experiment: the experiment whose backbone must have these parameters.
      data_dir: folder of prepared data sets.

    Raises:
      InputError: there is no backbone at the path, or it does not fit the experiment's backbone.
    """
    split = checked_split(experiment, data_dir)
    like = abstract_state(experiment, split.num_classes, split.image_shape).variables
    # The heads are not loaded: their rows belong to the people of the other training.
    wanted = {name: tree["backbone"] for name, tree in like.items() if "backbone" in tree}
    backbone, report = load_backbone(path, experiment.model.title, wanted)
    log.info(str(report))
    return Start(origin(path), backbone)


def origin(path: Path) -> str:
    """Returns the text "PATH (DIGEST)" for the run or weight file from which another run starts.

    The fine-tuned run records this text. The digest is that of the run's logged metrics, or of the
    weight file. It shows later whether the path still has the same weights.
    """
    # With the digest, because the same path may contain other weights when the run is continued.
    return f"{path} ({run_digest(path) if path.is_dir() else digest(path)})"


def _check(task: Task) -> None:
    """Checks a task before any task is trained, so that an error does not come hours later."""
    check_path(task.folder)
    split = checked_split(task.experiment, task.data_dir, task.profile_steps)
    # With --fresh the folder may have another run, whose files are deleted.
    if processes.is_writer() and not task.fresh:
        check_same_run(
            task.folder, run_meta(task.experiment, split, task.start and task.start.origin)
        )
