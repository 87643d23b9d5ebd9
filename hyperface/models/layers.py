"""The base class of backbones, and layers that behave as Caffe's do, for the papers' networks."""

from collections.abc import Callable
from typing import ClassVar, Self, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.errors import InputError

# Caffe's "xavier" filler is uniform in +-sqrt(3 / fan_in). Flax's `xavier_uniform` is another one,
# with the mean of fan_in and fan_out.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

MAX_CHANNELS = 4
"""Largest number of channels of images. A longer last axis means that channels come first."""


class Backbone(nn.Module):
    """Base class of all backbones: checks of their input, and settings that they share.

    A backbone maps images [batch, height, width, channels], floats in [-1, 1], to features [batch,
    feature_dim] in float32. Images may have any size for which the last feature map is not empty.

    Attributes:
      feature_dim: size of the feature.
      dtype: type that the layers compute in. Parameters and features are always float32.
      remat: recompute the activations inside of blocks in the backward pass instead of storing
        them.
    """

    feature_dim: int = 512
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    batch_norm: ClassVar[bool] = False
    """Whether the network has batch statistics. If True, `__call__` has three more arguments:
    `train` (whether to normalise by the batch's statistics, and to update the collection
    "batch_stats"), `counted` ([batch] bool, False for padding; None counts all) and `axis_name`
    (name of the mapped axis over which the batch is split, or None)."""

    def first(self, images: jax.Array, convolution: str) -> jax.Array:
        """Checks the images, and returns them unchanged in shape, in the dtype of the layers.

        It is the first step of `__call__` of each backbone.

        Args:
          images: [batch, height, width, channels], the images that the network was called with.
          convolution: name of the first convolution. If it has parameters already, its kernel tells
            the expected number of channels.

        Raises:
          InputError: the images are not [batch, height, width, channels] of floats, or the number
            of channels differs from that of the parameters.
        """
        if images.ndim != 4 or not 1 <= images.shape[3] <= MAX_CHANNELS:
            raise InputError(
                "images: expected [batch, height, width, channels] with 1 to "
                f"{MAX_CHANNELS} channels, found shape {images.shape}. Move the channels to the "
                "last axis."
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(
                f"images: expected floats in [-1, 1], found {images.dtype}. Take "
                "(pixels - 127.5) / 128."
            )
        kernel = self._trained(convolution)
        if kernel is not None and kernel.shape[2] != images.shape[3]:
            raise InputError(
                f"images: expected {kernel.shape[2]} channels, as the parameters were trained "
                f"with, found {images.shape[3]}. Prepare the data with as many."
            )
        return images.astype(self.dtype)

    def flat(self, x: jax.Array, images: jax.Array, dense: str) -> jax.Array:
        """Flattens the last feature map for a linear layer.

        Args:
          x: the last feature map, [batch, height, width, channels].
          images: [batch, height, width, channels], the images that the network was called with.
            They are used only for error messages.
          dense: name of the linear layer. If it has parameters already, its kernel tells the
            expected size.

        Returns:
          [batch, height * width * channels].

        Raises:
          InputError: the images are too small, or have another size than the images of the
            training.
        """
        height, width = images.shape[1:3]
        found = f"images of {height} x {width}"
        if 0 in x.shape[1:]:
            raise InputError(f"expected larger images: of {found} the last map is empty.")
        kernel, size = self._trained(dense), x[0].size
        if kernel is not None and kernel.shape[0] != size:
            channels = x.shape[-1]
            raise InputError(
                f"expected images whose last map has {kernel.shape[0] // channels} places, as "
                f"the parameters were trained with, found {found}, with {x.shape[1]} x "
                f"{x.shape[2]}. Crop or resize them to the size of the training images."
            )
        return x.reshape(x.shape[0], -1)

    def block(self, body: Callable[[Self, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """Returns `body(self, x)`.

        If `remat` is set, the activations inside of `body` are not stored for the backward pass,
        which computes them again.

        Args:
          body: function (this module, x) -> output of a part of the network. It may create layers.
          x: [batch, height, width, channels], the input of the part.
        """
        return (nn.remat(body) if self.remat else body)(self, x)

    def _trained(self, layer: str) -> jax.Array | None:
        """Returns the kernel of a layer, or None while the parameters are being initialised."""
        if self.is_initializing() or not self.has_variable("params", layer):
            return None
        return self.get_variable("params", layer)["kernel"]


class PReLU(nn.Module):
    """The activation max(x, 0) + slope * min(x, 0), with one learned slope per channel.

    x is [..., channels]. Slopes are initialised with 0.25, as in Caffe.

    Attributes:
      shared: True learns one slope for all channels instead.
    """

    shared: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) if self.shared else (x.shape[-1],)
        slope = self.param("slope", nn.initializers.constant(0.25), shape).astype(x.dtype)
        slope = slope.reshape((1,) * (x.ndim - 1) + shape)
        # Its gradient needs x alone, where that of max(x, 0) + slope * min(x, 0) would also store
        # the minimum.
        return jnp.where(x > 0, x, slope * x)


class ResidualBlock(nn.Module):
    """A residual block: x + PReLU(conv(PReLU(conv(x)))), with no activation after the sum.

    x and the result are [batch, height, width, channels]; the attribute `width` is the number of
    channels. The 3 x 3 convolutions are initialised with standard deviation 0.01, so that a fresh
    block is nearly the identity. They have no biases. (In the networks that the papers' authors
    published, they have biases that stay at zero.)

    Attributes:
      width: number of channels of the input and of both convolutions.
      dtype: type that the layers compute in.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branch = x
        for _ in range(2):
            branch = nn.Conv(
                self.width,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
            )(branch)
            branch = PReLU()(branch)
        return x + branch


def max_pool(x: jax.Array, window: int = 2, *, round_up: bool = False) -> jax.Array:
    """Applies max pooling with stride 2.

    Args:
      x: [batch, height, width, channels].
      window: side of a window.
      round_up: whether the output size is rounded up, as Caffe does, so that the last windows may
        reach past the edge. Otherwise, a last row or column that fills no window is ignored.

    Returns:
      [batch, rows, columns, channels].
    """
    batch, height, width, channels = x.shape
    if window == 2 and height % 2 == width % 2 == 0:
        # A reshape gives the same maxima, and its gradient needs no scatter as that of a pooling
        # window does. Equal maxima of a window share the gradient.
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return x.max(axis=(2, 4))
    # Padding only behind the last row and column, by the number of pixels that the last window
    # lacks. Flax pads with -inf, which is never the maximum.
    over = [(0, -(side - window) % 2 if round_up else 0) for side in (height, width)]
    # Flax accepts pairs of numbers too, although its annotation allows only names.
    padding = cast(str, over)
    return nn.max_pool(x, window_shape=(window, window), strides=(2, 2), padding=padding)
