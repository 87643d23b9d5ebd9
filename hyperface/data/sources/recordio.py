"""Opens MXNet RecordIO files, in which face sets are often distributed.

A data set consists of train.rec with the records and, mostly, of train.idx and `property`. A record
starts with two little-endian 32-bit words: the magic number, and a word with 3 bits for the part
and 29 bits for the length of the data. The data follows, padded to a multiple of four bytes. If the
data contains the magic number at a multiple of four, the writer splits it there into parts and
leaves out the number. The data of an image is a header (flag, label, id, id2), as many float32
labels as the flag says, and the encoded image.
"""

import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hyperface.data.sources.source import Reject, Source, check_size, fingerprint
from hyperface.errors import InputError

MAX_PARTS = 64
"""Largest number of parts of a record. An image contains the magic number by chance once in 4
billion words. Without a limit, an endless chain of parts would be followed again from each part."""
MAX_DAMAGED = 10_000
"""Largest number of damaged stretches in a file that is still read."""
MAGIC = 0xCED7230A
_MAGIC = struct.pack("<I", MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_HEADER = struct.Struct("<IfQQ")
_SMALLEST = 8
"""Size in bytes of the smallest record, which has a header and no data."""
_LONGEST_LINE = 64
"""Largest length of a line of the index and of `property` in bytes."""
_INDEX_LINE = re.compile(rb" *([0-9]{1,18}) *\t *([0-9]{1,18}) *\r?\n?")


_Parts = list[tuple[int, int]]
"""(start of the data, length) of each part of a record."""


def recordio(path: Path) -> Source:
    """Opens the images in an MXNet RecordIO file (.rec) as a source; the labels are the identities.

    The file is a sequence of records, one per image. Each image is named LABEL/KEY. The key is the
    record's number in the index file if there is one, and otherwise its place in the file, from 0.
    Damaged parts of the file are skipped and listed in `Source.rejected`. If the damage makes a
    record longer, so that it contains the next records, `Source.read` raises ValueError for it.

    Args:
      path: the .rec file. Two files in the same folder are used if they exist: the index (.idx),
        with the key and position of each record, and `property`, with the number of people and the
        size of the images.

    Raises:
      InputError: there is no such file, it has no images, the index or `property` does not fit it,
        or it has more than MAX_DAMAGED (10,000) damaged parts.
    """
    rejected: list[Reject] = []
    if not path.is_file():
        raise InputError(f"expected a .rec file at {path}, found no file.")
    try:
        with path.open("rb") as file:
            offsets, labels, keys = _listed(file, path, rejected)
    except OSError as error:
        raise InputError(f"expected a .rec file at {path}, found: {error.strerror}.") from None
    if not labels:
        raise InputError(f"expected images in {path}, found none.")
    identities, people = np.unique(np.array(labels), return_inverse=True)
    _check_property(path.with_name("property"), identities)

    def read(index: int) -> bytes:
        with path.open("rb") as file:
            parts, _ = _record(file, offsets[index])
            check_size(sum(length for _, length in parts))
            return _image(_data(file, parts))

    return Source(
        kind="recordio",
        identities=[str(label) for label in identities],
        people=people.astype(np.int32),
        names=_Names(labels, keys),
        read=read,
        fingerprint=fingerprint(zip(offsets, labels, keys, strict=True)),
        rejected=rejected,
    )


def _listed(file: BinaryIO, path: Path, rejected: list[Reject]) -> tuple[array, array, array]:
    """Returns (offsets, labels, keys): where each image's record starts, its label and its key.

    Args:
      file: the .rec file, opened for reading.
      path: its path.
      rejected: receives the damaged records.

    Raises:
      InputError: the index does not fit the file, or too many records are damaged.
    """
    index_file = path.with_suffix(".idx")
    index = _index(index_file, path.stat().st_size // _SMALLEST)
    # Eight bytes per number; Python lists would take gigabytes for the largest data sets.
    offsets, labels, keys = array("q"), array("q"), array("q")
    damage = _Damage(path, rejected)
    for place, (offset, parts) in enumerate(_records(file, damage)):
        key = place if index is None else index.pop(offset, None)
        if key is None:
            raise InputError(
                f"{index_file}: expected every record, found none at byte {offset}: the index "
                "belongs to another file."
            )
        try:
            label = _label(file, parts)
        except ValueError as error:
            damage.found(f"record {key}", str(error))
            continue
        if label is not None:
            offsets.append(offset)
            labels.append(label)
            keys.append(key)
    for offset, key in (index or {}).items():
        rejected.append(Reject(f"record {key}", f"not at byte {offset}, where the index has it"))
    return offsets, labels, keys


class _Damage:
    """Lists the damaged stretches of a file, up to the number at which the file is refused."""

    def __init__(self, path: Path, rejected: list[Reject]) -> None:
        self._path, self._rejected = path, rejected

    def found(self, name: str, reason: str) -> None:
        """Adds a damaged stretch; raises InputError if there are too many."""
        self._rejected.append(Reject(name, reason))
        if len(self._rejected) > MAX_DAMAGED:
            raise InputError(
                f"{self._path}: expected a RecordIO file, found more than {MAX_DAMAGED:,} damaged "
                f"stretches, the last at {name}. Get the file again."
            )


class _Names(Sequence[str]):
    """The names LABEL/KEY of all images, built on demand: a large file has millions of images."""

    def __init__(self, labels: array, keys: array) -> None:
        self._labels, self._keys = labels, keys

    def __len__(self) -> int:
        return len(self._keys)

    # Names are asked for one by one, never by a slice.
    def __getitem__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, index: int
    ) -> str:
        return f"{self._labels[index]}/{self._keys[index]}"


def _records(file: BinaryIO, damage: _Damage) -> Iterator[tuple[int, _Parts]]:
    """Yields (offset, parts) of every complete record; all other bytes are listed as damage."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        parts, after = _record(file, offset, size)
        if parts:
            yield offset, parts
        else:
            # The search starts behind the word at this offset, which did not start a record.
            after = _next_magic(file, offset + 4)
            damage.found(f"bytes {offset} to {after}", "not a whole record")
        offset = after


def _record(file: BinaryIO, offset: int, size: int | None = None) -> tuple[_Parts, int]:
    """Returns (parts, end): the parts of the record at an offset, and the offset behind the record.

    There are no parts if no complete record starts there.

    Args:
      file: the .rec file.
      offset: where the record starts.
      size: size of the file in bytes; None looks it up.
    """
    size = file.seek(0, 2) if size is None else size
    parts: _Parts = []
    while len(parts) < MAX_PARTS:
        file.seek(offset)
        header = file.read(8)
        if len(header) < 8 or header[:4] != _MAGIC:
            return [], offset
        word = struct.unpack("<I", header[4:])[0]
        # 3 bits for the part and 29 bits for the length.
        part, length = word >> 29, word & (1 << 29) - 1
        if part not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            return [], offset
        parts.append((offset + 8, length))
        # Data is padded to whole words.
        offset += 8 + -(-length // 4) * 4
        # A damaged length could otherwise lead to reading, and allocating, more than the file has.
        if parts[-1][0] + length > size:
            return [], offset
        if part in (_WHOLE, _LAST):
            return parts, offset
    return [], offset


def _next_magic(file: BinaryIO, start: int) -> int:
    """Returns the offset of the next magic number at `start` or a multiple of four behind it.

    Without another magic number it returns the end of the file.
    """
    file.seek(start)
    # Blocks grow: the next number is mostly near, and a large block takes long to search.
    length = 1 << 12
    while block := file.read(length):
        length = min(2 * length, 1 << 20)
        words = np.frombuffer(block[: len(block) // 4 * 4], "<u4")
        hits = np.flatnonzero(words == MAGIC)
        if hits.size:
            return start + 4 * int(hits[0])
        start += len(block)
    return start


def _data(file: BinaryIO, parts: list[tuple[int, int]]) -> bytes:
    """Returns the data of a record; ValueError if its length covers another record."""
    pieces = []
    for start, length in parts:
        file.seek(start)
        pieces.append(file.read(length))
        # A writer splits data at every such word, so this is a record inside a damaged length.
        if np.any(np.frombuffer(pieces[-1], "<u4", length // 4) == MAGIC):
            raise ValueError("expected one record, found the start of another inside it")
    return _MAGIC.join(pieces)


def _label(file: BinaryIO, parts: _Parts) -> int | None:
    """Returns the label of an image's record; None for a record that has no image.

    InsightFace writes records without an image, which list the records of a person.
    """
    start, length = parts[0]
    file.seek(start)
    head = file.read(min(length, _HEADER.size + 4))
    if len(head) < _HEADER.size:
        raise ValueError(f"expected a header of {_HEADER.size} bytes, found {len(head)}")
    flag, label, _, _ = _HEADER.unpack(head[: _HEADER.size])
    # The writer left out one magic word of four bytes between two parts.
    total = sum(size for _, size in parts) + 4 * (len(parts) - 1)
    if total < _HEADER.size + 4 * flag:
        raise ValueError(f"expected {flag} labels, found a record of {total} bytes")
    if total == _HEADER.size + 4 * flag:
        if flag:
            return None
        raise ValueError("expected an image, found an empty one")
    if flag:
        label = struct.unpack("<f", head[_HEADER.size :])[0]
    if not (0 <= label < 2**31 and label == int(label)):
        raise ValueError(f"expected a whole number from 0 as label, found {label}")
    return int(label)


def _image(data: bytes) -> bytes:
    """Returns the encoded image in the data of a record, behind the header and the labels."""
    flag = _HEADER.unpack(data[: _HEADER.size])[0]
    return data[_HEADER.size + 4 * flag :]


def _index(path: Path, most: int) -> dict[int, int] | None:
    """Reads an index file: offset -> key. Returns None if there is no such file.

    Args:
      path: the .idx file.
      most: largest number of lines.
    """
    if not path.is_file():
        return None
    keys = {}
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            match = _INDEX_LINE.fullmatch(line)
            if match is None:
                raise InputError(f"{path}:{number}: expected 'key<tab>byte', found {line[:40]!r}.")
            # Checked while reading, so that an index of another file cannot fill the memory.
            if number > most:
                raise InputError(
                    f"{path}: expected at most {most:,} lines, one per record that fits into the "
                    ".rec file, found more: the index belongs to another file."
                )
            keys[int(match[2])] = int(match[1])
    return keys


def _check_property(path: Path, labels: np.ndarray) -> None:
    """Raises InputError if `property` has fewer classes than the labels need.

    The first number in the file is the number of classes.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = file.read(_LONGEST_LINE).split(b",")[0].strip()
    if not (first.isdigit() and len(first) < 19) or int(first) <= labels.max():
        raise InputError(
            f"{path}: expected the number of classes, above the largest label {labels.max()}, "
            f"found {first[:20]!r}."
        )
