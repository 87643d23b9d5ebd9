"""The wire format of protocol buffers, which `.caffemodel` and `.onnx` files are written in.

A message is a sequence of fields, each a number, a wire type and a value. A reader steps over the
fields that it has no use for. Every length is compared with the bytes that are there before
anything is made of it.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, cast

import numpy as np

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

MAX_FIELDS = 200_000
"""Fields of a file. A network has some thousands; its numbers stand packed in one field each."""
MAX_AXES = 32
"""Axes of an array: Caffe's own limit."""


class WireError(ValueError):
    """The bytes are no protocol buffer of that kind."""


class Varint(NamedTuple):
    """A field of a message that is a number."""

    number: int
    wire: Literal[0]
    value: int


class Run(NamedTuple):
    """A field of a message that is a run of bytes."""

    number: int
    wire: Literal[1, 2, 5]
    value: memoryview


Field = Varint | Run
"""One field of a message; its `wire` tells which."""


class Budget:
    """How many more fields a file may have, over all its messages."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def spend(self) -> None:
        """Counts one field.

        Raises:
          WireError: there were too many.
        """
        self._left -= 1
        if self._left < 0:
            raise WireError(f"it has more than {MAX_FIELDS:,} fields")


def fields(message: memoryview, budget: Budget) -> Iterator[Field]:
    """Yields the fields of a message one by one.

    Raises:
      WireError: the message is cut or damaged, or the file has too many fields.
    """
    at = 0
    while at < len(message):
        budget.spend()
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(message, at)
            yield Varint(number, VARINT, value)
            continue
        if wire == BYTES:
            size, at = varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise WireError(f"byte {at} starts a field of unknown wire type {wire}")
        # Compared before the slice, which would be cut short without an error.
        if number == 0 or at + size > len(message):
            raise WireError(f"a field of {size} bytes ends behind its message")
        yield Run(number, cast(Literal[1, 2, 5], wire), message[at : at + size])
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Returns the variable-length number that starts at byte `at`, and the byte after it.

    Raises:
      WireError: the number is cut off or has more than 64 bits.
    """
    value = 0
    # Ten bytes of seven bits hold 64 bits; a longer number is damage.
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError("a number has more than 64 bits")


def integers(field: Field) -> list[int]:
    """Returns the numbers, one per axis, of a repeated field: each field has one, or a packed run.

    Raises:
      WireError: there are more than MAX_AXES.
    """
    if field.wire == VARINT:
        return [field.value]
    found, at = [], 0
    while at < len(field.value):
        value, at = varint(field.value, at)
        found.append(value)
        if len(found) > MAX_AXES:
            raise WireError(f"an array has more than {MAX_AXES} axes")
    return found


def numbers(value: memoryview, dtype: np.dtype) -> np.ndarray:
    """Packed numbers, as the machine has them.

    Raises:
      WireError: the last one is cut.
    """
    if len(value) % dtype.itemsize:
        raise WireError(f"{len(value)} bytes are no whole number of {dtype}")
    # The format is little-endian, whatever the machine is.
    return np.frombuffer(value, dtype).astype(dtype.newbyteorder("="), copy=False)


def text(value: memoryview, what: str) -> str:
    """Returns a name.

    Raises:
      WireError: it is not UTF-8.
    """
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise WireError(f"{what} is no text") from None
