"""The layers of a network found in the graph of an ONNX file, with their arrays.

Names of a file mean nothing here: a layer is found by what it reads. Every operator of the graph
must be one of the network, with its stride, padding and groups, so that the features are the same.
"""

from collections.abc import Callable

import numpy as np
from flax import linen as nn

from hyperface.models.norm import EPSILON
from hyperface.weights import operators
from hyperface.weights.layers import IMAGES, Layer, layers
from hyperface.weights.maps import Entry, Kind
from hyperface.weights.onnx import Graph, Node
from hyperface.weights.operators import (
    MapShape,
    Norm,
    Wrong,
    convolved,
    expect,
    linear_weight,
    slopes,
)

ALIASES = ("Identity", "Dropout")
"""Operators whose result is their input; Dropout is one where nothing is trained."""
FLATTENS = ("Flatten", "Reshape")
SHAPES = ("Constant", "Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast")
"""Operators that compute the shape of a Reshape."""


class Mismatch(ValueError):
    """The error of a graph that is not the network in question; its text is the reason.

    Attributes:
      found: number of the network's layers that were found before the first one that differs.
    """

    def __init__(self, reason: str, found: int) -> None:
        super().__init__(reason)
        self.found = found


def match(graph: Graph, model: nn.Module) -> tuple[dict[str, np.ndarray], list[Entry]]:
    """Returns the arrays of a network, and which parameter of ours each is.

    Batch normalisation is folded where the network of ours is. Arrays are laid out as PyTorch has
    them. They are called by the value that their operator makes: "518.weight".

    Args:
      graph: of a file.
      model: the network.

    Raises:
      Mismatch: the graph is another network, or another form of it.
    """
    search, found, wanted = _Search(graph, model.folded), 0, layers(model)
    assert wanted is not None  # Others are refused before their graph is searched.
    try:
        for layer in wanted:
            search.take(layer)
            found += 1
        search.finish()
    except Wrong as wrong:
        raise Mismatch(str(wrong), found) from None
    return search.arrays, search.entries


def _any(node: Node) -> bool:
    return True


class _Search:
    """Walks a graph along the layers of a network."""

    def __init__(self, graph: Graph, folded: bool) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.entries: list[Entry] = []
        self._graph, self._folded = graph, folded
        self._same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if _is_alias(n)}
        self._left = {n.outputs[0]: n for n in graph.nodes if not _is_alias(n)}
        self._readers: dict[str, list[Node]] = {}
        for node in self._left.values():
            for name in dict.fromkeys(map(self._original, node.inputs)):
                self._readers.setdefault(name, []).append(node)
        height, width, channels = graph.image_shape()
        self._values = [next(iter(graph.inputs))]
        self._maps = [(channels, height, width)]

    def take(self, layer: Layer) -> None:
        """Finds a layer, and keeps its arrays.

        Raises:
          Wrong: there is none, or it is another one.
        """
        name, shape = self._values[layer.inputs[0]], self._maps[layer.inputs[0]]
        if layer.kind == "add":
            wanted = {self._values[number] for number in layer.inputs}
            node = self._next("Add", name, lambda n: {*map(self._original, n.inputs)} == wanted)
            shapes = {self._maps[number] for number in layer.inputs}
            expect(len(shapes) == 1, node, "maps of one shape", shapes)
        elif layer.kind == "norm":
            node = self._next("BatchNormalization", name)
            self._keep_norm(node, self._norm(node, shape[0]), layer.ours)
        elif layer.kind == "prelu":
            node = self._next("PRelu", name)
            slope = slopes(node, self._array(node, 1), shape[0])
            self._keep(node, "slope", slope, f"params/{layer.ours}/slope")
        else:
            node, shape = self._linear(layer, name, shape)
        self._values.append(node.outputs[0])
        self._maps.append(shape)

    def finish(self) -> None:
        """Checks that nothing follows the last layer, and that no operator is left.

        Raises:
          Wrong: there is something.
        """
        last = self._flattened(self._values[-1])
        if self._original(self._graph.outputs[0]) != last:
            raise Wrong(f"expected nothing behind {last!r}, found {self._readers_of(last)}")
        left = [node for node in self._left.values() if node.op != "Constant"]
        if left:
            raise Wrong(f"{len(left)} operators belong to no layer, among them {left[0].label}")

    def _linear(self, layer: Layer, name: str, shape: MapShape) -> tuple[Node, MapShape]:
        """Returns a convolution or a linear layer with the batch normalisation behind it."""
        if layer.kind == "dense":
            node = self._dense(name)
            weight = linear_weight(node, self._array(node, 1), shape)
            shape = len(weight), 1, 1
        else:
            node = self._next("Conv", name)
            weight = self._array(node, 1)
            shape = convolved(layer, node, weight, shape)
        bias = self._array(node, 2).reshape(-1) if len(node.inputs) > 2 else np.zeros(shape[0])
        expect(len(bias) == shape[0], node, f"{shape[0]} biases", len(bias))
        behind = self._behind(node.outputs[0], "BatchNormalization")
        norm = None if behind is None else self._norm(behind, shape[0])
        path = f"params/{layer.ours}"
        if not self._folded:
            if behind is None or norm is None:
                raise Wrong(
                    f"expected batch normalisation behind {node.label}, found it folded: take the "
                    "folded form of the model"
                )
            if not layer.bias:
                # Batch normalisation takes away any term that was added in front of it.
                norm = norm._replace(mean=norm.mean - bias)
            self._keep_norm(behind, norm, layer.norm, scaled=layer.scaled)
        elif norm is not None:
            factor, term = norm.as_affine()
            # The norm becomes a part of the convolution, whose outputs are the first axis.
            weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = bias * factor + term
        if self._folded or layer.bias:
            self._keep(node, "bias", bias, f"{path}/bias")
        self._keep(node, "weight", weight, f"{path}/kernel", _kind(layer))
        return behind or node, shape

    def _dense(self, name: str) -> Node:
        """A linear layer in one of its forms, behind the operator that makes rows of a map."""
        name = self._flattened(name)
        for op in ("Gemm", "MatMul", "Conv"):
            node = self._behind(name, op)
            if node is not None:
                return node
        raise Wrong(f"expected a linear layer behind {name!r}, found {self._readers_of(name)}")

    def _flattened(self, name: str) -> str:
        """Returns the value behind a Flatten or Reshape. Either keeps the order of numbers."""
        node = next((found for op in FLATTENS if (found := self._behind(name, op))), None)
        if node is None:
            return name
        if node.op == "Flatten":
            axis = node.attributes.get("axis", 1)
            expect(axis == 1, node, "axis 1", axis)
        for read in node.inputs[1:]:
            self._drop_shape(self._original(read))
        return node.outputs[0]

    def _drop_shape(self, name: str) -> None:
        """Steps over the operators that compute a shape."""
        waiting = [name]
        while waiting:
            node = self._left.get(waiting.pop())
            if node is not None and node.op in SHAPES:
                del self._left[node.outputs[0]]
                waiting += map(self._original, node.inputs)

    def _norm(self, node: Node, channels: int) -> Norm:
        return operators.norm(node, [self._array(node, index) for index in range(1, 5)], channels)

    def _keep_norm(self, node: Node, norm: Norm, ours: str, *, scaled: bool = True) -> None:
        """Keeps a batch normalisation as the network has it: with statistics, or as an affine."""
        scale, bias = norm.as_affine() if self._folded else (norm.scale, norm.bias)
        self._keep(node, "weight", scale, f"params/{ours}/scale", "vector" if scaled else "one")
        self._keep(node, "bias", bias, f"params/{ours}/bias")
        if not self._folded:
            variance = norm.variance + (norm.epsilon - EPSILON)
            self._keep(node, "running_mean", norm.mean, f"batch_stats/{ours}/mean")
            self._keep(node, "running_var", variance, f"batch_stats/{ours}/variance")

    def _keep(
        self, node: Node, role: str, array: np.ndarray, path: str, kind: Kind = "vector"
    ) -> None:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise Wrong(f"expected finite weights of {node.label}, found others in its {role}")
        source = f"{node.outputs[0]}.{role}"
        self.arrays[source] = array
        self.entries.append(Entry(source, path, kind))

    def _array(self, node: Node, index: int) -> np.ndarray:
        name = self._original(node.inputs[index]) if index < len(node.inputs) else ""
        array = self._graph.arrays.get(name)
        if array is None or array.dtype.kind != "f":
            raise Wrong(f"expected weights as input {index} of {node.label}, found {name!r}")
        return array

    def _next(self, op: str, name: str, fits: Callable[[Node], bool] = _any) -> Node:
        """Takes the operator that reads a value.

        Raises:
          Wrong: there is none.
        """
        node = self._behind(name, op, fits)
        if node is None:
            raise Wrong(f"expected {op} behind {name!r}, found {self._readers_of(name)}")
        return node

    def _behind(self, name: str, op: str, fits: Callable[[Node], bool] = _any) -> Node | None:
        """Takes the first operator of a kind that reads a value as its data."""
        for node in self._readers.get(name, ()):
            reads = self._original(node.inputs[0]) == name or op == "Add"
            if reads and node.op == op and node.outputs[0] in self._left and fits(node):
                return self._left.pop(node.outputs[0])
        return None

    def _readers_of(self, name: str) -> str:
        left = [n.op for n in self._readers.get(name, ()) if n.outputs[0] in self._left]
        return " and ".join(left[:4]) or "nothing"

    def _original(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name


def _kind(layer: Layer) -> Kind:
    """Returns how the weight of a layer becomes a kernel of ours."""
    if layer.kind != "dense":
        return "first conv" if layer.inputs == (IMAGES,) else "conv"
    return "flat dense" if layer.flat else "dense"


def _is_alias(node: Node) -> bool:
    return node.op in ALIASES and 1 <= len(node.inputs) <= 2
