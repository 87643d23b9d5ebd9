"""Grain pipelines from encoded records to float batches.

A batch is a dict of "images" [batch, height, width, channels] float32 in [-1, 1), "labels" [batch]
int32 and "mask" [batch] float32, 1 for an example and 0 for padding.
"""

from collections.abc import Iterator

import grain
import numpy as np

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
) -> Iterator[Batch]:
    """Endless full batches, reshuffled every epoch; batch k is the same however k was reached.

    The step number is the whole position: nothing else needs saving to continue.

    Args:
      split: the records; labels must lie in [0, split.num_classes).
      batch_size: images a batch; batches run across the end of an epoch.
      seed: sets order and augmentation.
      mirror: flip left to right with probability one half.
      shift: largest random shift in pixels each way, repeating the edge.
      start_step: the first batch to deliver.
    """

    def load(record: dict, rng: np.random.Generator) -> Batch:
        pixels = decode(record["image"])
        if mirror and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if shift:
            pixels = _shifted(pixels, *rng.integers(-shift, shift + 1, size=2))
        return _example(pixels, record, split)

    dataset = grain.MapDataset.source(split.records).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(load).batch(batch_size, drop_remainder=True)
    return iter(dataset[start_step:].to_iter_dataset(_READ_OPTIONS))


def evaluation_batches(split: Split, *, batch_size: int) -> Iterator[Batch]:
    """Every example once, in stored order; the last batch is padded and masked."""

    def load(record: dict) -> Batch:
        return _example(decode(record["image"]), record, split)

    dataset = grain.MapDataset.source(split.records).map(load).batch(batch_size)
    for batch in dataset.to_iter_dataset(_READ_OPTIONS):
        yield pad_batch(batch, batch_size)


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
_READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def _example(pixels: np.ndarray, record: dict, split: Split) -> Batch:
    label = int(record["label"])
    if not 0 <= label < split.num_classes:
        raise InputError(
            f"expected labels of {split.dataset} ({split.name}) in [0, {split.num_classes}), "
            f"found {label}: prepare the data set again."
        )
    return {
        "images": (pixels.astype(np.float32) - 127.5) / 128.0,
        "labels": np.int32(label),
        "mask": np.float32(1.0),
    }


def _shifted(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels[rows][:, columns]
