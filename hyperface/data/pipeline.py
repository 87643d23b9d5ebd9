"""Grain pipelines from encoded records to float batches.

A batch is a dict of "images" [batch, height, width, channels] float32 in [-1, 1), "labels" [batch]
int32 and "mask" [batch] float32, 1 for an example and 0 for padding.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import cast

import grain
import numpy as np
from absl import flags

from hyperface.data.datasets import Split
from hyperface.data.images import decode
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
    """Endless full batches, reshuffled every epoch; batch k is the same however k was reached.

    The step number is the whole position: nothing else needs saving to continue. The images of step
    k are the same for any number of processes, each of which reads its share, and of workers.

    Args:
      split: the records; labels must lie in [0, split.num_classes).
      batch_size: images of a step, over all processes; batches run across the end of an epoch.
      seed: sets order and augmentation.
      mirror: flip left to right with probability one half.
      shift: largest random shift in pixels each way, repeating the edge.
      start_step: the first batch to deliver.
      process: which share to deliver, of
      processes: hosts that train together.
      workers: processes that read and decode; 0 uses threads, which leave nothing behind when a
        run is killed.

    Raises:
      InputError: the batch cannot be shared equally.
    """
    if batch_size % processes:
        raise InputError(
            f"data.batch-size: expected a multiple of the {processes} processes, found "
            f"{batch_size}."
        )

    def load(example: Batch, rng: np.random.Generator) -> Batch:
        pixels = example["images"]
        if split.crop:
            spare = np.subtract(pixels.shape[:2], split.crop)
            pixels = _cut(pixels, rng.integers(0, spare + 1), split.crop)
        # The generator is the example's own, so that draws depend on no other image.
        if mirror and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if shift:
            pixels = _shifted(pixels, *rng.integers(-shift, shift + 1, size=2))
        return example | {"images": pixels}

    # Workers share no memory: each would keep its own.
    source = _Images(split, keep=KEPT if workers == 0 else 0)
    # Repeated after the shuffle: each epoch then has an order of its own.
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    share = batch_size // processes
    # Scaled after batching: images stay bytes, a quarter of the size, until then.
    dataset = dataset.random_map(load).batch(share, drop_remainder=True).map(_scaled)
    # Slices of a map skip batches without reading them, so that a resume costs nothing.
    dataset = dataset[process::processes][start_step:].to_iter_dataset(_READ_OPTIONS)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for flags that only an absl program parses.
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return _from_workers(iter(dataset))
    return iter(dataset)


def _from_workers(batches: grain.DatasetIterator) -> Iterator[Batch]:
    """Yields the batches. A worker process that was killed raises an `InputError`."""
    try:
        yield from batches
    except RuntimeError as error:
        # Grain has no class for this, so that its text has to tell.
        if "Worker process was terminated" not in str(error):
            raise
        code = str(error).partition("exit code ")[2].partition(".")[0]
        raise InputError(
            "workers: expected the processes that read images to stay alive, found one that ended "
            f"with code {code}; -9 is a kill, for want of memory perhaps. Take fewer --workers, or "
            "none; the same command goes on from the last checkpoint."
        ) from error
    finally:
        # Or worker processes outlive a run that stops early.
        batches.close()


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Yields every example once, in stored order; the last batch is padded and masked.

    Where the split has a crop, the middle of the image is cut out. Each of several processes
    delivers as many batches, every k-th; the last ones may be nothing but padding.

    Args:
      split: the records.
      batch_size: rows of a batch.
      change: of a stored image [height, width, channels] uint8 to what is fed in its place, such as
        one of low resolution.
      process: which share to deliver, of
      processes: those that evaluate together.
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
    # A collective needs all processes: those with one batch less deliver padding.
    if len(dataset) % processes and process >= len(dataset) % processes:
        filler = pad_batch(cast(Batch, dataset[0]), batch_size)  # Only a filter makes None.
        yield filler | {"mask": np.zeros_like(filler["mask"])}


def pad_batch(batch: Batch, size: int) -> Batch:
    """Repeats the first example with mask 0 until the batch has `size` rows."""
    missing = size - len(batch["mask"])
    padded = {
        name: np.concatenate([values, np.repeat(values[:1], missing, axis=0)])
        for name, values in batch.items()
    }
    padded["mask"][size - missing :] = 0.0
    return padded


# Threads, not processes: they leave nothing behind when a run is killed.
_READ_OPTIONS = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=8)


KEPT = 2**30
"""Bytes of decoded images that a training keeps."""


class _Images:
    """The examples of a split, decoded: "images" [height, width, channels] uint8, "labels", "mask".

    An example that cannot be read raises an error that names it. If all examples together take at
    most `keep` bytes, each is kept in memory after its first reading, because reading a small image
    again takes longer than a step of a small network.
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
    try:
        record = split.records[index]
    except Exception as error:  # Of ArrayRecord, protobuf or TFDS, by what is damaged.
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
    # Scalars of NumPy do what arrays without axes do.
    example = {"images": pixels, "labels": np.int32(label), "mask": np.float32(1.0)}
    return cast(Batch, example)


def _unreadable(split: Split, index: int, what: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return InputError(
        f"{split.dataset} ({split.name}), record {index}: expected a whole {what}, found: "
        f"{reason}. Delete the data set's folder and prepare it again; the run then "
        "goes on."
    )


def _scaled(batch: Batch) -> Batch:
    """Returns the batch with images of 0 to 255 in [-1, 1): all at once, in one array."""
    # float32 by name, since uint8 minus a float would be float64.
    images = np.subtract(batch["images"], 127.5, dtype=np.float32)
    return batch | {"images": np.divide(images, 128.0, out=images)}


def _shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Returns an image whose pixels are the rounded means of blocks of factor x factor."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, channels)
    # Rounded first: the cast alone would darken every image by half a level.
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _cut(pixels: np.ndarray, corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = corner
    return pixels[top : top + size[0], left : left + size[1]]


def _shifted(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    # Clipped indices repeat the edge.
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels[rows][:, columns]
