"""Linen modules that own what the losses learn: agents, bias, scale and radius."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses, theory
from hyperface.losses import Normalize
from hyperface.normalize import l2_norm, l2_normalize


class SoftmaxHead(nn.Module):
    """Softmax over agents, normalised as NormFace's Eq. 6 by default.

    A learned scale starts where Proposition 2's bound equals `initial_bound` for this class count,
    and acts as at least `min_scale`. Below that floor the loss sees the floor, while the parameter
    still gets the gradient taken there, so it can climb back.

    Attributes:
      num_classes: rows of the agent matrix.
      normalize: "both", "features", "agents" or "none", as in `losses.softmax`.
      scale: a fixed s, or "learned".
      initial_bound: nats; sets the learned scale's start.
      min_scale: the floor of a learned scale (the released code clamps at 0.01).
      use_bias: one bias a class; `allow_normalized_bias` as in `losses.softmax`.
      dropout_rate: share of feature elements dropped before the loss, in training only.
    """

    num_classes: int
    normalize: Normalize = "both"
    scale: float | Literal["learned"] = "learned"
    initial_bound: float = 0.1
    min_scale: float = 0.01
    use_bias: bool = False
    allow_normalized_bias: bool = False
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss [batch] in nats, and the scale in use with Proposition 2's bound at it.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          keys: [batch] random keys for dropout, one an example, so that what is dropped does not
            depend on how the batch is spread over devices. None drops nothing.
        """
        agents = self.param("agents", self._agents_init, (self.num_classes, features.shape[-1]))
        bias = (
            self.param("bias", nn.initializers.zeros, (self.num_classes,))
            if self.use_bias
            else None
        )
        scale = self._scale()
        if self.dropout_rate and keys is not None:
            features = _dropout(features, keys, self.dropout_rate)
        loss = losses.softmax(
            features,
            agents,
            labels,
            normalize=self.normalize,
            scale=scale,
            bias=bias,
            allow_normalized_bias=self.allow_normalized_bias,
        )
        scalars = {"scale": scale}
        if self.normalize == "both":
            scalars["softmax_bound"] = theory.softmax_lower_bound(self.num_classes, scale)
        return loss, scalars

    def _scale(self) -> jax.Array:
        if self.scale != "learned":
            return jnp.float32(self.scale)
        start = theory.scale_for_bound(self.num_classes, self.initial_bound)
        scale = self.param("scale", lambda key: jnp.maximum(start, self.min_scale))
        return scale + jax.lax.stop_gradient(jnp.maximum(scale, self.min_scale) - scale)

    def _agents_init(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Random unit rows where their length does not matter, Caffe's xavier where it does."""
        if self.normalize in ("both", "agents"):
            return l2_normalize(jax.random.normal(key, shape))
        # Rows are outputs: fan-in is the last axis, which linen calls the out axis.
        return nn.initializers.variance_scaling(1.0, "fan_out", "uniform")(key, shape)


class RingHead(nn.Module):
    """Ring loss with its learned radius R.

    Attributes:
      initial_radius: R at the start; None takes the mean norm of the features that the parameters
        are initialised with, so initialise with a real batch.
    """

    initial_radius: float | None = None

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss [batch] in squared norm units (lambda = 1), and R."""

        def first_radius(key: jax.Array) -> jax.Array:
            if self.initial_radius is None:
                return jnp.mean(l2_norm(features))
            return jnp.float32(self.initial_radius)

        radius = self.param("radius", first_radius)
        return losses.ring(features, radius), {"radius": radius}


class Heads(nn.Module):
    """The terms of a training objective over one feature; without a ring head it is left out."""

    softmax: SoftmaxHead
    ring: RingHead | None = None

    def __call__(
        self, features: jax.Array, labels: jax.Array, keys: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Returns each term's unweighted loss [batch], and the scalars to watch, by name."""
        loss, scalars = self.softmax(features, labels, keys)
        terms = {"softmax": loss}
        if self.ring is not None:
            terms["ring"], seen = self.ring(features)
            scalars = scalars | seen
        return terms, scalars


def _dropout(features: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, features.shape[1:]))(keys)
    return jnp.where(keep, features / (1.0 - rate), 0.0)
