"""Scores a run's checkpoint by the protocol it was trained for.

    python -m launch.evaluate runs/orl-normface

The figures are those of the run's report, and are also written to `evaluation.json`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hyperface.errors import InputError
from hyperface.files import replace_text
from hyperface.train.experiment import Experiment, check
from launch import cli

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.train.checkpoint import Checkpoints
    from hyperface.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Options of the command."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, as launch.train made it."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged; the experiment's way by default."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and scores."""
    options = tyro.cli(Evaluate, args=args, prog="python -m launch.evaluate", description=__doc__)
    folder = options.run / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run with checkpoints, found none at {folder}.")
    from rich.console import Console

    from hyperface.data.datasets import data_directory
    from hyperface.evaluate.evaluator import evaluate_network
    from hyperface.report.run import results_table
    from hyperface.report.tables import as_text
    from hyperface.train.checkpoint import Checkpoints

    cli.quiet_libraries()
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        step = options.step if options.step is not None else max(steps, default=None)
        if step not in steps:
            found = ", ".join(map(str, steps)) or "none"
            raise InputError(f"expected a whole checkpoint in {folder}, found steps: {found}.")
        experiment, state = restored(checkpoints, step)
    experiment = _chosen(experiment, options)
    result = evaluate_network(
        experiment, state.network, state.evaluated, data_directory(options.data_dir)
    )
    record = {"step": step, "mirror": experiment.evaluation.mirror, "figures": result.figures()}
    replace_text(options.run / "evaluation.json", json.dumps(record, indent=2) + "\n")
    console = Console()
    table = results_table({f"{experiment.name}, step {step}": result})
    console.print(as_text(table), highlight=False, soft_wrap=True)


def restored(checkpoints: "Checkpoints", step: int) -> tuple[Experiment, "TrainState"]:
    """What a checkpoint says it is of, and its state."""
    from hyperface.train.parallel import replicated
    from hyperface.train.state import abstract_state

    meta = checkpoints.meta(step)
    experiment, data = Experiment.from_dict(meta["experiment"]), meta["data"]
    like = abstract_state(experiment, data["classes"], tuple(data["image_shape"]))
    return experiment, checkpoints.restore(step, like, replicated())


def _chosen(experiment: Experiment, options: Evaluate) -> Experiment:
    if options.mirror is None:
        return experiment
    evaluation = dataclasses.replace(experiment.evaluation, mirror=options.mirror)
    return check(dataclasses.replace(experiment, evaluation=evaluation))


if __name__ == "__main__":
    cli.run(main)
