"""Reads a weight file or a run, and finds the name map that fits its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperface import models
from hyperface.errors import InputError
from hyperface.weights.files import own_format, read, read_graph
from hyperface.weights.layers import layers
from hyperface.weights.maps import NameMap, graph_pixels, name_maps, own_map
from hyperface.weights.match import Mismatch, match
from hyperface.weights.onnx import Graph
from hyperface.weights.runs import read_run


@dataclass(frozen=True)
class Contents:
    """The arrays of a weight file or of a run, as they were read."""

    path: Path
    """The file, or the folder of the run."""
    arrays: dict[str, np.ndarray]
    """Name -> array, with the names in the file. In a run or file that this library wrote, the
    names are the paths of parameters, such as "params/conv1/kernel"."""
    model: str | None = None
    """Name of the network if this library wrote the file or run; None for any other file."""
    layout: str = ""
    """Where the arrays come from, as a text for messages: "a run of this library" or "an export of
    this library". Not used if another program wrote the file."""
    graph: Graph | None = None
    """The graph of an ONNX file; None for any other file."""


def read_contents(path: Path) -> Contents:
    """Reads a weight file, or the newest undamaged checkpoint of a run.

    Args:
      path: a file (safetensors, ONNX, PyTorch or `.caffemodel`), or the folder of a run.

    Raises:
      InputError: the file or run is missing or damaged, or has another format.
    """
    if path.is_dir():
        saved = read_run(path)
        return Contents(path, saved.arrays, saved.model, "a run of this library")
    if path.name.lower().endswith(".onnx"):
        graph = read_graph(path)
        return Contents(path, graph.arrays, graph=graph)
    model = (own_format(path) or {}).get("model")
    return Contents(path, read(path), model, "an export of this library")


def named(
    contents: Contents, model_name: str, paths: Sequence[str]
) -> tuple[dict[str, np.ndarray], NameMap]:
    """Finds which parameter of a network each array of a file belongs to.

    Args:
      contents: the arrays of a file or run.
      model_name: name of the network.
      paths: the paths of the network's parameters, such as "params/conv1/kernel". They are used
        only if this library wrote the file, whose arrays then have these names.

    Returns:
      (arrays, name_map). `arrays` is a dict: name -> array, with the names in the file. The arrays
      of an ONNX file get new names, because the programs that write such files choose names freely.
      `name_map` is the `NameMap` from the names in `arrays` to the paths of parameters.

    Raises:
      InputError: the file contains another network, or none of the array names that are known for
        this network.
    """
    path, found = contents.path, contents.model
    if found is not None:
        if found != model_name:
            raise InputError(f"{path}: expected weights of {model_name!r}, found {found!r}.")
        return contents.arrays, own_map(list(paths), contents.layout)
    if contents.graph is not None:
        return _of_graph(path, contents.graph, model_name)
    maps = name_maps(model_name)
    # A network may have several name maps, one per origin. The map with the most names in the
    # file is taken, and `load.fill` then reports the names that this map still lacks.
    known = [sum(entry.source in contents.arrays for entry in names.entries) for names in maps]
    if not any(known):
        layouts = ", or of ".join(names.layout for names in maps) or "this library"
        raise InputError(
            f"{path}: expected weights of {model_name!r} by the names of {layouts}, found "
            f"{some(sorted(contents.arrays))}."
        )
    return contents.arrays, maps[int(np.argmax(known))]


def _of_graph(path: Path, graph: Graph, model_name: str) -> tuple[dict[str, np.ndarray], NameMap]:
    """Returns (arrays, map) as `named` does, for the graph of an ONNX file."""
    model = models.create(model_name)
    if layers(model) is None:
        known = ", ".join(name for name in models.BACKBONES if layers(models.create(name)))
        raise InputError(
            f"{path}: expected a model that ONNX files fit ({known}), found {model_name!r}."
        )
    try:
        arrays, entries = match(graph, model)
    except Mismatch as mismatch:
        raise InputError(
            f"{path} is not the model {model_name!r}: {mismatch}. Nothing was loaded."
        ) from mismatch
    shape = graph.image_shape()
    return arrays, NameMap("an ONNX graph", tuple(entries), graph_pixels(model), image_shape=shape)


def some(names: Sequence[str], separator: str = ", ", most: int = 4) -> str:
    """Returns the first few names as a text for a message.

    Args:
      names: the names.
      separator: text between two names.
      most: number of names that are shown; "..." stands for the others.
    """
    return separator.join(names[:most]) + (f"{separator}..." if len(names) > most else "")
