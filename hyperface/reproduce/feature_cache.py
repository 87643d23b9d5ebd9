"""Computes the features of images once, and keeps them in files."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hyperface import owned
from hyperface.data.datasets import Split, fingerprint
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError
from hyperface.evaluate.embed import Images, embed_split
from hyperface.files import text_digest
from hyperface.protocols.features import NamedFeatures, read_features
from hyperface.reproduce.item import OF_FEATURES, Context, code_digest
from hyperface.runs import program
from hyperface.runs.embedding import BATCH, open_network
from hyperface.train.logs import run_digest

SPLITS = ("train", "test")
Embed = Callable[[Images], tuple[jax.Array, jax.Array]]
"""Function from images to their features and to the norms of these, as `Network.apply` is."""


class MirroredFeatures(NamedTuple):
    """Features of images and of their mirror images."""

    features: np.ndarray
    """[images, 2, dim] float32."""
    labels: np.ndarray
    """[images] int32."""


def embed(
    split: Split,
    network: Embed,
    context: Context,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features [images, dim] and the labels [images] of a split.

    Args:
      split: the images.
      network: what embeds them.
      context: shows the progress.
      change: of every image before that, as `evaluation_batches` takes it.
    """
    features, labels, done = [], [], 0
    size = min(BATCH, len(split.records))
    title = f"embedding {split.dataset} ({split.name})"
    with program.progress(title, "images") as advance:
        for batch in evaluation_batches(split, batch_size=size, change=change):
            part = embed_split(lambda _, images: network(images), None, [batch])
            features.append(part.features)
            labels.append(part.labels)
            done += len(part.labels)
            advance(done, len(split.records))
    return np.concatenate(features), np.concatenate(labels)


def write(path: Path, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
    """Writes arrays into a file unless it exists; no other process computes them meanwhile."""
    if not path.exists():
        folder = path.parent
        with owned.writing(folder), owned.locked(folder, "being embedded in"):
            owned.write_arrays(path, **arrays())


def features(
    run: Path, context: Context, splits: Sequence[str] = SPLITS
) -> dict[str, MirroredFeatures]:
    """Returns the features of the run's training images and of its test people, by split.

    Args:
      run: folder of the run.
      context: gives the folders of the data and of the kept features.
      splits: some of `SPLITS`.
    """
    data = json.loads((run / "config.json").read_text())["experiment"]["data"]
    folder, by_split = _folder(run, data["name"], context), {}

    def arrays(name: str) -> dict[str, np.ndarray]:
        network = open_network(run, mirror="concat")
        split = network.open_split(data["name"], data[f"{name}_split"], context.data_dir)
        both, labels = embed(split, network.apply, context)
        return {"features": both.reshape(len(both), 2, -1), "labels": labels}

    for name in splits:
        path = folder / f"{name}.npz"
        write(path, lambda name=name: arrays(name))
        with np.load(path) as kept:
            by_split[name] = MirroredFeatures(kept["features"], kept["labels"])
    return by_split


def named_features(
    run: Path, dataset: str, wanted: Sequence[str], context: Context
) -> NamedFeatures:
    """Returns the features of the test images that a protocol names.

    Args:
      run: folder of the run.
      dataset: name of the prepared data set, whose images have names.
      wanted: names of images.
      context: gives the folders of the data and of the kept features.

    Raises:
      InputError: the data set lacks a named image.
    """
    chosen = {*wanted}
    digest = text_digest("\n".join(sorted(chosen)))
    path = _folder(run, dataset, context) / f"{dataset}-{digest}.npz"

    def arrays() -> dict[str, np.ndarray]:
        network = open_network(run, mirror="none")
        split = network.open_split(dataset, "test", context.data_dir)
        records = [record for record in split.records if record["name"].decode() in chosen]
        names = [record["name"].decode() for record in records]
        if absent := sorted(chosen - {*names}):
            raise InputError(
                f"{split.dataset}: expected all images that are named, found no {absent[0]}."
            )
        split = dataclasses.replace(split, records=records)
        return {
            "features": embed(split, network.apply, context)[0],
            "names": np.array(names),
        }

    write(path, arrays)
    return read_features(path)


def _folder(run: Path, dataset: str, context: Context) -> Path:
    """Returns the folder for the features of a run on a data set, as data and code are now."""
    of = f"{run_digest(run)}-{fingerprint(dataset, context.data_dir)}-{code_digest(OF_FEATURES)}"
    return context.out / "features" / f"{run.name}-{of}"
