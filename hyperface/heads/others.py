"""Heads without agents: centers, the radius, a user's loss, and losses on pairs or triplets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses
from hyperface.config.loss import BatchTripletTerm, CenterTerm, RingTerm
from hyperface.errors import InputError
from hyperface.heads.context import Context, Objective, rows_of, whole_batch, xavier
from hyperface.losses import classwise, shards
from hyperface.normalize import l2_norm


class CenterHead(nn.Module):
    """Center loss with its centers.

    The gradient of the centers is not that of the loss. It is `losses.center_direction` over the
    whole batch, for any weight: the paper's rule moves centers by a share of it, and Caffe passes
    it to the optimiser.
    """

    num_classes: int
    options: CenterTerm

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """Returns the term's objective.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        if self.is_initializing():
            centers = self.param("centers", xavier, (self.num_classes, features.shape[-1]))
        else:
            # Without the check of the shape: a device may hold only some of the rows.
            centers = self.get_variable("params", "centers")
        weights = context.weights(features.shape[0])
        own = rows_of(centers, labels, context)
        # The rows were gathered already, so that each example has a row of its own.
        loss = losses.center(features, own, jnp.arange(labels.size))
        total = self.options.weight * jnp.sum(weights * loss)

        # The step divides gradients by the number of examples: this makes them the sum of
        # (c - f) / (1 + count) in the end, with the count of the class in the whole batch.
        of_all, labels_of_all = whole_batch((weights, labels), context.axis_name)
        # Counted among the batch, so that no array with one entry per class is needed.
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
        """Returns the term's objective; its scalar is R.

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


class CustomHead(nn.Module):
    """A user's loss per example, with the parameters that it has where it is a linen module.

    Attributes:
      loss: from features [batch, dim] and labels [batch] to the loss [batch].
      title: the term's name.
      weight: the term's.
    """

    loss: Callable
    title: str
    weight: float

    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """Returns the term's objective.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.

        Raises:
          InputError: the loss returns something else than one number per example.
        """
        loss = self.loss(features, labels)
        shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", type(loss))
        if shape != labels.shape or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"loss.custom: expected the loss {self.title} to return floats "
                f"[{labels.size}], one per example, found {dtype} of shape {shape}."
            )
        # A user's loss may be of half precision, in which a sum over the batch loses digits.
        loss = loss.astype(jnp.float32)
        weights = context.weights(labels.size)
        # Padding may be infinite, and 0 times infinity would be NaN.
        total = jnp.sum(jnp.where(weights > 0, loss, 0.0))
        return Objective(self.weight * total, {self.title: loss}, {})


def mined(
    name: str, options: Any, features: jax.Array, labels: jax.Array, context: Context
) -> Objective:
    """Returns a loss on pairs or triplets of the whole batch, with the anchors of this device."""
    triplet = isinstance(options, BatchTripletTerm)
    weights = context.weights(features.shape[0])
    everything = (features, labels, weights > 0)
    of_all = whole_batch(everything, context.axis_name)
    loss = (losses.batch_triplet if triplet else losses.batch_contrastive)(
        of_all[0], of_all[1], margin=options.margin, mining=options.mining, counted=of_all[2]
    )
    # Every device computes all anchors and keeps its own, or each loss would count several times.
    loss = shards.this_device_part(loss, context.axis_name, labels.size)
    return Objective(options.weight * jnp.sum(weights * loss), {name: loss}, {})
