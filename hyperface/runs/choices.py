"""Options of the evaluation turned into settings of protocols, and refused where none fits."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from hyperface.data.datasets import find, open_split
from hyperface.data.manifest import Manifest
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.pair_protocol import PROTOCOLS
from hyperface.protocols.readers import ImageList, megaface_list, megaface_noises
from hyperface.weights.files import is_weights

if TYPE_CHECKING:
    from hyperface.runs.evaluate_options import Evaluate

PAIRS, MEGAFACE = "pairs", "megaface"
OTHERS = {PAIRS: "", MEGAFACE: "facescrub"}
"""Protocols beside the suite, and the data sets of their images."""
FULL = 1.0
"""The area factor that leaves images as they are."""

_LISTS = {"lfw", "lfw-view1", "agedb", "calfw", "cplfw", PAIRS}
_CFP = {"cfp-ff", "cfp-fp"}
_TEMPLATES = {name for name in registry.SUITE if name.startswith(("ijb", "cs3"))}
USED_BY = {
    "steps": _LISTS | _CFP | {"ytf", "halves"},
    "pca": _LISTS | _CFP,
    "bootstrap": _LISTS,
    "rule": {"blufr"},
    "gammas": _TEMPLATES,
    "pool_media": _TEMPLATES,
    "pairs": {PAIRS},
    "distractors": {MEGAFACE},
    "probe_list": {MEGAFACE},
    "distractor_list": {MEGAFACE},
    "noises": {MEGAFACE},
}
"""Protocols that take an option, where not all do."""


def settings(options: "Evaluate") -> registry.Settings:
    """What the options choose within the protocols.

    Raises:
      InputError: a value is outside its range.
    """
    for factor in options.resolution:
        if not (math.isfinite(factor) and factor >= 1):
            raise InputError(f"--resolution: expected area factors from 1, found {factor}.")
    for name, least in (("gammas", 1), ("bootstrap", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise InputError(f"--{name}: expected at least {least}, found {value}.")
    pca = options.pca
    if options.pca is not None:
        whole = math.isfinite(options.pca) and options.pca == int(options.pca)
        if not (0 <= options.pca < 1 or (whole and options.pca > 0)):
            raise InputError(
                f"--pca: expected a share of variance below 1, a number of dimensions, or 0 for "
                f"none, found {options.pca}."
            )
        pca = options.pca if options.pca < 1 else int(options.pca)
    # Released networks are scored as they are; NormFace's PCA is a part of NormFace's recipe.
    steps = options.steps or ("plain" if is_weights(options.source) else None)
    return registry.Settings(
        pairs=PROTOCOLS[steps] if steps else None,
        pca=pca,
        rule=options.rule or "blufr",
        gammas=options.gammas,
        draws=options.bootstrap,
        pool_media=options.pool_media,
        place=mesh.split_rows,
    )


def check_used(protocols: list[str], options: "Evaluate") -> None:
    """Refuses an option that none of the protocols takes.

    Raises:
      InputError: naming the option, and the protocols that take it.
    """
    for field in dataclasses.fields(options):
        takers = USED_BY.get(field.name)
        if takers is None or getattr(options, field.name) == field.default:
            continue
        if not takers & set(protocols):
            raise InputError(
                f"--{field.name.replace('_', '-')}: expected one of the protocols that take it "
                f"({', '.join(sorted(takers))}), found {', '.join(protocols)}."
            )


def check_present(protocols: list[str], options: "Evaluate", data_dir: Path) -> None:
    """Refuses a missing file or data set before an image is embedded."""
    for name in protocols:
        files(name, options, data_dir)
        if not is_features(options.source):
            open_split(dataset(name, options), options.split, data_dir)
    given = options.distractors
    if MEGAFACE not in protocols:
        return
    megaface_lists(options)
    if not is_features(given):
        if is_features(options.source):
            raise InputError(
                f"--distractors: expected a features file beside the one of the probes, found "
                f"{given!r}: a data set needs a network."
            )
        open_split(given, options.split, data_dir)
    elif not Path(given).is_file():
        raise InputError(f"--distractors: expected a features file, found none at {given}.")
    elif any(factor != FULL for factor in options.resolution):
        raise InputError(
            f"--resolution: expected a data set of distractors, whose images can be made smaller, "
            f"found the features {given}."
        )


def files(protocol: str, options: "Evaluate", data_dir: Path) -> list[Path]:
    """The files that say what a protocol compares.

    Raises:
      InputError: one is missing, or an option that names it.
    """
    if protocol in registry.SUITE:
        return registry.files(protocol, protocol_dir(options, data_dir))
    if protocol == PAIRS:
        return [pair_list(options, data_dir)]
    if options.distractors is None:
        raise InputError(
            "megaface: expected --distractors, a data set or a features file, found none."
        )
    lists = (options.probe_list, options.distractor_list, *options.noises)
    return [path for path in lists if path is not None]


def protocol_dir(options: "Evaluate", data_dir: Path) -> Path:
    """The folder of protocol files."""
    return options.protocol_dir or data_dir / "protocols"


def megaface_lists(
    options: "Evaluate",
) -> tuple[ImageList | None, ImageList | None, frozenset[str]]:
    """The probes and the distractors to take, and the images of all noise lists."""
    probes, distractors = (
        None if path is None else megaface_list(path)
        for path in (options.probe_list, options.distractor_list)
    )
    return probes, distractors, frozenset().union(*map(megaface_noises, options.noises))


def is_features(source: Path | str) -> bool:
    """Whether it names a file of features, which need no network."""
    return Path(source).suffix.lower() in (".npz", ".npy")


def dataset(protocol: str, options: "Evaluate") -> str:
    """Name of the data set whose images a protocol compares."""
    if options.dataset is not None:
        return options.dataset
    if protocol == PAIRS and not is_features(options.source):
        raise InputError("pairs: expected --dataset, whose images the list compares.")
    if protocol in OTHERS:
        return OTHERS[protocol]
    return registry.SUITE[protocol].dataset


def lost_pairs(options: "Evaluate", data_dir: Path) -> tuple[str, ...]:
    """A sentence on the pairs of the data set's own list that an unreadable image has cost."""
    folder = None if options.pairs or not options.dataset else find(options.dataset, data_dir)
    described = folder and (folder / "manifest.json").exists()
    lost = Manifest.read(folder).lost_pairs if described else []
    if not lost:
        return ()
    shown = "; ".join(lost[:3]) + ("; ..." if len(lost) > 3 else "")
    return (
        f"{len(lost):,} pairs left out of the data set's list, each without one of its images: "
        f"{shown}",
    )


def pair_list(options: "Evaluate", data_dir: Path) -> Path:
    """The list of the protocol "pairs"."""
    if options.pairs is not None:
        beside = protocol_dir(options, data_dir) / options.pairs
        if not options.pairs.is_file() and not beside.is_file():
            also = "" if beside == options.pairs else f" or {beside}"
            raise InputError(f"--pairs: expected a list, found no file at {options.pairs}{also}.")
        return options.pairs if options.pairs.is_file() else beside
    folder = options.dataset and find(options.dataset, data_dir)
    if not folder or not (folder / "pairs.csv").exists():
        raise InputError(
            "pairs: expected --pairs FILE, or a --dataset that a verification file was made into, "
            "found neither."
        )
    return folder / "pairs.csv"
