"""Reads a pickle as data, without running any code.

The values are lists, tuples, bytes, text, bools, whole numbers, and NumPy arrays of bytes or bools.
A pickle is a program for a small stack machine. Python's own machine can call any function, and
allocates whatever an instruction announces: nine bytes can ask for gigabytes. The machine here
knows only the instructions that these values need, and does not copy bytes out of the file.
"""

import codecs
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

MAX_STEPS = 1_000_000
"""Largest number of instructions. An image takes 2 to 20, so it is enough for 50,000 images."""
_LONGEST_LINE = 256
"""Largest length in bytes of a line with a number or a name."""
# An object of its own, which no pickle can push as a value.
_MARK = object()


class Array:
    """An array that was read from a pickle, in place of a numpy.ndarray.

    It is one-dimensional. `data` is a memoryview of its elements, one byte each, and `dtype` is
    uint8 or bool. A new array is empty, because a pickle creates an array first and fills it later.
    """

    def __init__(self) -> None:
        self.data, self.dtype = memoryview(b""), np.dtype("u1")

    def fill(self, dtype: Any, data: Any) -> None:
        """Sets the dtype and the data of the array, from values that the pickle contains.

        Args:
          dtype: the dtype from the pickle, of bytes or of bools.
          data: memoryview of the elements, one byte each.

        Raises:
          ValueError: `dtype` or `data` is another kind of value, as in an array of objects.
        """
        if not (isinstance(dtype, _DType) and isinstance(data, memoryview)):
            raise ValueError("an array of objects")
        self.data, self.dtype = data, dtype.dtype


class _Text(NamedTuple):
    """Text that is decoded only when it is needed: in Python 2's pickles most text is bytes."""

    data: memoryview
    """The encoded text."""
    codec: str
    """Name of the encoding, such as "utf-8"."""


class Global(NamedTuple):
    """The name of a function or class in a pickle. The function or class is never imported.

    Only the names in `Machine.calls`, the list of accepted functions, become a `Global`. A pickle
    that contains any other name is refused.
    """

    module: str
    """Name of the module, such as "numpy.core.multiarray"."""
    name: str
    """Name of the function or class in this module, such as "_reconstruct"."""


class _DType:
    """Stands for a numpy.dtype in a pickle; only the dtypes of bytes and of bools are accepted."""

    def __init__(self, code: str) -> None:
        if code not in ("u1", "b1", "|u1", "|b1"):
            raise ValueError(f"an array of {code!r}, expected bytes or bools")
        self.dtype = np.dtype(code)


def loads(data: bytes) -> Any:
    """Returns the value of a pickle, without running any code that the pickle refers to.

    The value may consist of lists, tuples, bytes, text, bools, whole numbers, None, and arrays of
    bytes or bools. In the result an array is an `Array`, and bytes and Python 2's text are
    memoryviews, mostly of `data` itself.

    Args:
      data: the content of the file, which may be hostile.

    Raises:
      ValueError: the pickle is damaged, contains a value of another type, names another function or
        class, or has more than MAX_STEPS (1 million) instructions.
    """
    machine = Machine(data)
    try:
        return machine.run()
    # A damaged pickle pops from an empty stack, or uses a memo entry that does not exist.
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"[:100]
        raise ValueError(f"a damaged pickle, at byte {machine.at} ({reason})") from None


class Machine:
    """The stack machine that interprets a pickle and refuses every instruction it does not know.

    A pickle is a sequence of instructions, each of one byte and its arguments, that push values on
    a stack and combine them. `at` is the position of the next byte to read. A subclass may know
    other instructions (`steps`) and other functions (`calls`).
    """

    steps: ClassVar[dict[int, Callable[["Machine"], Any]]]
    """Byte of each known instruction -> function (machine) that executes it by reading the next
    bytes and changing the stack. What the function returns is ignored."""
    calls: ClassVar[dict[tuple[str, str], Callable[..., Any]]]
    """(module, name) of each function that a pickle may call -> function (machine, *arguments) that
    is called in its place, and returns the value to push."""

    def __init__(self, data: bytes) -> None:
        self.whole, self.data = data, memoryview(data)
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.decoded = 0
        """Number of bytes decoded so far, which cannot exceed the size of the file."""

    def run(self) -> Any:
        """Executes the instructions up to the last one, and returns the value on top of the stack.

        Raises:
          ValueError: an instruction or a value is refused, the pickle ends before its last
            instruction, or it has more than MAX_STEPS instructions. A damaged pickle can also raise
            IndexError, KeyError, TypeError or AttributeError.
        """
        for _ in range(MAX_STEPS):
            if self.at == len(self.data):
                raise ValueError("a pickle that ends before its last instruction")
            code = self.data[self.at]
            self.at += 1
            if code == _STOP:
                return self.stack.pop()
            step = self.steps.get(code)
            if step is None:
                name = pickle_name(code)
                raise ValueError(f"the instruction {name} at byte {self.at - 1}, which is refused")
            step(self)
        raise ValueError(f"more than {MAX_STEPS:,} instructions")

    def take(self, count: int) -> memoryview:
        """Returns a view of the next `count` bytes, and moves the position behind them.

        Raises:
          ValueError: the pickle has fewer bytes left, or `count` is negative.
        """
        # Checked first, since a hostile file can announce any number of bytes.
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(
                f"{count:,} bytes announced at byte {self.at}, of {len(self.data) - self.at:,}"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        """Reads the next `size` bytes as a little-endian whole number.

        Raises:
          ValueError: the pickle has fewer bytes left.
        """
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self, longest: int = _LONGEST_LINE) -> memoryview:
        """Reads the bytes from the position up to the next line break, which is skipped.

        Some instructions of a pickle have a number, a name or a quoted text as their argument,
        which is written as such a line behind the instruction.

        Args:
          longest: largest length of the line in bytes, with its line break.

        Returns:
          A view of the line without its line break.

        Raises:
          ValueError: there is no line break within `longest` bytes.
        """
        # Searched in the bytes, since a memoryview has no `find`; and only in the longest line.
        end = self.whole.find(b"\n", self.at, self.at + longest)
        if end < 0:
            raise ValueError(f"no end of the line that starts at byte {self.at}")
        taken = self.take(end - self.at)
        self.at += 1
        return taken

    def count_decoded(self, data: bytes) -> memoryview:
        """Adds to the number of decoded bytes, which is limited, and returns a view of the bytes.

        Old versions of the format write bytes as text with escapes, which must be decoded into
        memory. A hostile pickle could decode one text again and again, and fill the memory.

        Args:
          data: the bytes that were just decoded from a text in the pickle.

        Raises:
          ValueError: all bytes decoded so far are together more than the pickle has.
        """
        self.decoded += len(data)
        # An honest pickle decodes each of its bytes at most once. A hostile one could decode one
        # text again and again, and fill the memory by a few instructions.
        if self.decoded > len(self.data):
            raise ValueError("more bytes decoded than the file has")
        return memoryview(data)

    def items(self) -> list[Any]:
        """Pops the values above the last mark, and the mark too; returns them in pushed order.

        A mark is a value that a pickle pushes before the elements of a list or a tuple.

        Raises:
          ValueError: there is no mark on the stack.
        """
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError(f"no mark before byte {self.at}")
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def extend(self, values: list[Any]) -> None:
        """Appends values to the list that is the top value of the stack.

        Raises:
          ValueError: the value on top of the stack is no list.
        """
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"items at byte {self.at} for something that is no list")
        target += values


def pickle_name(code: int) -> str:
    """Returns the name of a pickle instruction for messages, such as "BINPUT".

    Args:
      code: the byte of the instruction. An unknown one is returned in hexadecimal, such as "0x07".
    """
    names = (n for n in pickle.__all__ if n.isupper() and getattr(pickle, n) == bytes([code]))
    return next(names, f"0x{code:02x}")


def _push(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    """Returns the instruction that pushes what `read` returns."""

    def step(machine: Machine) -> None:
        machine.stack.append(read(machine))

    return step


def _whole(line: memoryview) -> int | bool:
    """Returns the whole number or the bool that a line spells."""
    text = bytes(line).rstrip(b"L")
    if text in (b"00", b"01"):  # Protocol 0 writes bools so.
        return text == b"01"
    # 20 characters are enough for every int64; Python needs quadratic time for long numbers.
    if len(text) > 20 or not text.removeprefix(b"-").isdigit():
        raise ValueError(f"{text[:20]!r} where a whole number was expected")
    return int(text)


def _long(machine: Machine) -> int:
    """Reads a whole number whose length in bytes comes first."""
    size = machine.number(1)
    # 8 bytes are enough for every int64.
    if size > 8:
        raise ValueError(f"a whole number of {size} bytes")
    return machine.number(size, signed=True)


def _quoted(machine: Machine) -> memoryview:
    """Reads bytes as protocol 0 writes them: a line in quotes, with escapes."""
    line = bytes(machine.line(len(machine.data)))
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError(f"no quotes around the text before byte {machine.at}")
    # escape_decode returns bytes and evaluates nothing, unlike eval.
    return machine.count_decoded(codecs.escape_decode(line[1:-1])[0])


def _memoize(machine: Machine, key: int) -> None:
    """Stores the value on top of the stack in the memo."""
    machine.memo[key] = machine.stack[-1]


def _tuple(count: int) -> Callable[[Machine], None]:
    """Returns the instruction that replaces so many values by a tuple of them."""

    def step(machine: Machine) -> None:
        # Without this, a slice of a shorter stack would give a shorter tuple and no error.
        if len(machine.stack) < count:
            raise ValueError(f"fewer than {count} values before byte {machine.at}")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def short_text(value: Any) -> str:
    """Returns a pickled value as a str, where a name of a module, function or type is expected.

    Args:
      value: a value from the stack of a `Machine`.

    Raises:
      ValueError: the value is neither text nor bytes, is not UTF-8, or has more than 256 bytes.
    """
    data = value.data if isinstance(value, _Text) else value
    if not isinstance(data, memoryview) or len(data) > _LONGEST_LINE:
        raise ValueError("a name that is no short text")
    return bytes(data).decode("utf-8")


def _global(machine: Machine, module: str, name: str) -> Global:
    """Returns the function or class that a pickle names; ValueError if `calls` lacks it."""
    # Nothing is imported: the names in `calls` stand for functions of this module.
    if (module, name) not in machine.calls:
        raise ValueError(f"it asks for {module}.{name}, which is refused")
    return Global(module, name)


def _named(machine: Machine) -> Global:
    """Reads a module and a name from two lines (instruction GLOBAL)."""
    module, name = (bytes(machine.line()).decode("utf-8") for _ in range(2))
    return _global(machine, module, name)


def _stack_global(machine: Machine) -> Global:
    """Pops a module and a name from the stack (instruction STACK_GLOBAL)."""
    name, module = short_text(machine.stack.pop()), short_text(machine.stack.pop())
    return _global(machine, module, name)


def _reduce(machine: Machine) -> None:
    """Calls a function with arguments from the stack (instruction REDUCE)."""
    arguments, function = machine.stack.pop(), machine.stack.pop()
    # Only a `Global` may be called, and `_global` returns only those in `calls`.
    if not (isinstance(function, Global) and isinstance(arguments, tuple)):
        raise ValueError(f"a call of a value before byte {machine.at}")
    machine.stack.append(machine.calls[function](machine, *arguments))


def _build(machine: Machine) -> None:
    """Gives an array its pickled state (instruction BUILD)."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, _DType):
        return  # The state is the byte order and such, which does not matter for single bytes.
    if not (isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5):
        raise ValueError(f"a state before byte {machine.at} of something that has none")
    target.fill(state[2], state[4])


def _empty_array(machine: Machine, *_: Any) -> Array:
    return Array()


def _dtype(machine: Machine, code: Any, *_: Any) -> _DType:
    return _DType(short_text(code))


def _from_buffer(machine: Machine, buffer: Any, dtype: Any, *_: Any) -> Array:
    """Returns an array from its buffer, as protocol 5 writes arrays."""
    found = Array()
    found.fill(dtype, buffer)
    return found


def _scalar(machine: Machine, dtype: Any, data: Any) -> bool | int:
    """Returns a NumPy scalar of one byte as a Python value."""
    if not isinstance(dtype, _DType) or not isinstance(data, memoryview) or len(data) != 1:
        raise ValueError("a scalar that is neither a byte nor a bool")
    return bool(data[0]) if dtype.dtype == bool else data[0]


def _encode(machine: Machine, text: Any, codec: Any = None) -> memoryview:
    """Returns bytes as protocols 0 to 2 write them: as Latin-1 text, encoded in the pickle.

    Args:
      machine: the machine.
      text: the text whose characters are the bytes.
      codec: not used: it is Latin-1.
    """
    if not isinstance(text, _Text):
        raise ValueError("an encoding of something that is no text")
    # An incremental decoder, since a character may be divided between two parts.
    decoder = codecs.getincrementaldecoder(text.codec)()
    out = bytearray()
    # In parts, since decoded text can take four times as much memory as its bytes.
    for start in range(0, len(text.data), 2**16):
        part = text.data[start : start + 2**16]
        out += decoder.decode(part, start + len(part) == len(text.data)).encode("latin1")
    return machine.count_decoded(bytes(out))


def _no_bytes(machine: Machine) -> memoryview:
    """Returns empty bytes, which protocols 0 to 2 write as a call of `bytes()`."""
    return memoryview(b"")


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
Machine.calls = {
    ("numpy", "ndarray"): _empty_array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{(core, "_reconstruct"): _empty_array for core in _CORES},
    **{(core, "scalar"): _scalar for core in _CORES},
    **{
        (core, "_frombuffer"): _from_buffer
        for core in ("numpy.core.numeric", "numpy._core.numeric")
    },
}


def _text(machine: Machine, size: int) -> _Text:
    """Reads a text whose length comes first, as a number of `size` bytes."""
    return _Text(machine.take(machine.number(size)), "utf-8")


_STOP = pickle.STOP[0]
Machine.steps = {
    code[0]: step
    for code, step in {
        # The protocol version is skipped, since every instruction is checked anyway.
        pickle.PROTO: lambda m: m.take(1),
        # A frame is only a hint for buffered reading, and the whole file is in memory.
        pickle.FRAME: lambda m: m.take(8),
        pickle.MARK: _push(lambda m: _MARK),
        pickle.POP: lambda m: m.stack.pop(),
        pickle.POP_MARK: lambda m: m.items(),
        pickle.NONE: _push(lambda m: None),
        pickle.NEWTRUE: _push(lambda m: True),
        pickle.NEWFALSE: _push(lambda m: False),
        pickle.INT: _push(lambda m: _whole(m.line())),
        pickle.LONG: _push(lambda m: _whole(m.line())),
        pickle.BININT: _push(lambda m: m.number(4, signed=True)),
        pickle.BININT1: _push(lambda m: m.number(1)),
        pickle.BININT2: _push(lambda m: m.number(2)),
        pickle.LONG1: _push(_long),
        pickle.STRING: _push(_quoted),
        pickle.BINSTRING: _push(lambda m: m.take(m.number(4, signed=True))),
        pickle.SHORT_BINSTRING: _push(lambda m: m.take(m.number(1))),
        pickle.BINBYTES: _push(lambda m: m.take(m.number(4))),
        pickle.SHORT_BINBYTES: _push(lambda m: m.take(m.number(1))),
        pickle.BINBYTES8: _push(lambda m: m.take(m.number(8))),
        # A bytearray is read as bytes, since nothing here changes it.
        pickle.BYTEARRAY8: _push(lambda m: m.take(m.number(8))),
        pickle.UNICODE: _push(lambda m: _Text(m.line(len(m.data)), "raw-unicode-escape")),
        pickle.BINUNICODE: _push(lambda m: _text(m, 4)),
        pickle.SHORT_BINUNICODE: _push(lambda m: _text(m, 1)),
        pickle.BINUNICODE8: _push(lambda m: _text(m, 8)),
        pickle.EMPTY_LIST: _push(lambda m: []),
        pickle.EMPTY_TUPLE: _push(lambda m: ()),
        pickle.LIST: _push(lambda m: m.items()),
        pickle.TUPLE: _push(lambda m: tuple(m.items())),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.extend(m.items()),
        pickle.GET: _push(lambda m: m.memo[_whole(m.line())]),
        pickle.BINGET: _push(lambda m: m.memo[m.number(1)]),
        pickle.LONG_BINGET: _push(lambda m: m.memo[m.number(4)]),
        pickle.PUT: lambda m: _memoize(m, _whole(m.line())),
        pickle.BINPUT: lambda m: _memoize(m, m.number(1)),
        pickle.LONG_BINPUT: lambda m: _memoize(m, m.number(4)),
        # MEMOIZE has no key: the protocol says that it is the number of entries so far.
        pickle.MEMOIZE: lambda m: _memoize(m, len(m.memo)),
        pickle.GLOBAL: _push(_named),
        pickle.STACK_GLOBAL: _push(_stack_global),
        pickle.REDUCE: _reduce,
        pickle.BUILD: _build,
    }.items()
}
