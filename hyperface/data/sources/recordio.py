"""MXNet RecordIO, as face sets are often passed on: train.rec, with train.idx and property.

A record is two little-endian words, the magic number and 3 bits of part and 29 of length, then the
data, padded to four bytes. Data that holds the magic number at a multiple of four is cut there into
parts, and the number is left out. An image's data is a header (flag, label, id, id2), as many
float32 labels as the flag says, and the encoded image.
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
"""Parts of a record. Data is cut where it holds the magic number, which an image does by chance
once in 4 billion words. A chain of parts without end would be walked again from each of them."""
MAX_DAMAGED = 10_000
"""Damaged stretches of a file that is still read."""
MAGIC = 0xCED7230A
_MAGIC = struct.pack("<I", MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_HEADER = struct.Struct("<IfQQ")
_SMALLEST = 8
"""Bytes of the smallest record, which is damaged."""
_LONGEST_LINE = 64
_INDEX_LINE = re.compile(rb" *([0-9]{1,18}) *\t *([0-9]{1,18}) *\r?\n?")


_Parts = list[tuple[int, int]]
"""(start of the data, length) of each part of a record."""


def recordio(path: Path) -> Source:
    """Returns the images of a .rec file; its labels are the identities.

    The file is walked from header to header, so that no index is needed; an index beside it gives
    the keys, which name the images, and must fit. A damaged stretch is listed and skipped; a record
    whose length swallows its neighbours is refused when it is read.

    Args:
      path: the .rec file; .idx and `property` beside it are used where they are.

    Raises:
      InputError: there is no such file, it has no images, index or property contradict it, or it
        has more than MAX_DAMAGED damaged stretches.
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
    """Offsets, labels and keys of all images."""
    index_file = path.with_suffix(".idx")
    index = _index(index_file, path.stat().st_size // _SMALLEST)
    # Eight bytes a number: lists of Python would take gigabytes for the largest sets.
    offsets, labels, keys = array("q"), array("q"), array("q")
    damage = _Damage(path, rejected)
    for place, (offset, parts) in enumerate(_records(file, damage)):
        key = place if index is None else index.pop(offset, None)
        if key is None:
            raise InputError(
                f"{index_file}: expected every record, found none at byte {offset}: the index is "
                "of another file."
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
    """What is damaged in a file, listed as long as it looks like a RecordIO file at all."""

    def __init__(self, path: Path, rejected: list[Reject]) -> None:
        self._path, self._rejected = path, rejected

    def found(self, name: str, reason: str) -> None:
        """Lists one; InputError where there are too many."""
        self._rejected.append(Reject(name, reason))
        if len(self._rejected) > MAX_DAMAGED:
            raise InputError(
                f"{self._path}: expected a RecordIO file, found more than {MAX_DAMAGED:,} damaged "
                f"stretches, the last at {name}. Get the file again."
            )


class _Names(Sequence[str]):
    """label/key of every image, made when asked for: a large file has millions."""

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
    """Offset and parts of every whole record; stretches that are none are listed."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        parts, after = _record(file, offset, size)
        if parts:
            yield offset, parts
        else:
            # Beyond the word at this place, which did not lead to a record.
            after = _next_magic(file, offset + 4)
            damage.found(f"bytes {offset} to {after}", "not a whole record")
        offset = after


def _record(file: BinaryIO, offset: int, size: int | None = None) -> tuple[_Parts, int]:
    """Returns the parts of the record at an offset, and its end; no parts if it is cut short."""
    size = file.seek(0, 2) if size is None else size
    parts: _Parts = []
    while len(parts) < MAX_PARTS:
        file.seek(offset)
        header = file.read(8)
        if len(header) < 8 or header[:4] != _MAGIC:
            return [], offset
        word = struct.unpack("<I", header[4:])[0]
        # The format packs both into one word: 3 bits and 29 bits.
        part, length = word >> 29, word & (1 << 29) - 1
        if part not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            return [], offset
        parts.append((offset + 8, length))
        # Data is padded to whole words.
        offset += 8 + -(-length // 4) * 4
        # A damaged length must not make us read or allocate more than the file has.
        if parts[-1][0] + length > size:
            return [], offset
        if part in (_WHOLE, _LAST):
            return parts, offset
    return [], offset


def _next_magic(file: BinaryIO, start: int) -> int:
    """Returns the next multiple of four at or after start that holds a magic number, or the end."""
    file.seek(start)
    length = 1 << 12  # Grows, since the next one is mostly near, and a large block takes longer.
    while block := file.read(length):
        length = min(2 * length, 1 << 20)
        words = np.frombuffer(block[: len(block) // 4 * 4], "<u4")
        hits = np.flatnonzero(words == MAGIC)
        if hits.size:
            return start + 4 * int(hits[0])
        start += len(block)
    return start


def _data(file: BinaryIO, parts: list[tuple[int, int]]) -> bytes:
    pieces = []
    for start, length in parts:
        file.seek(start)
        pieces.append(file.read(length))
        # A writer cuts its data at every such word: here a damaged length has swallowed a record.
        if np.any(np.frombuffer(pieces[-1], "<u4", length // 4) == MAGIC):
            raise ValueError("expected one record, found the start of another inside it")
    return _MAGIC.join(pieces)


def _label(file: BinaryIO, parts: _Parts) -> int | None:
    """Returns the label of an image's record; None for a record that only lists others."""
    start, length = parts[0]
    file.seek(start)
    head = file.read(min(length, _HEADER.size + 4))
    if len(head) < _HEADER.size:
        raise ValueError(f"expected a header of {_HEADER.size} bytes, found {len(head)}")
    flag, label, _, _ = _HEADER.unpack(head[: _HEADER.size])
    # Between two parts stood a magic word, which the writer left out.
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
    flag = _HEADER.unpack(data[: _HEADER.size])[0]
    return data[_HEADER.size + 4 * flag :]


def _index(path: Path, most: int) -> dict[int, int] | None:
    """Keys by offset from an index file of at most that many lines; None where there is none."""
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
                    f"{path}: expected at most {most:,} lines, one a record that fits into the "
                    ".rec file, found more: the index is of another file."
                )
            keys[int(match[2])] = int(match[1])
    return keys


def _check_property(path: Path, labels: np.ndarray) -> None:
    """The first number of `property` is the number of classes."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = file.read(_LONGEST_LINE).split(b",")[0].strip()
    if not (first.isdigit() and len(first) < 19) or int(first) <= labels.max():
        raise InputError(
            f"{path}: expected the number of classes, above the largest label {labels.max()}, "
            f"found {first[:20]!r}."
        )
