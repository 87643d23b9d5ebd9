"""InsightFace's verification files (lfw.bin, cfp_fp.bin, agedb_30.bin): images and their pairs.

Such a file is a pickle of (encoded images, one flag a pair); images 2 k and 2 k + 1 are pair k. A
pickle is a program. This one is run by an unpickler to which nothing but lists, bytes, bools and
plain NumPy values exists, and even NumPy's are stand-ins of our own.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hyperface.data.sources.source import Pairs, Source, check_size, fingerprint
from hyperface.errors import InputError


def verification(path: Path) -> Source:
    """Images of a .bin file, all of one unnamed identity, with their pairs.

    Raises:
      InputError: the file is not such a pickle, or asks for anything beyond the values above.
    """
    try:
        value = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise InputError(f"expected a .bin file at {path}, found: {error.strerror}.") from None
    # A damaged pickle can raise almost anything.
    except Exception as error:
        raise InputError(f"{path}: expected images and flags, found: {error}.") from None
    images, same = _checked(path, value)

    def read(index: int) -> bytes:
        check_size(len(images[index]))
        return images[index]

    first = np.arange(0, len(images), 2)
    return Source(
        kind="verification",
        identities=["unnamed"],
        people=np.zeros(len(images), np.int32),
        names=[f"{index:06}" for index in range(len(images))],
        read=read,
        fingerprint=fingerprint([*images, *same]),
        pairs=Pairs(first, first + 1, same),
    )


def _checked(path: Path, value: Any) -> tuple[list[bytes], np.ndarray]:
    if not (isinstance(value, list | tuple) and len(value) == 2):
        raise InputError(f"{path}: expected (images, flags), found {type(value).__name__}.")
    images = [x.tobytes() if isinstance(x, _Array) else x for x in _items(value[0])]
    flags = [bool(x) for x in _items(value[1]) if isinstance(x, bool | int | np.bool_)]
    if not images or not all(isinstance(x, bytes | bytearray) for x in images):
        raise InputError(f"{path}: expected a list of encoded images, found something else.")
    if len(flags) != len(_items(value[1])) or len(images) != 2 * len(flags):
        raise InputError(
            f"{path}: expected one flag for two images, found {len(images)} images and "
            f"{len(flags)} flags."
        )
    return [bytes(x) for x in images], np.array(flags)


def _items(value: Any) -> list:
    if isinstance(value, _Array):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


class _DType:
    """Stands in for numpy.dtype: only bytes and bools exist."""

    def __init__(self, code: Any, *_: Any):
        code = code.decode() if isinstance(code, bytes) else code
        if code not in ("u1", "b1", "|u1", "|b1"):
            raise pickle.UnpicklingError(f"an array of {code!r}, expected bytes or bools")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like mean nothing to one byte."""


class _Array:
    """Stands in for numpy.ndarray: one-dimensional data of one byte an item."""

    def __init__(self, *_: Any):
        self._data, self._dtype = b"", np.dtype("u1")

    def __setstate__(self, state: Any) -> None:
        _, _, dtype, _, data = state
        if not (isinstance(dtype, _DType) and isinstance(data, bytes)):
            raise pickle.UnpicklingError("an array of objects")
        self._data, self._dtype = data, dtype.dtype

    def tobytes(self) -> bytes:
        return self._data

    def values(self) -> np.ndarray:
        return np.frombuffer(self._data, self._dtype)


def _frombuffer(buffer: Any, dtype: Any, *_: Any) -> _Array:
    """How protocol 5 spells an array."""
    array = _Array()
    array.__setstate__((1, None, dtype, False, bytes(buffer)))
    return array


def _scalar(dtype: Any, data: bytes) -> Any:
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError("a scalar that is neither a byte nor a bool")
    return np.frombuffer(data, dtype.dtype)[0]


def _encode(text: str, encoding: Any = "latin1") -> bytes:
    """How Python 2's pickle protocols spell bytes."""
    return text.encode("latin1")


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(core, "_reconstruct"): _Array for core in _CORES},
    **{(core, "scalar"): _scalar for core in _CORES},
    **{
        (core, "_frombuffer"): _frombuffer for core in ("numpy.core.numeric", "numpy._core.numeric")
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]
