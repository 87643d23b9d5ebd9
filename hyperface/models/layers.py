"""Layers with Caffe's meaning, which the papers' networks are made of."""

from collections.abc import Callable
from typing import ClassVar, Self, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.errors import InputError

# Caffe's "xavier" is uniform in +-sqrt(3 / fan_in), not Glorot's average of both fans.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

MAX_CHANNELS = 4
"""More is taken for an image whose axes are in another order."""


class Backbone(nn.Module):
    """What all backbones share: images [batch, height, width, channels] of any size that is enough.

    Attributes:
      feature_dim: size of the feature.
      dtype: of the computation. Parameters and the feature are float32 whatever it is.
      remat: compute the insides of blocks again in the backward pass instead of keeping them.
    """

    feature_dim: int = 512
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    batch_norm: ClassVar[bool] = False
    """Whether `__call__` takes `train`, `counted` and `axis_name`, and updates "batch_stats"."""

    def first(self, images: jax.Array, convolution: str) -> jax.Array:
        """The images in the dtype of computation, once they fit.

        Args:
          images: what the network was called with.
          convolution: name of the first convolution, whose kernel says what it was trained with.

        Raises:
          InputError: not [batch, height, width, channels] of floats, or other channels than those
            of the parameters.
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
        """The last map [batch, height, width, channels] as rows for the layer named `dense`.

        Raises:
          InputError: the images are too small, or of another size than the parameters' own.
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
        """Layers of this module made by `body`; with `remat` computed again when needed."""
        return (nn.remat(body) if self.remat else body)(self, x)

    def _trained(self, layer: str) -> jax.Array | None:
        if self.is_initializing() or not self.has_variable("params", layer):
            return None
        return self.get_variable("params", layer)["kernel"]


class PReLU(nn.Module):
    """The activation max(x, 0) + a min(x, 0) with a learned slope a per channel.

    The slopes start at 0.25. `shared` learns one slope for all channels.
    """

    shared: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) if self.shared else (x.shape[-1],)
        slope = self.param("slope", nn.initializers.constant(0.25), shape).astype(x.dtype)
        slope = slope.reshape((1,) * (x.ndim - 1) + shape)
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


class ResidualBlock(nn.Module):
    """Conv, PReLU, conv, PReLU and the sum, after which nothing follows.

    The convolutions start at standard deviation 0.01, so that a fresh block is nearly the identity.
    The released nets give them biases with learning rate zero, frozen at zero: here they have none.

    Attributes:
      width: channels of the input, the insides and the output.
      dtype: of the computation.
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
    """Maxima of windows two apart.

    Args:
      x: [batch, height, width, channels].
      window: side of a window.
      round_up: whether windows may reach past the edge, as Caffe lets them; otherwise a last odd
        row or column is left out.
    """
    batch, height, width, channels = x.shape
    if window == 2 and height % 2 == width % 2 == 0:
        # The same maxima by a reshape, whose gradient XLA does not have to scatter; equal maxima
        # of a window share it.
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return x.max(axis=(2, 4))
    over = [(0, -(side - window) % 2 if round_up else 0) for side in (height, width)]
    # Flax takes pairs as well, though its annotation has names alone.
    padding = cast(str, over)
    return nn.max_pool(x, window_shape=(window, window), strides=(2, 2), padding=padding)
