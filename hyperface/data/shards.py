"""Checks the images of a shard and writes them into one ArrayRecord file."""

import collections
import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

# A compiled module without stubs.
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from hyperface.data import images
from hyperface.data.planning import Options, Shard
from hyperface.data.sources import Reject, Source
from hyperface.errors import InputError

SIZE_VOTERS = 64
"""Number of sampled images whose majority decides which size all images must have."""
MOST_ODD = 0.1
"""Largest share of the sample with another size. Images of other sizes are left out and listed."""
HELD = 100_000_000
"""Bytes of encoded images that may wait for a thread: two of the largest, thousands of usual
ones."""

Shape = tuple[int, int, int]
"""[height, width, channels]."""


class MixedSizes(InputError):
    """The error for a source whose images have many sizes and are not aligned to one."""


def write(
    source: Source,
    shard: Shard,
    options: Options,
    shape: Shape,
    folder: Path,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Writes one shard of a data set.

    Args:
      source: the images.
      shard: the images of the shard, and its name.
      options: how the images are stored.
      shape: the shape that all images must have.
      folder: folder that receives the file.
      report: called from time to time with the number of finished images.

    Returns:
      The journal of the shard, as values for JSON: the number of images, in total and per label,
      the rejected images with reasons, the shape, and the SHA-256 of the file.

    Raises:
      OSError: the file cannot be written.
    """
    encode = _encoder(features(shape, people=int(shard.labels.max(initial=0)) + 1))
    path = folder / shard.file
    counts, rejected = collections.Counter(), []
    try:
        # Groups of one record, because training reads single records in random order.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        # Closed here: the garbage collector could close it in one of its own worker threads, which
        # cannot wait for itself.
        with contextlib.closing(_checked(source, shard.indices, options, shape)) as checked:
            for done, (index, label) in enumerate(zip(shard.indices, shard.labels, strict=True), 1):
                data, reason = next(checked)
                name = source.names[int(index)]
                if reason is None:
                    example = {"image": data, "label": int(label), "name": name}
                    writer.write(encode(example))
                    counts[int(label)] += 1
                else:
                    rejected.append((name, reason))
                if done % 100 == 0:
                    report(done)
        writer.close()
    except RuntimeError as error:  # ArrayRecord raises this if the disk is full.
        raise OSError(str(error)) from error
    return {
        "images": counts.total(),
        "labels": counts,
        "rejected": rejected,
        "shape": shape,
        "sha256": _sync_and_verify(path, counts.total()),
    }


def _encoder(described: tfds.features.FeaturesDict) -> Callable[[dict[str, Any]], bytes]:
    """Returns a function that serialises examples, equal examples to equal bytes.

    So the same images give shards with the same digest.
    """
    # Not `FeaturesDict.serialize_example`, whose order of fields differs between processes.
    core: Any = tfds.core  # Type checkers see only a part of its modules.
    serializer = core.example_serializer.ExampleSerializer(described.get_serialized_info())

    def encode(example: dict[str, Any]) -> bytes:
        record = serializer.get_tf_example(described.encode_example(example))
        # Without this argument protobuf may write the entries of a map in any order.
        return record.SerializeToString(deterministic=True)

    return encode


def _sync_and_verify(path: Path, count: int) -> str:
    """Waits until a shard is on the disk, counts its records, and returns its SHA-256.

    Args:
      path: the shard.
      count: the number of records that it must have.

    Raises:
      OSError: the shard has another number of records.
    """
    with path.open("rb+") as file:
        # Without this, a power cut could leave a journal on the disk without its shard.
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Read back, so that lost records are noticed now and not in training.
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != count:
        raise OSError(f"{path} has {found} of {count} records")
    return digest


def _checked(
    source: Source, indices: np.ndarray, options: Options, shape: Shape
) -> Generator[tuple[bytes, str | None], None, None]:
    """Yields (encoded image, None) or (b"", reason for rejecting it) of each image, in order.

    One thread reads the source, since an archive has one read position. Other threads check images.
    """

    def check(index: int, data: bytes) -> tuple[bytes, str | None]:
        try:
            return _conformed(data, index, source, options, shape), None
        except ValueError as error:
            return b"", str(error)

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[tuple[Future, int]] = collections.deque()
        held = 0
        for index in map(int, indices):
            try:
                data = source.read(index)
                waiting.append((pool.submit(check, index, data), len(data)))
            except (ValueError, OSError) as error:
                # A finished future takes the image's place in the queue, so that the order stays.
                waiting.append((Future(), 0))
                waiting[-1][0].set_result((b"", str(error)))
            held += waiting[-1][1]
            # Reading is faster than checking: without a limit the queue would fill the memory.
            while len(waiting) > 4 * threads or (held > HELD and len(waiting) > 1):
                future, size = waiting.popleft()
                held -= size
                yield future.result()
        for future, _ in waiting:
            yield future.result()


def _conformed(
    data: bytes, index: int, source: Source, options: Options, shape: Shape | None
) -> bytes:
    """Returns the bytes to store for an encoded image; ValueError says why it cannot be used.

    Args:
      data: the encoded image.
      index: its index in the source.
      source: the source.
      options: how images are stored.
      shape: the shape that it must have; None accepts any.
    """
    channels = options.channels or source.channels
    if options.align is None:
        found = images.conform(data, channels)
    else:
        pixels = options.align(source.names[index], images.upright(data, channels))
        found = images.encode_png(pixels), pixels.shape
    if shape is not None and found[1] != shape:
        raise ValueError(f"expected an image of {shape}, as most are, found {found[1]}")
    return found[0]


def majority_shape(source: Source, plan: Sequence[Shard], options: Options) -> Shape:
    """Returns the shape that most readable images have in an evenly spaced sample.

    Raises:
      MixedSizes: many images of the sample have other sizes, so they are probably raw photos.
      InputError: no image is readable.
    """
    votes, rejected = collections.Counter(), []
    indices = np.concatenate([shard.indices for shard in plan])
    # Evenly spaced, since a source may have small images in one folder and large ones in another.
    sample = indices[np.linspace(0, indices.size - 1, SIZE_VOTERS).astype(int)]
    # If no image of the sample is readable, the first readable one of all others decides.
    for index in map(int, dict.fromkeys([*sample, *indices])):
        try:
            data = _conformed(source.read(index), index, source, options, None)
            votes[images.decode(data).shape] += 1
        except (ValueError, OSError) as error:
            rejected.append(Reject(source.names[index], str(error)))
        if votes.total() + len(rejected) >= min(SIZE_VOTERS, indices.size) and votes:
            break
    if not votes:
        raise refused(rejected, "none that is readable")
    (shape, count), *others = votes.most_common()
    if votes.total() - count > MOST_ODD * votes.total():
        shown = ", ".join(f"{h} x {w} ({n})" for (h, w, _), n in [(shape, count), *others[:2]])
        raise MixedSizes(
            f"expected images of one size, found {len(votes)} sizes (height x width) among "
            f"{votes.total()} images: {shown}{', ...' if len(others) > 2 else ''}. Nothing was "
            "written. Photos must be aligned by their faces: pass --detect, or --landmarks with a "
            "file of landmarks."
        )
    return shape


def features(shape: Shape, people: int) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a record: encoded image, label and name."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=people),
            "name": tfds.features.Text(),
        }
    )


def refused(rejected: Sequence[Reject], what: str = "") -> InputError:
    """Returns the error for a source whose images cannot be used.

    Args:
      rejected: the rejected images, of which the message names some.
      what: what was found instead of readable images; by default the number of rejected ones.
    """
    shown = "; ".join(f"{name}: {reason}" for name, reason in rejected[:5])
    listed = (
        f": {shown}{'; ...' if len(rejected) > 5 else ''}. Repair or remove them" if shown else ""
    )
    return InputError(
        f"expected readable images of one size, found {what or f'{len(rejected)} that are not'}"
        f"{listed}{'' if what else ', or leave out --strict to have them listed'}. No data set was "
        "written."
    )
