"""A prepared split embedded by a run's network: names, labels and features in stored order."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyperface.data.datasets import Split
from hyperface.data.images import decode
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError, expect
from hyperface.evaluate.embed import Embeddings, embed_split, embedder
from hyperface.report.cleaning import NamedImages
from hyperface.train.checkpoint import Checkpoints
from launch.evaluate import restored

Embed = Callable[[Split], Iterator[Embeddings]]

BLOCK = 8192
"""Features that are read at once."""
SECONDS_BETWEEN_LINES = 10.0


class Embedded(NamedTuple):
    """A split's images and their features."""

    images: NamedImages
    features: np.ndarray
    """[images, dim], mapped from a file: only what is looked at is in memory."""

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features, labels) of some images at a time."""
        for start in range(0, len(self.features), BLOCK):
            block = slice(start, start + BLOCK)
            yield self.features[block], self.images.labels[block]


def embedder_of(run: Path, splits: Sequence[Split]) -> Embed:
    """A function from a split to its embeddings, a batch at a time.

    Args:
      run: folder of a run; its newest checkpoint is taken.
      splits: what is to be embedded; the sizes of the images are checked.

    Raises:
      InputError: there is no checkpoint, or it was trained on images of another size.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run with checkpoints, found none at {folder}.")
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise InputError(f"expected a whole checkpoint in {folder}, found none.")
        wanted = tuple(checkpoints.meta(step)["data"]["image_shape"])
        for split in splits:
            found = tuple(split.image_shape)
            expect(found == wanted, split.dataset, f"images of {wanted}, as {run} takes", found)
        experiment, state = restored(checkpoints, step)
    apply = embedder(
        lambda variables, images: state.network.apply(variables, images, method="embed"),
        experiment.evaluation.mirror,
    )
    variables = jax.device_put(jax.device_get(state.evaluated))  # From all devices to one.

    def embed(split: Split) -> Iterator[Embeddings]:
        for batch in evaluation_batches(split, batch_size=experiment.evaluation.batch_size):
            yield embed_split(apply, variables, [batch])

    return embed


def embed_into(path: Path, split: Split, embed: Embed, console: Console) -> Embedded:
    """Embeds a split and keeps the features in a file.

    Raises:
      InputError: the images have no names, or a feature is zero or not finite.
    """
    if "name" not in split.records[0]:
        raise InputError(f"{split.dataset}: expected images with names, found none.")
    names = [record["name"].decode() for record in split.records]
    labels, features, done = np.empty(len(names), np.int32), None, 0
    title = f"embedding {split.dataset} ({split.name})"
    for part in _watched(embed(split), title, len(names), console):
        if not (np.isfinite(part.norms).all() and part.norms.all()):
            raise InputError(
                f"{split.dataset}: expected finite features above zero, found others: has the run "
                "diverged?"
            )
        if features is None:
            shape = len(names), part.features.shape[1]
            features = np.memmap(path, np.float32, "w+", shape=shape)
        block = slice(done, done + len(part.labels))
        features[block], labels[block] = part.features, part.labels
        done = block.stop
    images = NamedImages(names, labels, lambda place: decode(split.records[place]["image"]))
    return Embedded(images, features)


def _watched(
    parts: Iterable[Embeddings], title: str, images: int, console: Console
) -> Iterator[Embeddings]:
    """The parts, with a bar on a terminal and a line every few seconds elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    left = TimeRemainingColumn(elapsed_when_finished=True)
    began = last_line = time.monotonic()
    done = 0
    with Progress(*columns, left, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=images)
        for part in parts:
            yield part
            done += len(part.labels)
            bar.update(task, completed=done)
            now = time.monotonic()
            if bar.disable and now - last_line >= SECONDS_BETWEEN_LINES:
                last_line = now
                seconds = (images - done) * (now - began) / done
                line = f"{title}: {done}/{images}, {seconds:.0f} s left"
                console.print(line, highlight=False, soft_wrap=True)
