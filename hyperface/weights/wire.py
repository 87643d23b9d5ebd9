"""Parses the wire format of protocol buffers, in which `.caffemodel` and `.onnx` files are written.

A message is a sequence of fields, each with a number, a wire type and a value. A reader skips the
fields that it does not need. Each length is compared with the bytes that remain before it is used,
so a damaged file cannot make us allocate memory that it does not fill.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, cast

import numpy as np

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

MAX_FIELDS = 200_000
"""Largest number of fields in a file. A network has a few thousand, since the numbers of an array
are packed in one field."""
MAX_AXES = 32
"""Largest number of axes of an array, which is Caffe's own limit."""


class WireError(ValueError):
    """The error of bytes that are not a protocol buffer of the expected kind."""


class Varint(NamedTuple):
    """A field of a protocol-buffer message whose value is an unsigned integer."""

    number: int
    """Number of the field. The definition of the message says what the number means."""
    wire: Literal[0]
    """Wire type: the code that the format has for the type of a value, 0 for an integer."""
    value: int
    """The integer, which takes at most ten bytes of seven bits in the message."""


class Run(NamedTuple):
    """A field of a protocol-buffer message whose value is a sequence of bytes."""

    number: int
    """Number of the field. The definition of the message says what the number means."""
    wire: Literal[1, 2, 5]
    """Wire type: the code that the format has for the type of a value. 1 means 8 bytes, 5 means 4
    bytes, and 2 means a length and that many bytes."""
    value: memoryview
    """The bytes of the value, without the length."""


Field = Varint | Run
"""One field of a message; `wire`, its wire type, tells which of the two it is."""


class Budget:
    """Counts how many more fields a file may have, over all its messages, from `MAX_FIELDS` down.

    A file with more raises an error. The limit bounds the time and memory that a damaged or
    malicious file can take.
    """

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def spend(self) -> None:
        """Counts one field.

        Raises:
          WireError: the file has more than `MAX_FIELDS` (200,000) fields.
        """
        self._left -= 1
        if self._left < 0:
            raise WireError(f"it has more than {MAX_FIELDS:,} fields")


def fields(message: memoryview, budget: Budget) -> Iterator[Field]:
    """Yields the fields of a protocol-buffer message one by one.

    Args:
      message: the bytes of the message.
      budget: the number of fields that the file may still have; each yielded field reduces it by
        one.

    Raises:
      WireError: the message is cut or damaged, or the file has too many fields.
    """
    at = 0
    while at < len(message):
        budget.spend()
        key, at = varint(message, at)
        # The lowest three bits of a field's key are its wire type.
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
        # A slice beyond the end would be shortened without an error. Field numbers start at 1, so a
        # 0 shows damage.
        if number == 0 or at + size > len(message):
            raise WireError(f"a field of {size} bytes ends behind its message")
        yield Run(number, cast(Literal[1, 2, 5], wire), message[at : at + size])
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Returns (integer, position): a variable-length integer, and the position of the next byte.

    Args:
      message: the bytes of the message.
      at: position of the byte at which the integer starts.

    Raises:
      WireError: the number is cut off, or has more than 64 bits.
    """
    value = 0
    # Each byte holds seven bits, so 64 bits need at most ten bytes. A longer number is damage.
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 2**64:
            return value, at
    raise WireError("a number has more than 64 bits")


def integers(field: Field) -> list[int]:
    """Returns the integers in one field of a list of integers, such as a shape.

    Args:
      field: a `Varint`, which contains one integer, or a `Run`, which contains the bytes of several
        integers without gaps ("packed").

    Raises:
      WireError: there are more than MAX_AXES (32) integers, or one is damaged.
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
    """Returns the packed numbers of a field as an array [n] in the machine's byte order.

    Args:
      value: the bytes of the field: n numbers without gaps, in little-endian order.
      dtype: the type of the numbers, such as little-endian float32.

    Raises:
      WireError: the last number is truncated.
    """
    if len(value) % dtype.itemsize:
        raise WireError(f"{len(value)} bytes are not a multiple of the size of {dtype}")
    # The format is little-endian on every machine.
    return np.frombuffer(value, dtype).astype(dtype.newbyteorder("="), copy=False)


def text(value: memoryview, what: str) -> str:
    """Returns the text of a field.

    Args:
      value: the bytes of the field.
      what: a description of the text, for the error message.

    Raises:
      WireError: the bytes are not UTF-8.
    """
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise WireError(f"{what} is not UTF-8 text") from None
