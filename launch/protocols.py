"""The evaluation by published protocols: images or features in, figures and a report out."""

import hashlib
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console

from hyperface.data.datasets import data_directory, find, open_split
from hyperface.data.protocols import megaface_noises, read_pairs
from hyperface.data.resolution import degrade
from hyperface.errors import InputError, unknown_name
from hyperface.evaluate import suite
from hyperface.evaluate.named import NamedFeatures, check, read_features
from hyperface.evaluate.pair_protocol import PROTOCOLS, PairProtocol
from hyperface.evaluate.scored import Figure, Scored, over_snapshots
from hyperface.report.cleaning import NamedImages
from hyperface.report.evaluation import Pixels, write_evaluation
from hyperface.report.tables import as_text
from hyperface.train import distributed, parallel
from hyperface.train.metrics import run_digest
from launch import cli
from launch.embedding import embed_into, open_network
from launch.evaluate import recorded

if TYPE_CHECKING:
    from launch.evaluate import Evaluate

VERSIONS = ("hyperface", "jax", "numpy", "scikit-learn", "pillow")
PAIRS, MEGAFACE = "pairs", "megaface"
OTHERS = {PAIRS: "", MEGAFACE: "facescrub"}
"""Protocols beside the suite, and the data sets of their images."""
FULL = 1.0
"""The area factor that leaves images as they are."""


class _Work(NamedTuple):
    """One protocol to run."""

    name: str
    """With the resolution, where there are several."""
    protocol: str
    dataset: str
    factor: float


def evaluate(options: "Evaluate") -> None:
    """Scores by every protocol asked for, prints the tables and writes the report."""
    protocols = [name.strip() for name in options.protocol.split(",") if name.strip()]
    for name in protocols:
        if name not in (*suite.SUITE, *OTHERS):
            raise unknown_name("protocol", name, [*suite.SUITE, *OTHERS])
    if not protocols:
        raise InputError("--protocol: expected names of protocols, found none.")
    settings = _settings(options)
    writes = distributed.is_writer()
    console, data_dir = Console(quiet=not writes), data_directory(options.data_dir)
    _check_present(protocols, options, data_dir)
    out = options.out or _default_out(options.source)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: expected a folder that can be written, found: {error}.") from None
    work = [
        _Work(name if factor == FULL else f"{name}-area{factor:g}", name, dataset, factor)
        for name in protocols
        for factor in options.resolution or (FULL,)
        for dataset in [_dataset(name, options)]
    ]
    with tempfile.TemporaryDirectory(dir=out if writes else None, prefix="features-") as scratch:
        features = _Features(options, data_dir, Path(scratch), console)
        shots: list[dict[str, Scored]] = []
        for step in options.step or (None,):
            shots.append({})
            for one in work:
                named = features.of(one.dataset, step, one.factor)
                megaface = one.protocol == MEGAFACE
                distractors = features.distractors(step, one.factor) if megaface else None
                if not writes:
                    continue
                if megaface:
                    found = _megaface(named, distractors, options, console)
                else:
                    found = _scored(one, named, options, settings, data_dir, console)
                shots[-1][one.name] = found
        if not writes:
            return
        scored = shots[0]
        if len(shots) > 1:
            scored = {n: over_snapshots([shot[n] for shot in shots]) for n in shots[0]}
        tables = write_evaluation(
            out,
            source=str(options.source),
            scored=scored,
            titles={one.name: _title(one) for one in work},
            pixels={one.name: p for one in work if (p := features.pixels(one.dataset))},
            sweeps=_sweeps(work, scored),
            settings={
                "options": recorded(options),
                "data": features.digests,
                "run": run_digest(options.source),
                "versions": {name: version(name) for name in VERSIONS},
            },
        )
    for table in tables:
        console.print(f"\n{as_text(table)}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"\nReport: {out / 'evaluation.html'}", highlight=False, soft_wrap=True)


def _check_present(protocols: list[str], options: "Evaluate", data_dir: Path) -> None:
    """Refuses a missing file or data set before an image is embedded."""
    folder = options.protocol_dir or data_dir / "protocols"
    for name in protocols:
        if name in suite.SUITE:
            suite.files(name, folder)
        elif name == PAIRS:
            _pair_list(options, data_dir)
        elif options.distractors is None:
            raise InputError(
                "megaface: expected --distractors, a data set or a features file, found none."
            )
        if options.source.suffix not in (".npz", ".npy"):
            open_split(_dataset(name, options), options.split, data_dir)


class _Features:
    """Features by data set, checkpoint and resolution, each made once."""

    def __init__(self, options: "Evaluate", data_dir: Path, scratch: Path, console: Console):
        self._options, self._data_dir = options, data_dir
        self._scratch, self._console = scratch, console
        self._images: dict[str, NamedImages] = {}
        self._made: dict[tuple, NamedFeatures] = {}
        self._read = None
        self.digests: dict[str, str] = {}
        """Of names and features, by what they are of."""
        if options.source.suffix in (".npz", ".npy"):
            if options.step or options.mirror or options.resolution:
                raise InputError(
                    f"{options.source}: expected no --step, --mirror or --resolution, which need "
                    "the network."
                )
            self._read = read_features(options.source)
            self.digests[options.source.name] = self._read.digest()

    def of(self, dataset: str, step: int | None, factor: float) -> NamedFeatures:
        """Those of a data set's images."""
        if self._read is not None:
            return self._read
        key = dataset, step, factor
        if key not in self._made:
            self._made[key] = self._embedded(dataset, step, factor)
            label = f"{dataset}, step {step or 'newest'}, area / {factor:g}"
            self.digests[label] = self._made[key].digest()
        return self._made[key]

    def _embedded(self, dataset: str, step: int | None, factor: float) -> NamedFeatures:
        options = self._options
        network = open_network(options.source, step, options.mirror)
        split = network.open_split(dataset, options.split, self._data_dir)
        change = None if factor == FULL else partial(degrade, factor=factor)
        path = self._scratch / str(len(self._made))
        found = embed_into(path, split, network, self._console, change)
        self._images[dataset] = found.images
        made = () if factor == FULL else (f"images made {factor:g} times smaller in area, bicubic",)
        steps = (f"{len(found.features):,} images of {split.dataset}", *made, *network.steps)
        return check(NamedFeatures(found.images.names, found.features, steps), split.dataset)

    def distractors(self, step: int | None, factor: float) -> tuple[np.ndarray, list[str] | None]:
        """Features of the distractors, and their names where they have any."""
        given = self._options.distractors
        if not given.endswith((".npy", ".npz")):
            if self._read is not None:
                raise InputError(
                    f"--distractors: expected a features file beside the one of the probes, found "
                    f"{given!r}: a data set needs a network."
                )
            named = self.of(given, step, factor)
            return named.features, list(named.names)
        if given.endswith(".npz"):
            named = read_features(Path(given))
            return named.features, list(named.names)
        try:
            features = np.load(given, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--distractors: expected an .npy file, found: {error}.") from None
        self.digests[Path(given).name] = hashlib.sha256(Path(given).read_bytes()).hexdigest()[:16]
        return features, None

    def pixels(self, dataset: str) -> Pixels | None:
        """Images by name, where they are at hand."""
        images = self._images.get(dataset)
        if images is None:
            return None
        places = {name: place for place, name in enumerate(images.names)}
        return lambda name: images.pixels(places[name])


def _scored(
    one: _Work,
    named: NamedFeatures,
    options: "Evaluate",
    settings: suite.Settings,
    data_dir: Path,
    console: Console,
) -> Scored:
    with cli.progress(console, f"scoring {one.name}", "parts") as advance:
        settings = replace(settings, progress=advance)
        if one.protocol == PAIRS:
            pairs = read_pairs(_pair_list(options, data_dir), folds=10, repeats=True)
            try:
                return suite.score_pairs(one.name, named, pairs, settings)
            except InputError:
                raise
            except ValueError as error:
                raise InputError(f"{PAIRS}: {error}.") from error
        folder = options.protocol_dir or data_dir / "protocols"
        found = suite.score(one.protocol, named, folder, settings)
    curves = {one.name if n == one.protocol else n: c for n, c in found.curves.items()}
    return replace(found, protocol=one.name, curves=curves)


def _sweeps(work: list[_Work], scored: Mapping[str, Scored]) -> dict[str, dict[float, Figure]]:
    """The first figure of each protocol by area factor, where there are several."""
    sweeps: dict[str, dict[float, Figure]] = {}
    for one in work:
        name, figure = next(iter(scored[one.name].figures.items()))
        sweeps.setdefault(f"{one.protocol}: {name}", {})[one.factor] = figure
    return {label: values for label, values in sweeps.items() if len(values) > 1}


def _megaface(
    probes: NamedFeatures,
    distractors: tuple[np.ndarray, list[str] | None],
    options: "Evaluate",
    console: Console,
) -> Scored:
    features, names = distractors
    noise = frozenset().union(*map(megaface_noises, options.noises))
    with cli.progress(console, "searching", "distractors") as advance:
        try:
            return suite.score_megaface(
                probes,
                features,
                distractor_names=names,
                noise=noise,
                noises=[path.name for path in options.noises],
                place=parallel.split_rows,
                progress=advance,
            )
        except ValueError as error:
            raise InputError(f"{MEGAFACE}: {error}.") from error


def _settings(options: "Evaluate") -> suite.Settings:
    pairs: PairProtocol = PROTOCOLS[options.steps]
    for factor in options.resolution:
        if not (math.isfinite(factor) and factor >= 1):
            raise InputError(f"--resolution: expected area factors from 1, found {factor}.")
    if options.gammas is not None and options.gammas < 1:
        raise InputError(f"--gammas: expected at least 1, found {options.gammas}.")
    if options.pca is not None:
        whole = math.isfinite(options.pca) and options.pca == int(options.pca)
        if not (0 <= options.pca < 1 or (whole and options.pca > 0)):
            raise InputError(
                f"--pca: expected a share of variance below 1, a number of dimensions, or 0 for "
                f"none, found {options.pca}."
            )
        kept = options.pca if options.pca < 1 else int(options.pca)
        pairs = replace(pairs, pca=kept or None)
    return suite.Settings(
        pairs=pairs,
        rule=options.rule,
        gammas=options.gammas,
        draws=options.bootstrap,
        pool_media=options.pool_media,
        place=parallel.split_rows,
    )


def _dataset(protocol: str, options: "Evaluate") -> str:
    if options.dataset is not None:
        return options.dataset
    if protocol == PAIRS and options.source.suffix not in (".npz", ".npy"):
        raise InputError("pairs: expected --dataset, whose images the list compares.")
    if protocol in OTHERS:
        return OTHERS[protocol]
    return suite.SUITE[protocol].dataset


def _pair_list(options: "Evaluate", data_dir: Path) -> Path:
    if options.pairs is not None:
        return options.pairs
    folder = options.dataset and find(options.dataset, data_dir)
    if not folder or not (folder / "pairs.csv").exists():
        raise InputError(
            "pairs: expected --pairs FILE, or a --dataset that a verification file was made into, "
            "found neither."
        )
    return folder / "pairs.csv"


def _title(one: _Work) -> str:
    if one.protocol == PAIRS:
        title = f"Pairs of {one.dataset}" if one.dataset else "Pairs"
    elif one.protocol == MEGAFACE:
        title = "MegaFace"
    else:
        title = suite.SUITE[one.protocol].title
    return title if one.factor == FULL else f"{title}, area / {one.factor:g}"


def _default_out(source: Path) -> Path:
    if source.is_dir():
        return source / "evaluation"
    return Path("evaluation") / source.stem
