"""Heads without agents: centers, the radius, and losses on the pairs or triplets of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses
from hyperface.config.loss import BatchTripletTerm, CenterTerm, RingTerm
from hyperface.heads.context import Context, Objective, rows_of, whole_batch, xavier
from hyperface.losses import classwise, shards
from hyperface.normalize import l2_norm


class CenterHead(nn.Module):
    """Center loss with its centers.

    The centers' gradient is not the loss' but `losses.center_direction` over the whole batch,
    whatever the weight: what the paper's rule takes a share of, and Caffe's optimiser is given.
    """

    num_classes: int
    options: CenterTerm

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """The term's objective.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        if self.is_initializing():
            centers = self.param("centers", xavier, (self.num_classes, features.shape[-1]))
        else:
            centers = self.get_variable("params", "centers")
        weights = context.weights(features.shape[0])
        own = rows_of(centers, labels, context)
        loss = losses.center(features, own, jnp.arange(labels.size))
        total = self.options.weight * jnp.sum(weights * loss)

        # The step divides gradients by the number of examples: this makes them the sum of
        # (c - f) / (1 + count) in the end, with the count of the class in the whole batch.
        of_all, labels_of_all = whole_batch((weights, labels), context.axis_name)
        alike = labels[:, None] == labels_of_all[None, :]
        count = jnp.sum(jnp.where(alike, of_all[None, :], 0.0), axis=1)
        pull = weights * jnp.sum(of_all) / (1.0 + count)
        apart = jax.lax.stop_gradient(features) - own
        # Zero in value: the total stays the objective.
        total += classwise.slope_only(0.5 * jnp.sum(pull * jnp.sum(apart**2, axis=1)))
        return Objective(total, {"center": loss}, {})


class RingHead(nn.Module):
    """Ring loss with its learned radius R, which starts at `initial_radius`.

    None takes the mean norm of the features that the parameters are initialised with, so initialise
    with a real batch.
    """

    options: RingTerm = RingTerm(weight=1.0)

    @nn.compact
    def __call__(self, features: jax.Array, context: Context | None = None) -> Objective:
        """The term's objective; the scalar is R.

        Args:
          features: [batch, dim], un-normalised.
          context: of the step.
        """

        def first_radius(key: jax.Array) -> jax.Array:
            if self.options.initial_radius is None:
                return jnp.mean(l2_norm(features))
            return jnp.float32(self.options.initial_radius)

        radius = self.param("radius", first_radius)
        context = context or Context()
        form, axis_name = self.options.form, context.axis_name
        loss = losses.ring(features, radius, form=form, axis_name=axis_name)
        weights = context.weights(features.shape[0])
        total = self.options.weight * jnp.sum(weights * loss)
        return Objective(total, {"ring": loss}, {"radius": radius})


def mined(name: str, options: Any, features, labels, context: Context) -> Objective:
    """A loss on the pairs or triplets of the whole batch, its anchors those of this device."""
    triplet = isinstance(options, BatchTripletTerm)
    weights = context.weights(features.shape[0])
    everything = (features, labels, weights > 0)
    of_all = whole_batch(everything, context.axis_name)
    loss = (losses.batch_triplet if triplet else losses.batch_contrastive)(
        of_all[0], of_all[1], margin=options.margin, mining=options.mining, counted=of_all[2]
    )
    loss = shards.this_device_part(loss, context.axis_name, labels.size)
    return Objective(options.weight * jnp.sum(weights * loss), {name: loss}, {})
