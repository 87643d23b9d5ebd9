"""Checks that one operator of an ONNX graph computes what a layer of our network does."""

from typing import Any, NamedTuple

import numpy as np

from hyperface.models.norm import EPSILON
from hyperface.weights.layers import Layer
from hyperface.weights.onnx import Node

MapShape = tuple[int, int, int]
"""Channels, height and width of a map. A vector of channels counts as a map of 1 x 1."""


class Wrong(ValueError):
    """The error that an operator of an ONNX graph does not compute the expected layer."""


def expect(fits: bool, node: Node, expected: str, found: Any) -> None:
    """Raises an error if an operator of an ONNX graph does not compute the expected layer.

    Args:
      fits: whether the operator computes the expected layer; the caller has checked it.
      node: the operator, which the message names.
      expected: the expected setting, for the message.
      found: the setting that the operator has, for the message.

    Raises:
      Wrong: `fits` is False.
    """
    if not fits:
        raise Wrong(f"expected {expected} in {node.label}, found {str(found)[:80]}")


class Norm(NamedTuple):
    """A batch normalisation after training: four float64 arrays [channels], and epsilon.

    It maps a value x to scale (x - mean) / sqrt(variance + epsilon) + bias, per channel.
    """

    scale: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    def as_affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (factor, term), [channels] each: it maps a value x to factor x + term."""
        # A negative variance gives NaN, which is reported when the array is collected.
        with np.errstate(all="ignore"):
            factor = self.scale / np.sqrt(self.variance + self.epsilon)
            return factor, self.bias - self.mean * factor


def norm(node: Node, parts: list[np.ndarray], channels: int) -> Norm:
    """Returns the batch normalisation that an operator of an ONNX graph computes.

    Args:
      node: the operator, a BatchNormalization.
      parts: its scale, bias, mean and variance, [channels] each.
      channels: number of channels of its input.

    Raises:
      Wrong: the operator uses the statistics of the batch instead of `mean` and `variance`, does
        not normalise per channel, or has arrays of other shapes.
    """
    for attribute, value in (("training_mode", 0), ("spatial", 1)):
        found = node.attributes.get(attribute, value)
        expect(found == value, node, f"{attribute} {value}", found)
    shapes = {part.shape for part in parts}
    expect(shapes == {(channels,)}, node, f"arrays of {channels} numbers", sorted(shapes))
    epsilon = node.attributes.get("epsilon", 1e-5)
    expect(isinstance(epsilon, float), node, "a number epsilon", epsilon)
    # A file stores 1e-5 rounded to float32; without this each variance would change a little.
    epsilon = EPSILON if np.float32(epsilon) == np.float32(EPSILON) else epsilon
    # In float64, so that folding multiplies first and rounds to float32 only once.
    scale, bias, mean, variance = (part.astype(np.float64) for part in parts)
    return Norm(scale, bias, mean, variance, epsilon)


def convolved(layer: Layer, node: Node, weight: np.ndarray, shape: MapShape) -> MapShape:
    """Checks a convolution of an ONNX graph, and returns the shape of the map that it computes.

    Args:
      layer: the layer of this library's network that the operator must compute.
      node: the operator.
      weight: its weight, [out, in / groups, height, width].
      shape: (channels, height, width) of its input.

    Returns:
      (channels, height, width) of its output.

    Raises:
      Wrong: kernel, stride, padding or groups differ from those of the layer.
    """
    channels, height, width = shape
    whole = layer.kind == "map"
    kernel = [height, width] if whole else [layer.kernel] * 2
    wanted = [channels // layer.groups, *kernel]
    found = list(weight.shape[1:])
    expect(weight.ndim == 4 and found == wanted, node, f"weights of {wanted}", found)
    _check_window(node, kernel, layer.stride, 0 if whole else layer.kernel // 2, layer.groups)
    if whole:
        return len(weight), 1, 1
    stride = layer.stride
    return len(weight), (height - 1) // stride + 1, (width - 1) // stride + 1


def linear_weight(node: Node, weight: np.ndarray, shape: MapShape) -> np.ndarray:
    """Returns the weight [outputs, inputs] of an operator that computes a linear layer.

    Args:
      node: a Gemm, a MatMul, or a convolution of 1 x 1 over a map of 1 x 1.
      weight: its weight, with the axes in the operator's own order.
      shape: (channels, height, width) of its input.

    Raises:
      Wrong: the operator computes something else than a linear layer, or the number of its inputs
        is not channels * height * width.
    """
    inputs = int(np.prod(shape))
    if node.op == "Conv":
        single = weight.ndim == 4 and weight.shape[2:] == shape[1:] == (1, 1)
        expect(single, node, "a map and a kernel of 1 x 1", (*shape[1:], *weight.shape[2:]))
        _check_window(node, [1, 1], stride=1, padding=0, groups=1)
        weight = weight.reshape(weight.shape[:2])
    elif node.op == "Gemm":
        for attribute, value in {"alpha": 1.0, "beta": 1.0, "transA": 0}.items():
            found = node.attributes.get(attribute, value)
            expect(found == value, node, f"{attribute} {value}", found)
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0)):
        weight = weight.T
    fits = weight.ndim == 2 and weight.shape[1] == inputs
    expect(fits, node, f"{inputs} inputs", list(weight.shape[1:]))
    return weight


def slopes(node: Node, slope: np.ndarray, channels: int) -> np.ndarray:
    """Returns the slopes of a PReLU operator of an ONNX graph, [channels].

    Args:
      node: the operator, which the message of an error names.
      slope: its slopes as the file has them, [channels, 1, 1] or [1, channels, 1, 1].
      channels: number of channels of its input.

    Raises:
      Wrong: `slope` has another shape. A shape [channels] is wrong too: in ONNX it would mean one
        slope per column of the map.
    """
    wanted = (channels, 1, 1)
    fits = slope.size == channels and slope.shape[-3:] == wanted
    expect(fits, node, f"slopes {list(wanted)}", list(slope.shape))
    return slope.reshape(-1)


def _check_window(node: Node, kernel: list[int], stride: int, padding: int, groups: int) -> None:
    """Raises Wrong unless a convolution has this kernel, stride, padding and number of groups."""
    # An operator may leave out attributes with usual values: ONNX's defaults.
    usual = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0] * 4, "group": 1}
    usual["dilations"] = [1, 1]
    wanted = usual | {"strides": [stride] * 2, "pads": [padding] * 4, "group": groups}
    for name, value in wanted.items():
        found = node.attributes.get(name, usual[name])
        expect(found == value, node, f"{name} {value}", found)
    # Any other value means that the operator computes its padding and ignores `pads`.
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    expect(automatic == b"NOTSET", node, "padding in numbers", automatic)
