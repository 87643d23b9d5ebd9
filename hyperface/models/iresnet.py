"""The improved residual nets with batch normalisation that later face work trains."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.models.layers import Backbone, PReLU

MOMENTUM = 0.9
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalises channels by the batch's own mean and variance, or by their moving averages.

    Under a mapped axis, and with padding, the statistics are those of the whole batch's real
    examples: sums and counts are added over the devices and divided once. Statistics are float32.

    Attributes:
      scaled: whether a learned factor multiplies the result.
      dtype: of the result.
    """

    scaled: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        counted: jax.Array | None = None,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Normalised [batch, ..., channels].

        Args:
          x: [batch, ..., channels].
          train: use the batch's statistics, and update the collection "batch_stats" by them.
          counted: [batch] True for an example, False for padding; all by default.
          axis_name: the mapped axis that the batch is split over.
        """
        channels = x.shape[-1]
        row = (1,) * (x.ndim - 1) + (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        variance = self.variable("batch_stats", "variance", jnp.ones, (channels,))
        scale = jnp.ones(channels)
        if self.scaled:
            scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if not train:
            factor = jax.lax.rsqrt(variance.value + EPSILON) * scale
            x = (x.astype(jnp.float32) - mean.value.reshape(row)) * factor.reshape(row)
            return (x + bias.reshape(row)).astype(self.dtype)
        counted = jnp.ones(x.shape[0], bool) if counted is None else counted
        center, spread, count = _statistics(jax.lax.stop_gradient(x), counted, axis_name)
        if not self.is_initializing():
            for average, found in ((mean, center), (variance, spread)):
                moved = MOMENTUM * average.value + (1 - MOMENTUM) * found
                # A batch of nothing but padding says nothing.
                average.value = jnp.where(count > 0, moved, average.value)
        statistics = center, jax.lax.rsqrt(spread + EPSILON), jnp.maximum(count, 1)
        return _normalized(x, scale, bias, statistics, counted, axis_name).astype(self.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _statistics(x: jax.Array, counted: jax.Array, axis_name: str | None):
    """Mean and variance [channels] of the examples that count, and the number of their places."""
    x = _wide(x)
    axes = tuple(range(x.ndim - 1))
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))

    def total(values):
        return _over_devices(jnp.sum(jnp.where(mask, values, 0.0), axes), axis_name)

    count = _over_devices(jnp.sum(counted) * (x[0].size // x.shape[-1]), axis_name)
    divisor = jnp.maximum(count, 1).astype(x.dtype)
    mean = total(x) / divisor
    # The deviations themselves: E[x^2] - E[x]^2 would cancel where the mean is large.
    return mean, total((x - mean.reshape((1,) * (x.ndim - 1) + mean.shape)) ** 2) / divisor, count


def _over_devices(total: jax.Array, axis_name: str | None) -> jax.Array:
    return total if axis_name is None else jax.lax.psum(total, axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _normalized(x, scale, bias, statistics, counted, axis_name):
    """(x - mean) / deviation * scale + bias, in float32 at least, with the statistics of x itself.

    The rule has the gradient through mean and deviation in it: one sweep for its two sums and one
    for the result, with nothing kept but x. First derivatives only: to the second, the statistics
    would be constants.
    """
    mean, inverse, _ = statistics
    row = (1,) * (x.ndim - 1) + mean.shape
    unit = (_wide(x) - mean.reshape(row)) * inverse.reshape(row)
    return unit * scale.reshape(row) + bias.reshape(row)


def _normalized_fwd(x, scale, bias, statistics, counted, axis_name):
    out = _normalized(x, scale, bias, statistics, counted, axis_name)
    return out, (x, scale, statistics, counted)


def _normalized_bwd(axis_name, kept, slope):
    # With h = (x - mean) inverse, n places that count and their mask m,
    # dx = inverse scale (slope - m (sum(slope) + h sum(slope h)) / n).
    x, scale, (mean, inverse, places), counted = kept
    axes = tuple(range(x.ndim - 1))
    row = (1,) * (x.ndim - 1) + mean.shape
    unit = (_wide(x) - mean.reshape(row)) * inverse.reshape(row)
    to_bias, to_scale = jnp.sum(slope, axes), jnp.sum(slope * unit, axes)
    shared, along = (_over_devices(total, axis_name) / places for total in (to_bias, to_scale))
    back = shared.reshape(row) + unit * along.reshape(row)
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))
    to_x = (inverse * scale).reshape(row) * (slope - jnp.where(mask, back, 0.0))
    nothing = jax.tree.map(_no_cotangent, ((mean, inverse, places), counted))
    return to_x.astype(x.dtype), to_scale, to_bias, *nothing


def _no_cotangent(leaf: jax.Array):
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.zeros_like(leaf) if floating else np.zeros(leaf.shape, jax.dtypes.float0)


_normalized.defvjp(_normalized_fwd, _normalized_bwd)


class IResNet(Backbone):
    """Four stages of blocks BN, conv, BN, PReLU, conv, BN, the first of each with stride 2.

    A shortcut is 1 x 1 with BN where the shape changes. After the last block follow BN, the linear
    feature layer, and BN without a scale. 112 x 112 images end as 7 x 7 x 512 numbers. Convolutions
    start at standard deviation 0.1.

    Attributes:
      blocks: blocks of each stage.
      widths: channels of each stage.
    """

    blocks: Sequence[int] = (3, 4, 14, 3)
    widths: Sequence[int] = (64, 128, 256, 512)

    batch_norm: ClassVar[bool] = True

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

        def norm(name: str, x: jax.Array, **settings) -> jax.Array:
            layer = BatchNorm(name=name, **({"dtype": self.dtype} | settings))
            return layer(x, train=train, counted=counted, axis_name=axis_name)

        x = _conv(self.widths[0], 3, 1, self.dtype, "conv1")(self.first(images, "conv1"))
        x = PReLU(name="prelu1")(norm("norm1", x))
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            for block in range(1, blocks + 1):
                made = block_of(
                    width,
                    2 if block == 1 else 1,
                    train,
                    axis_name,
                    self.dtype,
                    name=f"block{stage}_{block}",
                )
                x = made(x, counted)
        x = self.flat(norm("norm2", x), images, "feature")
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        feature = nn.Dense(self.feature_dim, kernel_init=uniform, dtype=self.dtype, name="feature")
        return norm("norm_feature", feature(x), scaled=False, dtype=jnp.float32)


class _Block(nn.Module):
    width: int
    stride: int
    train: bool
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        def norm(name: str, x: jax.Array) -> jax.Array:
            layer = BatchNorm(dtype=self.dtype, name=name)
            return layer(x, train=self.train, counted=counted, axis_name=self.axis_name)

        branch = _conv(self.width, 3, 1, self.dtype, "conv1")(norm("norm1", x))
        branch = PReLU(name="prelu")(norm("norm2", branch))
        branch = norm("norm3", _conv(self.width, 3, self.stride, self.dtype, "conv2")(branch))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = _conv(self.width, 1, self.stride, self.dtype, "shortcut")(x)
            x = norm("norm_shortcut", x)
        return x + branch


def _conv(width: int, kernel: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=nn.initializers.normal(0.1),
        dtype=dtype,
        name=name,
    )
