"""Detects the network of a weight file by its array names, operators and shapes."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from hyperface import models
from hyperface.errors import InputError
from hyperface.files import digest
from hyperface.weights.contents import Contents, named, read_contents, some
from hyperface.weights.files import own_format
from hyperface.weights.load import CONSTANTS, Report, fill
from hyperface.weights.maps import NameMap
from hyperface.weights.runs import SavedBackbone, read_run


def read_backbone(path: Path, step: int | None = None) -> SavedBackbone:
    """Returns the backbone of a run, or that of a weight file whose network it detects.

    Args:
      path: the folder of a run, or a file (safetensors, ONNX, PyTorch or `.caffemodel`).
      step: step of the run's checkpoint; None takes the newest undamaged one. It must be None for a
        file.

    Raises:
      InputError: there is no such run or file, it is damaged, it fits none of our networks, or a
        step is given for a file.
    """
    path = Path(path)
    if path.is_dir():
        return read_run(path, step)
    if step is not None:
        raise InputError(
            f"{path}: expected no step for a weight file, which has no checkpoints, found {step}."
        )
    contents = read_contents(path)
    found = _own(contents, contents.model) if contents.model else _released(contents)
    arrays = cast(
        dict[str, np.ndarray],
        traverse_util.flatten_dict(jax.tree.map(np.asarray, found.variables), sep="/"),
    )
    return SavedBackbone(
        arrays=arrays,
        model=found.report.model,
        feature_dim=found.feature_dim,
        image_shape=found.image_shape,
        init_from=f"{path.name} ({digest(path)})",
        trained_on=None if contents.model else str(found.report.trained_on),
    )


class _Found(NamedTuple):
    """A network that fits a weight file, filled with its weights."""

    variables: Any
    """The variables of the network, as `load.fill` returns them."""
    report: Report
    feature_dim: int
    image_shape: tuple[int, int, int]
    """[height, width, channels] of the images."""


def _own(contents: Contents, model: str) -> _Found:
    """Fills the network of a safetensors file that this library wrote; the file names it."""
    stated = own_format(contents.path) or {}
    try:
        dim = int(stated["feature_dim"])
        height, width, channels = map(int, stated["image_shape"].split(" x "))
    except (KeyError, ValueError):
        raise InputError(
            f"{contents.path}: expected an export of this version, with its feature_dim and "
            "image_shape, found another. Export the run again by hyperface export."
        ) from None
    shape = height, width, channels
    fresh = _fresh(model, dim, shape)
    return _Found(*fill(contents, model, fresh), dim, shape)


def _released(contents: Contents) -> _Found:
    """Fills the first of our networks whose names and shapes fit a file of another program."""
    # If no network fits, the error of the nearest one is raised: that of the network whose names
    # all fit, or else the one with the most layers found in an ONNX graph.
    nearest, depth = None, -1
    for name, entry in models.BACKBONES.items():
        try:
            arrays, names = named(contents, name, ())
        except InputError as error:
            found = getattr(error.__cause__, "found", -1)
            if found > depth:
                nearest, depth = error, found
            continue
        # Networks of one family share many names, so only one whose names are all there is tried.
        if not all(e.source in arrays for e in names.entries if e.kind not in CONSTANTS):
            continue
        shape = names.image_shape or entry.image_shape
        for dim in _feature_dims(arrays, names, entry.feature_dim):
            try:
                fresh = _fresh(name, dim, shape)
                return _Found(*fill(contents, name, fresh, image_shape=shape), dim, shape)
            except InputError as error:
                # More than any number of layers: no ONNX mismatch may replace this error.
                nearest, depth = error, 2**31
    if nearest is not None:
        raise nearest
    raise InputError(
        f"{contents.path}: expected weights by the names of a known network "
        f"({', '.join(models.BACKBONES)}), found {some(sorted(contents.arrays))}."
    )


def _feature_dims(arrays: dict[str, np.ndarray], names: NameMap, usual: int) -> list[int]:
    """Returns the feature sizes to try: the network's usual one, and that of the file.

    The file's feature size is the length of the first axis of the last layer's weight, since files
    of other programs store weights as [out, in].
    """
    (last,) = (e.source for e in names.entries if e.target == "params/feature/kernel")
    return list(dict.fromkeys([usual, len(arrays[last])] if arrays[last].ndim else [usual]))


def _fresh(model: str, feature_dim: int, image_shape: tuple[int, int, int]) -> Any:
    """Returns the shapes and dtypes of a network's variables; nothing is computed.

    Args:
      model: name of the network.
      feature_dim: size of the feature.
      image_shape: (height, width, channels) of the images.
    """
    network = models.create(model, feature_dim)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), images)
