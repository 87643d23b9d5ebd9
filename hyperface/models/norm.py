"""Batch normalisation, and what is left of it where its statistics are constants."""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

MOMENTUM = 0.9
EPSILON = 1e-5

Statistics = tuple[jax.Array, jax.Array, jax.Array]
"""Mean, variance or its inverse root, each [channels], and the number of places that count."""
_Kept = tuple[jax.Array, jax.Array, Statistics, jax.Array]
"""What the backward pass needs: x, scale, the statistics, and which examples count."""


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
            # In float32: a difference in bfloat16 has few digits where the mean is large.
            x = (x.astype(jnp.float32) - mean.value.reshape(row)) * factor.reshape(row)
            return (x + bias.reshape(row)).astype(self.dtype)
        counted = jnp.ones(x.shape[0], bool) if counted is None else counted
        # The rule of `_normalized` contains the gradient by way of the statistics.
        center, spread, count = _statistics(jax.lax.stop_gradient(x), counted, axis_name)
        if not self.is_initializing():
            for average, found in ((mean, center), (variance, spread)):
                moved = MOMENTUM * average.value + (1 - MOMENTUM) * found
                # A batch of nothing but padding says nothing.
                average.value = jnp.where(count > 0, moved, average.value)
        statistics = center, jax.lax.rsqrt(spread + EPSILON), jnp.maximum(count, 1)
        normalized = _normalized(x, scale, bias, statistics, counted, axis_name)
        return cast(jax.Array, normalized).astype(self.dtype)  # `custom_vjp` loses the type.


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _statistics(x: jax.Array, counted: jax.Array, axis_name: str | None) -> Statistics:
    """Mean and variance [channels] of the examples that count, and the number of their places."""
    x = _wide(x)
    axes = tuple(range(x.ndim - 1))
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))

    def total(values: jax.Array) -> jax.Array:
        return _over_devices(jnp.sum(jnp.where(mask, values, 0.0), axes), axis_name)

    # A channel has one value per place, and an image has many places.
    count = _over_devices(jnp.sum(counted) * (x[0].size // x.shape[-1]), axis_name)
    divisor = jnp.maximum(count, 1).astype(x.dtype)
    mean = total(x) / divisor
    # The deviations themselves: E[x^2] - E[x]^2 would cancel where the mean is large.
    return mean, total((x - mean.reshape((1,) * (x.ndim - 1) + mean.shape)) ** 2) / divisor, count


def _over_devices(total: jax.Array, axis_name: str | None) -> jax.Array:
    return total if axis_name is None else jax.lax.psum(total, axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _normalized(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    statistics: Statistics,
    counted: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """(x - mean) / deviation * scale + bias, in float32 at least, with the statistics of x itself.

    The rule has the gradient through mean and deviation in it: one sweep for its two sums and one
    for the result, with nothing kept but x. First derivatives only: to the second, the statistics
    would be constants.
    """
    mean, inverse, _ = statistics
    row = (1,) * (x.ndim - 1) + mean.shape
    unit = (_wide(x) - mean.reshape(row)) * inverse.reshape(row)
    return unit * scale.reshape(row) + bias.reshape(row)


def _normalized_fwd(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    statistics: Statistics,
    counted: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, _Kept]:
    out = _normalized(x, scale, bias, statistics, counted, axis_name)
    return cast(jax.Array, out), (x, scale, statistics, counted)


def _normalized_bwd(axis_name: str | None, kept: _Kept, slope: jax.Array) -> tuple[Any, ...]:
    """Returns the cotangents of x, scale and bias; the others get none."""
    # With h = (x - mean) inverse, n places that count and their mask m,
    # dx = inverse scale (slope - m (sum(slope) + h sum(slope h)) / n).
    x, scale, (mean, inverse, places), counted = kept
    axes = tuple(range(x.ndim - 1))
    row = (1,) * (x.ndim - 1) + mean.shape
    unit = (_wide(x) - mean.reshape(row)) * inverse.reshape(row)
    # These stay this device's part: the step adds the parameters' gradients over the devices.
    to_bias, to_scale = jnp.sum(slope, axes), jnp.sum(slope * unit, axes)
    shared, along = (_over_devices(total, axis_name) / places for total in (to_bias, to_scale))
    back = shared.reshape(row) + unit * along.reshape(row)
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))
    to_x = (inverse * scale).reshape(row) * (slope - jnp.where(mask, back, 0.0))
    nothing = jax.tree.map(_no_cotangent, ((mean, inverse, places), counted))
    return to_x.astype(x.dtype), to_scale, to_bias, *nothing


def _no_cotangent(leaf: jax.Array) -> jax.Array | np.ndarray:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    # JAX wants float0 for whole numbers and bools, which have no gradient.
    return jnp.zeros_like(leaf) if floating else np.zeros(leaf.shape, jax.dtypes.float0)


_normalized.defvjp(_normalized_fwd, _normalized_bwd)


class Affine(nn.Module):
    """A learned factor and term per channel: batch normalisation whose statistics are folded in.

    Attributes:
      dtype: of the result.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scaled and shifted [batch, ..., channels]."""
        row = (1,) * (x.ndim - 1) + (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, row[-1:]).reshape(row)
        bias = self.param("bias", nn.initializers.zeros, row[-1:]).reshape(row)
        return (x.astype(jnp.float32) * scale + bias).astype(self.dtype)
