"""Weight files as flat dictionaries, name -> array. Nothing stored in a file is ever executed."""

import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hyperface.archives import open_zip
from hyperface.errors import InputError
from hyperface.files import read_bytes
from hyperface.weights import caffe, exported, onnx
from hyperface.weights.wire import WireError

KNOWN = (
    ".safetensors, .onnx, .pt, .pth, .pth.tar, .bin (PyTorch), .caffemodel, or the folder of a run"
)
FORMAT = "hyperface"
"""Metadata "format" of the safetensors files that this library writes."""
# Older versions' safe loading could be made to run code.
OLDEST_TORCH = (2, 10)
MAX_SHARED = 4
"""How often the bytes of a PyTorch file may be shown by its tensors, which may share weights."""
LARGEST_FILE = 2**33
"""Bytes of a file that is read as a whole."""
LONGEST_HEADER = 2**22
"""Bytes of a safetensors header: 40,000 arrays. A network for faces has up to 1,000."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a weight file, named and laid out as the file has them, in float32.

    Args:
      path: `.safetensors`; `.onnx`; a PyTorch state dictionary, `.pt`, `.pth`, `.pth.tar` or
        `.bin`, which needs torch; or `.caffemodel`, whose blobs are called "layer.weight" and
        "layer.bias".

    Raises:
      InputError: the file is none of these, is damaged, or holds other things than finite floats.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights, found none.")
    reader = next((r for end, r in READERS.items() if path.name.lower().endswith(end)), None)
    if reader is None:
        raise InputError(f"{path}: expected {KNOWN}, found the ending {path.suffix!r}.")
    arrays = reader(path)
    return {name: _float32(path, name, array) for name, array in arrays.items()}


def own_format(path: Path) -> dict[str, str] | None:
    """Returns what a file says it is, if this library wrote it; None for every other file."""
    import safetensors

    if not Path(path).name.endswith(".safetensors") or not Path(path).is_file():
        return None
    try:
        _check_header(Path(path))
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError):
        return None  # `read` says what is wrong with it.
    return metadata if metadata.get("format") == FORMAT else None


def _float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    # num_batches_tracked and the like: whole numbers are no weights, the name map decides.
    if array.dtype.kind in "iu":
        return array
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"{path}: expected floats in {name!r}, found {array.dtype}.")
    with np.errstate(over="ignore"):  # Too large a float64 is an infinity, and refused.
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(
            f"{path}: expected finite weights, found NaN or infinity in {name!r}: the file is "
            "damaged, or its training diverged."
        )
    return array


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return InputError(
        f"{path}: expected {kind}, found a damaged or other file ({reason[:200]}). Get the file "
        "again and compare its size or checksum with the source's."
    )


def sealed(data: bytes) -> bytes:
    """Returns a safetensors file with its fields in a fixed order and a digest of its content."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    # Over the header without the digest, which cannot contain itself.
    header["__metadata__"]["digest"] = exported.digest(_described(header), body)
    # Sorted, so that equal weights give equal files.
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The numbers stay aligned.
    return len(text).to_bytes(8, "little") + text + body


def _described(header: dict[str, Any]) -> dict[str, Any]:
    metadata = header["__metadata__"]
    return header | {"__metadata__": {n: v for n, v in metadata.items() if n != "digest"}}


def _check_seal(path: Path) -> None:
    """Refuses a file of this library that was changed, or exchanged for another one's."""
    data = memoryview(read_bytes(path, LARGEST_FILE))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    found = header["__metadata__"].get("digest")
    if found != exported.digest(_described(header), data[8 + length :]):
        raise InputError(
            f"{path}: expected an export as this library wrote it, found "
            f"{'one without a digest' if found is None else 'a damaged or changed one'}. Export "
            "the run again by hyperface export."
        )
    record = path.with_name(exported.NAME)
    if record.is_file() and path.name in (known := exported.read_record(record))["files"]:
        exported.read_file(path.parent, known, path.name)


def _check_header(path: Path) -> None:
    """ValueError for a safetensors header that is too long to be parsed."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length:,} bytes, above {LONGEST_HEADER:,}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        _check_header(path)
        if own_format(path) is not None:
            _check_seal(path)
        return safetensors.numpy.load_file(path)
    except InputError:
        raise
    except AttributeError as error:  # How safetensors says that NumPy lacks a type.
        reason = ValueError(f"numbers of a type that NumPy does not have: {error}")
        raise _damaged(path, "float16 to float64 in a safetensors file", reason) from None
    except Exception as error:  # A damaged header fails in safetensors or in NumPy.
        raise _damaged(path, "a safetensors file", error) from error


def _read_caffe(path: Path) -> dict[str, np.ndarray]:
    try:
        return caffe.read(read_bytes(path, LARGEST_FILE))
    except WireError as error:
        raise _damaged(path, "a binary Caffe network", error) from error


def read_graph(path: Path) -> onnx.Graph:
    """Returns the graph of an `.onnx` file, with its weights in float32.

    Raises:
      InputError: the file is damaged, is another one, or has other numbers than finite floats.
    """
    try:
        graph = onnx.read_graph(read_bytes(path, LARGEST_FILE))
        graph.image_shape()
    except WireError as error:
        raise InputError(
            f"{path}: expected an ONNX network with float32 weights, found a file that cannot be "
            f"read as one: {error}."
        ) from None
    graph.arrays = {name: _float32(path, name, array) for name, array in graph.arrays.items()}
    return graph


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
    return read_graph(path).arrays


def is_weights(path: Path) -> bool:
    """Returns whether a path has the ending of a file that `read` reads, and is a file."""
    return Path(path).name.lower().endswith(tuple(READERS)) and Path(path).is_file()


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # An optional one.
    except ImportError:
        raise InputError(
            f"{path}: expected torch to be installed to read a PyTorch file, found none. Install "
            "torch, or convert the file to .safetensors where torch is."
        ) from None
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise InputError(
            f"{path}: expected torch {'.'.join(map(str, OLDEST_TORCH))} or newer, whose safe "
            f"loading holds, found {torch.__version__}. Upgrade it, or convert to .safetensors."
        )
    try:
        _check_torch(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict"):
            if isinstance(found.get(key), dict):
                found = found[key]
        # A net that was trained on several devices has every name below "module.".
        _check_sizes(found.values(), path.stat().st_size)
        return {str(name).removeprefix("module."): _array(value) for name, value in found.items()}
    except Exception as error:  # A damaged file fails in torch, zipfile or pickle, in many ways.
        kind = "a PyTorch state dictionary of tensors alone"
        raise _damaged(path, kind, _in_own_words(error)) from error


def _in_own_words(error: Exception) -> Exception:
    """Returns what a refusal of torch means; its own text advises to load the file unsafely."""
    import pickle

    if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
        return error
    return ValueError("it contains other objects than tensors, which are never loaded")


def _check_torch(path: Path) -> None:
    """ValueError for a PyTorch file that could ask for more memory than it has bytes.

    torch.load refuses foreign code, but believes sizes.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"bytearray") >= 0:  # The one allowed call that makes bytes from a number.
            raise ValueError("a bytearray, which no weights have")
        packed = data[:2] == b"PK"
    if packed:
        with open_zip(path) as archive:
            for member in archive.infolist():
                if member.compress_size != member.file_size:
                    raise ValueError(
                        f"{member.filename!r} is compressed, which torch.save never is"
                    )


def _check_sizes(tensors: Iterable[Any], size: int) -> None:
    """ValueError for views that show the same few bytes as any number of values."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > MAX_SHARED * size:
        raise ValueError(f"tensors of {total:,} bytes in a file of {size:,}")


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


READERS = {
    ".safetensors": _read_safetensors,
    ".caffemodel": _read_caffe,
    ".onnx": _read_onnx,
    **dict.fromkeys((".pt", ".pth", ".pth.tar", ".bin"), _read_torch),
}
