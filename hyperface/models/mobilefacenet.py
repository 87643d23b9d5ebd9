"""MobileFaceNet (Chen et al. 2018): a small network of depthwise convolutions, for phones."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from hyperface.errors import InputError
from hyperface.models.convolutions import depthwise, pointwise
from hyperface.models.layers import Backbone, PReLU
from hyperface.models.norm import BatchNorm

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Stage(NamedTuple):
    """A stage of blocks of one width.

    The first block has stride 2. Each other block adds its input to its output (a shortcut).
    """

    width: int
    """Number of channels of the output of each block."""
    first_expansion: int
    """Number of channels inside the first block."""
    expansion: int
    """Number of channels inside each other block."""
    blocks: int
    """Number of blocks."""


class MobileFaceNet(Backbone):
    """A network of a stem, stages of inverted bottleneck blocks, and a global depthwise layer.

    It maps images [batch, height, width, channels] to features [batch, feature_dim] in float32.

    - The stem is two 3 x 3 convolutions, the first with stride 2.
    - An inverted bottleneck block is a 1 x 1 convolution, a 3 x 3 depthwise convolution and a 1 x 1
      convolution. It has more channels inside than at its ends.
    - The last block is followed by a 1 x 1 convolution, which computes the last feature map.
    - The global depthwise layer is a weighted sum over the pixels of the last feature map, with one
      learned weight per pixel and channel. Other networks take the mean over pixels.
    - Batch normalisation (BN) follows each of these layers and the linear feature layer. PReLU
      follows BN, except at the end of a block and after the last two layers.

    The last feature map of 112 x 112 images is 7 x 7 x 512.

    Attributes:
      stem: number of channels of the two convolutions of the stem.
      stem_groups: number of channel groups of the stem's second convolution; None uses one group
        per channel.
      stages: the stages of blocks.
      last: number of channels of the last feature map.
      folded: build the form for deployment, which has no batch statistics: each BN is merged
        ("folded") into the layer in front of it, which then has a bias.
    """

    stem: int = 64
    stem_groups: int | None = None
    stages: Sequence[Stage] = (
        Stage(64, 128, 128, 5),
        Stage(128, 256, 256, 7),
        Stage(128, 512, 256, 3),
    )
    last: int = 512
    folded: bool = False

    # `Backbone` has a class variable of this name. A property can stand in for it, because callers
    # read it from instances only.
    @property
    def batch_norm(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the network has batch statistics: False only if `folded`, the form to deploy."""
        return not self.folded

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        counted: jax.Array | None = None,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32.

        Args:
          images: [batch, height, width, channels].
          train: normalise by the batch's statistics, and update the collection "batch_stats", which
            must then be mutable.
          counted: [batch] True for an example and False for padding, which the statistics leave
            out; None counts all.
          axis_name: name of the mapped axis over which the batch is split; None if it is not split.
        """
        block_of = nn.remat(_Block) if self.remat else _Block
        shared = _Shared(self.folded, train, axis_name, self.dtype)
        groups = self.stem_groups or self.stem
        x = self.first(images, "conv1")
        x = _Conv(shared, self.stem, kernel=3, stride=2, name="conv1")(x, counted)
        x = _Conv(shared, self.stem, kernel=3, groups=groups, name="conv2")(x, counted)
        for number, stage in enumerate(map(Stage._make, self.stages), 1):
            for block in range(1, stage.blocks + 1):
                first = block == 1
                inside = stage.first_expansion if first else stage.expansion
                made = block_of(shared, stage.width, inside, first, name=f"block{number}_{block}")
                x = made(x, counted)
        x = _Conv(shared, self.last, name="conv3")(x, counted)
        x = _Global(shared, name="global")(self._checked(x, images), counted)
        x = _Conv(shared, self.feature_dim, prelu=False, name="feature")(x, counted)
        # Float32 even if the layers compute in bfloat16: the losses need the precision.
        return x.astype(jnp.float32)

    def _checked(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """Returns x, the last feature map, after a check that its size fits the weights.

        Args:
          x: [batch, height, width, channels].
          images: the images that the network was called with, for the message.

        Raises:
          InputError: the size does not fit.
        """
        kernel = self._trained("global")
        if kernel is not None and kernel.shape[:2] != x.shape[1:3]:
            raise InputError(
                f"expected images whose last map is {' x '.join(map(str, kernel.shape[:2]))}, as "
                f"the parameters were trained with, found images of {images.shape[1]} x "
                f"{images.shape[2]}, with {x.shape[1]} x {x.shape[2]}. Crop or resize them to the "
                "size of the training images."
            )
        return x


class _Shared(NamedTuple):
    """The settings that all layers of a network share."""

    folded: bool
    train: bool
    axis_name: str | None
    dtype: DTypeLike

    def finish(self, layer: nn.Module, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        """Applies BN to a layer's output or, in the folded form, adds the layer's bias.

        Args:
          layer: the layer, which owns the parameters.
          x: output of the layer, [batch, ..., channels].
          counted: [batch] True for an example and False for padding, which the statistics leave
            out; None counts all.
        """
        if self.folded:
            bias = layer.param("bias", nn.initializers.zeros, x.shape[-1:])
            return x + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)
        norm = BatchNorm(dtype=self.dtype, name="norm")
        return norm(x, train=self.train, counted=counted, axis_name=self.axis_name)


class _Conv(nn.Module):
    """A convolution without a bias, followed by BN and PReLU.

    For an input [batch, channels] it is a linear layer, followed by the same.

    Attributes:
      shared: the settings of the network.
      width: number of output channels.
      kernel: side of the kernel, 1 or 3; padding keeps the size of the map.
      stride: stride of the convolution; only for kernels of side 3.
      groups: number of groups of channels.
      prelu: whether PReLU follows.
    """

    shared: _Shared
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    prelu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        inputs = x.shape[-1]
        window = (self.kernel, self.kernel) if x.ndim == 4 else ()
        shape = (*window, inputs // self.groups, self.width)
        kernel = self.param("kernel", he_normal, shape).astype(self.shared.dtype)
        if self.kernel == 1:
            x = pointwise(x, kernel.reshape(inputs, self.width))
        elif self.groups == inputs == self.width:
            x = depthwise(x, kernel, self.stride)
        else:
            x = lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                # In numbers, as in PyTorch: at stride 2 "SAME" would pad only one side.
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        x = self.shared.finish(self, x, counted)
        return PReLU(name="prelu")(x) if self.prelu else x


class _Global(nn.Module):
    """A depthwise convolution whose kernel is as large as the feature map.

    It has one weight per pixel and channel, and sums over the pixels: [batch, height, width,
    channels] becomes [batch, channels].
    """

    shared: _Shared

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        height, width, channels = x.shape[1:]
        kernel = self.param("kernel", he_normal, (height, width, 1, channels))
        kernel = kernel.astype(self.shared.dtype)
        return self.shared.finish(self, jnp.einsum("bhwc,hwc->bc", x, kernel[:, :, 0]), counted)


class _Block(nn.Module):
    """An inverted bottleneck block, which has more channels inside than at its ends.

    Attributes:
      shared: the settings of the network.
      width: number of output channels.
      expansion: number of channels inside.
      first: whether it is the first block of a stage, with stride 2 and without a shortcut.
    """

    shared: _Shared
    width: int
    expansion: int
    first: bool

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        inside, stride = self.expansion, 2 if self.first else 1
        branch = _Conv(self.shared, inside, name="expand")(x, counted)
        branch = _Conv(
            self.shared, inside, kernel=3, stride=stride, groups=inside, name="depthwise"
        )(branch, counted)
        branch = _Conv(self.shared, self.width, prelu=False, name="project")(branch, counted)
        return branch if self.first else x + branch
