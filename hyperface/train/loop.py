"""The training loop: data, step, metrics and checkpoints, in an order that resuming repeats."""

import json
import platform
import shutil
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from hyperface.data.datasets import Split, open_split
from hyperface.data.pipeline import Batch, training_batches
from hyperface.errors import InputError
from hyperface.files import replace_text
from hyperface.train import distributed, parallel
from hyperface.train.checkpoint import Checkpoints
from hyperface.train.experiment import Experiment
from hyperface.train.memory import check_memory, run_sizes
from hyperface.train.metrics import MetricsLog, check_finite
from hyperface.train.optim import group_summaries, learning_rate
from hyperface.train.progress import TrainingProgress
from hyperface.train.state import TrainState, abstract_state, create_state

RUN_FILES = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "results.json",
    "evaluation.json",
    "report.html",
    "figures",
    "tensorboard",
    "checkpoints",
    "compare",
)
"""Everything that a run leaves in its folder."""
MAY_CHANGE = {"experiment.shard_agents"}
"""Fields that a run may go on with another value of: the numbers stay."""
RECORDED_VERSIONS = ("hyperface", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Start(NamedTuple):
    """Where a fine-tuned run starts."""

    origin: str
    """The file or run, as the user named it: the run folder is this run's only with it."""
    backbone: dict[str, Any]
    """"params", and "batch_stats" where the backbone has them."""


def train(
    experiment: Experiment,
    data_dir: Path,
    workdir: Path,
    *,
    start: Start | None = None,
    fresh: bool = False,
    workers: int = 0,
    console: Console | None = None,
) -> TrainState:
    """Trains to the experiment's last step, from its newest checkpoint in `workdir` if it has one.

    A run that is killed and started again, on the same machine with as many devices, ends with the
    same numbers, bit for bit, as one that was not.

    Args:
      experiment: a checked experiment.
      data_dir: where the prepared data set is.
      workdir: the run's folder: `config.json`, `environment.json`, `metrics.jsonl`,
        `tensorboard/` and `checkpoints/`.
      start: the backbone to fine-tune; None starts from random parameters.
      fresh: delete what `workdir` holds of an earlier run, and only that, first.
      workers: processes that read images; 0 reads in threads. The run is the same for any number.
      console: where progress goes.

    Returns:
      The state after the last step, on the devices of all processes: replicated, or agents split.

    Raises:
      InputError: the data, the batch size or the folder does not fit; nothing was compiled.
      DivergenceError: a metric became NaN or infinite.
    """
    console = (console or Console()) if distributed.is_writer() else Console(quiet=True)
    data = experiment.data
    split = open_split(data.name, data.train_split, data_dir, crop=data.crop)
    if split.num_classes < 2:
        raise InputError(f"expected at least 2 classes to train on, found 1 in {split.dataset}.")
    parallel.check_devices(experiment.data.batch_size)
    if experiment.shard_agents:
        parallel.check_classes(split.num_classes)
    abstract = abstract_state(experiment, split.num_classes, split.image_shape)
    needed = check_memory(
        run_sizes(abstract, experiment.data.batch_size, split.image_shape),
        parallel.num_devices(),
        parallel.device_memory(),
        shard_agents=experiment.shard_agents,
    )
    console.print(f"{experiment.name} needs {needed}", highlight=False, soft_wrap=True)
    meta = {"experiment": experiment.to_dict(), "data": split.facts()}
    if start is not None:
        meta["init_from"] = start.origin
    if distributed.is_writer():
        if fresh:
            _clear(workdir)
        _claim(workdir, meta)
    distributed.wait_for_all("claimed")
    local = _is_local(experiment)
    on_mesh = partial(parallel.on_mesh, split_classes=experiment.shard_agents)
    snapshots = experiment.snapshot_steps()
    with Checkpoints(workdir / "checkpoints", keep=snapshots) as checkpoints:
        first_step = checkpoints.latest() or 0
        if first_step:
            rest = "nothing left to train" if first_step >= experiment.steps else "going on"
            console.print(f"{workdir} holds step {first_step} of {experiment.steps}: {rest}.")
            state = checkpoints.restore(first_step, abstract, parallel.replicated())
            if not local:
                state = on_mesh(lambda state: state, state)
        else:
            batch = next(_batches(experiment, split, 0))
            make = partial(create_state, experiment, split.num_classes)
            arguments = (batch["images"], batch["labels"], start and start.backbone)
            if local:
                state = jax.device_put(make(*arguments), parallel.replicated())
            else:
                state = on_mesh(make, *arguments)
        state = _run(
            experiment, split, workdir, state, first_step, checkpoints, meta, console, workers
        )
        return parallel.whole_classes(state)


def _run(
    experiment: Experiment,
    split: Split,
    workdir: Path,
    state: TrainState,
    first_step: int,
    checkpoints: Checkpoints,
    meta: dict[str, Any],
    console: Console,
    workers: int,
) -> TrainState:
    # The order of a step, which a resumed run repeats exactly:
    #   1. batch k is made from the seed and k alone;
    #   2. the step runs on the devices;
    #   3. meanwhile the metrics of step k-1 arrive, are checked and logged;
    #   4. at a checkpoint, first the metrics of step k itself are checked, with the length of the
    #      parameters after it, and the log is put on disk; then the state is saved: a checkpoint
    #      never holds a diverged state, and never stands before its log.
    # Waiting for step k-1 also keeps at most two steps in flight.
    if first_step >= experiment.steps:
        return state
    _print_groups(experiment, state, console)
    if _is_local(experiment):
        step_fn = parallel.data_parallel_step()
    else:
        step_fn = parallel.mesh_step(split_classes=experiment.shard_agents)
    batches = _batches(experiment, split, first_step, workers, **distributed.share())
    rate = learning_rate(experiment.optimizer)
    always_saved = set(experiment.snapshot_steps())
    log = None
    if distributed.is_writer():
        log = MetricsLog(workdir, first_step, experiment.log_every)
    pending = None

    with TrainingProgress(experiment.name, first_step, experiment.steps, console) as progress:

        def finish(step: int, metrics: dict[str, jax.Array]) -> None:
            values = {name: float(value) for name, value in metrics.items()}
            check_finite(step, values)
            progress.update(step, values)
            if log and log.add(step, values, last=step == experiment.steps):
                log.write(step, learning_rate=float(rate(step - 1)))

        try:
            for step in range(first_step + 1, experiment.steps + 1):
                state, metrics = step_fn(state, next(batches))
                if pending:
                    finish(*pending)
                pending = (step, metrics)
                if step % experiment.checkpoint_every == 0 or step in always_saved:
                    finish(*pending)
                    pending = None
                    if log:
                        log.flush()
                    checkpoints.save(step, parallel.whole_classes(state), meta)
        finally:
            if log:
                log.close()
    return state


def _print_groups(experiment: Experiment, state: TrainState, console: Console) -> None:
    """How each group of parameters is optimised, so that a wrong multiplier is seen at once."""
    parts = [
        f"{name} {count:,} ({rule.rate:g} x rate, {rule.decay:g} x decay)"
        for name, count, rule in group_summaries(state.params, experiment.optimizer)
    ]
    console.print(f"{experiment.name} learns {'; '.join(parts)}", highlight=False, soft_wrap=True)


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


def _is_local(experiment: Experiment) -> bool:
    """Whether the step is mapped over one host's devices, each with the whole state."""
    return not (distributed.are_several() or experiment.shard_agents)


def _clear(workdir: Path) -> None:
    """Deletes an earlier run's files; refuses a folder that is none of ours."""
    if not workdir.exists() or not any(workdir.iterdir()):
        return
    if not (workdir / "config.json").exists():
        raise InputError(
            f"--fresh: expected the folder of an earlier run, found {workdir} without a "
            "config.json. Nothing was deleted; take another --workdir."
        )
    for name in RUN_FILES:
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _claim(workdir: Path, meta: dict[str, Any]) -> None:
    """Makes the run's folder, or checks that the one there is of this run."""
    config = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if config.exists():
            _check_same_run(json.loads(config.read_text()), meta, workdir)
        elif any(workdir.iterdir()):
            raise InputError(
                f"expected an empty folder or that of an earlier run, found other files in "
                f"{workdir}. Take another --workdir."
            )
        else:
            replace_text(config, json.dumps(meta, indent=2) + "\n")
        environment = json.dumps(_environment(), indent=2) + "\n"
        replace_text(workdir / "environment.json", environment)
    except OSError as error:
        raise InputError(f"expected a writable run folder {workdir}, found: {error}.") from error


def _check_same_run(found: dict[str, Any], wanted: dict[str, Any], workdir: Path) -> None:
    found, wanted = _flat(found), _flat(wanted)
    differing = [
        f"{name} was {found.get(name)}, is now {wanted.get(name)}"
        for name in sorted((found.keys() | wanted.keys()) - MAY_CHANGE)
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds another run: {'; '.join(differing)}. Take another --workdir, or "
            "pass --fresh to delete that run."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        flat |= inner or {f"{prefix}{name}": value}
    return flat


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": parallel.describe_devices(),
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
