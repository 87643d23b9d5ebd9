"""Reads the weights of a `.caffemodel` file, without Caffe.

Only the few messages of the public caffe.proto that contain weights are parsed. All other fields
are skipped, so the files of any fork of Caffe can be read.
"""

import math
from typing import NamedTuple

import numpy as np

from hyperface.weights.wire import (
    BYTES,
    MAX_AXES,
    VARINT,
    Budget,
    WireError,
    fields,
    integers,
    numbers,
    text,
)


class Fields(NamedTuple):
    """The numbers of the protocol-buffer fields in which a Caffe file stores a layer.

    Files of old Caffe versions use other numbers than files of new versions.
    """

    name: int
    """Number of the field with the layer's name."""
    blobs: int
    """Number of the field with the layer's arrays, which Caffe calls blobs."""


# NetParameter has two fields with layers: 100 today, and 2 in files from before 2014.
LAYERS = {100: Fields(name=1, blobs=7), 2: Fields(name=4, blobs=6)}
# BlobProto: its field numbers. Files from before 2014 store four sides instead of a shape.
SIDES = (1, 2, 3, 4)
FLOATS, SHAPE, DOUBLES = 5, 7, 8
DIM = 1  # BlobShape

ROLES = ("weight", "bias")


def read(data: bytes) -> dict[str, np.ndarray]:
    """Returns all arrays of a `.caffemodel` file by name, in Caffe's own order of axes.

    The arrays of a layer called conv1 are named "conv1.weight", "conv1.bias", and then "conv1.2",
    "conv1.3", ...

    Args:
      data: the content of the file.

    Raises:
      WireError: the bytes are truncated, damaged, or not a Caffe network with weights.
    """
    arrays, budget = {}, Budget()
    for field in fields(memoryview(data), budget):
        if field.number in LAYERS and field.wire == BYTES:
            name, blobs = _layer(field.value, LAYERS[field.number], budget)
            for index, blob in enumerate(blobs):
                role = ROLES[index] if index < len(ROLES) else str(index)
                key = f"{name}.{role}"
                # Protocol buffers allow repeated layers; we cannot know which one was in use.
                if key in arrays:
                    raise WireError(f"two arrays are named {key!r}")
                arrays[key] = blob
    if not arrays:
        raise WireError("it has no layer with weights")
    return arrays


def _layer(message: memoryview, layer: Fields, budget: Budget) -> tuple[str, list[np.ndarray]]:
    """Returns (name, arrays) of a layer; the arrays have the order of the file.

    Args:
      message: the layer's message.
      layer: the numbers of its fields.
      budget: counts the fields of the file.
    """
    name, blobs = "", []
    for field in fields(message, budget):
        if field.wire == BYTES and field.number == layer.name:
            name = text(field.value, "a layer's name")
        elif field.wire == BYTES and field.number == layer.blobs:
            blobs.append(_blob(field.value, budget))
    if blobs and not name:
        raise WireError("a layer with weights has no name")
    return name, blobs


def _blob(message: memoryview, budget: Budget) -> np.ndarray:
    """Returns one array of a layer (message BlobProto), in float32 or float64."""
    sides, shape, values = {}, None, []
    for field in fields(message, budget):
        number = field.number
        if number in SIDES and field.wire == VARINT:
            sides[number] = field.value
        elif number == SHAPE and field.wire == BYTES:
            shape = _shape(field.value, budget)
        # Either all numbers are packed in one field, or each number has a field of its own.
        elif number in (FLOATS, DOUBLES) and field.wire != VARINT:
            values.append(numbers(field.value, np.dtype("<f4" if number == FLOATS else "<f8")))
    if shape is None:
        shape = tuple(sides.get(number, 1) for number in SIDES)
    if len(values) == 1:
        flat = values[0]
    else:
        flat = np.concatenate(values) if values else np.zeros(0, np.float32)
    # A damaged shape may be huge. math.prod is exact, while NumPy's product could overflow to
    # a number that happens to equal the size.
    if flat.size == 0 or math.prod(shape) != flat.size:
        raise WireError(f"an array of shape {list(shape)} has {flat.size} numbers")
    return flat.reshape(shape)


def _shape(message: memoryview, budget: Budget) -> tuple[int, ...]:
    shape = []
    for field in fields(message, budget):
        if field.number == DIM and field.wire in (VARINT, BYTES):
            shape += integers(field)
        if len(shape) > MAX_AXES:
            raise WireError(f"an array has more than {MAX_AXES} axes")
    return tuple(shape)
