"""The footer and the page headers of a parquet file, looked at before Arrow believes them.

A page says how many bytes it unpacks to, and Arrow allocates them; a few bytes can announce and
unpack to gigabytes. And PyArrow's own view of a column's metadata ends the process where they
contradict each other. Footer and headers are structs in Thrift's compact form.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_FOOTER = 2**23
"""Bytes; 10,000 row groups of three columns take about 6 MB."""
MAX_VALUES = 2_000_000
"""Values in a footer."""
MAX_PAGE = 100 * 2**20
"""Bytes of a page once unpacked. Most writers aim at 1 MiB, DuckDB at up to 100 MB."""
LONGEST_HEADER = 2**16
_DEEPEST = 16
_ENCODINGS = {0, 2, 3, 4, 5, 8}
"""Plain, dictionary, runs, packed bits, deltas of numbers. Values of the others can share bytes, so
that a small page has any number of them."""
_UNPACKED, _PACKED = 2, 3
_ENCODING = {5: 2, 7: 2, 8: 4}
"""Number of the field that is the encoding, in each kind of page."""


def check_pages(path: Path, columns: Collection[str]) -> None:
    """Raises ValueError if pages of a parquet file's columns state sizes that cannot be true.

    Args:
      path: the file.
      columns: the paths of the columns, with dots between the names.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for name, start, end in _chunks(_footer(file, size), columns):
            if not 0 <= start <= end <= size:
                raise ValueError(f"the column {name!r} from byte {start} to {end}, outside of it")
            _check_chunk(file, start, end)


def _footer(file: BinaryIO, size: int) -> dict[int, Any]:
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or not 0 < length <= min(size - 12, LONGEST_FOOTER):
        raise ValueError(f"a footer of {length:,} bytes that ends in {tail[4:]!r}")
    file.seek(size - 8 - length)
    return _parsed(file.read(length))[0]


_GROUPS, _COLUMNS, _METADATA, _PATH, _PACKED_SIZE, _DATA, _DICTIONARY = 4, 1, 3, 3, 7, 9, 11
"""Numbers of fields: of the footer, of a row group, of a column, and of its metadata."""


def _chunks(footer: dict[int, Any], columns: Collection[str]) -> list[tuple[str, int, int]]:
    """(path, first byte, end) of the parts of the columns in each row group."""
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
    while start < end:
        file.seek(start)
        header, length = _parsed(file.read(min(LONGEST_HEADER, end - start)))
        _check(header, start)
        start += length + header[_PACKED]
    # Pages must fill the column exactly, or the reader would see other ones than were checked.
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


def _parsed(data: bytes) -> tuple[dict[int, Any], int]:
    """(values by field, length) of the struct that the data starts with."""
    reader = _Reader(data)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise ValueError("metadata that is cut") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.at, self._left = data, 0, MAX_VALUES

    def struct(self, depth: int) -> dict[int, Any]:
        """Values by the number of their field."""
        if depth > _DEEPEST:
            raise ValueError("metadata that is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            # Thrift's compact form stores the difference to the number before, if it is small.
            number = number + (kind >> 4) if kind >> 4 else self._whole()
            fields[number] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        # A few bytes can announce a list of any length.
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"metadata of more than {MAX_VALUES:,} values")
        if kind in (1, 2):  # True and false have no bytes of their own, except in a list.
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
        self.at += 1
        return self._data[self.at - 1]

    def _list(self, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise ValueError("metadata that is too deep")
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        # In a list a bool takes a byte.
        kind = 3 if kind in (1, 2) else kind
        return [self._value(kind, depth) for _ in range(count)]

    def _taken(self, count: int) -> bytes:
        self.at += count
        # A slice beyond the end would be cut short without an error.
        if self.at > len(self._data):
            raise IndexError
        return self._data[self.at - count : self.at]

    def _varint(self) -> int:
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
        value = self._varint()
        # Zigzag: small negative numbers have few bytes too.
        return value >> 1 ^ -(value & 1)
