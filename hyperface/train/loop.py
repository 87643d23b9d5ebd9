"""Trains an experiment: data, steps, metrics and checkpoints, in an order that a resume repeats."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hyperface import owned
from hyperface.config.experiment import Experiment
from hyperface.data.datasets import Split, open_experiment_split
from hyperface.data.pipeline import Batch, training_batches
from hyperface.devices import mesh, processes
from hyperface.errors import InputError
from hyperface.train import parallel
from hyperface.train.checkpoint.manager import Checkpoints, check_path
from hyperface.train.cost import check_memory, run_sizes
from hyperface.train.divergence import DivergenceError, Divergences, OnNan
from hyperface.train.interrupt import Interrupted, listening
from hyperface.train.logs import TrainingProgress
from hyperface.train.optim import group_summaries, with_updates
from hyperface.train.profile import Profile
from hyperface.train.record import Job, Record
from hyperface.train.run_folder import check_same_experiment, locked_run_folder, record_start
from hyperface.train.state import TrainState, abstract_state, create_state

log = logging.getLogger("hyperface")


class Start(NamedTuple):
    """The start of a fine-tuned run: a trained backbone, and where it comes from."""

    origin: str
    """Text with name and digest of the file or run that the backbone comes from. The run's folder
    records it, and a run with another origin cannot continue there."""
    backbone: dict[str, Any]
    """The backbone's variables: "params", and "batch_stats" if it has batch statistics. Each is a
    tree of arrays."""


def train(
    experiment: Experiment,
    data_dir: Path,
    workdir: Path,
    *,
    start: Start | None = None,
    fresh: bool = False,
    workers: int = 0,
    on_nan: OnNan = "stop",
    profile_steps: tuple[int, int] | None = None,
    file: Path | None = None,
) -> TrainState:
    """Trains to the experiment's last step, from the newest checkpoint in `workdir` if it has one.

    A run that is killed and started again on the same machine, with as many devices, ends with the
    same numbers, bit for bit, as a run that was never interrupted. A finished run continues from
    its end if the experiment now has more steps. `history.jsonl` gets one line per start.

    Args:
      experiment: a checked experiment.
      data_dir: the folder of prepared data sets.
      workdir: the run's folder: `config.json`, `environment.json`, `history.jsonl`,
        `metrics.jsonl`, `tensorboard/` and `checkpoints/`.
      start: the backbone to fine-tune; None starts from random parameters.
      fresh: whether the files of an earlier run in `workdir` are deleted first. Files that this
        program did not write stay.
      workers: number of processes that read images; 0 uses threads. The run does not depend on it.
      on_nan: reaction to a bad step, in which a metric is NaN or infinite. "stop" saves the state
        before the step, if it is not lost, and raises an error. "skip" continues with the next step
        without the bad step's update. "rollback" returns to the last checkpoint, and repeats the
        steps up to the bad one without their updates, because an earlier update may be the cause
        (as Chowdhery et al., PaLM, 2022, 5.1, did by hand). The state before the step is lost if
        the update was applied before it was known to be bad. "skip" then returns to the last
        checkpoint too, and leaves out only the bad step's update.
      profile_steps: the first and the last step, counted from 1, of a profile (a trace of devices
        and host), which is written to `workdir/profile`; None records none.
      file: the user's Python file that defines the experiment; None for one of our experiments. The
        run's folder keeps a copy, which evaluation needs if the experiment contains objects.

    Returns:
      The state after the last step, on the devices of all processes. It is replicated, except for
      agents that are split over the devices.

    Raises:
      InputError: the data, the batch size or the folder does not fit, which is found before
        compilation; or a checkpoint could not be written.
      DivergenceError: a metric became NaN or infinite. With "skip" and "rollback" the error is
        raised only at the 11th bad step.
      Interrupted: SIGTERM or SIGINT arrived, and the run was saved.
    """
    # Everything that can fail without a compiled program fails before anything is written.
    check_path(workdir)
    split = checked_split(experiment, data_dir, profile_steps)
    # Only shapes, so that a run that does not fit is refused before it takes memory.
    abstract = abstract_state(experiment, split.num_classes, split.image_shape)
    needed = check_memory(
        run_sizes(abstract, experiment.data.batch_size, split.image_shape),
        mesh.num_devices(),
        mesh.device_memory(),
        shard_agents=experiment.shard_agents,
    )
    if _is_first_group(experiment):
        log.info(f"{experiment.name} needs {needed}")
    if split.group:
        log.info(f"{experiment.name}, trained on {split.group}")
    meta = run_meta(experiment, split, start and start.origin)
    job = Job(experiment, split, workdir, meta, workers)
    placed = parallel.shapes_on_mesh(abstract, split_classes=experiment.shard_agents)
    with (
        # In this order, because the other processes must read the folder only after the writing
        # process has locked and filled it.
        locked_run_folder(workdir, meta, file=file, fresh=fresh)
        if processes.is_writer()
        else contextlib.nullcontext(),
        _after_the_writer(),
        Checkpoints(workdir / "checkpoints", keep=experiment.snapshot_steps()) as checkpoints,
    ):
        divergences = Divergences(on_nan)
        is_new_start = processes.is_writer()
        # One pass, and one more after each rollback.
        while True:
            found = checkpoints.restore_newest(abstract, placed)
            if found is not None:
                first_step, state = found
                check_same_experiment(
                    f"{workdir}: step {first_step}", checkpoints.meta(first_step), meta
                )
                _check_snapshots(experiment, first_step, checkpoints)
                rest = "nothing left to train" if first_step >= experiment.steps else "going on"
                log.info(f"{workdir} holds step {first_step} of {experiment.steps}: {rest}.")
                # Checkpoints have no padding rows. Restoring fills these with zeros, which would
                # count as classes with a distortion of 0.
                state = parallel.with_padding_unseen(state)
            else:
                first_step, state = 0, _fresh_state(experiment, split, start)
            if is_new_start and first_step < experiment.steps:
                record_start(workdir, first_step, experiment.steps)
            is_new_start = False  # A pass after a rollback belongs to the same start.
            profiled = Profile(profile_steps, workdir / "profile")
            state = _run(job, state, first_step, checkpoints, divergences, profiled)
            if state is not None:
                return parallel.whole_classes(state)


def checked_split(
    experiment: Experiment, data_dir: Path, profile_steps: tuple[int, int] | None = None
) -> Split:
    """Returns the training images, after every check that needs no compiled program.

    Args:
      experiment: a checked experiment.
      data_dir: folder of prepared data sets.
      profile_steps: the first and the last step of a profile, counted from 1, or None.

    Raises:
      InputError: the data set is absent or has too few classes, the batch or the classes cannot be
        split over the devices, or the profile's steps are not steps of the run.
    """
    data = experiment.data
    split = open_experiment_split(data, "train", data_dir)
    if split.num_classes < 2:
        raise InputError(f"expected at least 2 classes to train on, found 1 in {split.dataset}.")
    mesh.check_devices(data.batch_size)
    if profile_steps is not None:
        first, last = profile_steps
        if not 1 <= first <= last <= experiment.steps:
            raise InputError(
                f"profile-steps: expected a first and a last step from 1 to {experiment.steps}, "
                f"found {first} and {last}."
            )
    if experiment.shard_agents:
        mesh.check_classes(split.num_classes)
    return split


def _check_snapshots(experiment: Experiment, first_step: int, checkpoints: Checkpoints) -> None:
    """Refuses to continue a run if a checkpoint that will be scored at its end was not kept.

    The snapshots are checkpoints at the last steps of a run. A run that gets more steps has other
    last steps, at which it may have removed the checkpoints.

    Args:
      experiment: the experiment, which names the steps of its snapshots.
      first_step: number of steps that are done.
      checkpoints: the checkpoints of the run.

    Raises:
      InputError: a checkpoint of a needed step is missing.
    """
    needed = [step for step in experiment.snapshot_steps() if 0 < step <= first_step]
    kept = processes.broadcast_from_writer("kept", checkpoints.steps())
    missing = sorted(set(needed) - set(kept))
    if missing:
        raise InputError(
            f"steps: expected a number whose {experiment.evaluation.snapshots} snapshots, "
            f"{experiment.evaluation.snapshot_every} steps apart, are kept or still to be made, "
            f"found {experiment.steps}, which needs the checkpoints of steps {missing}. Kept are "
            f"{kept}."
        )


def run_meta(experiment: Experiment, split: Split, origin: str | None = None) -> dict[str, Any]:
    """Returns the record that identifies a run in its folder and its checkpoints.

    A run continues only in a folder with the same record. Its keys are "experiment" (all settings),
    "data" (facts about the training images) and, for a fine-tuned run, "init_from".

    Args:
      experiment: the experiment of the run.
      split: the training images.
      origin: name and digest of the file or run that a fine-tuned backbone comes from; None for
        random initial parameters.
    """
    meta = {"experiment": experiment.to_dict(), "data": split.facts()}
    return meta if origin is None else meta | {"init_from": origin}


def _is_local(experiment: Experiment) -> bool:
    """Returns whether one process trains alone, and each of its devices has the whole state."""
    return not (processes.is_multiprocess() or experiment.shard_agents)


@contextlib.contextmanager
def _after_the_writer() -> Iterator[None]:
    """Waits until the writing process has created the run's folder, as a context manager."""
    processes.wait_for_all("claimed")
    yield


def _fresh_state(experiment: Experiment, split: Split, start: Start | None) -> TrainState:
    """Returns the state before the first step, on the devices of all processes."""
    # Every process reads the whole first batch and not its share: Ring loss' R is initialised with
    # the mean norm over the batch, and must be the same in all processes.
    batch = next(_batches(experiment, split, 0))
    make = partial(create_state, experiment, split.num_classes)
    arguments = (batch["images"], batch["labels"], start and start.backbone)
    if _is_local(experiment):
        return jax.device_put(make(*arguments), mesh.replicated())
    return parallel.on_mesh(make, *arguments, split_classes=experiment.shard_agents)


def _run(
    job: Job,
    state: TrainState,
    first_step: int,
    checkpoints: Checkpoints,
    divergences: Divergences,
    profiled: Profile,
) -> TrainState | None:
    """Trains to the last step.

    Args:
      job: the settings of the run.
      state: the state after `first_step`; its buffers are donated to the first step.
      first_step: number of steps that are done.
      checkpoints: the checkpoints of the run.
      divergences: decides what happens after a step that is not finite.
      profiled: records a profile of some steps.

    Returns:
      The state after the last step; None if the run must go back to its newest checkpoint.
    """
    # A resumed run repeats this order exactly:
    #   1. Batch k is read. It depends only on the seed and on k.
    #   2. Step k is started on the devices.
    #   3. Meanwhile the metrics of step k-1 arrive, and are checked and logged.
    #   4. At a checkpoint the metrics of step k are checked too, with the norm of the parameters
    #      after it. Then the log is flushed to the disk, and then the state is saved. So no
    #      checkpoint contains a diverged state, and no checkpoint is newer than its log.
    # Waiting for step k-1 also limits the steps in flight to two. If step k-1 is not finite, the
    # device applied neither its update nor that of step k, so step k is computed again.
    experiment = job.experiment
    if first_step >= experiment.steps:
        return state
    if _is_first_group(experiment):
        _log_groups(experiment, state)
    step_fn = _step_fn(experiment)
    batches = _batches(experiment, job.split, first_step, job.workers, **processes.process_slice())
    always_saved = set(experiment.snapshot_steps())
    after = partial(_after, accumulate=experiment.optimizer.accumulate)
    pending = None

    def make(
        step: int, state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array] | None]:
        # The batch was read even if its step is left out, so that later steps get the same images
        # as without the rollback.
        if step in divergences.left_out:
            return after(step, state), None
        return step_fn(state, batch)

    with (
        TrainingProgress(experiment.name, first_step, experiment.steps) as progress,
        listening() as request,
        profiled.recording(),
        owned.writing(
            job.workdir, "Mend that, and the same command goes on from the last checkpoint."
        ),
        contextlib.closing(Record(job, first_step, checkpoints, divergences, progress)) as record,
    ):
        try:
            for step in range(first_step + 1, experiment.steps + 1):
                batch = next(batches)
                profiled.before(step)
                state, metrics = make(step, state, batch)
                if pending and not record.finish(*pending):
                    state, metrics = make(step, after(step - 1, state), batch)
                profiled.after(step, state.step)
                pending = (step, metrics)
                stop = request.reached(step)
                # After a signal the state is saved too, so that no step is lost.
                if stop or step % experiment.checkpoint_every == 0 or step in always_saved:
                    if not record.finish(*pending):
                        state = after(step, state)
                    pending = None
                    record.save(step, state)
                if stop:
                    raise Interrupted(step, stop)
        except DivergenceError as error:
            # A save that is still under way may become the newest checkpoint.
            checkpoints.wait()
            # Another process may see the folder of a shared file system a little later.
            newest = processes.broadcast_from_writer("newest", checkpoints.latest() or 0)
            if divergences.rolls_back(error, newest):
                return None
            # The state is still the one before the step, unless the update itself overflowed.
            if newest < error.step - 1 and not error.updated:
                record.save(error.step - 1, after(error.step - 1, state))
            raise
    return state


def _step_fn(
    experiment: Experiment,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the function (state, this process's share of a batch) -> (state, metrics)."""
    if _is_local(experiment):
        return parallel.data_parallel_step()
    return parallel.mesh_step(split_classes=experiment.shard_agents)


def _after(step: int, state: TrainState, accumulate: int) -> TrainState:
    """Returns the state after a step whose update is left out.

    Args:
      step: number of the step.
      state: the state before the step.
      accumulate: number of steps per update. The schedules continue as if the update had been made.
    """
    # With the sharding of before: another sharding would compile the step again.
    values = jax.device_put((np.int32(step), np.bool_(False)), state.step.sharding)
    opt_state = with_updates(state.opt_state, step // accumulate)
    return state.replace(step=values[0], diverged=values[1], opt_state=opt_state)


def _is_first_group(experiment: Experiment) -> bool:
    """Returns whether the experiment trains on one set of people, or on the first of several.

    The runs of all groups have the same settings, which are logged only once.
    """
    return experiment.data.people_fold is None or experiment.data.people_fold[0] == 1


def _log_groups(experiment: Experiment, state: TrainState) -> None:
    """Logs how each group of parameters is optimised, so that users notice a wrong factor."""
    groups = "; ".join(map(str, group_summaries(state.params, experiment.optimizer)))
    log.info(f"{experiment.name} learns {groups}")


def _batches(
    experiment: Experiment, split: Split, start_step: int, workers: int = 0, **share: int
) -> Iterator[Batch]:
    return training_batches(
        split,
        batch_size=experiment.data.batch_size,
        seed=experiment.seed,
        mirror=experiment.data.mirror,
        shift=experiment.data.shift,
        start_step=start_step,
        workers=workers,
        **share,
    )
