"""Layers with Caffe's meaning, which the papers' networks are made of."""

import jax
import jax.numpy as jnp
from flax import linen as nn

# Caffe's "xavier" is uniform in +-sqrt(3 / fan_in), not Glorot's average of both fans.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class PReLU(nn.Module):
    """max(x, 0) + a min(x, 0) with a learned slope a, one a channel, starting at 0.25."""

    shared: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) if self.shared else (x.shape[-1],)
        slope = self.param("slope", nn.initializers.constant(0.25), shape)
        slope = slope.reshape((1,) * (x.ndim - 1) + shape)
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)
