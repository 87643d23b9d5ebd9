"""Finds the layers of a network in the graph of an ONNX file, and collects their arrays.

Exporters choose the names in the file freely, so a layer is found by the value that it reads. Every
operator of the graph must belong to a layer of the network, with the same stride, padding and
groups, so that both compute the same features.
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
"""Operators whose output equals their input. Dropout does nothing outside of training."""
FLATTENS = ("Flatten", "Reshape")
SHAPES = ("Constant", "Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast")
"""Operators that compute the shape of a Reshape."""


class Mismatch(ValueError):
    """The error that an ONNX graph is not the expected network. Its text is the reason.

    Attributes:
      found: number of layers that were found before the first layer that differs. If a graph is
        compared with several networks and fits none, the network with the largest number is the
        most similar.
    """

    def __init__(self, reason: str, found: int) -> None:
        super().__init__(reason)
        self.found = found


def match(graph: Graph, model: nn.Module) -> tuple[dict[str, np.ndarray], list[Entry]]:
    """Finds the weights of a network in the graph of an ONNX file.

    The names in ONNX files have no meaning, so the weights are found by the order and the kinds of
    the operators. A folded network (its name ends in "-folded") is a variant whose batch
    normalisations are merged into the convolutions and linear layers in front of them. If `model`
    is folded and the graph is not, the graph's normalisations are merged here.

    Args:
      graph: the graph of a file.
      model: this library's network, one for which `layers.layers` does not return None.

    Returns:
      (arrays, entries). `arrays` is a dict: name -> float32 array, with PyTorch's order of axes.
      Each is named after the output of its operator, such as "518.weight". `entries` has one item
      per array, which names the parameter that the array becomes.

    Raises:
      Mismatch: the graph is another network, or it is folded and `model` is not.
      WireError: the graph does not take one batch of images of a fixed size.
    """
    search, found, wanted = _Search(graph, model.folded), 0, layers(model)
    assert wanted is not None  # The caller has checked that the network is described.
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
    """Finds a network's layers one by one in a graph, and collects their arrays.

    An operator that was found is removed from `_left`, so that at the end `_left` contains the
    operators that belong to no layer.

    Args:
      graph: the graph of a file.
      folded: whether our network is the folded form.
    """

    def __init__(self, graph: Graph, folded: bool) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.entries: list[Entry] = []
        self._graph, self._folded = graph, folded
        # Output -> input of each operator that only passes its input on, and, for all others,
        # output -> operator. Both are keyed by the output, since exporters may leave out names of
        # operators.
        self._same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if _is_alias(n)}
        self._left = {n.outputs[0]: n for n in graph.nodes if not _is_alias(n)}
        self._readers: dict[str, list[Node]] = {}
        for node in self._left.values():
            for name in dict.fromkeys(map(self._original, node.inputs)):
                self._readers.setdefault(name, []).append(node)
        height, width, channels = graph.image_shape()
        # Name and shape of each value of `Layer`: item 0 is the images, item n the value of layer
        # n.
        self._values = [next(iter(graph.inputs))]
        self._maps = [(channels, height, width)]

    def take(self, layer: Layer) -> None:
        """Finds the next layer in the graph, and collects its arrays.

        Raises:
          Wrong: the graph has no such operator there, or its settings differ.
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
        """Checks that the last layer computes the graph's output, and that no operator is left.

        Raises:
          Wrong: the graph has further operators.
        """
        last = self._flattened(self._values[-1])
        if self._original(self._graph.outputs[0]) != last:
            raise Wrong(f"expected nothing behind {last!r}, found {self._readers_of(last)}")
        left = [node for node in self._left.values() if node.op != "Constant"]
        if left:
            raise Wrong(f"{len(left)} operators belong to no layer, among them {left[0].label}")

    def _linear(self, layer: Layer, name: str, shape: MapShape) -> tuple[Node, MapShape]:
        """Finds a convolution or a linear layer with the batch normalisation behind it.

        Returns:
          The last operator of the two, and the shape of the map that it computes.
        """
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
                    f"expected batch normalisation behind {node.label}, found none: the file has "
                    "the folded form of the network, whose name ends in -folded"
                )
            if not layer.bias:
                # Ours has no bias here. Adding a bias in front of batch normalisation equals
                # subtracting it from the running mean.
                norm = norm._replace(mean=norm.mean - bias)
            self._keep_norm(behind, norm, layer.norm, scaled=layer.scaled)
        elif norm is not None:
            factor, term = norm.as_affine()
            # Merging multiplies each output channel, which is the weight's first axis.
            weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = bias * factor + term
        if self._folded or layer.bias:
            self._keep(node, "bias", bias, f"{path}/bias")
        self._keep(node, "weight", weight, f"{path}/kernel", _kind(layer))
        return behind or node, shape

    def _dense(self, name: str) -> Node:
        """Finds a linear layer, behind the Flatten or Reshape that precedes it.

        Exporters write it as Gemm, as MatMul, or as a convolution of 1 x 1.
        """
        name = self._flattened(name)
        for op in ("Gemm", "MatMul", "Conv"):
            node = self._behind(name, op)
            if node is not None:
                return node
        raise Wrong(f"expected a linear layer behind {name!r}, found {self._readers_of(name)}")

    def _flattened(self, name: str) -> str:
        """Returns the value behind a Flatten or Reshape, or the value itself if there is none.

        Both operators keep the order of the elements.
        """
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
        """Removes the operators that compute the shape for a Reshape."""
        waiting = [name]
        while waiting:
            node = self._left.get(waiting.pop())
            if node is not None and node.op in SHAPES:
                del self._left[node.outputs[0]]
                waiting += map(self._original, node.inputs)

    def _norm(self, node: Node, channels: int) -> Norm:
        return operators.norm(node, [self._array(node, index) for index in range(1, 5)], channels)

    def _keep_norm(self, node: Node, norm: Norm, ours: str, *, scaled: bool = True) -> None:
        """Collects the arrays of a batch normalisation.

        The folded form has only a factor and a term; otherwise, mean and variance are collected
        too.

        Args:
          node: the operator.
          norm: what it computes.
          ours: path of the layer in our network.
          scaled: whether our layer has a learned scale; if not, the file's scale must be 1.
        """
        scale, bias = norm.as_affine() if self._folded else (norm.scale, norm.bias)
        self._keep(node, "weight", scale, f"params/{ours}/scale", "vector" if scaled else "one")
        self._keep(node, "bias", bias, f"params/{ours}/bias")
        if not self._folded:
            # Our layer always adds EPSILON, so a file's other epsilon is put into the variance.
            variance = norm.variance + (norm.epsilon - EPSILON)
            self._keep(node, "running_mean", norm.mean, f"batch_stats/{ours}/mean")
            self._keep(node, "running_var", variance, f"batch_stats/{ours}/variance")

    def _keep(
        self, node: Node, role: str, array: np.ndarray, path: str, kind: Kind = "vector"
    ) -> None:
        """Collects one array in float32, and the entry that maps it to our parameter.

        Args:
          node: the operator that the array belongs to.
          role: last part of the array's name, such as "weight".
          array: the array.
          path: path of our parameter.
          kind: how the array's layout changes.

        Raises:
          Wrong: a value is not finite in float32.
        """
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise Wrong(f"expected finite weights of {node.label}, found others in its {role}")
        source = f"{node.outputs[0]}.{role}"
        self.arrays[source] = array
        self.entries.append(Entry(source, path, kind))

    def _array(self, node: Node, index: int) -> np.ndarray:
        """Returns the array that is an input of an operator; Wrong if it is no array of floats."""
        name = self._original(node.inputs[index]) if index < len(node.inputs) else ""
        array = self._graph.arrays.get(name)
        if array is None or array.dtype.kind != "f":
            raise Wrong(f"expected weights as input {index} of {node.label}, found {name!r}")
        return array

    def _next(self, op: str, name: str, fits: Callable[[Node], bool] = _any) -> Node:
        """Finds and removes the operator of a kind that reads a value.

        Args:
          op: the kind, such as "Conv".
          name: name of the value.
          fits: a further condition on the operator.

        Raises:
          Wrong: no such operator reads the value.
        """
        node = self._behind(name, op, fits)
        if node is None:
            raise Wrong(f"expected {op} behind {name!r}, found {self._readers_of(name)}")
        return node

    def _behind(self, name: str, op: str, fits: Callable[[Node], bool] = _any) -> Node | None:
        """Finds and removes the operator of a kind that reads a value; None if there is none.

        The arguments are those of `_next`.
        """
        for node in self._readers.get(name, ()):
            # The value must be the operator's data and not its weights. The order of the two
            # inputs of a sum is free.
            reads = self._original(node.inputs[0]) == name or op == "Add"
            if reads and node.op == op and node.outputs[0] in self._left and fits(node):
                return self._left.pop(node.outputs[0])
        return None

    def _readers_of(self, name: str) -> str:
        left = [n.op for n in self._readers.get(name, ()) if n.outputs[0] in self._left]
        return " and ".join(left[:4]) or "nothing"

    def _original(self, name: str) -> str:
        """Returns the value that a value is a copy of, behind Identity and Dropout."""
        while name in self._same:
            name = self._same[name]
        return name


def _kind(layer: Layer) -> Kind:
    """Returns the kind of map entry that turns a layer's weight into our kernel."""
    if layer.kind != "dense":
        return "first conv" if layer.inputs == (IMAGES,) else "conv"
    return "flat dense" if layer.flat else "dense"


def _is_alias(node: Node) -> bool:
    return node.op in ALIASES and 1 <= len(node.inputs) <= 2
