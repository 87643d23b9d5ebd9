"""Trains an experiment, scores it, and writes its report.

    hyperface train [EXPERIMENT] [--steps 800] [--loss.ring.weight 0.01] ...
    hyperface train mine                     your photos, after hyperface prepare ... --out mine
    hyperface train my_experiment.py --steps 800

Without a name the default experiment is trained. The name of a data set that hyperface prepare
made trains a small network on it; batch, steps and schedule suit its size. A Python file of your
own defines EXPERIMENT, and may hold a backbone, a loss and a function for metrics. Every field of
the experiment is an option. The same command goes on with a run that was killed, and from the end
of one that is finished if it has more --steps. --list shows the experiments, and --list-models the
backbones.

From Python:

    from hyperface.runs import train
    run = train.train("orl-normface", workdir="runs/orl", data_dir="data")
    print(run.scores["orl-normface"]["accuracy"])
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

from hyperface import experiments, owned
from hyperface.config.experiment import Experiment, check
from hyperface.errors import InputError
from hyperface.runs import next_steps, own_data, program

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    import jax
    from jax.typing import ArrayLike
    from rich.console import Console

    from hyperface.train.state import EmbeddingNetwork, TrainState


@dataclasses.dataclass(frozen=True)
class Train:
    """Options of the command."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Folder of the run; runs/NAME by default."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""
    init_from: Path | None = None
    """Backbone to fine-tune: an earlier run's folder, or a .safetensors, .pth or .caffemodel file
    of the experiment's model."""
    fresh: bool = False
    """Delete the files that an earlier run recorded in the folder, instead of going on with it.
    Other files stay, and a folder that is no run of ours is refused."""
    workers: int = 0
    """Number of processes that read and decode images; 0 uses threads. The run is the same for any
    number."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """How a run handles a loss that is not finite; that step's update is never made. stop: save the
    state before it and end with status 3. skip: go on after it. rollback: go back to the last
    checkpoint, and on from there without the updates up to that step."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of a profile in the run's folder, for TensorBoard or Perfetto."""
    exit_on_preemption: int = 0
    """Exit status of a run that was saved and stopped at SIGTERM. Give another one than 0 where a
    scheduler takes 0 for the end of the run."""
    coordinator: str | None = None
    """host:port of process 0, where several processes train together. Under SLURM, Open MPI and
    Kubernetes it is found automatically; `hyperface cluster` prints launchers."""
    processes: int | None = None
    """Number of processes that train together."""
    process: int | None = None
    """Number of this process, from 0."""
    list: bool = False
    """Show the experiments and stop."""
    list_models: bool = False
    """Show the backbones, their size and their cost, and stop."""
    file: tyro.conf.Suppress[Path | None] = None
    """The user's Python file that defines the experiment."""


MAIN_OPTIONS = (
    "list",
    "list_models",
    "workdir",
    "data_dir",
    "init_from",
    "fresh",
    "steps",
    "seed",
    "data.name",
    "data.batch_size",
    "model.name",
    "loss.softmax.scale",
    "loss.ring.weight",
    "optimizer.learning_rate",
)
"""What --help shows."""


class TrainedRun(NamedTuple):
    """A run that is trained and scored."""

    folder: Path
    """The run's folder, with its checkpoints, report.html and results.json."""
    network: "EmbeddingNetwork"
    """The backbone and its heads, as modules without parameters."""
    scores: dict[str, dict[str, float]]
    """Scores on the test split, shares in [0, 1], by method and name. The methods are the
    experiment, those it is compared with, and the baselines. Only the process that writes has
    them."""

    def embedder(self) -> "Callable[[ArrayLike], jax.Array]":
        """Loads the last checkpoint and returns the function that it computes.

        Images [batch, height, width, channels], (pixel - 127.5) / 128, become un-normalised
        features [batch, dim].
        """
        import jax
        from flax import traverse_util

        from hyperface.weights import read_run

        variables = traverse_util.unflatten_dict(read_run(self.folder).arrays, sep="/")
        return jax.jit(functools.partial(self.network.backbone.apply, variables))


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and runs."""
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
    check(options.experiment)
    with program.ending_in_order(options.exit_on_preemption):
        run(options)


def run(options: Train) -> None:
    """Trains and reports; a run that diverges ends the program with its status.

    All processes train and embed; the first one scores and writes.

    Raises:
      Interrupted: a signal came, and the run is saved, which was logged.
    """
    program.join(options)
    from hyperface.console import make_console
    from hyperface.devices import processes
    from hyperface.train.divergence import DivergenceError

    try:
        train_and_report(options, make_console(quiet=not processes.is_writer()))
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
    console: "Console | None" = None,
) -> TrainedRun:
    """Does what `hyperface train` does, for Python and notebooks.

    The same call goes on with a run that was interrupted, and returns the scores of a finished one.

    Args:
      experiment: an experiment, the name of one of ours, the path of a Python file with one, or the
        name of a prepared data set.
        `dataclasses.replace` changes its fields. A run of an experiment that was defined in a
        notebook can be evaluated by commands only if it holds no objects.
      workdir: the run's folder; runs/NAME by default.
      data_dir: folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default.
      init_from: backbone to fine-tune: a run's folder or a file of weights.
      fresh: delete the files of an earlier run that the folder records, and train anew.
      workers: number of processes that read and decode images; 0 uses threads.
      on_nan: what a loss that is not finite does, as `hyperface.train.loop.train` documents.
      console: where progress goes; standard output by default.

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
    from hyperface.console import make_console

    file = None
    if not isinstance(experiment, Experiment):
        file = experiments.file_of(str(experiment))
        experiment = own_data.load(str(experiment), None if data_dir is None else Path(data_dir))
    options = Train(
        experiment=check(experiment),
        workdir=None if workdir is None else Path(workdir),
        data_dir=None if data_dir is None else Path(data_dir),
        init_from=None if init_from is None else Path(init_from),
        fresh=fresh,
        workers=workers,
        on_nan=on_nan,
        file=file,
    )
    return train_and_report(options, console or make_console())


def train_and_report(options: Train, console: "Console") -> TrainedRun:
    """Trains the experiment and those it is compared with, then writes the report.

    Raises:
      InputError: something does not fit.
      DivergenceError: a loss became NaN or infinite, which was logged.
      Interrupted: a signal came, and the run is saved, which was logged.
    """
    from hyperface.console import say
    from hyperface.data.datasets import data_directory
    from hyperface.devices import processes
    from hyperface.evaluate.evaluator import check_scorable
    from hyperface.report.run import Trained
    from hyperface.runs.prepare import prepare_missing
    from hyperface.train.logs import read_metrics

    program.quiet_libraries()
    experiment = options.experiment
    data_dir = data_directory(options.data_dir)
    workdir = options.workdir or Path("runs") / experiment.name
    if processes.is_writer():
        prepare_missing(experiment.data.name, data_dir, console)
    processes.wait_for_all("prepared")
    check_scorable(experiment, data_dir)
    start = options.init_from and _start(options.init_from, experiment, data_dir, console)
    trained = {}

    # It returns no state, so that the device has one at a time.
    def train_part(part: Experiment, folder: Path) -> "EmbeddingNetwork":
        state = _trained_state(options, part, folder, data_dir, start, console)
        snapshots = _snapshot_results(part, state, folder, data_dir)
        if processes.is_writer():
            trained[part.name] = Trained(snapshots, read_metrics(folder / "metrics.jsonl"))
        return state.network

    others = [*map(_like(experiment), experiment.compare)]  # Refused before hours of training.
    network = train_part(experiment, workdir)
    for part in others:
        train_part(part, workdir / "compare" / part.name)
    baselines = _baselines(experiment, network, start, data_dir)
    if processes.is_writer():
        _report(experiment, workdir, data_dir, trained, baselines, console)
        proposed = next_steps.after_training(experiment, workdir, data_dir)
        if proposed:
            say(console, proposed)
    results = baselines | {name: method.result for name, method in trained.items()}
    scores = {name: result.figures() for name, result in results.items()}
    return TrainedRun(workdir, network, scores if processes.is_writer() else {})


def _snapshot_results(part: Experiment, state: "TrainState", folder: Path, data_dir: Path):
    """Returns the scores of a run's snapshots, those of the last step at the end."""
    from hyperface.evaluate.embed import AllDevices
    from hyperface.evaluate.evaluator import evaluate_network
    from hyperface.runs.evaluate_own import restored
    from hyperface.train.checkpoint.manager import Checkpoints

    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        earlier = [restored(checkpoints, step)[1] for step in part.snapshot_steps()[:-1]]
    return [
        evaluate_network(part, shot.network, shot.evaluated, data_dir, AllDevices())
        for shot in (*earlier, state)
    ]


def _baselines(experiment: Experiment, network: "EmbeddingNetwork", start, data_dir: Path):
    """Scores the baselines of a run that verifies: raw pixels, and the backbone it started from."""
    from hyperface.evaluate.embed import AllDevices
    from hyperface.evaluate.evaluator import evaluate_network, evaluate_pixels

    if experiment.evaluation.protocol != "verification":
        return {}
    baselines = {"raw pixels": evaluate_pixels(experiment, data_dir, AllDevices())}
    if start is not None:
        before = {name: {"backbone": tree} for name, tree in start.backbone.items()}
        baselines["before"] = evaluate_network(experiment, network, before, data_dir, AllDevices())
    return baselines


def _report(
    experiment: Experiment, workdir: Path, data_dir: Path, trained, baselines, console: "Console"
) -> None:
    """Writes the report of a run and prints its tables."""
    from hyperface.console import say
    from hyperface.data.datasets import open_split
    from hyperface.report.run import run_tables, write_run_report
    from hyperface.report.tables import as_text

    data = experiment.data
    split = open_split(data.name, data.train_split, data_dir, crop=data.crop)
    tables = run_tables(trained, baselines, split.num_classes)
    for table in tables:  # Before they are written, so that a full disk costs no result.
        say(console, f"\n{as_text(table)}")
    with owned.writing(workdir, "Mend that, and the same command writes the report."):
        write_run_report(
            workdir,
            name=experiment.name,
            summary=f"{experiment.steps} steps of {experiment.data.batch_size} images on "
            f"{split.dataset}, {split.num_classes} classes; scored on the split "
            f"{experiment.data.test_split!r}.",
            trained=trained,
            baselines=baselines,
            tables=tables,
            settings={
                "experiment": experiment.to_dict(),
                "environment": json.loads((workdir / "environment.json").read_text()),
            },
        )
    say(console, f"\nReport: {workdir / 'report.html'}")
    say(console, f"Score the checkpoint again: {next_steps.after_any_training(workdir, data_dir)}")


def _trained_state(options: Train, part: Experiment, folder: Path, data_dir: Path, start, console):
    """Returns the state after the last step; logs that a run diverged or was stopped."""
    from hyperface.console import say
    from hyperface.devices import processes
    from hyperface.train.divergence import DivergenceError
    from hyperface.train.interrupt import Interrupted
    from hyperface.train.loop import train
    from hyperface.train.run_folder import DIVERGED

    try:
        return train(
            part,
            data_dir,
            folder,
            start=start,
            fresh=options.fresh,
            workers=options.workers,
            on_nan=options.on_nan,
            profile_steps=options.profile_steps,
            file=options.file,
            console=console,
        )
    except DivergenceError as error:
        advice = ", or go on with --on-nan skip" if options.on_nan == "stop" else ""
        say(
            console,
            f"{part.name} diverged: {error} The newest checkpoint is from before it: start again "
            f"with a lower learning rate or weight of that term{advice}.",
            "red",
        )
        if processes.is_writer():
            record = {"step": error.step, "message": str(error)}
            with owned.writing(folder):
                owned.write_text(folder / DIVERGED, json.dumps(record, indent=2) + "\n")
        raise
    except Interrupted as stop:
        say(console, f"{part.name} stopped by {stop}")
        raise


def _start(path: Path, experiment: Experiment, data_dir: Path, console):
    """Loads the backbone of a file or run, checks it against the experiment's, and logs it."""
    from hyperface.console import say
    from hyperface.data.datasets import open_split
    from hyperface.train.loop import Start
    from hyperface.train.state import abstract_state
    from hyperface.weights import load_backbone

    data = experiment.data
    split = open_split(data.name, data.train_split, data_dir, crop=data.crop)
    like = abstract_state(experiment, split.num_classes, split.image_shape).variables
    wanted = {name: tree["backbone"] for name, tree in like.items() if "backbone" in tree}
    backbone, report = load_backbone(path, experiment.model.title, wanted)
    say(console, str(report))
    return Start(origin(path), backbone)


def origin(path: Path) -> str:
    """Returns the path and digest of a run or file, by which a fine-tuned run knows its start."""
    from hyperface.files import digest
    from hyperface.train.logs import run_digest

    return f"{path} ({run_digest(path) if path.is_dir() else digest(path)})"


def _like(experiment: Experiment):
    """Returns a function from a name to that experiment's loss with everything else of this one."""

    def make(name: str) -> Experiment:
        other = experiments.load(name)
        if name == experiment.name:
            raise InputError(f"compare: expected other experiments, found {name!r} itself.")
        return check(dataclasses.replace(experiment, name=name, loss=other.loss, compare=()))

    return make


def _list_experiments() -> None:
    for name in experiments.names():
        default = " (default)" if name == experiments.DEFAULT else ""
        print(f"{name + default:28} {experiments.run_card(name).splitlines()[0]}")


def _list_models() -> None:
    from hyperface import models

    print(f"{'model':27}{'input':>13}{'features':>10}{'parameters':>13}{'GFLOP':>8}  source")
    for name in models.MODELS:
        found = models.describe(name)
        print(
            f"{name:27}{' x '.join(map(str, found.image_shape)):>13}{found.feature_dim:10}"
            f"{found.parameters:13,}{found.gflops:8.2f}  {found.source}"
        )
    print("GFLOP: for the feature of one image, a multiply-add counted as 2.")
