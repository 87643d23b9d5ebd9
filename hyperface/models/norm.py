"""Batch normalisation, and the affine layer that replaces it in networks for deployment."""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.rules import vary_alike

MOMENTUM = 0.9
"""Weight of the old value in a moving average; the new batch has the rest."""
EPSILON = 1e-5
"""Number that is added to a variance before its root."""

Statistics = tuple[jax.Array, jax.Array, jax.Array]
"""Mean [channels]; variance [channels], or 1 / deviation [channels] where it is normalised; and the
number of counted values per channel."""
_Kept = tuple[jax.Array, jax.Array, Statistics, jax.Array]
"""The residuals of the backward pass: x, scale, the statistics, and which examples count."""


class BatchNorm(nn.Module):
    """Batch normalisation of each channel, with statistics over the batch of all devices.

    Input and output are [batch, ..., channels]. Training normalises by the batch's mean and
    variance, and evaluation by their moving averages. The statistics are float32, over the whole
    batch without its padding examples. Sums and counts are added over the devices and then divided.
    A mean of the devices' means would be wrong if the devices have different numbers of padding
    examples.

    Attributes:
      scaled: whether a learned scale multiplies the result; a learned bias is always added.
      dtype: type of the result.
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
        """Returns the normalised values [batch, ..., channels].

        Args:
          x: [batch, ..., channels].
          train: use the batch's statistics, and update the collection "batch_stats" by them.
          counted: [batch] True for an example and False for padding; None counts all.
          axis_name: name of the mapped axis over which the batch is split; None if it is not split.
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
            # In float32: x - mean would lose most of its digits in bfloat16 if the mean is large.
            x = (x.astype(jnp.float32) - mean.value.reshape(row)) * factor.reshape(row)
            return (x + bias.reshape(row)).astype(self.dtype)
        counted = jnp.ones(x.shape[0], bool) if counted is None else counted
        # The backward rule of `_normalized` already contains the gradient through the statistics.
        center, spread, count = _statistics(jax.lax.stop_gradient(x), counted, axis_name)
        if not self.is_initializing():
            for average, found in ((mean, center), (variance, spread)):
                moved = MOMENTUM * average.value + (1 - MOMENTUM) * found
                # A batch that is only padding has no statistics, so the averages stay.
                average.value = jnp.where(count > 0, moved, average.value)
        statistics = center, jax.lax.rsqrt(spread + EPSILON), jnp.maximum(count, 1)
        arguments = vary_alike(x, scale, bias, jax.lax.stop_gradient(statistics), counted)
        normalized = _normalized(*arguments, axis_name)
        # The cast is for the type checker, since `custom_vjp` loses the type.
        return cast(jax.Array, normalized).astype(self.dtype)


def _wide(x: jax.Array) -> jax.Array:
    """Returns x in float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _statistics(x: jax.Array, counted: jax.Array, axis_name: str | None) -> Statistics:
    """Returns (mean, variance, count) of the counted examples, over all devices of the mapped axis.

    Mean and variance are [channels]. The count is the number of values per channel.
    """
    x = _wide(x)
    axes = tuple(range(x.ndim - 1))
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))

    def total(values: jax.Array) -> jax.Array:
        return _over_devices(jnp.sum(jnp.where(mask, values, 0.0), axes), axis_name)

    # A map contributes one value per place to each channel, so the count is examples x places.
    count = _over_devices(jnp.sum(counted) * (x[0].size // x.shape[-1]), axis_name)
    divisor = jnp.maximum(count, 1).astype(x.dtype)
    mean = total(x) / divisor
    # E[x^2] - E[x]^2 would need one pass less, but cancels where the mean is large.
    # Written as x + (-mean), because `_normalized` contains x - mean. XLA would compute two equal
    # expressions once and store the result as one more map. A different expression stays inside the
    # loop of the sum.
    minus = (-mean).reshape((1,) * (x.ndim - 1) + mean.shape)
    return mean, total((x + minus) ** 2) / divisor, count


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
    """Returns (x - mean) / deviation * scale + bias, in float32 or wider.

    The backward rule includes the gradient through mean and deviation. It reads x twice, once for
    two sums and once for the result, and stores no other large array. It is right for first
    derivatives only: second derivatives would treat the statistics as constants.

    Args:
      x: [batch, ..., channels].
      scale: [channels].
      bias: [channels].
      statistics: mean, 1 / deviation and count; they must be those of x itself.
      counted: [batch] bool, the examples that the statistics are of.
      axis_name: the mapped axis over which the batch is split, or None.
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
    """Returns the cotangents of the arguments of `_normalized`, in their order, except axis_name.

    Those of `statistics` and `counted` are zero.

    Args:
      axis_name: as in `_normalized`.
      kept: the residuals.
      slope: the cotangent of the result.
    """
    # With h = (x - mean) inverse, n counted values per channel and their mask m,
    # dx = inverse scale (slope - m (sum(slope) + h sum(slope h)) / n).
    x, scale, (mean, inverse, places), counted = kept
    axes = tuple(range(x.ndim - 1))
    row = (1,) * (x.ndim - 1) + mean.shape
    unit = (_wide(x) - mean.reshape(row)) * inverse.reshape(row)
    # The parameters' gradients are those of this device's examples; the train step adds them over
    # the devices. The gradient of x needs the sums of all devices.
    to_bias = jnp.sum(slope, axes)
    # The barrier makes x - center another expression than the x - mean of `unit`, which would be
    # stored for this sum as one more map. sum(slope * x) - mean * sum(slope) needs no such map
    # either, but cancels where the mean is large.
    center = jax.lax.optimization_barrier(mean).reshape(row)
    to_scale = inverse * jnp.sum(slope * (_wide(x) - center), axes)
    shared, along = (_over_devices(total, axis_name) / places for total in (to_bias, to_scale))
    back = shared.reshape(row) + unit * along.reshape(row)
    mask = counted.reshape((-1,) + (1,) * (x.ndim - 1))
    to_x = (inverse * scale).reshape(row) * (slope - jnp.where(mask, back, 0.0))
    nothing = jax.tree.map(_no_cotangent, ((mean, inverse, places), counted))
    return to_x.astype(x.dtype), to_scale, to_bias, *nothing


def _no_cotangent(leaf: jax.Array) -> jax.Array | np.ndarray:
    """Returns a zero cotangent for an array of any type."""
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    # JAX requires the dtype float0 for the cotangents of integers and bools.
    return jnp.zeros_like(leaf) if floating else np.zeros(leaf.shape, jax.dtypes.float0)


_normalized.defvjp(_normalized_fwd, _normalized_bwd)


class Affine(nn.Module):
    """A layer with a learned scale and bias per channel: x * scale + bias.

    x is [batch, ..., channels]. The layer replaces a batch normalisation whose mean and variance
    were merged into scale and bias.

    Attributes:
      dtype: type of the result.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x * scale + bias, [batch, ..., channels]."""
        row = (1,) * (x.ndim - 1) + (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, row[-1:]).reshape(row)
        bias = self.param("bias", nn.initializers.zeros, row[-1:]).reshape(row)
        return (x.astype(jnp.float32) * scale + bias).astype(self.dtype)
