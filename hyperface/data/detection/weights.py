"""Reads MTCNN's weights from the files of the installed distribution `mtcnn`.

The code of that distribution needs TensorFlow, and is not imported. Each file is a list of arrays
that joblib wrote, compressed by LZ4. Joblib writes a pickle in which the bytes of each array follow
the instruction that describes the array. It is read by the project's own pickle machine, which runs
no code.
"""

import hashlib
import importlib.metadata
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hyperface.data.detection.networks import SHAPES
from hyperface.data.sources import pickled
from hyperface.errors import InputError
from hyperface.files import read_bytes

DISTRIBUTION, VERSION = "mtcnn", "1.0.0"
SHA256 = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
"""Network -> SHA-256 of its file in that version. Other weights would silently give other
landmarks."""
LARGEST = 8_000_000
"""Largest size of a file in bytes, packed and unpacked; the largest file has 1.6 million."""
INSTALL = "pip install 'hyperface[detect]'"

Arrays = dict[str, dict[str, np.ndarray]]
"""Network -> name -> array, as in `networks.SHAPES`."""


def installed_weights() -> Arrays:
    """Returns MTCNN's weights from the files of the installed distribution `mtcnn`.

    Returns:
      Network ("pnet", "rnet" or "onet") -> name of an array, such as "conv1/kernel" -> float32
      array. Names and shapes are those in `networks.SHAPES`.

    Raises:
      InputError: the distribution or the package lz4 is not installed, or a file is not the one
        with the expected SHA-256.
    """
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
        # Imported here to find out whether it is installed, before any file is read.
        import lz4.frame  # noqa: F401
    except ImportError as error:  # PackageNotFoundError is an ImportError too.
        raise InputError(
            f"finding faces needs the extra 'detect' (packages {DISTRIBUTION} and lz4), found: "
            f"{error}. Install it: {INSTALL}"
        ) from None
    found = {file.name: Path(str(file.locate())) for file in files if file.suffix == ".lz4"}
    weights = {}
    for network, digest in SHA256.items():
        path = found.get(f"{network}.lz4", Path(f"{network}.lz4"))
        data = read_bytes(path, LARGEST)
        # Checked before the file is parsed, so that only known files are.
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(
                f"{path}: expected the file of {DISTRIBUTION} {VERSION}, found another one. "
                f"Install that version again: {INSTALL}"
            )
        weights[network] = read_network(data, network)
    return weights


def read_network(data: bytes, network: str) -> dict[str, np.ndarray]:
    """Reads the weights of one network, without running any code that the data refer to.

    Args:
      data: the content of the file: an LZ4 frame with a list of arrays that joblib wrote.
      network: "pnet", "rnet" or "onet".

    Returns:
      Name of an array, such as "conv1/kernel" -> float32 array.

    Raises:
      InputError: the data are damaged, have more than LARGEST bytes (8 MB) unpacked, or contain
        anything but finite float32 arrays of the network's shapes.
    """
    shapes = SHAPES[network]
    try:
        arrays = read_arrays(_unpacked(data))
        found = [array.shape for array in arrays]
        if found != list(shapes.values()):
            raise ValueError(f"arrays of the shapes {found}"[:300])
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a weight that is not finite")
    except ValueError as error:
        raise InputError(f"expected the weights of {network}, found {error}.") from None
    return dict(zip(shapes, arrays, strict=True))


def read_arrays(data: bytes) -> list[np.ndarray]:
    """Reads a list of arrays that joblib wrote without compression, without running any code.

    Args:
      data: joblib's file, a pickle in which the bytes of the arrays are inserted.

    Raises:
      ValueError: the data are damaged, or are anything but a list of float32 arrays.
    """
    machine = _JoblibMachine(data)
    try:
        value = machine.run()
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"[:100]
        raise ValueError(f"a damaged pickle, at byte {machine.at} ({reason})") from None
    if not (isinstance(value, list) and all(isinstance(array, np.ndarray) for array in value)):
        raise ValueError("something else than a list of arrays")
    return value


def _unpacked(data: bytes) -> bytes:
    """Returns the content of an LZ4 frame; ValueError if it is damaged or too large."""
    import lz4.frame

    unpacker = lz4.frame.LZ4FrameDecompressor()
    try:
        # Limited, since a hostile file of a few bytes can unpack to gigabytes.
        found = unpacker.decompress(data, max_length=LARGEST)
    except RuntimeError as error:  # lz4 raises no other type of error.
        raise ValueError(f"a damaged LZ4 frame ({error})") from None
    if not unpacker.eof:
        raise ValueError(f"a frame that is cut off, or has more than {LARGEST:,} bytes unpacked")
    return found


class _Wrapper:
    """Stands for joblib's NumpyArrayWrapper, whose state describes the array that follows it."""


class _Float32:
    """Stands for a numpy.dtype, which can only be little-endian float32."""


def _dtype(machine: pickled.Machine, code: Any, *_: Any) -> _Float32:
    """Returns the dtype that the pickle builds; ValueError for any other than float32."""
    if pickled.short_text(code) not in ("f4", "<f4"):
        raise ValueError("an array that is not of float32")
    return _Float32()


def _is_only_a_name(machine: pickled.Machine, *_: Any) -> None:
    """Refuses the call of a class that a pickle may only name."""
    raise ValueError(f"a call of a class before byte {machine.at}")


def _new_object(machine: pickled.Machine) -> _Wrapper:
    """Creates joblib's wrapper of an array, the only allowed object (instruction NEWOBJ)."""
    arguments, kind = machine.stack.pop(), machine.stack.pop()
    if kind != _WRAPPER or arguments != ():
        raise ValueError(f"an object before byte {machine.at} that is no array of joblib's")
    return _Wrapper()


def _set_items(machine: pickled.Machine) -> None:
    """Adds keys and values to the dictionary on top of the stack (instruction SETITEMS)."""
    items = machine.items()
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError(f"items at byte {machine.at} for something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[pickled.short_text(key)] = value


def _build(machine: pickled.Machine) -> None:
    """Gives an object its state (instruction BUILD); a wrapper is replaced by its array."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, _Float32):
        if pickled.short_text(state[1]) not in ("<", "="):
            raise ValueError("an array that is not little-endian")
    elif isinstance(target, _Wrapper) and isinstance(state, dict):
        machine.stack[-1] = _array(machine, state)
    else:
        raise ValueError(f"a state before byte {machine.at} of something that has none")


def _array(machine: pickled.Machine, state: dict[str, Any]) -> np.ndarray:
    """Returns the array whose bytes come next, from the state of its wrapper."""
    shape = state["shape"]
    if state["subclass"] != _NDARRAY or pickled.short_text(state["order"]) != "C":
        raise ValueError(f"an array before byte {machine.at} that is not a plain one in C order")
    if not isinstance(state["dtype"], _Float32) or not isinstance(shape, tuple):
        raise ValueError(f"an array before byte {machine.at} without type or shape")
    # type() and not isinstance, since a bool is an instance of int.
    if not all(type(side) is int and 0 <= side <= LARGEST for side in shape) or len(shape) > 4:
        raise ValueError(f"the shape {shape}"[:100])
    if state.get("numpy_array_alignment_bytes") is not None:
        # joblib pads the bytes of an array to an aligned place; the length of the padding is first.
        machine.take(machine.number(1))
    # `take` refuses more bytes than the file has, so that no shape can make us allocate memory.
    data = machine.take(4 * math.prod(shape))
    return np.frombuffer(data, "<f4").reshape(shape)


_WRAPPER = pickled.Global("joblib.numpy_pickle", "NumpyArrayWrapper")
_NDARRAY = pickled.Global("numpy", "ndarray")


class _JoblibMachine(pickled.Machine):
    """The project's pickle machine, with the instructions and classes that joblib's arrays need."""

    steps: ClassVar = pickled.Machine.steps | {
        pickle.NEWOBJ[0]: lambda machine: machine.stack.append(_new_object(machine)),
        pickle.EMPTY_DICT[0]: lambda machine: machine.stack.append({}),
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
    }
    calls: ClassVar = {
        (_WRAPPER.module, _WRAPPER.name): _is_only_a_name,
        (_NDARRAY.module, _NDARRAY.name): _is_only_a_name,
        ("numpy", "dtype"): _dtype,
    }
