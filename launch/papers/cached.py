"""Features of a trained run's images, made once and kept, for heads that are trained on them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.data.datasets import fingerprint
from hyperface.data.pipeline import evaluation_batches
from hyperface.evaluate.embed import embed_split
from hyperface.files import locked
from hyperface.train.metrics import run_digest
from launch import cli
from launch.embedding import BATCH, open_network
from launch.papers.item import Context

SPLITS = ("train", "test")


class Cached(NamedTuple):
    """Features of images and of their mirror images."""

    features: np.ndarray
    """[images, 2, dim] float32."""
    labels: np.ndarray
    """[images] int32."""


def features(run: Path, context: Context) -> dict[str, Cached]:
    """Features of the run's training images and of those of its test people, by split.

    Args:
      run: its folder.
      context: says where the data and the kept features are.
    """
    data = json.loads((run / "config.json").read_text())["experiment"]["data"]
    of_data = fingerprint(data["name"], context.data_dir)
    folder = context.out / "features" / f"{run.name}-{run_digest(run)}-{of_data}"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in SPLITS:
        path = folder / f"{name}.npz"
        if not path.exists():
            with locked(folder, "being embedded in"):
                _embed(run, data["name"], data[f"{name}_split"], path, context)
        with np.load(path) as kept:
            found[name] = Cached(kept["features"], kept["labels"])
    return found


def _embed(run: Path, data: str, split: str, path: Path, context: Context) -> None:
    network = open_network(run, mirror="concat")
    opened = network.open_split(data, split, context.data_dir)
    parts, labels = [], []
    with cli.progress(context.console, f"embedding {data} ({split})", "images") as advance:
        for batch in evaluation_batches(opened, batch_size=BATCH):
            part = embed_split(lambda _, images: network.apply(images), None, [batch])
            parts.append(part.features.reshape(len(part.labels), 2, -1))
            labels.append(part.labels)
            advance(sum(map(len, labels)), len(opened.records))
    partial = path.with_name("partial.npz")
    np.savez(partial, features=np.concatenate(parts), labels=np.concatenate(labels))
    partial.rename(path)
