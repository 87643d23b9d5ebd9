"""Lists the layers of a network in the order of its graph, to find them in an ONNX file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flax import linen as nn

from hyperface import models

IMAGES = 0
"""Number of the value that the images are. Layers compute the values 1, 2 and so on."""


LayerKind = Literal["conv", "map", "dense", "norm", "prelu", "add"]
"""The kinds of layers:

- "conv": a convolution
- "map": a depthwise convolution whose kernel covers the whole feature map
- "dense": a linear layer
- "norm": a batch normalisation that no convolution or linear layer precedes directly
- "prelu": PReLU
- "add": the sum of two values
"""


@dataclass(frozen=True)
class Layer:
    """One layer of a network: what an ONNX file of this network must contain for it.

    A layer reads and computes values, which are numbered: value 0 is the images, and layer n
    computes value n.
    """

    kind: LayerKind
    """"conv", "map" (a depthwise convolution whose kernel covers the whole feature map), "dense"
    (linear), "norm" (batch normalisation that no convolution or linear layer precedes directly),
    "prelu", or "add" (the sum of two values)."""
    inputs: tuple[int, ...]
    """Numbers of the values that the layer reads."""
    ours: str = ""
    """Path of the layer's parameters in this library's network, such as "block1_1/conv1"; "" for a
    layer without parameters."""
    norm: str = ""
    """Path of the batch normalisation that directly follows a convolution or linear layer; "" for
    none. In a folded network (a variant whose batch normalisations are merged into the layers
    before them) it is a part of this layer's weights."""
    scaled: bool = True
    """Whether the batch normalisation in `norm` has a learned scale."""
    bias: bool = False
    """Whether the layer has a bias, although a batch normalisation with a bias follows it."""
    flat: bool = False
    """Whether a linear layer reads a flattened feature map, and not one number per channel."""
    kernel: int = 1
    """Side of the kernel of a convolution."""
    stride: int = 1
    """Stride of a convolution."""
    groups: int = 1
    """Number of groups of a convolution."""


def layers(model: nn.Module) -> list[Layer] | None:
    """Returns the layers of a network in the order of its graph.

    The list describes what an ONNX file of the network must contain. The result is None if this
    library cannot read the network from ONNX files.
    """
    describe = _LAYERS.get(type(model))
    if describe is None:
        return None
    found = _Layers()
    describe(model, found)
    return found.listed


class _Layers:
    """Collects the layers of a network, in the order in which they are added."""

    def __init__(self) -> None:
        self.listed: list[Layer] = []

    def add(self, kind: LayerKind, *inputs: int, ours: str = "", **settings: Any) -> int:
        """Adds a layer, and returns the number of the value that it computes.

        Args:
          kind: the kind of the layer.
          *inputs: numbers of the values that it reads.
          ours: path of its parameters in our network.
          **settings: other fields of `Layer`.
        """
        self.listed.append(Layer(kind, inputs, ours, **settings))
        return len(self.listed)


def _mobilefacenet(model: models.MobileFaceNet, net: _Layers) -> None:
    def conv(
        x: int, ours: str, *, prelu: bool = True, kind: LayerKind = "conv", **settings: Any
    ) -> int:
        x = net.add(kind, x, ours=ours, norm=f"{ours}/norm", **settings)
        return net.add("prelu", x, ours=f"{ours}/prelu") if prelu else x

    x = conv(IMAGES, "conv1", kernel=3, stride=2)
    x = conv(x, "conv2", kernel=3, groups=model.stem_groups or model.stem)
    for number, (_, first_expansion, expansion, blocks) in enumerate(model.stages, 1):
        for block in range(1, blocks + 1):
            ours, first = f"block{number}_{block}", block == 1
            # The first block of a stage has stride 2 and no shortcut, as in `models.MobileFaceNet`.
            inside = first_expansion if first else expansion
            before = x
            x = conv(before, f"{ours}/expand")
            x = conv(x, f"{ours}/depthwise", kernel=3, stride=1 + first, groups=inside)
            x = conv(x, f"{ours}/project", prelu=False)
            x = x if first else net.add("add", before, x)
    x = conv(x, "conv3")
    x = conv(x, "global", kind="map", groups=model.last, prelu=False)
    conv(x, "feature", kind="dense", prelu=False)


def _iresnet(model: models.IResNet, net: _Layers) -> None:
    x = net.add("conv", IMAGES, ours="conv1", norm="norm1", kernel=3)
    x = net.add("prelu", x, ours="prelu1")
    for stage, blocks in enumerate(model.blocks, 1):
        for block in range(1, blocks + 1):
            x = _iresnet_block(net, x, f"block{stage}_{block}", first=block == 1)
    x = net.add("norm", x, ours="norm2")
    net.add("dense", x, ours="feature", norm="norm_feature", scaled=False, bias=True, flat=True)


def _iresnet_block(net: _Layers, x: int, ours: str, *, first: bool) -> int:
    """Adds the layers of one block, and returns the number of the value that it computes."""
    stride = 2 if first else 1
    # No convolution precedes this normalisation directly, so that it cannot be folded into one.
    branch = net.add("norm", x, ours=f"{ours}/norm1")
    branch = net.add("conv", branch, ours=f"{ours}/conv1", norm=f"{ours}/norm2", kernel=3)
    branch = net.add("prelu", branch, ours=f"{ours}/prelu")
    branch = net.add(
        "conv", branch, ours=f"{ours}/conv2", norm=f"{ours}/norm3", kernel=3, stride=stride
    )
    if first:
        norm = f"{ours}/norm_shortcut"
        x = net.add("conv", x, ours=f"{ours}/shortcut", norm=norm, stride=stride)
    return net.add("add", x, branch)


_LAYERS: dict[type[nn.Module], Callable] = {
    models.MobileFaceNet: _mobilefacenet,
    models.IResNet: _iresnet,
}
