"""Features of images for hyperface evaluate: embedded by a network, or read from files."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from hyperface.arrays import open_npy
from hyperface.data.resolution import degrade
from hyperface.errors import InputError
from hyperface.protocols.features import NamedFeatures, check, read_features, read_names
from hyperface.report.cleaning import NamedImages
from hyperface.report.evaluation import Pixels
from hyperface.runs.choices import FULL, is_features
from hyperface.runs.embedding import embed_into, open_network

if TYPE_CHECKING:
    from hyperface.runs.evaluate_options import Evaluate


class Features:
    """Features by data set, checkpoint and resolution, each made once.

    Args:
      options: say what makes them.
      data_dir: the data folder.
      scratch: folder for files of features.
      console: where progress goes.

    Raises:
      InputError: a features file cannot be read, or has options that need a network.
    """

    def __init__(self, options: "Evaluate", data_dir: Path, scratch: Path, console: Console):
        self._options, self._data_dir = options, data_dir
        self._scratch, self._console = scratch, console
        self._images: dict[str, NamedImages] = {}
        self._made: dict[tuple, NamedFeatures] = {}
        self._read = None
        self.digests: dict[str, str] = {}
        """Of names and features, by what they are of."""
        if is_features(options.source):
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
        steps = (split.step, *made, *network.steps)
        return check(NamedFeatures(found.images.names, found.features, steps), split.dataset)

    def distractors(self, step: int | None, factor: float) -> tuple[np.ndarray, list[str] | None]:
        """Features of the distractors, and their names where they have any.

        An .npy file stays on the disk; its names are in the .txt beside it, if there is one.
        """
        given = self._options.distractors
        path = Path(given)
        if not is_features(given):
            named = self.of(given, step, factor)
            return named.features, list(named.names)
        if path.suffix.lower() == ".npz":
            named = read_features(path)
            self.digests[path.name] = named.digest()
            return named.features, list(named.names)
        features = open_npy(path, mapped=True)
        with path.open("rb") as file:
            self.digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        listed = path.with_suffix(".txt")
        rows = len(features) if features.ndim else 0
        return features, read_names(listed, rows) if listed.is_file() else None

    def pixels(self, dataset: str) -> Pixels | None:
        """Images by name, where they are at hand."""
        images = self._images.get(dataset)
        if images is None:
            return None
        places = {name: place for place, name in enumerate(images.names)}
        return lambda name: images.pixels(places[name])
