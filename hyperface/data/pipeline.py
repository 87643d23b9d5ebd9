"""Turns the encoded records of a split into batches of float images, by Grain.

A batch is a dictionary of "images", [batch, height, width, channels] float32 in [-1, 1); "labels",
[batch] int32; and "mask", [batch] float32, which is 1 for a real example and 0 for padding.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import grain
import numpy as np

from hyperface.data.datasets import Split
from hyperface.data.images import decode
from hyperface.data.workers import in_workers
from hyperface.errors import InputError

Batch = dict[str, np.ndarray]


def training_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    mirror: bool = True,
    shift: int = 0,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yields an endless sequence of full batches, in a new random order in each epoch.

    A batch is a dictionary of "images", [rows, height, width, channels] float32 in [-1, 1);
    "labels", [rows] int32; and "mask", [rows] float32, which is 1 everywhere.

    The images of step k depend only on the seed and on k. So a run that continues needs only the
    step number, and the images do not depend on the number of processes and workers. Each process
    reads an equal share of the images of a step.

    Args:
      split: the split to read. A crop in `split.crop` is cut out at a random place.
      batch_size: number of images per step, over all processes; each process gets an equal share as
        its batch. A batch may contain the end of one epoch and the start of the next.
      seed: seed of the order and the augmentation.
      mirror: whether images are flipped left to right with probability one half.
      shift: largest random shift in pixels in each direction; edge pixels are repeated.
      start_step: the step, counted from 0, whose batch comes first; above 0 to continue a run.
      process: number of the calling process, from 0; its share of each batch is yielded.
      processes: number of processes that train together.
      workers: number of additional processes that read and decode images; 0 uses threads.

    Raises:
      InputError: `processes` does not divide `batch_size`, a record cannot be read, a label is
        outside [0, split.num_classes), or a worker process was killed.
    """
    if batch_size % processes:
        raise InputError(
            f"data.batch-size: expected a multiple of the {processes} processes, found "
            f"{batch_size}."
        )

    make = partial(
        _random_batches,
        split,
        share=batch_size // processes,
        seed=seed,
        mirror=mirror,
        shift=shift,
        # Worker processes share no memory, and each would keep a copy of the images.
        keep=KEPT if workers == 0 else 0,
        steps=slice(start_step * processes + process, None, processes),
    )
    if workers:
        return _from_workers(make, workers)
    return iter(make().map(_scaled).to_iter_dataset(_READ_OPTIONS))


def _from_workers(make: Callable[[], grain.MapDataset[Batch]], workers: int) -> Iterator[Batch]:
    """Yields the batches that worker processes read. The workers end with this iterator."""
    batches = in_workers(cast(Callable[[], Sequence[Batch]], make), workers)
    with contextlib.closing(batches):
        # Scaled here: until then images are bytes, a quarter of the size of floats.
        yield from map(_scaled, batches)


def _random_batches(
    split: Split, *, share: int, seed: int, mirror: bool, shift: int, keep: int, steps: slice
) -> grain.MapDataset[Batch]:
    """Returns the endless sequence of random batches of one process; their images are bytes.

    Args:
      split: as in `training_batches`.
      share: number of images per batch.
      seed: as in `training_batches`.
      mirror: as in `training_batches`.
      shift: as in `training_batches`.
      keep: size in bytes up to which the decoded images of the split are kept in memory.
      steps: the batches of this process, among those of all processes and steps.
    """

    def load(example: Batch, rng: np.random.Generator) -> Batch:
        pixels = example["images"]
        if split.crop:
            spare = np.subtract(pixels.shape[:2], split.crop)
            pixels = _cut(pixels, rng.integers(0, spare + 1), split.crop)
        # Grain gives each example its own generator, so that no other image changes the draws.
        if mirror and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if shift:
            pixels = _shifted(pixels, *rng.integers(-shift, shift + 1, size=2))
        return example | {"images": pixels}

    # Repeated after the shuffle, so that each epoch has each image once, in an order of its own.
    dataset = grain.MapDataset.source(_Images(split, keep)).seed(seed).shuffle().repeat()
    # Slicing a MapDataset skips batches without reading them, so that resuming costs nothing.
    return dataset.random_map(load).batch(share, drop_remainder=True)[steps]


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Yields every example once, in stored order, in batches of equal size.

    A batch is a dictionary of "images", [batch_size, height, width, channels] float32 in [-1, 1);
    "labels", [batch_size] int32; and "mask", [batch_size] float32. The mask is 1 for an example and
    0 for a row that only fills up the last batch. If the split has a crop, the centre of the image
    is cut out. With k processes, each yields every k-th batch. All yield equally many batches, so
    that the last batch of a process may be only padding.

    Args:
      split: the split to read.
      batch_size: number of rows per batch of a process.
      change: function from one decoded image, [height, width, channels] uint8, to one of the same
        size, such as `resolution.degrade`; it is called before the crop. None changes nothing.
      process: number of the calling process, from 0; its batches are yielded.
      processes: number of processes that evaluate together.

    Raises:
      InputError: a record cannot be read, or a label is outside [0, split.num_classes).
    """

    def load(example: Batch) -> Batch:
        pixels = example["images"]
        if change is not None:
            pixels = change(pixels)
        if split.crop:
            spare = np.subtract(pixels.shape[:2], split.crop)
            pixels = _cut(pixels, spare // 2, split.crop)
        return example | {"images": pixels}

    dataset = grain.MapDataset.source(_Images(split)).map(load).batch(batch_size).map(_scaled)
    for batch in dataset[process::processes].to_iter_dataset(_READ_OPTIONS):
        yield pad_batch(batch, batch_size)
    # A collective operation needs all processes, so those with one batch less yield padding.
    if len(dataset) % processes and process >= len(dataset) % processes:
        # Grain's types allow None, which only a filter returns.
        filler = pad_batch(cast(Batch, dataset[0]), batch_size)
        yield filler | {"mask": np.zeros_like(filler["mask"])}


def pad_batch(batch: Batch, size: int) -> Batch:
    """Returns a batch that is filled up to `size` rows by copies of its first example.

    The "mask" of the copies is 0, so that they are not counted as examples.

    Args:
      batch: dictionary of arrays with equally many rows, among them "mask".
      size: number of rows of the result, at least that of the batch.
    """
    missing = size - len(batch["mask"])
    padded = {
        name: np.concatenate([values, np.repeat(values[:1], missing, axis=0)])
        for name, values in batch.items()
    }
    padded["mask"][size - missing :] = 0.0
    return padded


# Threads, not processes: when a run is killed, no process and no shared memory is left behind.
_READ_OPTIONS = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=8)


KEPT = 2**30
"""Size in bytes up to which the decoded images of a training set are kept in memory."""


class _Images:
    """The decoded examples of a split, read by index.

    An example is a dictionary of "images", [height, width, channels] uint8; "labels", an int32
    scalar; and "mask", the float32 scalar 1. An example that cannot be read raises an `InputError`
    that names it. If all examples together take at most `keep` bytes, each is kept in memory after
    its first reading, because reading a small image again takes longer than a step of a small
    network.
    """

    def __init__(self, split: Split, keep: int = 0) -> None:
        self._split = split
        self._keeps = len(split.records) * math.prod(split.image_shape) <= keep
        self._kept: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self._split.records)

    def __getitem__(self, index: int) -> Batch:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        example = _example(self._split, index)
        if self._keeps:
            self._kept[index] = example
        return example


def _example(split: Split, index: int) -> Batch:
    """Reads, decodes and checks one example."""
    try:
        record = split.records[index]
    except Exception as error:  # ArrayRecord, protobuf and TFDS raise errors of many types.
        raise _unreadable(split, index, "record", error) from error
    try:
        pixels = decode(record["image"])
    except ValueError as error:
        raise _unreadable(split, index, "image", error) from error
    if split.shrink > 1:
        pixels = _shrunk(pixels, split.shrink)
    label = int(record["label"])
    if not 0 <= label < split.num_classes:
        raise InputError(
            f"expected labels of {split.dataset} ({split.name}) in [0, {split.num_classes}), "
            f"found {label}: prepare the data set again."
        )
    # NumPy scalars are no arrays to a type checker, but Grain batches them in the same way.
    example = {"images": pixels, "labels": np.int32(label), "mask": np.float32(1.0)}
    return cast(Batch, example)


def _unreadable(split: Split, index: int, what: str, error: Exception) -> InputError:
    """Returns the error for an example that cannot be read.

    Args:
      split: the split.
      index: number of the example in it.
      what: the damaged part, "record" or "image".
      error: the error that reading raised.
    """
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return InputError(
        f"{split.dataset} ({split.name}), record {index}: expected a whole {what}, found: "
        f"{reason}. Delete the data set's folder and prepare it again; the run then "
        "continues."
    )


def _scaled(batch: Batch) -> Batch:
    """Scales the images of a batch from [0, 255] to [-1, 1)."""
    # float32 is requested because uint8 minus a Python float would be float64. The division reuses
    # the array of the subtraction.
    images = np.subtract(batch["images"], 127.5, dtype=np.float32)
    return batch | {"images": np.divide(images, 128.0, out=images)}


def _shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Returns an image whose pixels are the rounded means of blocks of factor x factor."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, channels)
    # Rounded, since the cast alone truncates and darkens every image by half a grey level.
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _cut(pixels: np.ndarray, corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the part of an image with this top left corner and this (height, width)."""
    top, left = corner
    return pixels[top : top + size[0], left : left + size[1]]


def _shifted(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Returns an image that is shifted down and to the right by so many pixels."""
    height, width = pixels.shape[:2]
    # Clipped indices repeat the pixels of the edge.
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels[rows][:, columns]
