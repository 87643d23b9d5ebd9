"""Scores a run's checkpoint, an exported network, or features that any program made.

    python -m launch.evaluate runs/orl-normface                      by the run's own protocol
    python -m launch.evaluate runs/casia --protocol lfw,blufr        by published protocols
    python -m launch.evaluate exported/ --protocol cfp-fp            a network of launch.export
    python -m launch.evaluate features.npz --protocol lfw            `features` and their `names`
    python -m launch.evaluate pixels --protocol lfw --steps plain    what any network has to beat
    python -m launch.evaluate runs/casia --protocol lfw --resolution 1 4 16 25 36 64

Protocols: lfw, lfw-view1, blufr, cfp-ff, cfp-fp, ytf, halves, agedb, calfw, cplfw, pairs (any
list), ijba, ijba-search, cs3, cs3-search, ijbb, ijbb-search, ijbc, ijbc-search, megaface. Every
step that was taken is printed, and kept with all figures in evaluation.json; evaluation.html has
the curves and the hardest pairs.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError
from hyperface.train.experiment import Experiment, check
from launch import cli

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.train.checkpoint import Checkpoints
    from hyperface.train.state import TrainState


RESULTS = "evaluation.json"


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Options of the command."""

    source: tyro.conf.Positional[Path]
    """Folder of a run or of an export, "pixels", or a features file (.npz, or .npy with names in
    .txt)."""
    protocol: str = ""
    """Published protocols, separated by commas; the run's own by default."""
    step: tuple[int | Literal["best"], ...] = ()
    """Which checkpoints; the newest by default. Of several, mean and spread are reported. "best" is
    the one whose steps since the checkpoint before it had the lowest mean training loss."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged; the experiment's way by default."""
    steps: Literal["normface", "normface-released", "sphereface-released", "plain"] | None = None
    """Steps of pair lists; plain by default for CFP, normface for others. normface: PCA that keeps
    99.5 % of the variance, cosine, best accuracy. normface-released: the same, Euclidean, linear
    SVM. sphereface-released: mean subtracted, cosine, mean of the best thresholds. plain: nothing
    fitted but the threshold. Of ytf and halves: the threshold of mean and maximum, and whether a
    mean is subtracted; there is no PCA."""
    pca: float | None = None
    """Share of variance (below 1) or dimensions that PCA keeps in pair lists, whatever their steps;
    0 for no PCA."""
    rule: Literal["blufr", "strict"] | None = None
    """How BLUFR's false accept rates become thresholds: as its code has it, the default, or never
    above."""
    gammas: int | None = None
    """K of Ring loss' fusion of templates: 8 for ijba and 2 for cs3 by default, mean features for
    ijbb, ijbc."""
    pool_media: bool = False
    """Average a template's images of one medium, such as a video, first."""
    bootstrap: int = 0
    """Resamples of people, for 95 % intervals of a pair list's rates; a thousand are usual."""
    resolution: tuple[float, ...] = ()
    """Area factors by which images are made smaller, and up again (Ring loss, Exp. 6)."""
    dataset: str | None = None
    """Prepared data set of the images, instead of the protocol's usual one."""
    split: str = "test"
    """Split of it."""
    pairs: Path | None = None
    """The list of the protocol "pairs", AgeDB's own .mat too: a file, here or among the protocol
    files; by default pairs.csv of the data set."""
    distractors: str | None = None
    """Of the protocol "megaface": a prepared data set, or a features file; of an .npy the names are
    in a .txt beside it, if any."""
    probe_list: Path | None = None
    """The devkit's list of probes, facescrub_features_list.json, with people; "megaface" takes all
    images of the data set by default, and their folders for people."""
    distractor_list: Path | None = None
    """The devkit's list of distractors to take, such as megaface_features_list.json_1000000_1; all
    by default."""
    noises: tuple[Path, ...] = ()
    """Lists of images, one name a line, that "megaface" leaves out of probes and distractors."""
    protocol_dir: Path | None = None
    """Folder of protocol files; `protocols` in the data folder by default."""
    out: Path | None = None
    """Folder for the results; `evaluation` in the run's folder, or here, by default."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""
    coordinator: str | None = None
    """host:port of process 0, where several processes embed together, as with launch.train."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and scores."""
    options = tyro.cli(Evaluate, args=args, prog="python -m launch.evaluate", description=__doc__)
    cli.join(options)
    if "best" in options.step:
        options = _with_best(options)
    if options.protocol:
        from launch.protocols import evaluate

        cli.quiet_libraries()
        evaluate(options)
    else:
        own_protocol(options)


def recorded(options: Evaluate) -> dict[str, str]:
    """The options that are set, as `evaluation.json` keeps them."""
    return {name: str(value) for name, value in vars(options).items() if value not in (None, ())}


def _with_best(options: Evaluate) -> Evaluate:
    """The options with the number of the best step."""
    from hyperface.train.checkpoint import Checkpoints

    folder = options.source / "checkpoints"
    best = None
    if folder.is_dir():
        cli.quiet_libraries()
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
    from hyperface.evaluate.evaluator import evaluate_network
    from hyperface.evaluate.named import array_digest
    from hyperface.report.run import results_table
    from hyperface.report.tables import as_text
    from hyperface.train import distributed
    from hyperface.train.checkpoint import Checkpoints
    from hyperface.train.metrics import run_digest
    from hyperface.train.together import AllDevices
    from launch import provenance

    cli.quiet_libraries()
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
    if not distributed.is_writer():
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
    experiment, data = Experiment.from_dict(meta["experiment"]), meta["data"]
    like = abstract_state(experiment, data["classes"], tuple(data["image_shape"]))
    placed = parallel.shapes_on_mesh(like, split_classes=experiment.shard_agents)
    return experiment, parallel.whole_classes(checkpoints.restore(step, like, placed))


def _chosen(experiment: Experiment, options: Evaluate) -> Experiment:
    if options.mirror is None:
        return experiment
    evaluation = dataclasses.replace(experiment.evaluation, mirror=options.mirror)
    return check(dataclasses.replace(experiment, evaluation=evaluation))


if __name__ == "__main__":
    cli.run(main)
