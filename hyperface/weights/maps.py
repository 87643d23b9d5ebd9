"""Maps the array names of released weight files to the parameter paths of our networks.

A map is an ordered list of entries. Each entry has the name in the file, the path in our network,
and the kind. The kind says how the array's layout changes, since released networks store channels
first, and ours store them last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from flax import linen as nn

from hyperface import models

Kind = Literal["same", "vector", "conv", "first conv", "dense", "flat dense", "zero", "one"]
"""How an array of a file becomes a parameter:

- "same": unchanged.
- "vector": unchanged, one number per channel.
- "conv": OIHW to HWIO.
- "first conv": as "conv"; it is also adapted to the pixel values.
- "dense": [out, in] to [in, out].
- "flat dense": as "dense", of a layer that reads a flattened map. The order of its inputs changes
  from (channel, row, column) to (row, column, channel).
- "zero", "one": our network has no such parameter. All elements must be 0 or 1, or the array must
  be absent.
"""

Channels = Literal["rgb", "bgr", "grey"]


@dataclass(frozen=True)
class Entry:
    """One array of a file: its name, and the parameter that it becomes."""

    source: str
    """Name in the file."""
    target: str
    """Path of the parameter in this library's network, such as "params/conv1/kernel". For the kinds
    "zero" and "one" the network has no such parameter; it is the path that it would have."""
    kind: Kind
    """How the array becomes the parameter. "same" and "vector" (one number per channel) leave it
    unchanged. "conv" turns [out, in, height, width] into [height, width, in, out]; "first conv"
    also adapts it to the pixel values of the images. "dense" turns [out, in] into [in, out]; "flat
    dense" also reorders the inputs, a flattened map, from channels first to channels last. For
    "zero" and "one" the array is not used: all its elements must be 0 or 1, or it must be absent.
    """


@dataclass(frozen=True)
class Pixels:
    """The pixel values that a network takes: (pixel - center) / spread, of pixels from 0 to 255."""

    center: float = 127.5
    """Value that is subtracted from a pixel."""
    spread: float = 128.0
    """Value by which the difference is divided."""
    channels: Channels = "rgb"
    """Order of the channels: "rgb", "bgr", or "grey" for a single channel."""

    def __str__(self) -> str:
        return f"(pixel - {self.center:g}) / {self.spread:g}, {self.channels}"


@dataclass(frozen=True)
class NameMap:
    """The map from the arrays of a weight file to the parameters of one of this library's networks.

    A network has one map per project that published weights of it, such as insightface. Each
    project names the arrays, and orders their axes, in its own way.
    """

    layout: str
    """The project and framework whose names the map contains, such as "insightface, PyTorch", as a
    text for messages."""
    entries: tuple[Entry, ...]
    """One entry per array that the network needs: its name in the file, the path of the parameter,
    and how the array becomes the parameter."""
    pixels: Pixels = Pixels()
    """Pixel values that the published network was trained on."""
    ignored: str = r"(?!)"
    """Regular expression of the names of further arrays that the file may have, such as those of
    the classifier. They are not used. Any other name raises an error. The default matches nothing.
    """
    image_shape: tuple[int, int, int] | None = None
    """[height, width, channels] of the images of the file's network; None if the file does not
    state it."""


# Wen's and SphereFace's networks take the same values as this library's, but in OpenCV's channel
# order BGR.
OURS = Pixels()
_CAFFE = Pixels(channels="bgr")
INSIGHTFACE = Pixels(127.5, 127.5, "rgb")


def name_maps(model_name: str) -> list[NameMap]:
    """Returns the known maps from array names in weight files to the parameters of a network.

    There is one map per project that published weights of the network, because each project names
    the arrays in its own way. The list is empty for a network that can only be read from ONNX files
    and from files that this library wrote.

    Args:
      model_name: name of the network in `models.BACKBONES`.

    Raises:
      InputError: there is no network of this name.
    """
    model = models.create(model_name)
    # By type, because all sizes of a network share one function.
    return list(_MAPS.get(type(model), lambda model: ())(model))


def graph_pixels(model: nn.Module) -> Pixels:
    """Returns the pixel values that a network in an ONNX file takes.

    An ONNX file does not state them. The result is RGB, as in insightface's code, with one
    exception. The published narrow MobileFaceNet was trained on BGR: its accuracy on LFW is 99.4 %
    with BGR, and 99.1 % with RGB.
    """
    narrow = isinstance(model, models.MobileFaceNet) and model.stem_groups is None
    return replace(INSIGHTFACE, channels="bgr") if narrow else INSIGHTFACE


def own_map(paths: list[str], layout: str) -> NameMap:
    """Returns the map of a file of this library, whose arrays have the names of the parameters.

    Args:
      paths: paths of the parameters, which are also the names of the arrays.
      layout: where the file comes from, as a text for messages, such as "a run of this library".
    """
    return NameMap(layout, tuple(Entry(path, path, "same") for path in paths))


def _sphereface(model: models.SphereFace) -> Iterator[NameMap]:
    """Yields SphereFace's map: "conv2_3" is the third convolution of the second stage.

    In each stage the strided convolution is the first one, followed by two convolutions per block.
    """
    entries = []
    for stage, blocks in enumerate(model.blocks, 1):
        entries += _conv(f"conv{stage}_1", f"conv{stage}", first=stage == 1)
        entries += _prelu(f"relu{stage}_1", f"prelu{stage}")
        for block in range(1, blocks + 1):
            theirs = [f"{stage}_{2 * block + place}" for place in (0, 1)]
            entries += _residual_block(theirs, f"block{stage}_{block}")
    entries += _dense("fc5", "feature", flat=True)
    layout = "SphereFace, Caffe or a PyTorch port of the same names"
    yield NameMap(layout, tuple(entries), _CAFFE, ignored=r"fc6.*")


def _wen(model: models.Wen) -> Iterator[NameMap]:
    """Yields Wen's map. Released names count the stem as stage 1, so our stage 1 is their stage 2.

    "conv2_1" is the first convolution in the blocks of their stage 2.
    """
    entries = [*_conv("conv1a", "conv1a", first=True), *_prelu("relu1a", "prelu1a")]
    for stage, blocks in enumerate(model.blocks, 1):
        place = "1b" if stage == 1 else str(stage)
        entries += _conv(f"conv{place}", f"conv{place}")
        entries += _prelu(f"relu{place}", f"prelu{place}")
        for block in range(1, blocks + 1):
            theirs = [f"{stage + 1}_{2 * block - 1 + place}" for place in (0, 1)]
            entries += _residual_block(theirs, f"block{stage}_{block}")
    entries += _dense("fc5", "feature", flat=True)
    ignored = r"(fc[678]|center_loss|id_weight).*"
    yield NameMap("caffe-face, Caffe", tuple(entries), _CAFFE, ignored)


def _lightcnn(model: models.LightCNN) -> Iterator[NameMap]:
    # Place of each stage in PyTorch's list `features`. Pools stand between the stages, but none
    # between stages 4 and 5.
    groups = {2: 2, 3: 4, 4: 6, 5: 7}
    torch = {"conv1": "features.0.filter", "feature": "fc1.filter"}
    for stage, place in groups.items():
        torch[f"conv{stage}a"] = f"features.{place}.conv_a.filter"
        torch[f"conv{stage}"] = f"features.{place}.conv.filter"
    caffe = {name: name for name in torch} | {"feature": "fc1"}
    for layout, names in (("LightCNN, PyTorch", torch), ("LightenedCNN-B, Caffe", caffe)):
        entries = []
        for ours, theirs in names.items():
            if ours == "feature":
                entries += _dense(theirs, ours, flat=True)
            else:
                entries += _conv(theirs, ours, first=ours == "conv1")
        yield NameMap(layout, tuple(entries), Pixels(0, 255, "grey"), ignored=r"fc2\..*")


def _iresnet(model: models.IResNet) -> Iterator[NameMap]:
    # Only ONNX files contain the folded form, whose normalisations are merged into convolutions.
    if model.folded:
        return
    entries = [
        *_conv("conv1", "conv1", first=True, bias=False),
        *_norm("bn1", "norm1"),
        *_prelu("prelu", "prelu1"),
    ]
    for stage, blocks in enumerate(model.blocks, 1):
        for block in range(blocks):
            theirs, ours = f"layer{stage}.{block}", f"block{stage}_{block + 1}"
            # A block has three normalisations, but only two convolutions and one PReLU.
            for index in (1, 2, 3):
                entries += _norm(f"{theirs}.bn{index}", f"{ours}/norm{index}")
            for index in (1, 2):
                entries += _conv(f"{theirs}.conv{index}", f"{ours}/conv{index}", bias=False)
            entries += _prelu(f"{theirs}.prelu", f"{ours}/prelu")
            if block == 0:
                entries += _conv(f"{theirs}.downsample.0", f"{ours}/shortcut", bias=False)
                entries += _norm(f"{theirs}.downsample.1", f"{ours}/norm_shortcut")
    entries += _norm("bn2", "norm2")
    entries += _dense("fc", "feature", flat=True)
    # insightface's last normalisation has a scale that is fixed at one, and ours has none.
    entries += _norm("features", "norm_feature", scaled=False)
    yield NameMap(
        "insightface, PyTorch", tuple(entries), INSIGHTFACE, ignored=r".*\.num_batches_tracked"
    )


def _mobilefacenet(model: models.MobileFaceNet) -> Iterator[NameMap]:
    if model.folded:
        return

    def layer(theirs: str, ours: str, *, prelu: bool = True, first: bool = False) -> list[Entry]:
        found = _conv(f"{theirs}.layers.0", ours, first=first, bias=False)
        found += _norm(f"{theirs}.layers.1", f"{ours}/norm")
        return found + (_prelu(f"{theirs}.layers.2", f"{ours}/prelu") if prelu else [])

    entries = layer("layers.0", "conv1", first=True) + layer("layers.1", "conv2")
    for stage, (*_, blocks) in enumerate(model.stages, 1):
        for block in range(blocks):
            # In the released network the first block of a stage is a module by itself, and the
            # other blocks are a nested list behind it.
            later = f"layers.{2 * stage + 1}.layers.{block - 1}"
            theirs = later if block else f"layers.{2 * stage}"
            ours = f"block{stage}_{block + 1}"
            entries += layer(f"{theirs}.layers.0", f"{ours}/expand")
            entries += layer(f"{theirs}.layers.1", f"{ours}/depthwise")
            entries += layer(f"{theirs}.layers.2", f"{ours}/project", prelu=False)
    entries += layer("conv_sep", "conv3") + layer("features.layers.0", "global", prelu=False)
    entries += _dense("features.layers.2", "feature", bias=False)
    entries += _norm("features.layers.3", "feature/norm")
    yield NameMap(
        "insightface, PyTorch", tuple(entries), INSIGHTFACE, ignored=r".*\.num_batches_tracked"
    )


def _lenet(model: models.LeNet) -> Iterator[NameMap]:
    caffe = NameMap(
        "NormFace's or caffe-face's MNIST net, Caffe",
        _lenet_entries(model, "conv{0}{2}", "prelu{0}{2}", "ip1"),
        # NormFace's net, with kernels of 3, subtracts 128; caffe-face's subtracts 127.5.
        Pixels(128 if model.kernel_size == 3 else 127.5, 128, "grey"),
        ignored=r"(ip2|id_weight|center_loss).*",
    )
    torch = NameMap(
        "Ring loss' MNIST net, PyTorch",
        _lenet_entries(model, "conv{0}_{1}", "prelu{0}_{1}", "fc1"),
        # Mean and standard deviation of MNIST's pixels, for pixels from 0 to 1.
        Pixels(0.1307 * 255, 0.3081 * 255, "grey"),
        ignored=r"(softmax|ringloss)\..*",
    )
    yield from (caffe, torch)


def _lenet_entries(model: models.LeNet, conv: str, prelu: str, dense: str) -> tuple[Entry, ...]:
    """Returns the entries of a LeNet++.

    Args:
      model: our network.
      conv: pattern of a convolution's name: {0} is the stage, {1} the place in it (1 or 2), and {2}
        is "" for the first convolution of a stage and "+" for the second.
      prelu: pattern of a PReLU's name, with the same fields.
      dense: name of the feature layer.
    """
    entries = []
    for stage in (1, 2, 3):
        for place, letter, plus in ((1, "a", ""), (2, "b", "+")):
            theirs, first = (stage, place, plus), (stage, place) == (1, 1)
            entries += _conv(conv.format(*theirs), f"conv{stage}{letter}", first=first)
            entries += _prelu(prelu.format(*theirs), f"prelu{stage}{letter}")
    entries += _dense(dense, "feature", flat=True, bias=model.feature_bias)
    if model.feature_prelu:
        entries += _prelu(f"prelu{dense}", "prelu_feature")
    return tuple(entries)


def _plane_lenet(model: models.PlaneLeNet) -> Iterator[NameMap]:
    entries = []
    for number in (1, 2):
        entries += _conv(f"conv{number}", f"conv{number}", first=number == 1)
        entries += _prelu(f"relu_pool{number}", f"prelu{number}")
    entries += _dense("ip1", "hidden", flat=True) + _prelu("relu1", "prelu_hidden")
    entries += _dense("ip1_dr", "feature")
    yield NameMap(
        "NormFace's net of Figure 2, Caffe",
        tuple(entries),
        Pixels(128, 128, "grey"),
        ignored="id_weight.*",
    )


def _conv(theirs: str, ours: str, *, first: bool = False, bias: bool = True) -> list[Entry]:
    """Returns the entries of a convolution named `theirs` in the file and `ours` in our network."""
    kind = "first conv" if first else "conv"
    kernel = Entry(f"{theirs}.weight", f"params/{ours}/kernel", kind)
    return [kernel, *_vector(theirs, "bias", ours, "bias")] if bias else [kernel]


def _dense(theirs: str, ours: str, *, flat: bool = False, bias: bool = True) -> list[Entry]:
    """Returns the entries of a linear layer; `flat` if it reads a flattened feature map."""
    kind = "flat dense" if flat else "dense"
    kernel = Entry(f"{theirs}.weight", f"params/{ours}/kernel", kind)
    return [kernel, *_vector(theirs, "bias", ours, "bias")] if bias else [kernel]


def _residual_block(theirs: list[str], ours: str) -> list[Entry]:
    """Returns the entries of a residual block's convolutions and PReLUs.

    The released convolutions have biases that were frozen at zero, and ours have no biases.
    """
    entries = []
    for index, place in enumerate(theirs):
        conv = f"{ours}/Conv_{index}"
        entries += _conv(f"conv{place}", conv, bias=False)
        entries += [Entry(f"conv{place}.bias", f"params/{conv}/bias", "zero")]
        entries += _prelu(f"relu{place}", f"{ours}/PReLU_{index}")
    return entries


def _prelu(theirs: str, ours: str) -> list[Entry]:
    return _vector(theirs, "weight", ours, "slope")


def _norm(theirs: str, ours: str, *, scaled: bool = True) -> list[Entry]:
    """Returns the entries of a batch normalisation; `scaled` if ours has a learned scale."""
    weight = Entry(f"{theirs}.weight", f"params/{ours}/scale", "vector" if scaled else "one")
    return [
        weight,
        *_vector(theirs, "bias", ours, "bias"),
        Entry(f"{theirs}.running_mean", f"batch_stats/{ours}/mean", "vector"),
        Entry(f"{theirs}.running_var", f"batch_stats/{ours}/variance", "vector"),
    ]


def _vector(theirs: str, their_name: str, ours: str, our_name: str) -> list[Entry]:
    return [Entry(f"{theirs}.{their_name}", f"params/{ours}/{our_name}", "vector")]


_MAPS: dict[type[nn.Module], Callable[..., Iterator[NameMap]]] = {
    models.SphereFace: _sphereface,
    models.Wen: _wen,
    models.LightCNN: _lightcnn,
    models.IResNet: _iresnet,
    models.MobileFaceNet: _mobilefacenet,
    models.LeNet: _lenet,
    models.PlaneLeNet: _plane_lenet,
}
