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
"""Number of sampled images; the most frequent size among them is the size of the data set."""
MOST_ODD = 0.1
"""Largest share of the sample that may have another size. Images of another size are left out and
listed."""
HELD = 100_000_000
"""Size in bytes of the encoded images that may wait for a thread: two of the largest images, or
thousands of usual ones."""

Shape = tuple[int, int, int]
"""[height, width, channels]."""


class MixedSizes(InputError):
    """The error that the images of a source have several sizes.

    A data set needs images of one size. Images of several sizes are probably photos in which the
    faces must be found and aligned first. When the error is raised, no data set has been written.
    """


def write(
    source: Source,
    shard: Shard,
    options: Options,
    shape: Shape,
    folder: Path,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Checks the images of one shard, which is a file of a data set, and writes them.

    An image that cannot be used, or has another shape, is left out and listed as rejected.

    Args:
      source: the images.
      shard: the plan of the file: its name, and its images with their labels.
      options: how the images are stored: number of channels and alignment.
      shape: (height, width, channels) that each stored image must have.
      folder: folder that receives the file.
      report: called after every 100 images with the number of finished images of this shard.

    Returns:
      The journal of the shard, a dict that can be stored as JSON: "images", the number of stored
      images; "labels", a dict label -> number of images; "rejected", a list of (name, reason);
      "shape", the argument; and "sha256", the digest of the file.

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
    """Yields, for each image in order, (encoded image, None) or (b"", reason for rejecting it).

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
    """Returns the shape (height, width, channels) that most images of a sample have.

    The sample consists of 64 evenly spaced images out of all that will be stored. Images that
    cannot be read do not count.

    Args:
      source: the images.
      plan: the files (shards) that will be written; each lists the images that it will contain.
      options: how the images are stored; the shape is measured after the alignment.

    Raises:
      MixedSizes: more than a tenth of the readable images of the sample have another shape. The
        images are then probably photos that were not aligned.
      InputError: none of the images that will be stored is readable.
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
    """Returns the description of a data set's records that TFDS (TensorFlow Datasets) needs.

    A record has the entries "image" (encoded), "label" (a number) and "name" (a text).

    Args:
      shape: (height, width, channels) of the images.
      people: number of classes; labels are in [0, people).
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=people),
            "name": tfds.features.Text(),
        }
    )


def refused(rejected: Sequence[Reject], what: str = "") -> InputError:
    """Returns the error that a source's images cannot be used. The caller raises it.

    Args:
      rejected: the rejected images; the message names the first five with their reasons.
      what: the end of "expected readable images of one size, found ...", such as "none in the split
        'test'". If it is "", the message states the number of rejected images, and advises to leave
        out the option `--strict` of `hyperface prepare`.
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
