"""Opens InsightFace's verification files (lfw.bin, cfp_fp.bin, agedb_30.bin): images and pairs.

Such a file is a pickle of a list of encoded images and a list of flags, one per pair. Pair k
consists of the images 2 k and 2 k + 1.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hyperface.data.sources.pickled import Array, loads
from hyperface.data.sources.source import Pairs, Source, check_size, fingerprint
from hyperface.errors import InputError
from hyperface.files import read_bytes

FOLDS = 10
"""Number of folds; every published list has ten."""
LARGEST_FILE = 2**32
"""Largest size of a file in bytes; the largest published file has about 500 MB."""
MAX_REPEATS = 16
"""How often an image may occur on average; in published files it is up to 6 times."""


def verification(path: Path) -> Source:
    """Opens the images and pairs in a verification .bin file, such as InsightFace's lfw.bin.

    Such a file is a pickle of a list of encoded images, two per pair, and of one flag per pair:
    whether both images show one person. It is read without running any code. It has no identities,
    so all images get the identity "unnamed".

    Args:
      path: the file, which may be hostile.

    Raises:
      InputError: the file is missing, has more than LARGEST_FILE bytes (4 GiB), is not a pickle of
        images and flags, or contains anything else.
    """
    data = read_bytes(path, LARGEST_FILE)
    try:
        images, same = _checked(loads(data))
        _check_repeats(images, len(data))
    except ValueError as error:
        raise InputError(f"{path}: expected images and flags, found {error}.") from None

    def read(index: int) -> bytes:
        check_size(len(images[index]))
        return bytes(images[index])

    # Pair k has the images 2 k and 2 k + 1.
    first = np.arange(0, len(images), 2)
    return Source(
        kind="verification",
        identities=["unnamed"],
        people=np.zeros(len(images), np.int32),
        names=[f"{index:06}" for index in range(len(images))],
        read=read,
        fingerprint=fingerprint([*_digests(images), *same]),
        pairs=Pairs(first, first + 1, same, folds(same)),
    )


def folds(same: np.ndarray) -> np.ndarray:
    """Divides pairs of images into ten folds, the groups for cross-validation.

    A pair is genuine if both images show one person, and otherwise an impostor pair. The genuine
    pairs are divided, in their order, into ten parts of nearly equal size, one per fold. The
    impostor pairs are divided likewise. If there are fewer than ten genuine or fewer than ten
    impostor pairs, there are fewer folds: as many as the smaller of the two numbers, at least one.

    Published files list their pairs fold by fold, so the result equals their published folds.

    Args:
      same: [pairs] bool, True for genuine pairs.

    Returns:
      [pairs] int64, the fold of each pair, from 0.

    Example:
      >>> print(folds(np.array([True, True, False, False, False])))
      [0 1 0 0 1]
    """
    count = max(1, min(FOLDS, int(same.sum()), int((~same).sum())))
    fold = np.zeros(same.size, np.int64)
    for kind in (same, ~same):
        fold[kind] = np.arange(kind.sum()) * count // max(1, int(kind.sum()))
    return fold


def _checked(value: Any) -> tuple[list[memoryview], np.ndarray]:
    """Returns (images, flags) from the value of a pickle, after checks.

    `images` are encoded images, two per pair. `flags`, [pairs] bool, are True for pairs of one
    person.

    Raises:
      ValueError: the value is something else; the message says what.
    """
    if not (isinstance(value, list | tuple) and len(value) == 2):
        raise ValueError(f"{type(value).__name__}, which is not a pair of them")
    images = [image.data if isinstance(image, Array) else image for image in _items(value[0])]
    listed = _items(value[1])
    flags = [bool(flag) for flag in listed if isinstance(flag, bool | int)]
    if not images or not all(isinstance(image, memoryview) for image in images):
        raise ValueError("something else than a list of encoded images")
    if len(flags) != len(listed) or len(images) != 2 * len(flags):
        raise ValueError(f"{len(images)} images and {len(flags)} flags, not one for two images")
    return images, np.array(flags)


def _items(value: Any) -> list:
    """Returns the items of a list, a tuple or an array; [] for any other value."""
    if isinstance(value, Array):
        return np.frombuffer(value.data, value.dtype).tolist()
    return list(value) if isinstance(value, list | tuple) else []


def _check_repeats(images: list[memoryview], size: int) -> None:
    """Raises ValueError if the images together are much larger than their file."""
    total = sum(map(len, images))
    # A pickle can refer to one image many times, so that a small file gives any total.
    if total > MAX_REPEATS * size:
        raise ValueError(
            f"images of {total:,} bytes in a file of {size:,}: more repeats than a list of pairs "
            "has"
        )


def _digests(images: list[memoryview]) -> list[str]:
    """Returns the SHA-256 of each image."""
    # By object identity, so that an image in many pairs is hashed only once.
    known: dict[int, str] = {}
    return [
        known.get(id(image)) or known.setdefault(id(image), hashlib.sha256(image).hexdigest())
        for image in images
    ]
