"""Checks the footer and the page headers of a parquet file before PyArrow reads the file.

A page header announces the unpacked size of the page, and Arrow allocates it, so that a hostile
file of a few bytes can take gigabytes. Where the fields of a column's metadata contradict each
other, PyArrow ends the whole process. The footer and the headers are structs in Thrift's compact
protocol.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_FOOTER = 2**23
"""Largest size of a footer in bytes; 10,000 row groups of three columns take about 6 MB."""
MAX_VALUES = 2_000_000
"""Largest number of values in a footer."""
MAX_PAGE = 100 * 2**20
"""Largest unpacked size of a page in bytes. Most writers aim at 1 MiB, DuckDB at up to 100 MB."""
LONGEST_HEADER = 2**16
"""Largest size of a page header in bytes."""
_DEEPEST = 16
"""Largest depth of nested structs and lists."""
_ENCODINGS = {0, 2, 3, 4, 5, 8}
"""Numbers of the accepted encodings: plain, dictionary, run lengths, packed bits, and deltas of
numbers. In the other encodings values can share bytes, so that a small page can have any number of
values."""
_UNPACKED, _PACKED = 2, 3
"""Numbers of the fields of a page header with its unpacked and its packed size."""
_ENCODING = {5: 2, 7: 2, 8: 4}
"""Kind of page, by the number of its field in the page header -> number of its encoding field."""


def check_pages(path: Path, columns: Collection[str]) -> None:
    """Checks a parquet file, before PyArrow reads it, for sizes that could exhaust the memory.

    A parquet file stores each column in pages, which are compressed one by one. PyArrow allocates
    the unpacked size that the header of a page announces, even if that size is false.

    Args:
      path: the parquet file, which may be hostile.
      columns: the columns that will be read: their paths, with dots between the names, such as
        "image.bytes". Other columns are not checked.

    Raises:
      ValueError: one of these, which the message names:

        - The footer, which lists the columns, is damaged or has more than LONGEST_FOOTER (8 MiB).
        - A page announces more than MAX_PAGE (100 MiB).
        - A column lies outside of the file, or its pages do not fill it exactly.
        - A page has an encoding in which a small page can unpack to any number of values.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for name, start, end in _chunks(_footer(file, size), columns):
            if not 0 <= start <= end <= size:
                raise ValueError(f"the column {name!r} from byte {start} to {end}, outside of it")
            _check_chunk(file, start, end)


def _footer(file: BinaryIO, size: int) -> dict[int, Any]:
    """Reads the footer: values by the number of their field."""
    # The last 8 bytes of the file are the footer's length and the magic number.
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or not 0 < length <= min(size - 12, LONGEST_FOOTER):
        raise ValueError(f"a footer of {length:,} bytes that ends in {tail[4:]!r}")
    file.seek(size - 8 - length)
    return _parsed(file.read(length))[0]


_GROUPS, _COLUMNS, _METADATA, _PATH, _PACKED_SIZE, _DATA, _DICTIONARY = 4, 1, 3, 3, 7, 9, 11
"""Numbers of fields in the footer (4), in a row group (1), in a column (3), and in the metadata of
a column (3, 7, 9, 11)."""


def _chunks(footer: dict[int, Any], columns: Collection[str]) -> list[tuple[str, int, int]]:
    """Returns (path, first byte, end) of each part of the columns; there is one per row group."""
    chunks = []
    try:
        for group in footer.get(_GROUPS) or []:
            for column in group[_COLUMNS]:
                metadata = column[_METADATA]
                name = b".".join(metadata[_PATH]).decode()
                if name in columns:
                    offsets = (metadata.get(_DICTIONARY), metadata[_DATA])
                    start = min(offset for offset in offsets if offset)
                    chunks.append((name, start, start + metadata[_PACKED_SIZE]))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"a footer without a column's place ({error})") from None
    return chunks


def _check_chunk(file: BinaryIO, start: int, end: int) -> None:
    """Raises ValueError if a page header of a column in one row group cannot be accepted.

    Args:
      file: the parquet file.
      start: first byte of the column's pages.
      end: the byte behind them.
    """
    while start < end:
        file.seek(start)
        header, length = _parsed(file.read(min(LONGEST_HEADER, end - start)))
        _check(header, start)
        start += length + header[_PACKED]
    # Pages must fill the column exactly, or the reader would see other ones than were checked.
    if start != end:
        raise ValueError(f"a page that ends at byte {start}, beyond its column's {end}")


def _check(header: dict[int, Any], start: int) -> None:
    """Checks the sizes and the encoding that one page header states."""
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


def _parsed(data: bytes) -> tuple[dict[int, Any], int]:
    """Returns (fields, length) of the struct at the start of the data.

    `fields` maps field number -> value. `length` is the number of bytes of the struct.
    """
    reader = _Reader(data)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise ValueError("metadata that is cut") from None


class _Reader:
    """Parses Thrift's compact protocol, with limits on depth and number of values."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at, self._left = data, 0, MAX_VALUES

    def struct(self, depth: int) -> dict[int, Any]:
        """Parses a struct; returns its values by the number of their field."""
        if depth > _DEEPEST:
            raise ValueError("metadata that is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            # A small difference to the previous field number is packed beside the type; else 0 is
            # there, and the number follows.
            number = number + (kind >> 4) if kind >> 4 else self._whole()
            fields[number] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        """Parses a value of a type, by its number in Thrift's compact protocol."""
        # Counted, because a few bytes can announce a list of any length.
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"metadata of more than {MAX_VALUES:,} values")
        if kind in (1, 2):  # The type itself is true or false; only in a list a bool takes a byte.
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            return self._taken(8)
        if kind == 8:
            return self._taken(self._varint())
        if kind in (9, 10):
            return self._list(depth + 1)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"metadata with a value of kind {kind}")

    def _byte(self) -> int:
        """Returns the next byte."""
        self.at += 1
        return self._data[self.at - 1]

    def _list(self, depth: int) -> list[Any]:
        """Parses a list or a set."""
        if depth > _DEEPEST:
            raise ValueError("metadata that is too deep")
        # Up to 14 items are counted in the first byte; 15 means that the count follows.
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        # In a list a bool takes one byte, as the type "byte" (3) does.
        kind = 3 if kind in (1, 2) else kind
        return [self._value(kind, depth) for _ in range(count)]

    def _taken(self, count: int) -> bytes:
        """Returns the next bytes; IndexError if there are fewer."""
        self.at += count
        # A slice beyond the end would be cut short without an error.
        if self.at > len(self._data):
            raise IndexError
        return self._data[self.at - count : self.at]

    def _varint(self) -> int:
        """Parses an unsigned number: seven bits per byte, and the top bit if another follows."""
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("metadata with a number above 64 bits")

    def _whole(self) -> int:
        """Parses a signed whole number."""
        value = self._varint()
        # Zigzag coding: 0, -1, 1, -2 are stored as 0, 1, 2, 3, so that small numbers stay short.
        return value >> 1 ^ -(value & 1)
