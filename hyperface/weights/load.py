"""Weights of a file or a run into a fresh backbone: all of them, or none and the reason."""

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
"""Kinds of arrays that have no parameter of ours, and what all their numbers must be."""


@dataclass(frozen=True)
class Report:
    """What became of a file's arrays and of the backbone's parameters."""

    path: Path
    model: str
    layout: str
    """Whose names the file has."""
    loaded: tuple[str, ...]
    """Parameters that now hold the file's numbers."""
    fresh: tuple[str, ...]
    """Parameters left as they were, because the caller said so."""
    ignored: tuple[str, ...]
    """Arrays of the file that the backbone has no use for: the classifier, frozen zero biases."""
    trained_on: Pixels
    """The pixels that the file's net was trained on."""
    pixels: Pixels
    """The pixels that the loaded net takes."""

    @property
    def exact(self) -> bool:
        """Whether the loaded net's features are the released one's.

        They are not where the first convolution is padded and the pixels' zero was moved: a padded
        zero then stands for another brightness, along the image's edge.
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
    """Fills a fresh backbone from a weight file or from a run of this library.

    Nothing is taken partly: every parameter must be in the file with its shape, and everything in
    the file must be known. Order and scale of the pixels are put into the first convolution, so
    that the net takes this library's images.

    Args:
      path: a file that `read` reads, or a run's folder (its newest whole checkpoint). An `.onnx`
        file is read where the network has a list of its layers (`weights.layers`).
      model_name: the network, a name of `models.BACKBONES`.
      params: its fresh parameters; or {"params": ..., "batch_stats": ...} for a network with
        batch statistics. Only shapes and dtypes matter, except of what stays fresh.
      image_shape: [height, width, channels] of the images of the file's net, if they are not of
        the paper's size; the rows of the feature layer are ordered by it.
      pixels: what the loaded net shall take; this library's own by default.
      trained_on: what the file's net was trained on, if not what the released one was.
      fresh: beginnings of our parameter paths that keep their fresh numbers, ("feature",) say.

    Returns:
      The tree of `params` with the file's numbers, and what was done.

    Raises:
      InputError: the file is damaged, of another network or layout; nothing was loaded.
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
    """Does what `load_backbone` does, for a file that was read before."""
    path = contents.path
    variables = params if "params" in params else {"params": params}
    # Arrays, or their shapes and dtypes; Flax says that there may be dicts.
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
    # A collection without arrays has no path.
    nested = {name: {} for name in variables} | traverse_util.unflatten_dict(filled, sep="/")
    return (nested if variables is params else nested["params"]), report


def flattened_shape(model_name: str, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns rows, columns and channels of the map that a backbone's feature layer flattens.

    Raises:
      InputError: images of that shape do not fit the model.
    """
    model = models.create(model_name)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
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
    """The first convolution's arrays, in the file's layout, for other pixels than trained on."""
    trained_on = names.pixels
    source = next((e.source for e in names.entries if e.kind == "first conv"), None)
    if source is None and pixels != trained_on:
        raise InputError(f"{path}: expected pixels {trained_on}, as trained on, found {pixels}.")
    if source is None or source not in arrays or arrays[source].ndim != 4:
        return {}
    kernel, bias = arrays[source], source.removesuffix("weight") + "bias"
    # trained-on pixel = gain * taken pixel + offset
    gain = np.float32(pixels.spread / trained_on.spread)
    offset = np.float32((pixels.center - trained_on.center) / trained_on.spread)
    # Another centre of the pixels adds a constant, which only a bias can take up.
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
            # The other order of the channels is the same sum over a kernel in that order.
            kernel = kernel[:, ::-1]
        changed[source] = kernel * gain
    if not all(np.isfinite(array).all() for array in changed.values()):
        raise InputError(f"{path}: expected weights, found numbers near float32's largest.")
    return changed


class _Misfit(ValueError):
    """Why an array cannot become a parameter."""


def _converted(
    array: np.ndarray, entry: Entry, like: Any, rows: tuple[int, int, int] | None
) -> np.ndarray:
    """Returns the array in our layout."""
    if array.dtype != np.float32 or not jnp.issubdtype(like.dtype, jnp.floating):
        raise _Misfit(f"expected floats for {like.dtype}, found {array.dtype}")
    found, ndim = array.shape, len(like.shape)
    # Caffe's oldest files give every array four sides; a shared slope has one, or none.
    while array.ndim > ndim and array.shape[0] == 1:
        array = array[0]
    array = array.reshape(1) if array.ndim == 0 and ndim == 1 else array
    if array.ndim == ndim:
        # Files have [out, in, height, width], and Flax has [height, width, in, out].
        if entry.kind in ("conv", "first conv"):
            array = array.transpose(2, 3, 1, 0)
        elif entry.kind == "flat dense":
            assert rows is not None  # `fill` knows them where an entry is of this kind.
            array = _rows_first(array, rows)
        elif entry.kind == "dense":
            array = array.T
    if array.shape != like.shape:
        raise _Misfit(f"expected what becomes {list(like.shape)}, found {list(found)}")
    return array


def _rows_first(array: np.ndarray, rows: tuple[int, int, int]) -> np.ndarray:
    """[out, channels rows columns] to [rows columns channels, out]."""
    height, width, channels = rows
    if array.shape[1] != height * width * channels:
        raise _Misfit(
            f"expected a last map of {height} x {width} x {channels}, found {array.shape[1]} "
            "inputs: give the image_shape of the file's net"
        )
    # The file's net flattened channels first, and ours flattens them last.
    array = array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    return array.reshape(-1, array.shape[-1])


def _check_constant(array: np.ndarray | None, kind: str) -> None:
    if array is not None and np.any(array != CONSTANTS[kind]):
        worst = array.flat[np.argmax(np.abs(array - CONSTANTS[kind]))]
        raise _Misfit(f"expected {kind} in all places, as the released nets have, found {worst:g}")


def _starts(name: str, beginnings: Sequence[str]) -> bool:
    ours = name.partition("/")[2]
    return any(ours == start or ours.startswith(f"{start}/") for start in beginnings)
