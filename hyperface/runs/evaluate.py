"""Scores a run's checkpoint, an exported network, or features that any program made.

    hyperface evaluate runs/orl-normface                      by the run's own protocol
    hyperface evaluate runs/casia --protocol lfw,blufr        by published protocols
    hyperface evaluate exported/ --protocol cfp-fp            a network of hyperface export
    hyperface evaluate features.npz --protocol lfw            `features` and their `names`
    hyperface evaluate pixels --protocol lfw --steps plain    what any network has to beat
    hyperface evaluate runs/casia --protocol lfw --resolution 1 4 16 25 36 64

Protocols: lfw, lfw-view1, blufr, cfp-ff, cfp-fp, ytf, halves, agedb, calfw, cplfw, pairs (any
list), ijba, ijba-search, cs3, cs3-search, ijbb, ijbb-search, ijbc, ijbc-search, megaface. Every
step that was taken is printed, and kept with all figures in evaluation.json; evaluation.html has
the curves and the hardest pairs.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from hyperface import experiments, owned
from hyperface.config.experiment import Experiment, check
from hyperface.errors import InputError
from hyperface.runs import program
from hyperface.runs.evaluate_options import RESULTS, Evaluate, recorded

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.train.checkpoint.manager import Checkpoints
    from hyperface.train.state import TrainState


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and scores."""
    options = tyro.cli(Evaluate, args=args, prog="hyperface evaluate", description=__doc__)
    program.join(options)
    if "best" in options.step:
        options = _with_best(options)
    if options.protocol:
        from hyperface.runs.protocols import evaluate

        program.quiet_libraries()
        evaluate(options)
    else:
        own_protocol(options)


def _with_best(options: Evaluate) -> Evaluate:
    """The options with the number of the best step."""
    from hyperface.train.checkpoint.manager import Checkpoints

    folder = options.source / "checkpoints"
    best = None
    if folder.is_dir():
        program.quiet_libraries()
        with Checkpoints(folder, read_only=True) as checkpoints:
            best = checkpoints.best()
    if best is None:
        raise InputError(f"--step best: expected checkpoints with a score in {folder}, found none.")
    steps = tuple(best if step == "best" else step for step in options.step)
    return dataclasses.replace(options, step=steps)


def own_protocol(options: Evaluate) -> None:
    """Scores a run by the protocol it was trained for; the figures are those of its report."""
    folder = options.source / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"expected the folder of a run with checkpoints, found none at {folder}. Other sources "
            "need --protocol."
        )
    used = {"source", "step", "mirror", "data_dir", "coordinator", "processes", "process"}
    for field in dataclasses.fields(options):
        if field.name not in used and getattr(options, field.name) != field.default:
            raise InputError(
                f"--{field.name.replace('_', '-')}: expected --protocol with it, found none."
            )
    from hyperface.console import make_console, say
    from hyperface.data.datasets import data_directory, open_split
    from hyperface.devices import processes
    from hyperface.evaluate.embed import AllDevices
    from hyperface.evaluate.evaluator import evaluate_network
    from hyperface.protocols.features import array_digest
    from hyperface.report.run import results_table
    from hyperface.report.tables import as_text
    from hyperface.runs import provenance
    from hyperface.train.checkpoint.manager import Checkpoints
    from hyperface.train.logs import run_digest

    program.quiet_libraries()
    if len(options.step) > 1:
        raise InputError("--step: expected one step without --protocol, found several.")
    owned.check_free(options.source / RESULTS)
    with Checkpoints(folder, read_only=True) as checkpoints:
        step, experiment, state = checkpoints.read(
            lambda step: (step, *restored(checkpoints, step)), *options.step
        )
    experiment = _chosen(experiment, options)
    data_dir = data_directory(options.data_dir)
    result = evaluate_network(experiment, state.network, state.evaluated, data_dir, AllDevices())
    if not processes.is_writer():
        return
    steps = (f"{experiment.name} at step {step}", *result.steps)
    data = experiment.data
    opened = open_split(data.name, data.test_split, data_dir, crop=data.crop)
    record = {
        "step": step,
        "mirror": experiment.evaluation.mirror,
        "figures": result.figures(),
        "steps": steps,
        "settings": {
            "options": recorded(options),
            "data": opened.facts(),
            "features": array_digest(result.embeddings.features),
            "run": run_digest(options.source),
            **provenance.environment(),
        },
    }
    console = make_console()
    say(console, as_text(results_table({f"{experiment.name}, step {step}": result})))
    for line in steps:
        say(console, f"- {line}")
    with owned.writing(options.source):  # After they are printed: a full disk costs no result.
        owned.write_text(options.source / RESULTS, json.dumps(record, indent=2) + "\n")


def restored(checkpoints: "Checkpoints", step: int) -> tuple[Experiment, "TrainState"]:
    """What a checkpoint says it is of, and its state."""
    from hyperface.train import parallel
    from hyperface.train.state import abstract_state

    meta = checkpoints.meta(step)
    experiment, data = experiments.of_run(meta["experiment"], checkpoints.run), meta["data"]
    like = abstract_state(experiment, data["classes"], tuple(data["image_shape"]))
    placed = parallel.shapes_on_mesh(like, split_classes=experiment.shard_agents)
    return experiment, parallel.whole_classes(checkpoints.restore(step, like, placed))


def _chosen(experiment: Experiment, options: Evaluate) -> Experiment:
    if options.mirror is None:
        return experiment
    evaluation = dataclasses.replace(experiment.evaluation, mirror=options.mirror)
    return check(dataclasses.replace(experiment, evaluation=evaluation))
