"""Reads MegaFace's and FaceScrub's lists of images and of noise, and the devkit's feature files."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.files import read_bytes, replace_bytes
from hyperface.protocols._lines import LARGEST_FILE, Line, decoded, read_lines, shown

LARGEST_DIM = 2**20
"""Most numbers of a feature; the largest published feature has 25,088."""
_HEADER = struct.Struct("<4i")
_FLOAT32 = 5
"""OpenCV's CV_32F."""


class ImageList(NamedTuple):
    """Images of a list of MegaFace, either of probes or of distractors.

    Distractors are images of people whom no probe shows.
    """

    names: list[str]
    """[images] paths of the images, below the data set's folder."""
    ids: list[str] | None
    """[images] id of the person in each image, as text. None if the list has no ids: lists of
    distractors have none."""
    source: str
    """Name of the list's file, for error messages and for the text that describes a result."""


def read_megaface_list(path: Path | str) -> ImageList:
    """Reads a list of probes or distractors of MegaFace's devkit.

    `facescrub_features_list.json` and `megaface_features_list.json_1000000_1` are JSON objects with
    the lists "path" and, for probes, "id".

    Args:
      path: the file.

    Returns:
      The images in the file's order.

    Raises:
      InputError: the file is larger than 256 MiB; the file is not JSON, and the message names the
        line; the list "path" is missing; a list is empty, or has an entry that is no text; a path
        is repeated; or the lists differ in length. For one wrong entry the message names the list
        and the entry's position, from 0, as "file:path:7".

    References:
      Kemelmacher-Shlizerman, Seitz, Miller, Brossard: The MegaFace benchmark, CVPR 2016.
    """
    lists = _json(path)
    names = _strings(lists.get("path"), "path", path)
    ids = _strings(lists["id"], "id", path) if "id" in lists else None
    if ids is not None and len(ids) != len(names):
        raise InputError(f"{path}: expected {len(names)} ids, one a path, found {len(ids)}.")
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        # The error names the position in the list in place of a line.
        line = Line(f"{path}:path", index, name)
        line.image(name)
        if seen.setdefault(name, index) != index:
            raise line.fault("each image once", f"{shown(name)} as at {seen[name]}")
    return ImageList(names, ids, Path(path).name)


def read_megaface_noises(path: Path | str) -> frozenset[str]:
    """Reads a list of wrongly labelled images, `facescrub_noises.txt` or `megaface_noises.txt`.

    Args:
      path: the file. A line has an image's name, or a number, a tab and the name. Lines that start
        with # are comments.

    Returns:
      The names of the images. In FaceScrub's list they are names of files without folders, and in
        MegaFace's list they are paths.

    Raises:
      InputError: a line has no name, and the message names the line; or the file has no names at
        all.

    References:
      Deng, Guo, Xue, Zafeiriou: ArcFace, CVPR 2019, section 3.1. These authors made the lists.
    """
    names = set()
    for line in read_lines(path):
        if line.text.startswith("#"):
            continue
        *number, name = line.fields("\t")
        if len(number) > 1:
            raise line.fault("a name, or a number and a name")
        for token in number:
            line.whole(token, "a number before the tab")
        names.add(line.image(name))
    if not names:
        raise InputError(f"{path}: expected names, found comments alone.")
    return frozenset(names)


def read_devkit_feature(path: Path | str) -> np.ndarray:
    """Reads one image's feature from a file of MegaFace's devkit.

    The file is an OpenCV matrix of one column, and all numbers in it are little-endian. It starts
    with four int32: the number of rows, 1 for the columns, 4 for the bytes per number, and 5 for
    the type float32. The rows follow, one float32 each. Files that the ArcFace authors' noise
    scripts wrote have one more row after the feature. Its number is the last of the returned array.

    Args:
      path: the file.

    Returns:
      [dim] float32.

    Raises:
      InputError: the header is wrong, the length of the file does not fit the header, the feature
        has more than 2^20 numbers, or a number is not finite.
    """
    data = read_bytes(path, _HEADER.size + 4 * LARGEST_DIM)
    if len(data) < _HEADER.size:
        raise InputError(f"{path}: expected a header of 16 bytes, found {len(data)}.")
    rows, *kind = _HEADER.unpack_from(data)
    # OpenCV's header of a matrix: one column, four bytes a number, of its type float32.
    if rows < 1 or kind != [1, 4, _FLOAT32]:
        raise InputError(
            f"{path}: expected the header rows, 1, 4, {_FLOAT32}, found {[rows, *kind]}."
        )
    if len(data) != _HEADER.size + 4 * rows:
        raise InputError(
            f"{path}: expected {_HEADER.size + 4 * rows} bytes for {rows} rows, found {len(data)}."
        )
    feature = np.frombuffer(data, "<f4", offset=_HEADER.size).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(feature))
    if bad.size:
        raise InputError(f"{path}: expected finite numbers, found {feature[bad[0]]} in {bad[0]}.")
    return feature


def write_devkit_feature(path: Path | str, feature: np.ndarray) -> None:
    """Writes one image's feature as a file of MegaFace's devkit, which `read_devkit_feature` reads.

    Args:
      path: the file. An older file is replaced in one step.
      feature: [dim] numbers, stored as float32.

    Raises:
      ValueError: the feature is not a vector, or a number of it is not finite in float32.
    """
    # Too large a float64 becomes an infinity, which is refused below.
    with np.errstate(over="ignore"):
        stored = np.asarray(feature).astype("<f4")
    if stored.ndim != 1 or not stored.size or not np.all(np.isfinite(stored)):
        raise ValueError(f"expected a finite vector, found shape {stored.shape} or other numbers")
    replace_bytes(Path(path), _HEADER.pack(stored.size, 1, 4, _FLOAT32) + stored.tobytes())


def _json(path: Path | str) -> dict:
    text = decoded(read_bytes(path, LARGEST_FILE), str(path))
    try:
        lists = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at column {error.colno}"
        raise Line(str(path), error.lineno, "").fault("JSON", found) from None
    # JSON that is nested too deeply raises RecursionError.
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: expected lists of text, found {error}.") from None
    if not isinstance(lists, dict):
        kind = type(lists).__name__
        raise InputError(f"{path}: expected an object with the list path, found a {kind}.")
    return lists


def _strings(values: object, name: str, path: Path | str) -> list[str]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{path}: expected the list {name}, found {_kind(values)}.")
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise InputError(f"{path}:{name}:{index}: expected text, found {_kind(value)}.")
    return values


def _kind(value: object) -> str:
    """Returns a description of a wrong value for a message; of lists and dicts only the type."""
    # A list or an object may be deep, and its text very long.
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}" if value else f"an empty {type(value).__name__}"
    return repr(value)[:60]
