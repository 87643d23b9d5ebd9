"""Turns the options of a preparation into a task, and checks them before an image is read."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from hyperface.console import log_console, plain
from hyperface.data import detection as detectors
from hyperface.data import planning
from hyperface.data.alignment import Aligner
from hyperface.data.datasets import data_directory, find
from hyperface.data.detection import Detector, Which
from hyperface.data.detection.record import LANDMARKS
from hyperface.data.sources import Source, open_source
from hyperface.errors import InputError
from hyperface.files import read_names
from hyperface.runs.prepare_options import OWN_NAMES, Prepare

log = logging.getLogger("hyperface")

DEFAULT_SIZE = "112x96"


class Detection(NamedTuple):
    """The settings for finding faces in raw photos."""

    detector: Detector
    """Finds the faces. It is a function from one photo, [height, width, 3] uint8, to boxes [n, 4],
    scores [n] and landmarks [n, 5, 2] of its n faces."""
    which: Which
    """The faces that are used if a photo has several: "largest", "central" (the one nearest to the
    centre) or "all"."""


class Task(NamedTuple):
    """A data set to write: its source, its folder and all settings."""

    source: Source
    """The listed images with their identities. The images are read when `prepare.run` runs."""
    folder: Path
    """Folder DATA_DIR/NAME of the data set, in which each version of it has a folder."""
    stored: planning.Options
    """How the images are selected and stored. If faces must be found first, the field `align` (the
    function that aligns the images) is still None here, and is set when they were found."""
    detection: Detection | None
    """How faces are found; None if the source has aligned faces, or landmarks are given."""
    size: tuple[int, int]
    """Height and width of the aligned faces in pixels. It has no effect if no face is aligned."""
    replace: bool
    """Whether an existing data set with this name is replaced when the new one is complete. If not,
    another data set with this name is an error."""


def plan(options: Prepare) -> Task:
    """Lists the images of the source, and returns the task of writing the data set.

    No image is read, and nothing is written.

    Raises:
      InputError: an option has a wrong value, the source or a file cannot be used, or faces must be
        found for a data set whose name another data set already has.
    """
    name = _name(options)
    detection = _detection(options)
    data_dir = data_directory(options.data_dir)
    with log_console().status(plain(f"listing {options.source}")):
        source = _listed(options, data_dir)
    if source.doubt:
        log.info(f"{options.source}: {source.doubt}.")
    folder = data_dir / name
    height, width = map(int, (options.size or DEFAULT_SIZE).split("x"))
    if detection is not None:
        _check_replaceable(folder, replace=options.replace)
    aligned = detection is not None or options.landmarks is not None
    # A square size other than 112 is LightCNN's template, and LightCNN takes grey images.
    grey = 1 if aligned and height == width != 112 else None
    stored = planning.Options(
        held_out=options.held_out,
        test_people=() if options.test_people is None else read_names(options.test_people),
        keep=None if options.keep is None else read_names(options.keep),
        channels=options.channels or grey,
        align=options.landmarks and Aligner(options.landmarks, (height, width)),
        strict=options.strict,
    )
    return Task(source, folder, stored, detection, (height, width), options.replace)


def _name(options: Prepare) -> str:
    """Returns the name of the data set, from --out or from a source that has a usual name."""
    name = options.out or OWN_NAMES.get(options.source)
    if name is None or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError(
            f"--out: expected a name of letters, digits and '_' for the data set, found {name!r}."
        )
    return name


def _detection(options: Prepare) -> Detection | None:
    """Returns the settings of --detect, or None without it, after checking related options."""
    if options.detect and options.landmarks is not None:
        raise InputError("expected one of --detect and --landmarks, found both.")
    if options.faces is not None and not options.detect:
        raise InputError("--faces: expected --detect with it, which finds the faces, found none.")
    if options.size is not None and not options.detect and options.landmarks is None:
        raise InputError(
            f"--size {options.size}: expected --detect with it, to find faces in photos and align "
            "them to this size, or --landmarks with a file of points; found neither."
        )
    return Detection(detectors.Mtcnn(), options.faces or "largest") if options.detect else None


def _listed(options: Prepare, data_dir: Path) -> Source:
    return open_source(
        options.source,
        data_dir,
        kind=options.kind,
        root=options.root,
        image=options.image,
        label=options.label,
        follow_links=options.follow_links,
        distinct_case=options.distinct_case,
        identity_level=options.identity_level,
    )


def _check_replaceable(folder: Path, *, replace: bool) -> None:
    """Checks before the slow search for faces that the folder has no other data set."""
    # A data set with landmarks was made by --detect, and the search continues there.
    there = find(folder.name, folder.parent)
    if there is not None and not replace and not (folder / LANDMARKS).exists():
        raise InputError(
            f"expected no data set in {there}, or one made by --detect, found another one. Take "
            "another --out, or pass --replace."
        )
