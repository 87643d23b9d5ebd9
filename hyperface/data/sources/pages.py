"""The page headers of a parquet file, looked at before Arrow believes them.

A page says how many bytes it unpacks to, and Arrow allocates them; a few bytes can announce and
unpack to gigabytes. Headers are structs in Thrift's compact form.
"""

import os
from pathlib import Path
from typing import Any

MAX_PAGE = 100 * 2**20
"""Bytes of a page once unpacked. Most writers aim at 1 MiB, DuckDB at up to 100 MB."""
LONGEST_HEADER = 2**16
_DEEPEST = 8
_ENCODINGS = {0, 2, 3, 4, 5, 8}
"""Plain, dictionary, runs, packed bits, deltas of numbers. Values of the others can share bytes, so
that a small page has any number of them."""
_UNPACKED, _PACKED = 2, 3
_ENCODING = {5: 2, 7: 2, 8: 4}
"""Number of the field that is the encoding, in each kind of page."""


def check_pages(path: Path, start: int, size: int) -> None:
    """ValueError for a column's part of a file with pages that say what cannot be true.

    Args:
      path: the file.
      start: byte of the first page.
      size: bytes of all its pages.
    """
    with path.open("rb") as file:
        end = start + size
        if not 0 <= start <= end <= os.fstat(file.fileno()).st_size:
            raise ValueError(f"a column from byte {start} to {end}, outside of the file")
        while start < end:
            file.seek(start)
            header, length = _header(file.read(min(LONGEST_HEADER, end - start)))
            _check(header, start)
            start += length + header[_PACKED]
    if start != end:
        raise ValueError(f"a page that ends at byte {start}, beyond its column's {end}")


def _check(header: dict[int, Any], start: int) -> None:
    sizes = [header.get(number) for number in (_UNPACKED, _PACKED)]
    if not all(isinstance(size, int) and 0 <= size <= MAX_PAGE for size in sizes):
        raise ValueError(f"a page of {sizes} bytes at byte {start}, expected up to {MAX_PAGE:,}")
    for kind, field in _ENCODING.items():
        if kind in header and (not _fits(header[kind], field)):
            raise ValueError(
                f"a page in an encoding that is not read at byte {start}; write the file anew with "
                "plain or dictionary encoding"
            )


def _fits(page: Any, field: int) -> bool:
    return isinstance(page, dict) and page.get(field) in _ENCODINGS


def _header(data: bytes) -> tuple[dict[int, Any], int]:
    """(values by field, length) of the struct that the data starts with."""
    reader = _Reader(data)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise ValueError("a page header that is cut") from None


class _Reader:
    def __init__(self, data: bytes):
        self._data, self.at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Values by the number of their field."""
        if depth > _DEEPEST:
            raise ValueError("a page header that is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._whole()
            fields[number] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # True and false have no bytes of their own.
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a page header with a value of kind {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page header with a number above 64 bits")

    def _whole(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
