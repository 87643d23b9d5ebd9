"""Weights out of a `.caffemodel`: the few messages of the public caffe.proto that hold them.

A protocol buffer is a sequence of fields, each a number, a wire type and a value. Fields that hold
no weights are stepped over, so files of any fork of Caffe can be read.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Fields(NamedTuple):
    """Where a layer's message keeps its name and its arrays."""

    name: int
    blobs: int


# NetParameter: the number of each layer message; today's, and the one of files before 2014.
LAYERS = {100: Fields(name=1, blobs=7), 2: Fields(name=4, blobs=6)}
# BlobProto: numbers of its fields. Files before 2014 have four sides instead of a shape.
SIDES = (1, 2, 3, 4)
FLOATS, SHAPE, DOUBLES = 5, 7, 8
DIM = 1  # BlobShape

ROLES = ("weight", "bias")

MAX_AXES = 32
"""Caffe's own limit."""
MAX_FIELDS = 200_000
"""Fields of a file. A network has some thousands; its numbers stand packed in one field each."""


class WireError(ValueError):
    """The bytes are no protocol buffer of that kind."""


def read(data: bytes) -> dict[str, np.ndarray]:
    """All arrays as "layer.weight", "layer.bias", "layer.2", ... in Caffe's own layout.

    Raises:
      WireError: the bytes are truncated, damaged, or not a Caffe network with weights.
    """
    arrays, left = {}, [MAX_FIELDS]
    for number, wire, value in _fields(memoryview(data), left):
        if number in LAYERS and wire == BYTES:
            name, blobs = _layer(value, LAYERS[number], left)
            for index, blob in enumerate(blobs):
                role = ROLES[index] if index < len(ROLES) else str(index)
                key = f"{name}.{role}"
                if key in arrays:
                    raise WireError(f"two arrays are named {key!r}")
                arrays[key] = blob
    if not arrays:
        raise WireError("it has no layer with weights")
    return arrays


def _layer(message: memoryview, fields: Fields, left: list[int]) -> tuple[str, list[np.ndarray]]:
    name, blobs = "", []
    for number, wire, value in _fields(message, left):
        if wire == BYTES and number == fields.name:
            try:
                name = bytes(value).decode()
            except UnicodeDecodeError:
                raise WireError("a layer's name is no text") from None
        elif wire == BYTES and number == fields.blobs:
            blobs.append(_blob(value, left))
    if blobs and not name:
        raise WireError("a layer with weights has no name")
    return name, blobs


def _blob(message: memoryview, left: list[int]) -> np.ndarray:
    sides, shape, values = {}, None, []
    for number, wire, value in _fields(message, left):
        if number in SIDES and wire == VARINT:
            sides[number] = value
        elif number == SHAPE and wire == BYTES:
            shape = _shape(value, left)
        elif number in (FLOATS, DOUBLES) and wire != VARINT:
            values.append(_numbers(value, np.dtype("<f4" if number == FLOATS else "<f8")))
    if shape is None:
        shape = tuple(sides.get(number, 1) for number in SIDES)
    if len(values) == 1:
        flat = values[0]
    else:
        flat = np.concatenate(values) if values else np.zeros(0, np.float32)
    if flat.size == 0 or math.prod(shape) != flat.size:
        raise WireError(f"an array of shape {list(shape)} has {flat.size} numbers")
    return flat.reshape(shape)


def _shape(message: memoryview, left: list[int]) -> tuple[int, ...]:
    shape = []
    for number, wire, value in _fields(message, left):
        if number == DIM and wire == VARINT:
            shape.append(value)
        elif number == DIM and wire == BYTES:
            at = 0
            while at < len(value) and len(shape) <= MAX_AXES:
                side, at = _varint(value, at)
                shape.append(side)
        if len(shape) > MAX_AXES:
            raise WireError(f"an array has more than {MAX_AXES} axes")
    return tuple(shape)


def _numbers(value: memoryview, dtype: np.dtype) -> np.ndarray:
    if len(value) % dtype.itemsize:
        raise WireError(f"{len(value)} bytes are no whole number of {dtype}")
    return np.frombuffer(value, dtype).astype(dtype.newbyteorder("="), copy=False)


def _fields(message: memoryview, left: list[int]) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) one by one: an int for a varint, else its bytes.

    `left` is how many more fields the file may have: one number, counted down.
    """
    at = 0
    while at < len(message):
        left[0] -= 1
        if left[0] < 0:
            raise WireError(f"it has more than {MAX_FIELDS:,} fields")
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise WireError(f"byte {at} starts a field of unknown wire type {wire}")
        if number == 0 or at + size > len(message):
            raise WireError(f"a field of {size} bytes ends behind its message")
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at a byte, and where the next thing starts."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError("a number has more than 64 bits")
