"""Loads the weights of a file or a run into a fresh backbone: all of them, or none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from hyperface import models
from hyperface.errors import InputError
from hyperface.weights.contents import Contents, named, read_contents, some
from hyperface.weights.maps import OURS, Entry, NameMap, Pixels

CONSTANTS = {"zero": 0.0, "one": 1.0}
"""Kind of an array that our network does not have -> value that all its elements must have."""


@dataclass(frozen=True)
class Report:
    """The result of loading a weight file: which parameters got the file's values, and which of
    the file's arrays were not used."""

    path: Path
    """The file, or the folder of the run."""
    model: str
    """Name of the network."""
    layout: str
    """Which names the arrays of the file have: those that a project and its framework use, such as
    "insightface, PyTorch"."""
    loaded: tuple[str, ...]
    """Paths of the parameters that now have the file's values."""
    fresh: tuple[str, ...]
    """Paths of the parameters that kept their initial values, because the argument `fresh` of the
    loading function names them."""
    ignored: tuple[str, ...]
    """Names of the file's arrays that were not used: those of the classifier, those of parameters
    in `fresh`, and arrays that the backbone does not have, such as biases frozen at zero."""
    trained_on: Pixels
    """Pixel values (centre, spread, channel order) that the file's network was trained on."""
    pixels: Pixels
    """Pixel values that the loaded network takes. If they differ from `trained_on`, the first
    convolution was changed accordingly."""

    @property
    def exact(self) -> bool:
        """Whether the loaded network computes exactly the features of the file's network.

        Both networks scale pixels by (pixel - center) / spread, each with its own numbers. If their
        centers differ (`trained_on.center` and `pixels.center`), the result is False, because the
        features differ slightly. The reason is the padding of images by zeros in the first
        convolution: a zero stands for the center, which is another brightness in each network.
        """
        return self.trained_on.center == self.pixels.center

    def __str__(self) -> str:
        taken = f"takes {self.pixels}" + ("" if self.exact else "; edges of images differ")
        names = {name: getattr(self, name) for name in ("fresh", "ignored")}
        return "\n  ".join(
            [
                f"{self.path}: {self.model}, names of {self.layout}",
                f"trained on {self.trained_on}; {taken}",
                f"loaded {len(self.loaded)}",
                *(f"{k} {len(v)}{': ' * bool(v)}{some(v)}" for k, v in names.items()),
            ]
        )


def load_backbone(
    path: Path,
    model_name: str,
    params: Any,
    *,
    image_shape: tuple[int, int, int] | None = None,
    pixels: Pixels = OURS,
    trained_on: Pixels | None = None,
    fresh: Sequence[str] = (),
) -> tuple[Any, Report]:
    """Fills a new backbone with the weights of a file or of a run of this library.

    Loading is all or nothing. The file must contain every parameter with its shape, and every array
    of the file must be one that the library knows for this network.

    A network expects pixels that are scaled by (pixel - center) / spread, with its own numbers. If
    the file's network was trained with other numbers or another order of channels than `pixels`,
    the weights of the first convolution are changed, so that the loaded network takes `pixels` and
    computes the same features. If the two centers differ, the features differ slightly at the edges
    of images, and `Report.exact` is False.

    Args:
      path: a file (safetensors, ONNX, PyTorch or `.caffemodel`), or the folder of a run, whose
        newest undamaged checkpoint is read. An `.onnx` file can be read for the networks that
        `weights.layers` describes.
      model_name: name of the network in `models.BACKBONES`.
      params: the initial parameters; {"params": ..., "batch_stats": ...} for a network with batch
        statistics. An array that the file replaces may be given as its `jax.ShapeDtypeStruct`.
      image_shape: [height, width, channels] of the images of the file's network; None uses the
        shape in the file or, if it has none, that of the paper. The shape is needed to reorder the
        weights of the feature layer, if that layer reads a flattened map.
      pixels: pixel values (center, spread, order of channels) that the loaded network takes; by
        default those of this library.
      trained_on: pixel values that the file's network was trained on; None uses those that are
        known for the published network.
      fresh: beginnings of paths of parameters that keep their initial values and are not read from
        the file, for example ("feature",).

    Returns:
      (filled, report). `filled` is a tree like `params`, with the file's values. `report` lists the
      parameters that were loaded and the arrays that were not used.

    Raises:
      InputError: the file is damaged, contains another network, has arrays of other names or
        shapes, or its first convolution cannot be adapted to `pixels`. Nothing was loaded.
    """
    contents = read_contents(Path(path))
    return fill(
        contents,
        model_name,
        params,
        image_shape=image_shape,
        pixels=pixels,
        trained_on=trained_on,
        fresh=fresh,
    )


def fill(
    contents: Contents,
    model_name: str,
    params: Any,
    *,
    image_shape: tuple[int, int, int] | None = None,
    pixels: Pixels = OURS,
    trained_on: Pixels | None = None,
    fresh: Sequence[str] = (),
) -> tuple[Any, Report]:
    """Fills a new backbone with the arrays of a file that was read before.

    Loading is all or nothing. If the file's network was trained on other pixel values than
    `pixels`, the weights of the first convolution are changed, so that the loaded network takes
    `pixels`.

    Args:
      contents: the arrays of the file or run, as `read_contents` returns them.
      model_name: name of the network in `models.BACKBONES`.
      params: the initial parameters; {"params": ..., "batch_stats": ...} for a network with batch
        statistics.
      image_shape: [height, width, channels] of the images of the file's network; None uses the
        shape in the file or, if it has none, that of the paper.
      pixels: pixel values (center, spread, order of channels) that the loaded network takes; by
        default those of this library.
      trained_on: pixel values that the file's network was trained on; None uses those that are
        known for the published network.
      fresh: beginnings of paths of parameters that keep their initial values and are not read from
        the file, for example ("feature",).

    Returns:
      (filled, report). `filled` is a tree like `params`, with the file's values. `report` lists the
      parameters that were loaded and the arrays that were not used.

    Raises:
      InputError: the file contains another network, has arrays of other names or shapes, or its
        first convolution cannot be adapted to `pixels`. Nothing was loaded.
    """
    path = contents.path
    variables = params if "params" in params else {"params": params}
    # The leaves are arrays or shape structs, while Flax's annotation allows dictionaries as well.
    wanted: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    kept = tuple(name for name in wanted if _starts(name, fresh))
    arrays, names = named(contents, model_name, list(wanted))
    names = replace(names, pixels=trained_on or names.pixels)
    entries = [entry for entry in names.entries if entry.target not in kept]
    _check_names(path, model_name, names, entries, arrays, set(wanted) - set(kept))
    arrays |= _first_convolution(path, arrays, names, pixels)
    rows = None
    if any(entry.kind == "flat dense" for entry in entries):
        shape = image_shape or names.image_shape or models.BACKBONES[model_name].image_shape
        rows = flattened_shape(model_name, shape)
    filled, wrong = dict(wanted), []
    for entry in entries:
        try:
            if entry.kind in CONSTANTS:
                _check_constant(arrays.get(entry.source), entry.kind)
            else:
                like = wanted[entry.target]
                array = _converted(arrays[entry.source], entry, like, rows)
                filled[entry.target] = jnp.asarray(array, like.dtype)
        except _Misfit as problem:
            wrong.append(f"{entry.source} {problem}")
    if wrong:
        raise InputError(
            f"{path} does not fit the model {model_name!r}: {len(wrong)} arrays differ: "
            f"{some(wrong, '; ')}. Nothing was loaded."
        )
    loaded = {e.target: e.source for e in entries if e.kind not in CONSTANTS}
    report = Report(
        path=path,
        model=model_name,
        layout=names.layout,
        loaded=tuple(loaded),
        fresh=kept,
        ignored=tuple(sorted(set(arrays) - set(loaded.values()))),
        trained_on=names.pixels,
        pixels=replace(pixels, channels="grey") if names.pixels.channels == "grey" else pixels,
    )
    # Flattening drops a collection without arrays, so each collection is put back by its name.
    nested = {name: {} for name in variables} | traverse_util.unflatten_dict(filled, sep="/")
    return (nested if variables is params else nested["params"]), report


def flattened_shape(model_name: str, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the map that a backbone's feature layer flattens.

    Args:
      model_name: name of the network in `models.BACKBONES`.
      image_shape: [height, width, channels] of its images.

    Raises:
      InputError: images of that shape do not fit the network.
    """
    model = models.create(model_name)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    # The map's shape is found by tracing: it is the operand of the only reshape from four axes to
    # two. Nothing is computed.
    traced = jax.make_jaxpr(model.init)(jax.random.key(0), images)
    for equation in traced.eqns:
        if equation.primitive.name == "reshape":
            before, after = equation.invars[0].aval, equation.outvars[0].aval
            if (before.ndim, after.ndim) == (4, 2):
                return before.shape[1:]
    raise AssertionError(f"{model_name} flattens no map")


def _check_names(
    path: Path,
    model_name: str,
    names: NameMap,
    entries: Sequence[Entry],
    arrays: Mapping[str, np.ndarray],
    wanted: set[str],
) -> None:
    """Raises InputError unless the file, the name map and the network have the same parameters.

    Args:
      path: the file, for the message.
      model_name: name of the network, for the message.
      names: the name map of the file.
      entries: the entries of the map whose parameters are loaded.
      arrays: the arrays of the file.
      wanted: paths of the parameters that have to be loaded.
    """
    needed = [entry for entry in entries if entry.kind not in CONSTANTS]
    known = {entry.source for entry in names.entries}
    problems = {
        "the file lacks": [entry.source for entry in needed if entry.source not in arrays],
        "the file also has": [
            name for name in arrays if name not in known and not re.fullmatch(names.ignored, name)
        ],
        "the parameters differ in": sorted(wanted ^ {entry.target for entry in needed}),
    }
    if any(problems.values()):
        text = "; ".join(f"{what} {len(n)}: {some(n)}" for what, n in problems.items() if n)
        raise InputError(
            f"{path} is not the model {model_name!r} by the names of {names.layout}: {text}. "
            "Nothing was loaded."
        )


def _first_convolution(
    path: Path, arrays: Mapping[str, np.ndarray], names: NameMap, pixels: Pixels
) -> dict[str, np.ndarray]:
    """Returns the arrays of the first convolution, changed for other pixel values.

    With the changed arrays the network computes from `pixels` what it computed from the pixel
    values that it was trained on, except at padded edges.

    Args:
      path: the file, for messages.
      arrays: all arrays of the file.
      names: the name map, with the pixel values that the network was trained on.
      pixels: the pixel values that the loaded network takes.

    Returns:
      Name in the file -> changed array in the file's layout; {} if nothing can be changed.

    Raises:
      InputError: the change is not possible, or overflows float32.
    """
    trained_on = names.pixels
    source = next((e.source for e in names.entries if e.kind == "first conv"), None)
    if source is None and pixels != trained_on:
        raise InputError(f"{path}: expected pixels {trained_on}, as trained on, found {pixels}.")
    if source is None or source not in arrays or arrays[source].ndim != 4:
        return {}
    kernel, bias = arrays[source], source.removesuffix("weight") + "bias"
    # pixel as in training = gain * pixel that the loaded network takes + offset
    gain = np.float32(pixels.spread / trained_on.spread)
    offset = np.float32((pixels.center - trained_on.center) / trained_on.spread)
    # An offset adds a constant to each output channel, which only a bias can contain.
    if offset and bias not in arrays:
        raise InputError(
            f"{path}: expected pixels around {trained_on.center:g}, since its first convolution "
            f"has no bias, found {pixels.center:g}."
        )
    changed = {}
    with np.errstate(over="ignore", invalid="ignore"):
        if offset and arrays[bias].size == len(kernel):
            sums = kernel.sum((1, 2, 3)).reshape(arrays[bias].shape)
            changed[bias] = arrays[bias] + offset * sums
        if kernel.shape[1] == 3 and (trained_on.channels == "bgr") != (pixels.channels == "bgr"):
            # Swapping red and blue in the kernel's input channels equals swapping them in images.
            kernel = kernel[:, ::-1]
        changed[source] = kernel * gain
    if not all(np.isfinite(array).all() for array in changed.values()):
        raise InputError(
            f"{path}: expected usual weights, found some so large that adapting them to other "
            "pixel values overflows float32."
        )
    return changed


class _Misfit(ValueError):
    """The error of an array that cannot become a parameter; its text is the reason."""


def _converted(
    array: np.ndarray, entry: Entry, like: Any, rows: tuple[int, int, int] | None
) -> np.ndarray:
    """Returns an array of the file in the layout of our parameter.

    Args:
      array: the array in the file's layout.
      entry: says how the layout changes.
      like: shape and dtype of the parameter.
      rows: height, width and channels of the flattened map, for a "flat dense" entry.

    Raises:
      _Misfit: shape or dtype do not fit the parameter.
    """
    if array.dtype != np.float32 or not jnp.issubdtype(like.dtype, jnp.floating):
        raise _Misfit(f"expected floats for {like.dtype}, found {array.dtype}")
    found, ndim = array.shape, len(like.shape)
    # The oldest Caffe files give every array four axes. A shared PReLU slope has one axis or none.
    while array.ndim > ndim and array.shape[0] == 1:
        array = array[0]
    array = array.reshape(1) if array.ndim == 0 and ndim == 1 else array
    if array.ndim == ndim:
        # Files contain [out, in, height, width], and Flax expects [height, width, in, out].
        if entry.kind in ("conv", "first conv"):
            array = array.transpose(2, 3, 1, 0)
        elif entry.kind == "flat dense":
            assert rows is not None  # `fill` computes them if any entry has this kind.
            array = _rows_first(array, rows)
        elif entry.kind == "dense":
            array = array.T
    if array.shape != like.shape:
        raise _Misfit(f"expected a shape that becomes {list(like.shape)}, found {list(found)}")
    return array


def _rows_first(array: np.ndarray, rows: tuple[int, int, int]) -> np.ndarray:
    """Reorders a linear layer's weights from channels first to channels last.

    Args:
      array: [out, channels * height * width].
      rows: height, width and channels of the flattened map.

    Returns:
      [height * width * channels, out].
    """
    height, width, channels = rows
    if array.shape[1] != height * width * channels:
        raise _Misfit(
            f"expected a last map of {height} x {width} x {channels}, found {array.shape[1]} "
            "inputs: give the image_shape of the file's network"
        )
    # The file's network flattened [channels, height, width], and ours [height, width, channels].
    array = array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    return array.reshape(-1, array.shape[-1])


def _check_constant(array: np.ndarray | None, kind: str) -> None:
    """Raises _Misfit unless an array is absent (None) or has the value of its kind everywhere."""
    if array is not None and np.any(array != CONSTANTS[kind]):
        worst = array.flat[np.argmax(np.abs(array - CONSTANTS[kind]))]
        raise _Misfit(f"expected {kind} in all elements, as in released networks, found {worst:g}")


def _starts(name: str, beginnings: Sequence[str]) -> bool:
    """Returns whether the path of a parameter starts with one of several paths."""
    # Without the collection, such as "params", which comes first in `name`.
    ours = name.partition("/")[2]
    return any(ours == start or ours.startswith(f"{start}/") for start in beginnings)
