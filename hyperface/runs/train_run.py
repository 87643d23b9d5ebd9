"""Trains planned experiments, scores their snapshots, and writes the report of the run."""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import traverse_util
from jax.typing import ArrayLike

from hyperface import owned
from hyperface.config.experiment import Experiment
from hyperface.data.datasets import open_experiment_split
from hyperface.devices import processes
from hyperface.evaluate.embed import AllDevices
from hyperface.evaluate.evaluator import Result, evaluate_network, evaluate_pixels
from hyperface.evaluate.people_folds import put_together
from hyperface.report.people_folds import TrainedFolds, folds_report
from hyperface.report.run import Trained, run_report
from hyperface.report.run_page import Report, write_run_report
from hyperface.report.tables import as_text
from hyperface.runs import next_steps, program
from hyperface.runs.evaluate_own import restored
from hyperface.runs.mistakes import hardest_of_groups
from hyperface.runs.train_plan import Task
from hyperface.train import loop
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.divergence import DivergenceError
from hyperface.train.interrupt import Interrupted
from hyperface.train.logs import read_metrics
from hyperface.train.run_folder import DIVERGED
from hyperface.train.state import EmbeddingNetwork, TrainState
from hyperface.weights import read_run

log = logging.getLogger("hyperface")


class TrainedRun(NamedTuple):
    """A run after its training and evaluation."""

    folder: Path
    """The run's folder, with its checkpoints, report.html and results.json."""
    network: EmbeddingNetwork
    """The backbone and its heads, as flax modules without parameters. A head owns parameters of the
    loss, such as the class weights, and computes the loss from features."""
    scores: dict[str, dict[str, float]]
    """Method -> name of the score, such as "accuracy" -> share in [0, 1] on the test split. A
    method is the name of the experiment, of an experiment to compare with, or of a baseline such as
    "raw pixels". If several processes train, only the first one has scores; the others have {}."""

    def embedder(self) -> Callable[[ArrayLike], jax.Array]:
        """Loads the last checkpoint and returns a function from images to features.

        The images are [batch, height, width, channels], scaled by (pixel - 127.5) / 128. The
        features are [batch, dim], not normalised.
        """
        variables = traverse_util.unflatten_dict(read_run(self.folder).arrays, sep="/")
        return jax.jit(functools.partial(self.network.backbone.apply, variables))


def run(tasks: Sequence[Task]) -> TrainedRun:
    """Trains one task after another, then logs their scores and writes the report.

    If several processes train together, all of them train and compute features. Only the first
    process computes the scores and writes files. A task whose folder has checkpoints is continued.

    Args:
      tasks: the tasks that `plan` returned. The report is about the first one's experiment.

    Returns:
      The folder and network of the first task, and the scores of all of them.

    Raises:
      InputError: a folder is in use or has another run, the data cannot be read, or a file cannot
        be written.
      DivergenceError: a loss became NaN or infinite, which was logged.
      Interrupted: a signal arrived. The run was saved, and this was logged.
    """
    trained: dict[str, list[Trained]] = {}

    # It does not return the state, so that the device stores only one state at a time.
    def train_one(task: Task) -> EmbeddingNetwork:
        state = _trained_state(task)
        # Scored at once, while the state is in memory: it is not kept beside that of the next task.
        snapshots = _snapshot_results(task, state)
        if processes.is_writer():
            metrics = read_metrics(task.folder / "metrics.jsonl")
            trained.setdefault(task.experiment.name, []).append(Trained(snapshots, metrics))
        return state.network

    first, *others = tasks
    network = train_one(first)
    for task in others:
        train_one(task)
    # With groups of people the experiment has one task per group. Baselines need no training.
    groups = [task for task in tasks if task.experiment.name == first.experiment.name]
    baselines = [_baselines(task, network) for task in groups]
    # All processes had to take part in the collectives of embedding. Only one writes the report.
    if not processes.is_writer():
        return TrainedRun(first.folder, network, {})
    report, summary = _report(groups, trained, baselines)
    _write_report(first, len(groups), report, summary)
    return TrainedRun(first.folder, network, report.scores)


def _trained_state(task: Task) -> TrainState:
    """Trains a task and returns the state after its last step.

    Raises:
      DivergenceError: a loss became NaN or infinite, which was logged.
      Interrupted: a signal stopped the run, which was logged.
    """
    name = task.experiment.name
    try:
        return loop.train(
            task.experiment,
            task.data_dir,
            task.folder,
            start=task.start,
            fresh=task.fresh,
            workers=task.workers,
            on_nan=task.on_nan,
            profile_steps=task.profile_steps,
            file=task.file,
        )
    except DivergenceError as error:
        # A run that skipped or went back, and diverged nevertheless, needs other settings.
        advice = ", or continue with --on-nan skip" if task.on_nan == "stop" else ""
        log.error(
            f"{name} diverged: {error} The newest checkpoint is from before it: start again "
            f"with a lower learning rate or weight of that term{advice}."
        )
        if processes.is_writer():
            record = {"step": error.step, "message": str(error)}
            with owned.writing(task.folder):
                owned.write_text(task.folder / DIVERGED, json.dumps(record, indent=2) + "\n")
        raise
    except Interrupted as stop:
        log.info(f"{name} stopped by {stop}")
        raise


def _snapshot_results(task: Task, state: TrainState) -> list[Result]:
    """Returns the scores of a run's snapshots in order of steps, so that the last step is last."""
    experiment = task.experiment
    # Read-only, since scoring must not change a finished run.
    # [:-1], because the last snapshot is the state itself.
    with Checkpoints(task.folder / "checkpoints", read_only=True) as checkpoints:
        earlier = [restored(checkpoints, step)[1] for step in experiment.snapshot_steps()[:-1]]
    return [
        evaluate_network(experiment, shot.network, shot.evaluated, task.data_dir, AllDevices())
        for shot in (*earlier, state)
    ]


def _baselines(task: Task, network: EmbeddingNetwork) -> dict[str, Result]:
    """Scores the baselines of a verification: raw pixels, and the backbone before fine-tuning."""
    experiment, data_dir = task.experiment, task.data_dir
    if experiment.evaluation.protocol != "verification":
        return {}
    baselines = {"raw pixels": evaluate_pixels(experiment, data_dir, AllDevices())}
    if task.start is not None:
        before = {name: {"backbone": tree} for name, tree in task.start.backbone.items()}
        baselines["before"] = evaluate_network(experiment, network, before, data_dir, AllDevices())
    return baselines


def _folds(parts: Sequence[Trained]) -> TrainedFolds:
    """Returns the scores over all groups of people together, and the metrics of each group."""
    return TrainedFolds(put_together([p.result for p in parts]), [p.metrics for p in parts])


def _report(
    groups: Sequence[Task],
    trained: Mapping[str, Sequence[Trained]],
    baselines: Sequence[Mapping[str, Result]],
) -> tuple[Report, str]:
    """Returns the report of a run and a sentence on its data and protocol.

    Args:
      groups: the experiment's tasks, one per group of people.
      trained: method -> its results and metrics for each group. The experiment itself comes first.
      baselines: for each group, method without training -> its result.
    """
    experiment, data_dir = groups[0].experiment, groups[0].data_dir
    data = experiment.data
    split = open_experiment_split(data, "train", data_dir)
    tests = [open_experiment_split(task.experiment.data, "test", data_dir) for task in groups]
    hardest = hardest_of_groups(tests, [part.result for part in trained[experiment.name]])
    size = f"{experiment.steps} steps of {data.batch_size} images on {split.dataset}"
    if len(groups) == 1:
        methods = {name: parts[0] for name, parts in trained.items()}
        report = run_report(methods, baselines[0], split.num_classes, hardest)
        scored = f"{split.num_classes} classes; scored on the split {data.test_split!r}."
        return report, f"{size}, {scored}"
    folds = {name: _folds(parts) for name, parts in trained.items()}
    pooled = {name: put_together([group[name] for group in baselines]) for name in baselines[0]}
    report = folds_report(folds, pooled, split.num_classes, hardest)
    return report, (
        f"{size}, once per group of people: each of {len(groups)} networks is trained on "
        f"{split.num_classes} people and scored on the others."
    )


def _write_report(task: Task, groups: int, report: Report, summary: str) -> None:
    """Logs the tables of a run and writes its report.

    Args:
      task: the first task of the run, whose folder gets the report.
      groups: number of groups of people.
      report: the report.
      summary: a sentence on data and protocol.
    """
    for table in report.tables:  # Logged before they are written, in case the disk is full.
        log.info(f"\n{as_text(table)}")
    with owned.writing(task.folder, "Solve that, and give the same command to write the report."):
        write_run_report(
            task.folder,
            report,
            name=task.experiment.name,
            summary=summary,
            command=program.command_line(),
            settings=_settings(_undivided(task.experiment, groups), task.folder),
        )
    _log_next(task.experiment, task.folder, task.data_dir)


def _undivided(experiment: Experiment, groups: int) -> Experiment:
    """Returns the experiment as the user wrote it, from that of one of its groups of people."""
    if groups == 1:
        return experiment
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, people_fold=None),
        evaluation=dataclasses.replace(experiment.evaluation, people_folds=groups),
    )


def _settings(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Returns {"experiment": ..., "environment": ...}, the settings in `results.json`."""
    # The environment that was recorded, because a finished run may be scored by other versions.
    return {
        "experiment": experiment.to_dict(),
        "environment": json.loads((folder / "environment.json").read_text()),
    }


def _log_next(experiment: Experiment, folder: Path, data_dir: Path) -> None:
    """Logs the path of the report and the commands that score the run further."""
    log.info(f"\nReport: {folder / 'report.html'}")
    log.info(f"Score the checkpoint again: {next_steps.after_any_training(folder, data_dir)}")
    proposed = next_steps.after_training(experiment, folder, data_dir)
    if proposed:
        log.info(proposed)
