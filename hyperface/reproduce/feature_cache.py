"""Computes the features of images once and stores them in files, from which they are read later."""

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
"""A function from images to their features and the norms of these, such as `Network.apply`."""


class MirroredFeatures(NamedTuple):
    """Features of images and of their mirror images."""

    features: np.ndarray
    """[images, 2, dim] float32, un-normalised. [:, 0] are the features of the images, and [:, 1]
    those of their mirror images."""
    labels: np.ndarray
    """[images] int32, the person of each image."""


def embed(
    split: Split,
    network: Embed,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the features [images, dim] of images; returns them with the labels [images].

    Nothing is stored in a file. A progress bar is shown.

    Args:
      split: the images and their labels: a part of a data set, such as its test images.
      network: function from images [batch, height, width, channels], scaled by (pixel - 127.5) /
        128, to their features [batch, dim] and the norms of these [batch].
      change: function that is applied to each stored image first, [height, width, channels] uint8,
        and returns the image to embed, such as one of low resolution. None changes nothing.
    """
    features, labels, done = [], [], 0
    # A split smaller than a batch would otherwise be padded to a whole one.
    size = min(BATCH, len(split.records))
    title = f"embedding {split.dataset} ({split.name})"
    with program.progress(title, "images") as advance:
        for batch in evaluation_batches(split, batch_size=size, change=change):
            # One call per batch, so that the progress can be shown.
            part = embed_split(lambda _, images: network(images), None, [batch])
            features.append(part.features)
            labels.append(part.labels)
            done += len(part.labels)
            advance(done, len(split.records))
    return np.concatenate(features), np.concatenate(labels)


def write(path: Path, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
    """Computes arrays and writes them into an .npz file, unless the file exists.

    The folder is locked, so that two commands do not compute the same arrays at the same time.

    Args:
      path: the file.
      arrays: function that computes the arrays and returns name -> array. It is called only if the
        file is absent.

    Raises:
      InputError: another process has locked the folder, or the file cannot be written.
    """
    if not path.exists():
        folder = path.parent
        # Locked, so that two commands do not compute the same features at the same time.
        with owned.writing(folder), owned.locked(folder, "being embedded in"):
            owned.write_arrays(path, **arrays())


def features(
    run: Path, context: Context, splits: Sequence[str] = SPLITS
) -> dict[str, MirroredFeatures]:
    """Returns the features of the images that a run was trained and tested on, by split.

    The features are computed at the first call, and stored in one file per split. They are computed
    again if the run, the data or the code has changed.

    Args:
      run: folder of the run.
      context: contains the folders of the data and of the stored features.
      splits: names of the splits to return, among "train" and "test". By default both.
    """
    data = json.loads((run / "config.json").read_text())["experiment"]["data"]
    folder, by_split = _folder(run, data["name"], context), {}

    def arrays(name: str) -> dict[str, np.ndarray]:
        # "concat" puts the features of an image and of its mirror image side by side.
        network = open_network(run, mirror="concat")
        split = network.open_split(data["name"], data[f"{name}_split"], context.data_dir)
        both, labels = embed(split, network.apply)
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
    """Returns the features that a run computes for some images of a data set's test split.

    Mirror images are not used. The features are computed at the first call, and stored in a file.
    They are computed again if the run, the data or the code has changed.

    Args:
      run: folder of the run.
      dataset: name of the prepared data set; its images must have names.
      wanted: names of the images, such as those in a protocol's list of pairs.
      context: contains the folders of the data and of the stored features.

    Raises:
      InputError: the data set lacks a named image.
    """
    # Sorted, so that one file serves every order in which the names are given.
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
            "features": embed(split, network.apply)[0],
            "names": np.array(names),
        }

    write(path, arrays)
    return read_features(path)


def _folder(run: Path, dataset: str, context: Context) -> Path:
    """Returns the folder with the features of a run on a data set."""
    # Its name changes with the run, the data and the code, so old features are never read for new.
    of = f"{run_digest(run)}-{fingerprint(dataset, context.data_dir)}-{code_digest(OF_FEATURES)}"
    return context.out / "features" / f"{run.name}-{of}"
