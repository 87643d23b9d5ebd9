"""Reads MATLAB 5 .mat files, and compares every length in them with the bytes that are there.

`scipy.io.loadmat` reads the same files faster, but believes the lengths and types inside them: one
changed byte can crash the process, which no `except` catches.
"""

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.files import read_bytes

LARGEST_VARIABLE = 64 * 2**20
"""Most bytes of a variable after decompression; BLUFR's largest has 1 MiB."""

LARGEST_TOTAL = 2 * LARGEST_VARIABLE
"""Most bytes of all compressed variables of a file together, after decompression."""
LARGEST_FILE = 2**28
LARGEST_CELLS = 300_000
"""Most cells and struct fields of a file. A list of 12,000 images, such as AgeDB's, has about
50,000."""
_LARGEST_AXES = 32

_HEADER = 128
# The numbers of elements, classes and types are those of the MATLAB 5 format.
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_LARGEST_NAMES = 2**12
"""Most bytes that the names of a struct's fields take together."""
_DEEPEST = 8
"""Most levels of cells and structs inside each other; AgeDB has four."""


class _Form(NamedTuple):
    """The byte order of a file, and how many cells may still be read from it."""

    order: str
    """Byte order in the notation of `struct`: "<" for little-endian, ">" for big-endian."""
    cells: list[int]
    """A list of one number: the further cells that the file may have. Reading cells lowers it."""


def read_mat(path: Path | str) -> dict[str, Any]:
    """Returns the variables of a MATLAB 5 file by name.

    Args:
      path: the file.

    Returns:
      A dict from the name of each variable to its value:

      - a NumPy array for numbers, of the shape and type that they are stored with;
      - str for a row of characters;
      - a NumPy array of Python objects for a cell array, one object per cell;
      - a dict from field to value for a struct, and an array of dicts for several structs.

    Raises:
      InputError: the file is not a MATLAB 5 file, is damaged, has a sparse array or an object of a
        MATLAB class, or exceeds a limit. The limits are 256 MiB for the file; 64 MiB for each
        compressed variable after decompression, and 128 MiB for all of them; 300,000 cells and
        struct fields; and 8 levels of cells or structs inside each other.
    """
    data = read_bytes(path, LARGEST_FILE)
    try:
        return _variables(data)
    except (ValueError, OverflowError, zlib.error) as error:
        reason = str(error)
    raise InputError(f"{path}: expected a whole MATLAB 5 .mat file, found {reason}.")


def _variables(data: bytes) -> dict[str, Any]:
    # The writer stores the letters MI as one number, which shows the order of its bytes.
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER])
    # Version 4 has no such header, and files of version 7.3 are HDF5.
    if order is None or not data.startswith(b"MATLAB 5.0"):
        raise ValueError(f"one that starts with {data[:10]!r}")
    variables, rest = {}, memoryview(data)[_HEADER:]
    form, left = _Form(order, [LARGEST_CELLS]), LARGEST_TOTAL
    while rest:
        kind, content, rest = _element(rest, form)
        if kind == _COMPRESSED:
            unpacked = _unpacked(content, min(left, LARGEST_VARIABLE))
            # Each variable is bounded, and so are all of them together.
            left -= len(unpacked)
            kind, content, _ = _element(unpacked, form)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable starts")
        name, value = _array(content, form, 0)
        variables[name] = value
    return variables


def _unpacked(data: memoryview, limit: int) -> memoryview:
    stream = zlib.decompressobj()
    # zlib takes a limit of 0 for none.
    unpacked = stream.decompress(data, limit) if limit else b""
    if not stream.eof:
        raise ValueError(f"a variable that is cut short or above {limit} bytes")
    return memoryview(unpacked)


def _element(data: memoryview, form: _Form) -> tuple[int, memoryview, memoryview]:
    """Returns (type, content, rest): the first element of `data`, and the bytes after it."""
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes where 8 start an element")
    kind, size = struct.unpack(form.order + "2I", data[:8])
    if kind >> 16:  # Up to four bytes stand in the tag itself.
        kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, 8
    else:
        start = 8
        # Elements are padded to a multiple of eight bytes, except for compressed ones.
        end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
    if start + size > min(end, len(data)):
        raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
    return kind, data[start : start + size], data[end:]


def _array(data: memoryview, form: _Form, depth: int) -> tuple[str, Any]:
    """Returns (name, value) of a matrix element.

    Args:
      data: content of the element.
      form: byte order and cell limit of the file.
      depth: number of cells and structs that contain this element.

    Raises:
      ValueError: the element is damaged, or is of a kind that is not read.
    """
    # MATLAB stores an empty cell as a matrix element without content.
    if not data:
        return "", np.empty((0, 0))
    # Without this limit a file could exhaust the recursion of Python.
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} cells inside each other")
    _, flags, rest = _element(data, form)
    _, sizes, rest = _element(rest, form)
    _, name, rest = _element(rest, form)
    # A matrix has two axes at least, with four bytes each.
    if len(flags) != 8 or not 8 <= len(sizes) <= 4 * _LARGEST_AXES:
        raise ValueError("a matrix without its class or size")
    kind = struct.unpack(form.order + "2I", flags)[0]
    shape = tuple(np.frombuffer(sizes, form.order + "i4").tolist())
    # The bit 0x0800 of the flags marks complex numbers.
    if kind & 0x0800 or min(shape) < 0:
        raise ValueError(f"complex numbers or the shape {shape}")
    value = _value(rest, form, kind & 0xFF, shape, depth)
    return str(name, "ascii"), value


def _value(data: memoryview, form: _Form, kind: int, shape: tuple[int, ...], depth: int) -> Any:
    count = 1
    for size in shape:
        # Python's whole numbers do not overflow, as a product in NumPy would.
        count *= size
    if kind == _CELL:
        return _cells(data, form, count, depth).reshape(shape, order="F")
    if kind == _STRUCT:
        return _structs(data, form, count, shape, depth)
    stored, content, _ = _element(data, form)
    if kind == _CHAR and stored in _TEXTS:
        # Only the types of UTF-16 and UTF-32 have a byte order.
        codec = _TEXTS[stored] + {"<": "-le", ">": "-be"}[form.order] * (stored in (4, 17, 18))
        text = str(content, codec)
        if len(shape) != 2 or shape[0] > 1 or len(text) != count:
            raise ValueError(f"characters of shape {shape} where a row of {len(text)} is stored")
        return text
    # Classes from 6 are arrays of numbers; sparse arrays and objects are below.
    if kind < 6 or stored not in _NUMBERS:
        raise ValueError(f"an array of class {kind} stored as type {stored}")
    # MATLAB stores columns one after another.
    return np.frombuffer(content, form.order + _NUMBERS[stored]).reshape(shape, order="F")


def _cells(data: memoryview, form: _Form, count: int, depth: int) -> np.ndarray:
    form.cells[0] -= count
    # Each cell takes eight bytes at least, so that no count allocates more than the file holds.
    if count > len(data) // 8 or form.cells[0] < 0:
        raise ValueError(f"{count} cells in {len(data)} bytes, of at most {LARGEST_CELLS} in all")
    cells = np.empty(count, object)
    for index in range(count):
        kind, content, data = _element(data, form)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} in a cell")
        cells[index] = _array(content, form, depth + 1)[1]
    return cells


def _structs(data: memoryview, form: _Form, count: int, shape: tuple[int, ...], depth: int) -> Any:
    _, length, data = _element(data, form)
    _, names, data = _element(data, form)
    width = int.from_bytes(length, "little" if form.order == "<" else "big")
    if not width or not names or len(names) % width or len(names) > _LARGEST_NAMES:
        raise ValueError(f"field names of {len(names)} bytes in steps of {width}")
    # Each name has `width` bytes, and zeros fill them up.
    fields = [
        str(names[at : at + width], "ascii").split("\0")[0] for at in range(0, len(names), width)
    ]
    values = _cells(data, form, count * len(fields), depth).reshape(count, len(fields))
    structs = np.empty(count, object)
    structs[:] = [dict(zip(fields, row, strict=True)) for row in values]
    return structs[0] if count == 1 else structs.reshape(shape, order="F")
