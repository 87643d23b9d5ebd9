"""Computes the features of a trained run's images once, and keeps them in files."""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface import owned
from hyperface.data.datasets import fingerprint
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError
from hyperface.evaluate.embed import embed_split
from hyperface.protocols.features import NamedFeatures, read_features
from hyperface.reproduce.item import Context, features_digest
from hyperface.runs import program
from hyperface.runs.embedding import BATCH, embed_into, open_network
from hyperface.train.logs import run_digest

SPLITS = ("train", "test")


class Cached(NamedTuple):
    """Features of images and of their mirror images."""

    features: np.ndarray
    """[images, 2, dim] float32."""
    labels: np.ndarray
    """[images] int32."""


def features(run: Path, context: Context, splits: Sequence[str] = SPLITS) -> dict[str, Cached]:
    """Returns the features of the run's training images and of its test people, by split.

    Args:
      run: folder of the run.
      context: gives the folders of the data and of the kept features.
      splits: some of `SPLITS`.
    """
    data = json.loads((run / "config.json").read_text())["experiment"]["data"]
    of_data = fingerprint(data["name"], context.data_dir)
    folder = _folder(run, of_data, context)
    found = {}
    for name in splits:
        path = folder / f"{name}.npz"
        if not path.exists():
            with owned.writing(folder), owned.locked(folder, "being embedded in"):
                _embed(run, data["name"], data[f"{name}_split"], path, context)
        with np.load(path) as kept:
            found[name] = Cached(kept["features"], kept["labels"])
    return found


def listed(run: Path, name: str, wanted: Sequence[str], context: Context) -> NamedFeatures:
    """Returns the features of the test images that a protocol names.

    Args:
      run: folder of the run.
      name: of the prepared data set, whose images have names.
      wanted: names of images.
      context: gives the folders of the data and of the kept features.

    Raises:
      InputError: the data set lacks a named image.
    """
    folder = _folder(run, fingerprint(name, context.data_dir), context)
    chosen = {*wanted}
    path = folder / f"{name}-{zlib.crc32(repr(sorted(chosen)).encode()):08x}.npz"
    if not path.exists():
        network = open_network(run, mirror="none")
        opened = network.open_split(name, "test", context.data_dir)
        some = [record for record in opened.records if record["name"].decode() in chosen]
        absent = sorted(chosen - {record["name"].decode() for record in some})
        if absent:
            raise InputError(
                f"{opened.dataset}: expected all images that are named, found no {absent[0]}."
            )
        split = dataclasses.replace(opened, records=some)
        with owned.writing(folder), owned.locked(folder, "being embedded in"):
            scratch = folder / "partial.f32"
            owned.claim(scratch)
            embedded = embed_into(scratch, split, network, context.console)
            names = np.array(embedded.images.names)
            owned.write_arrays(path, features=embedded.features, names=names)
            owned.remove(scratch)
    return read_features(path)


def _folder(run: Path, of_data: str, context: Context) -> Path:
    """Returns the folder for the features of a run on this data, as its code is now."""
    made_of = f"{run_digest(run)}-{of_data}-{features_digest()}"
    return context.out / "features" / f"{run.name}-{made_of}"


def _embed(run: Path, data: str, split: str, path: Path, context: Context) -> None:
    network = open_network(run, mirror="concat")
    opened = network.open_split(data, split, context.data_dir)
    parts, labels = [], []
    with program.progress(context.console, f"embedding {data} ({split})", "images") as advance:
        for batch in evaluation_batches(opened, batch_size=BATCH):
            part = embed_split(lambda _, images: network.apply(images), None, [batch])
            parts.append(part.features.reshape(len(part.labels), 2, -1))
            labels.append(part.labels)
            advance(sum(map(len, labels)), len(opened.records))
    owned.write_arrays(path, features=np.concatenate(parts), labels=np.concatenate(labels))
