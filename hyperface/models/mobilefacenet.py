"""MobileFaceNet: a small network of depthwise convolutions for phones."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from hyperface.errors import InputError
from hyperface.models.depthwise import depthwise
from hyperface.models.layers import Backbone, PReLU
from hyperface.models.norm import BatchNorm

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Stage(NamedTuple):
    """Blocks of one width: the first has stride 2, and the others add their input to the result."""

    width: int
    first_expansion: int
    """Channels inside the first block."""
    expansion: int
    """Channels inside each other block."""
    blocks: int


class MobileFaceNet(Backbone):
    """A stem, blocks 1 x 1 conv, depthwise conv, 1 x 1 conv, and a depthwise layer over the map.

    BN follows each convolution and the feature layer, and PReLU follows BN, but not at the end of a
    block nor behind the last two layers. The layer over the whole map has a weight per place and
    channel, where other networks take a mean. 112 x 112 images end as 7 x 7 x 512 numbers.

    Attributes:
      stem: channels of the first two convolutions.
      stem_groups: groups of the second one; by default one per channel.
      stages: what follows them.
      last: channels of the last map.
      folded: the network as it is deployed: each BN is part of the layer in front of it, which has
        a bias.
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

    # Read of modules only, where a property does as well as the class variable of others.
    @property
    def batch_norm(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there are batch statistics."""
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
        """Features [batch, feature_dim] float32.

        Args:
          images: [batch, height, width, channels].
          train: normalise by the batch, and update "batch_stats", which must then be mutable.
          counted: [batch] True for an example, False for padding; all by default.
          axis_name: the mapped axis that the batch is split over.
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
        # Features are float32 whatever the layers compute in: the losses need the digits.
        return x.astype(jnp.float32)

    def _checked(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """The last map, if it is of the size of the weights over it."""
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
    """What all layers of a network have in common."""

    folded: bool
    train: bool
    axis_name: str | None
    dtype: DTypeLike

    def finish(self, layer: nn.Module, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        """What follows a layer's products: BN, or the bias that BN was folded into."""
        if self.folded:
            bias = layer.param("bias", nn.initializers.zeros, x.shape[-1:])
            return x + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)
        norm = BatchNorm(dtype=self.dtype, name="norm")
        return norm(x, train=self.train, counted=counted, axis_name=self.axis_name)


class _Conv(nn.Module):
    """A convolution without a bias, BN, and PReLU; of rows [batch, channels] a linear layer."""

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
            # On a CPU the gradient of a product is 2 to 3 times faster than that of a convolution.
            x = x @ kernel.reshape(inputs, self.width)
        elif self.groups == inputs == self.width:
            x = depthwise(x, kernel, self.stride)
        else:
            x = lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        x = self.shared.finish(self, x, counted)
        return PReLU(name="prelu")(x) if self.prelu else x


class _Global(nn.Module):
    """A weight per place and channel of the map, and the sum over places: [batch, channels]."""

    shared: _Shared

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        height, width, channels = x.shape[1:]
        kernel = self.param("kernel", he_normal, (height, width, 1, channels))
        kernel = kernel.astype(self.shared.dtype)
        return self.shared.finish(self, jnp.einsum("bhwc,hwc->bc", x, kernel[:, :, 0]), counted)


class _Block(nn.Module):
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
