"""Weight files as flat dictionaries, name -> array. Nothing stored in a file is ever executed."""

from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.weights import caffe

KNOWN = ".safetensors, .pt, .pth, .pth.tar, .bin (PyTorch), .caffemodel, or the folder of a run"
FORMAT = "hyperface"
"""Metadata "format" of the safetensors files that this library writes."""
# Older versions' safe loading could be made to run code.
OLDEST_TORCH = (2, 10)


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a weight file, named and laid out as the file has them, in float32.

    Args:
      path: `.safetensors`; a PyTorch state dictionary, `.pt`, `.pth`, `.pth.tar` or `.bin`, which
        needs torch; or `.caffemodel`, whose blobs are called "layer.weight" and "layer.bias".

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
    """What a file says it is, if this library wrote it; None for every other file."""
    import safetensors

    if not Path(path).name.endswith(".safetensors") or not Path(path).is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return None  # `read` says what is wrong with it.
    return metadata if metadata.get("format") == FORMAT else None


def _float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    # num_batches_tracked and the like: whole numbers are no weights, the name map decides.
    if array.dtype.kind in "iu":
        return array
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"{path}: expected floats in {name!r}, found {array.dtype}.")
    with np.errstate(over="ignore"):  # Too large a float64 is an infinity, and refused.
        array = array.astype(np.float32)
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


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise _damaged(path, "a safetensors file", error) from error


def _read_caffe(path: Path) -> dict[str, np.ndarray]:
    try:
        return caffe.read(path.read_bytes())
    except caffe.WireError as error:
        raise _damaged(path, "a binary Caffe network", error) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
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
        found = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict"):
            if isinstance(found.get(key), dict):
                found = found[key]
        # A net that was trained on several devices has every name below "module.".
        return {str(name).removeprefix("module."): _array(value) for name, value in found.items()}
    except Exception as error:  # A damaged file fails in torch, zipfile or pickle, in many ways.
        kind = "a PyTorch state dictionary of tensors alone"
        raise _damaged(path, kind, _in_own_words(error)) from error


def _in_own_words(error: Exception) -> Exception:
    """What a refusal of torch means; its own text advises to load the file unsafely."""
    import pickle

    if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
        return error
    return ValueError("it contains other objects than tensors, which are never loaded")


def _array(tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


READERS = {
    ".safetensors": _read_safetensors,
    ".caffemodel": _read_caffe,
    **dict.fromkeys((".pt", ".pth", ".pth.tar", ".bin"), _read_torch),
}
