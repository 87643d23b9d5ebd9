"""Scores a run by its own protocol: on the test split of the data set that it was trained on."""

import dataclasses
import json
import logging
from typing import Any

from hyperface import experiments, owned
from hyperface.config.experiment import Experiment, check
from hyperface.data.datasets import data_directory, open_experiment_split
from hyperface.devices import processes
from hyperface.errors import InputError
from hyperface.evaluate import evaluator
from hyperface.evaluate.embed import AllDevices
from hyperface.protocols.features import array_digest
from hyperface.report.run import results_table
from hyperface.report.tables import as_text
from hyperface.runs.evaluate_options import Evaluate, recorded
from hyperface.runs.evaluate_plan import checkpoints
from hyperface.runs.evaluate_run import environment
from hyperface.train import parallel
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.logs import run_digest
from hyperface.train.state import TrainState, abstract_state

log = logging.getLogger("hyperface")

RESULTS = "evaluation.json"
USED = {"source", "checkpoint", "mirror", "out", "data_dir", "coordinator", "processes", "process"}
"""Names of the options that have an effect without --protocol."""


def score_own_test(options: Evaluate) -> None:
    """Evaluates a run by its own protocol, and writes `evaluation.json`.

    The own protocol compares or classifies the test images of the data set on which the run was
    trained. The file is written into the folder of --out; by default that is the run's folder.

    Args:
      options: the options of `hyperface evaluate`, without --protocol.

    Raises:
      InputError: the source is not a run with checkpoints, or an option is set that needs
        --protocol.
    """
    steps, folder = checkpoints(options), options.source / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"expected the folder of a run with checkpoints, found none at {folder}. Other sources "
            "need --protocol."
        )
    _check_options(options)
    out = options.out or options.source
    # Checked before anything is computed; an error at the end would cost the result.
    owned.check_free(out / RESULTS)
    # Read-only, because the run may still be training. A folder that is opened for writing has its
    # damaged checkpoints renamed.
    with Checkpoints(folder, read_only=True) as stored:
        step, experiment, state = stored.read(lambda step: (step, *restored(stored, step)), *steps)
    experiment = _with_mirror(experiment, options.mirror)
    data_dir = data_directory(options.data_dir)
    result = evaluator.evaluate_network(
        experiment, state.network, state.evaluated, data_dir, AllDevices()
    )
    # All processes have embedded images together; one of them writes the result.
    if not processes.is_writer():
        return
    procedure = (f"{experiment.name} at step {step}", *result.steps)
    data = experiment.data
    opened = open_experiment_split(data, "test", data_dir)
    record: dict[str, Any] = {
        "step": step,
        "mirror": experiment.evaluation.mirror,
        "figures": result.figures(),
        "steps": procedure,
        "settings": {
            "options": recorded(options),
            "data": opened.facts(),
            "features": array_digest(result.embeddings.features),
            "run": run_digest(options.source),
            **environment(),
        },
    }
    log.info(as_text(results_table({f"{experiment.name}, step {step}": result})))
    for line in procedure:
        log.info(f"- {line}")
    # The scores are logged above, so a full disk costs no result.
    with owned.writing(out, "Free some space or choose another folder by --out."):
        owned.write_text(out / RESULTS, json.dumps(record, indent=2) + "\n")


def _check_options(options: Evaluate) -> None:
    """Raises InputError for an option that needs --protocol, and for several checkpoints."""
    # Options without an effect are errors, since a user who sets one expects an effect.
    for field in dataclasses.fields(options):
        if field.name not in USED and getattr(options, field.name) != field.default:
            raise InputError(
                f"--{field.name.replace('_', '-')}: expected --protocol with it, found none."
            )
    if len(options.checkpoint) > 1:
        raise InputError("--checkpoint: expected one step without --protocol, found several.")


def restored(stored: Checkpoints, step: int) -> tuple[Experiment, TrainState]:
    """Reads the experiment and the training state that a checkpoint of a run contains.

    Args:
      stored: the checkpoints of a run.
      step: step of the checkpoint.

    Returns:
      (experiment, state): the experiment that the run trained, and its training state after this
      step.
    """
    meta = stored.meta(step)
    experiment, data = experiments.of_run(meta["experiment"], stored.run), meta["data"]
    like = abstract_state(experiment, data["classes"], tuple(data["image_shape"]))
    placed = parallel.shapes_on_mesh(like, split_classes=experiment.shard_agents)
    # Rows of padding make classes divisible by the number of devices here. The run has none.
    return experiment, parallel.whole_classes(stored.restore(step, like, placed))


def _with_mirror(experiment: Experiment, mirror: str | None) -> Experiment:
    """Returns the experiment with another way to merge mirror images; None changes nothing."""
    if mirror is None:
        return experiment
    evaluation = dataclasses.replace(experiment.evaluation, mirror=mirror)
    return check(dataclasses.replace(experiment, evaluation=evaluation))
