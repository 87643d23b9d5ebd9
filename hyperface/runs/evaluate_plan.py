"""Turns the options of an evaluation into tasks, or raises one error for the first wrong option."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from hyperface.data.datasets import data_directory, find, open_split
from hyperface.devices import mesh
from hyperface.errors import InputError, expect, unknown_name
from hyperface.evaluate.embed import Mirror
from hyperface.protocols import registry
from hyperface.protocols.groups import read_groups
from hyperface.protocols.pair_rules import PRESETS
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.template_rules import TEMPLATE_RULES
from hyperface.runs.evaluate_options import Evaluate
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.weights.files import is_weights

T = TypeVar("T")
FULL = 1.0
"""The area factor that leaves images as they are."""


class Images(NamedTuple):
    """The images to score: a prepared data set with a network, or a file of features."""

    source: Path
    """The folder of a run or of an export, a weight file, "pixels", or a file of features."""
    dataset: str | None = None
    """Name of the prepared data set; None if `source` is a file of features."""
    split: str = "test"
    """Split of the data set."""
    data_dir: Path = Path()
    """Folder of prepared data sets."""
    checkpoint: int | None = None
    """Step of the run's checkpoint; None for the newest."""
    mirror: Mirror | None = None
    """How the features of an image and of its mirror image are merged: "none" (no mirror image),
    "sum", "max" or "concat". None merges them as the run's experiment does."""
    shrink: int | None = None
    """Factor by which each side of the images is reduced, for a network of smaller images. None
    takes the factor with which the run was trained."""
    area: float = FULL
    """Factor by which the area of the images is reduced, to test low resolution; 1 for full
    resolution. They are enlarged to their old size again."""

    def __str__(self) -> str:
        # The record of an evaluation has one digest per such label. Files of features often have
        # the same name in different folders, so the label is the whole path.
        if self.dataset is None:
            return str(self.source)
        return f"{self.dataset}, step {self.checkpoint or 'newest'}, area / {self.area:g}"


class Task(NamedTuple):
    """One protocol to score, with one checkpoint of the network and at one image resolution.

    A protocol is a benchmark, such as "lfw", with its rules of comparing and scoring.
    """

    protocol: Protocol
    title: str
    """The protocol's title. It also contains the data set or the resolution if that is not the
    usual one."""
    images: Images
    """The images that the protocol compares, and the network that embeds them."""
    distractors: Images | None
    """Images of other people, among which each probe is searched; None if the protocol has none."""
    files: tuple[Path, ...]
    """The files that define the comparisons, such as a list of pairs."""
    protocol_dir: Path
    """Folder of protocol files; the record of the evaluation names files by their path in it."""
    settings: Settings
    """The options of the protocol, such as the number of folds. Options that the protocol does not
    accept have their defaults."""

    @property
    def name(self) -> str:
        """The protocol's name, such as "lfw", or "lfw-area4" for images of a quarter of the area.

        Tasks that differ only in the checkpoint have the same name; their results are averaged.
        """
        area = self.images.area
        return self.protocol.name if area == FULL else f"{self.protocol.name}-area{area:g}"


def plan(options: Evaluate) -> list[Task]:
    """Returns the tasks of an evaluation, in the order in which they are run.

    There is one task per protocol (benchmark, such as "lfw"), checkpoint and resolution. All errors
    in options, files and data sets are found here, before any feature is computed.

    Raises:
      InputError: an option has a wrong value, an option is set that none of the chosen protocols
        uses, or a protocol, a file or a data set is missing.
    """
    protocols = _protocols(options.protocol)
    settings = _settings(options)
    _check_taken(protocols, options)
    # A file of features was computed at one checkpoint and one resolution.
    of_network = (options.checkpoint, options.mirror, options.shrink, options.resolution)
    if is_features(options.source) and any(of_network):
        raise InputError(
            f"{options.source}: expected no --checkpoint, --mirror, --shrink or --resolution: they "
            "need the network."
        )
    if options.shrink is not None:
        expect(options.shrink >= 1, "--shrink", "at least 1", options.shrink)
    data_dir = data_directory(options.data_dir)
    resolved = [_resolve(protocol, options, settings, data_dir) for protocol in protocols]
    return [
        task
        for checkpoint in checkpoints(options) or (None,)
        for task in resolved
        for task in _at_resolutions(task, checkpoint, options.resolution or (FULL,))
    ]


def _protocols(names: str) -> list[Protocol]:
    """Returns the protocols with these names, which are separated by commas."""
    protocols = [registry.find(name.strip()) for name in names.split(",") if name.strip()]
    if not protocols:
        raise InputError("--protocol: expected names of protocols, found none.")
    return protocols


def _settings(options: Evaluate) -> Settings:
    """Returns the options that protocols read. A value outside its range raises InputError."""
    for factor in options.resolution:
        if not (math.isfinite(factor) and factor >= 1):
            raise InputError(f"--resolution: expected area factors from 1, found {factor}.")
    for name, least in (("gammas", 1), ("bootstrap", 0), ("folds", 2), ("seed", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise InputError(f"--{name}: expected at least {least}, found {value}.")
    # Released networks are scored as they are; NormFace's PCA is a part of NormFace's recipe.
    preset = options.preset or ("plain" if is_weights(options.source) else None)
    rule, groups = options.template_rule, options.group_by
    return Settings(
        rules=_named("preset", preset, PRESETS) if preset else None,
        pca=_checked_pca(options.pca),
        bootstrap=options.bootstrap,
        folds=options.folds,
        seed=options.seed,
        rule=options.rule or "blufr",
        gammas=options.gammas,
        pool_media=options.pool_media,
        template_rule=_named("template rule", rule, TEMPLATE_RULES) if rule else None,
        pairs=options.pairs,
        probe_list=options.probe_list,
        distractor_list=options.distractor_list,
        noises=options.noises,
        grouping=read_groups(groups) if groups is not None else None,
        place=mesh.split_rows,
    )


def _named(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Returns the value of a name in a dictionary; an unknown name raises InputError.

    Args:
      kind: what the name is of, such as "preset", for the message.
      name: the name.
      known: the dictionary.
    """
    # The command line allows known names only, but a caller in Python can pass any text.
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def _checked_pca(pca: float | None) -> float | int | None:
    """Returns --pca: a share of variance below 1 as a float, a number of dimensions as an int."""
    # The command line parses 128 as 128.0, and `check_pca` takes numbers of dimensions as int only.
    if pca is None or 0 <= pca < 1:
        return pca
    if not (math.isfinite(pca) and pca == int(pca) and pca > 0):
        raise InputError(
            f"--pca: expected a share of variance below 1, a number of dimensions, or 0 for "
            f"none, found {pca}."
        )
    return int(pca)


def _check_taken(protocols: list[Protocol], options: Evaluate) -> None:
    """Raises InputError for an option that none of the requested protocols takes."""
    names = [protocol.name for protocol in protocols]
    for field in dataclasses.fields(options):
        takers = registry.takers(field.name)
        # Options that no protocol takes, such as --out, are those of the command.
        if not takers or getattr(options, field.name) == field.default:
            continue
        if not set(takers) & set(names):
            raise InputError(
                f"--{field.name.replace('_', '-')}: expected one of the protocols that take it "
                f"({', '.join(takers)}), found {', '.join(names)}."
            )


def checkpoints(options: Evaluate) -> tuple[int, ...]:
    """Returns the steps of the checkpoints to evaluate; () means the newest checkpoint alone.

    They are the values of --checkpoint. "best" is replaced by the step of the checkpoint with the
    lowest mean training loss over the steps since the checkpoint before it.

    Raises:
      InputError: "best" was requested, but no checkpoint has a recorded loss.
    """
    if "best" not in options.checkpoint:
        # The condition in it is always true, which a type checker cannot know.
        return tuple(step for step in options.checkpoint if step != "best")
    folder = options.source / "checkpoints"
    best = None
    if folder.is_dir():
        with Checkpoints(folder, read_only=True) as stored:
            best = stored.best()
    if best is None:
        raise InputError(
            f"--checkpoint best: expected checkpoints with a score in {folder}, found none."
        )
    return tuple(best if step == "best" else step for step in options.checkpoint)


def _resolve(protocol: Protocol, options: Evaluate, settings: Settings, data_dir: Path) -> Task:
    """Returns the task of a protocol, with the newest checkpoint and images at full resolution.

    Args:
      protocol: the protocol.
      options: the options of the command.
      settings: the options of all protocols, of which this one takes those that it accepts.
      data_dir: folder of prepared data sets.

    Raises:
      InputError: the data set, a protocol file or an option that the protocol needs is missing.
    """
    dataset, settings = options.dataset or protocol.dataset, settings.accepted(protocol.options)
    protocol_dir = options.protocol_dir or data_dir / "protocols"
    if protocol.check is not None:
        protocol.check(protocol.name, settings)
    prepared = find(dataset, data_dir) if dataset else None
    files = protocol.files(protocol_dir, settings, prepared)
    images = Images(options.source)
    if not is_features(options.source):
        if dataset is None:
            raise InputError(f"{protocol.name}: expected --dataset, whose images it compares.")
        # Opened for its errors and its names. The images are read when the task is scored.
        split = open_split(dataset, options.split, data_dir)
        if settings.grouping is not None:
            # A misspelt name would otherwise be found after all images are embedded.
            settings.grouping.check_names(
                [r["name"].decode() for r in split.records if "name" in r]
            )
        images = Images(
            options.source,
            dataset,
            options.split,
            data_dir,
            mirror=options.mirror,
            shrink=options.shrink,
        )
    title = protocol.title
    # A protocol with a data set of its own has that in its title already.
    if protocol.dataset is None and dataset is not None:
        title = f"{title} of {dataset}"
    distractors = None
    if protocol.has_distractors:
        distractors = _distractors(protocol.name, images, options)
    return Task(protocol, title, images, distractors, tuple(files), protocol_dir, settings)


def _distractors(protocol: str, images: Images, options: Evaluate) -> Images:
    """Returns the images of --distractors, among which the probes of a protocol are searched.

    Args:
      protocol: name of the protocol, for messages.
      images: the images of the probes, whose network also embeds a data set of distractors.
      options: the options; --distractors is a data set or a file of features.

    Raises:
      InputError: --distractors is missing, or cannot be combined with the images.
    """
    given = options.distractors
    if given is None:
        raise InputError(
            f"{protocol}: expected --distractors, a data set or a features file, found none."
        )
    if not is_features(given):
        if images.dataset is None:
            raise InputError(
                f"--distractors: expected a features file beside the one of the probes, found "
                f"{given!r}: a data set needs a network."
            )
        # Opened only to raise an error now if there is no such data set.
        open_split(given, images.split, images.data_dir)
        return images._replace(dataset=given)
    if not Path(given).is_file():
        raise InputError(f"--distractors: expected a features file, found none at {given}.")
    if any(factor != FULL for factor in options.resolution):
        raise InputError(
            f"--resolution: expected a data set of distractors, whose images can be made smaller, "
            f"found the features {given}."
        )
    return Images(Path(given))


def _at_resolutions(
    task: Task, checkpoint: int | None, factors: tuple[float, ...]
) -> Iterator[Task]:
    """Yields one task per factor of `factors`, by which images are reduced in area.

    Args:
      task: the task at full resolution.
      checkpoint: step of the checkpoint; None takes the newest.
      factors: the factors.
    """

    def at(images: Images | None, factor: float) -> Images | None:
        if images is None or images.dataset is None:
            return images  # Features in a file were computed before, at one resolution.
        return images._replace(checkpoint=checkpoint, area=factor)

    for factor in factors:
        smaller = "" if factor == FULL else f", area / {factor:g}"
        images = at(task.images, factor)
        assert images is not None
        yield task._replace(
            title=task.title + smaller, images=images, distractors=at(task.distractors, factor)
        )


def is_features(source: Path | str) -> bool:
    """Returns whether a path ends in .npz or .npy, and so names a file of features.

    The file may be missing. To score features no network is needed.
    """
    # By the name alone: a missing file of features must not be reported as a missing run.
    return Path(source).suffix.lower() in (".npz", ".npy")
