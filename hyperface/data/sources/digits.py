"""Opens MNIST from its four IDX files, in a folder or downloaded."""

import hashlib
import lzma
import math
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import requests

from hyperface.archives import open_unpacked
from hyperface.data.images import encode_png
from hyperface.data.sources.source import Source, by_identity
from hyperface.errors import InputError

URL = "https://storage.googleapis.com/cvdf-datasets/mnist"
LARGEST_FILE = 50_000_000
"""Largest unpacked size of an IDX file in bytes; the largest of MNIST has 47,040,016."""
PARTS = {"train": "train", "test": "t10k"}
"""Split -> beginning of the names of its files."""


def digits(root: Path) -> Source:
    """Opens the MNIST images in a folder as a source; each of the ten digits counts as a person.

    A source is a collection of images with the person of each, from which a data set is prepared.

    Args:
      root: folder with MNIST's four files: the images (`train-images-idx3-ubyte`,
        `t10k-images-idx3-ubyte`) and the labels (`train-labels-idx1-ubyte`,
        `t10k-labels-idx1-ubyte`), each plain or compressed, with .gz behind its name.

    Raises:
      InputError: a file is missing or damaged, or the images and labels do not belong together.
    """
    pixels, labels, splits = [], [], []
    for split, part in PARTS.items():
        images = read_idx(root / f"{part}-images-idx3-ubyte")
        classes = read_idx(root / f"{part}-labels-idx1-ubyte")
        if images.shape != (len(classes), 28, 28) or np.any(classes > 9):
            raise InputError(
                f"expected one 28 x 28 image per label below 10, found {part} images "
                f"{images.shape} and labels {classes.shape} up to {classes.max(initial=0)}."
            )
        pixels.append(images)
        labels.append(classes)
        splits += [split] * len(classes)
    pixels, labels = np.concatenate(pixels), np.concatenate(labels)
    # The digest of all pixels stands for the size of each image, which is the same for all.
    content = hashlib.sha256(pixels.data).hexdigest()
    return by_identity(
        "digits",
        [(str(label), f"{label}/{place:05}", content) for place, label in enumerate(labels)],
        lambda index: encode_png(pixels[index, ..., None]),
        splits=np.array(splits),
        channels=1,
    )


def downloaded_digits() -> Source:
    """Downloads MNIST (11 MB) from the address that TFDS uses, and opens it as a source.

    The files are not kept: the images are in memory.

    Raises:
      InputError: the download failed, or a downloaded file is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            for part in PARTS.values():
                for kind in ("images-idx3", "labels-idx1"):
                    name = f"{part}-{kind}-ubyte.gz"
                    answer = requests.get(f"{URL}/{name}", timeout=20)
                    answer.raise_for_status()
                    (Path(folder) / name).write_bytes(answer.content)
        except requests.RequestException as error:
            raise InputError(
                f"could not download MNIST: {error}. Without internet access, give the folder "
                "that contains its four files instead."
            ) from None
        return digits(Path(folder))


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array in an IDX file, the format of MNIST, plain or gzipped.

    Args:
      path: the file without ".gz". If there is a file with ".gz" beside it, that one is read.

    Raises:
      InputError: the file is missing, is not IDX of unsigned bytes, has more than LARGEST_FILE
        bytes (50 MB) unpacked, or has another length than its header announces.
    """
    # The files are distributed packed, and some programs unpack them.
    packed = path.with_name(path.name + ".gz")
    found = packed if packed.exists() else path
    if not found.is_file():
        raise InputError(f"expected {path} or {packed.name} beside it, found neither.")
    try:
        with open_unpacked(found, LARGEST_FILE) as file:
            data = file.read(LARGEST_FILE + 1)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"expected a whole gzip file, found {found}: {error}.") from None
    if len(data) > LARGEST_FILE:
        raise InputError(f"{found}: expected at most {LARGEST_FILE:,} bytes, found more.")
    # The header: two zeros, 8 for unsigned bytes, the number of axes, and the length of each axis.
    if (
        len(data) < 4
        or data[:3] != b"\x00\x00\x08"
        or not 1 <= data[3] <= 3
        or len(data) < 4 + 4 * data[3]
    ):
        raise InputError(f"expected an IDX file of bytes, found {path} starting {data[:4]!r}.")
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != math.prod(shape):
        raise InputError(f"expected {shape} bytes in {path}, found {values.size}.")
    return values.reshape(shape)
