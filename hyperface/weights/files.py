"""Reads weight files as flat dictionaries from name to array.

Nothing that is stored in a file is ever executed.
"""

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
"""Value of the metadata field "format" in the safetensors files that this library writes."""
# In older versions torch.load ran code of a prepared file even with weights_only=True.
OLDEST_TORCH = (2, 10)
MAX_SHARED = 4
"""Largest total size of a PyTorch file's tensors, divided by the size of the file. Tensors may
share memory, so a small file could ask for any amount of it."""
LARGEST_FILE = 2**33
"""Largest size in bytes of a file that is read into memory as a whole."""
LONGEST_HEADER = 2**22
"""Largest size in bytes of a safetensors header, enough for 40,000 arrays. A face network has at
most 1,000."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a weight file in float32, with the file's own names and order of axes.

    Args:
      path: a file with one of these endings:

        - `.safetensors`
        - `.onnx`
        - `.pt`, `.pth`, `.pth.tar` or `.bin`: a PyTorch state dictionary, which needs torch
        - `.caffemodel`: its blobs are named "layer.weight" and "layer.bias"

    Raises:
      InputError: the file has another format, is damaged, or contains values that are not finite
        floats.
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
    """Returns the metadata of a safetensors file that this library wrote; None for other files.

    The metadata are texts by name, such as "model" and "feature_dim". A missing or damaged file
    gives None too; `read` then raises the error.
    """
    import safetensors

    if not Path(path).name.endswith(".safetensors") or not Path(path).is_file():
        return None
    try:
        _check_header(Path(path))
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError):
        return None  # `read` reports what is wrong with the file.
    return metadata if metadata.get("format") == FORMAT else None


def _float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Returns floats as float32 and integers unchanged; InputError for anything else.

    Args:
      path: the file, for the message.
      name: name of the array in the file, for the message.
      array: the array.
    """
    # Integers, such as PyTorch's num_batches_tracked, are not weights. They pass here, and the
    # name map decides whether they are expected.
    if array.dtype.kind in "iu":
        return array
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"{path}: expected floats in {name!r}, found {array.dtype}.")
    # A float64 too large for float32 becomes infinity, which is reported below.
    with np.errstate(over="ignore"):
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
    """Returns a safetensors file with sorted header fields and a digest of its content, as bytes.

    Args:
      data: the bytes of a safetensors file that has metadata.
    """
    # A safetensors file is the header's length in 8 bytes, the header in JSON, and the arrays.
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    # The digest covers the header without the digest field, since it cannot contain itself.
    header["__metadata__"]["digest"] = exported.digest(_described(header), body)
    # Sorted, so that equal weights give equal files.
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    # Spaces keep the arrays at a multiple of 8 bytes, as readers that map the file expect.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _described(header: dict[str, Any]) -> dict[str, Any]:
    """Returns the header of a safetensors file without its digest field."""
    metadata = header["__metadata__"]
    return header | {"__metadata__": {n: v for n, v in metadata.items() if n != "digest"}}


def _check_seal(path: Path) -> None:
    """Raises InputError if a file that this library wrote was changed or exchanged.

    The digest inside of the file finds a change. The digest in `embedder.json` beside it, if there
    is such a record, finds a file of another export.
    """
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
    """Raises ValueError if the header of a safetensors file is too long to be parsed."""
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
    # safetensors looks a type up as an attribute of NumPy, which has no bfloat16 for example.
    except AttributeError as error:
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
    """Returns the graph of an `.onnx` file (operators and arrays), with its weights in float32.

    Raises:
      InputError: the file is damaged or not an ONNX network, or its weights are not finite floats.
    """
    try:
        graph = onnx.read_graph(read_bytes(path, LARGEST_FILE))
        graph.image_shape()  # Only for its check that the network takes images.
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
    """Returns whether a path is a file with an ending that `read` knows."""
    return Path(path).name.lower().endswith(tuple(READERS)) and Path(path).is_file()


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # An optional dependency.
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
        _check_sizes(found.values(), path.stat().st_size)
        # torch.nn.DataParallel puts "module." in front of every name.
        return {str(name).removeprefix("module."): _array(value) for name, value in found.items()}
    # A damaged file raises many kinds of errors in torch, zipfile and pickle.
    except Exception as error:
        kind = "a PyTorch state dictionary of tensors alone"
        raise _damaged(path, kind, _in_own_words(error)) from error


def _in_own_words(error: Exception) -> Exception:
    """Replaces torch's error about a file that its safe loading refuses.

    Torch's own message advises to load the file without the safety, which would run its code. All
    other errors are returned unchanged.
    """
    import pickle

    if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
        return error
    return ValueError("it contains other objects than tensors, which are never loaded")


def _check_torch(path: Path) -> None:
    """Raises ValueError if a PyTorch file could ask for more memory than it has bytes.

    With weights_only=True torch.load runs no code of the file, but it trusts the sizes in it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Safe loading allows the call bytearray(n), which allocates n bytes for any number n.
        if data.find(b"bytearray") >= 0:
            raise ValueError("a bytearray, which no weights have")
        packed = data[:2] == b"PK"
    if packed:
        with open_zip(path) as archive:
            for member in archive.infolist():
                # A compressed member of a few bytes could unpack to gigabytes.
                if member.compress_size != member.file_size:
                    raise ValueError(
                        f"{member.filename!r} is compressed, which torch.save never is"
                    )


def _check_sizes(tensors: Iterable[Any], size: int) -> None:
    """Raises ValueError if the tensors are together much larger than the file.

    A tensor may be a view that repeats a few stored bytes any number of times.
    """
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
