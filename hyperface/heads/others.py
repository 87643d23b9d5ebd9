"""The heads without agents: center loss, Ring loss, a user's own loss, and pairs or triplets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses
from hyperface.config.loss import BatchTripletTerm, CenterTerm, RingTerm
from hyperface.errors import InputError
from hyperface.heads.context import Context, Objective, rows_of, xavier
from hyperface.losses import classwise, shards
from hyperface.normalize import l2_norm


class CenterHead(nn.Module):
    """Computes center loss, and owns the centers [classes, dim].

    As in the paper, the gradient of the centers is not the derivative of the loss. It is the
    direction that `losses.center_direction` computes from the whole batch: per class, the sum of
    center - feature over its examples, divided by 1 + their number. The direction does not depend
    on the weight of the loss. With the option rule="paper" the centers become center - `rate` x
    direction. With rule="caffe" the optimiser uses the direction like any gradient.

    Attributes:
      num_classes: number of rows of the matrix of centers.
      options: weight of the loss, and the rule and rate by which centers move.
    """

    num_classes: int
    options: CenterTerm

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """Returns the objective of the term.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: the step's context.
        """
        if self.is_initializing():
            centers = self.param("centers", xavier, (self.num_classes, features.shape[-1]))
        else:
            # `self.param` would check the shape, but a device may have only some of the rows.
            centers = self.get_variable("params", "centers")
        own = rows_of(centers, labels, context)
        # `own` already has one row per example, so the labels are the row numbers.
        loss = losses.center(features, own, jnp.arange(labels.size))
        total = self.options.weight * context.total(loss)

        # The direction of a center c is the sum over its examples of (c - f) / (1 + count), where
        # count is the number of examples of the class in the whole batch (Wen et al., Eq. 4). The
        # step divides every gradient by the number of examples, so `pull` multiplies by it.
        weights = context.weights(features.shape[0])
        of_all, labels_of_all = shards.whole_batch((weights, labels), context.axis_name)
        # Counted by comparing labels, so that no array with one entry per class is needed.
        alike = labels[:, None] == labels_of_all[None, :]
        count = jnp.sum(jnp.where(alike, of_all[None, :], 0.0), axis=1)
        pull = jnp.sum(of_all) / (1.0 + count)
        apart = jax.lax.stop_gradient(features) - own
        # `slope_only` adds a gradient and the value zero, so the total stays the objective.
        total += classwise.slope_only(0.5 * context.total(pull * jnp.sum(apart**2, axis=1)))
        return Objective(total, {"center": loss}, {})


class RingHead(nn.Module):
    """Computes Ring loss, and owns the learned radius R to which feature norms are drawn.

    R is initialised with the option `initial_radius`. If that is None, R is the mean feature norm
    of the batch that initialises the parameters, so this batch must consist of real images.

    Attributes:
      options: weight of the term, initial radius, and form of the equation.
    """

    options: RingTerm = RingTerm(weight=1.0)

    @nn.compact
    def __call__(self, features: jax.Array, context: Context | None = None) -> Objective:
        """Returns the objective of the term; its scalar is R.

        Args:
          features: [batch, dim], un-normalised.
          context: the step's context; None is that of one device without padding.
        """

        def first_radius(key: jax.Array) -> jax.Array:
            if self.options.initial_radius is None:
                return jnp.mean(l2_norm(features))
            return jnp.float32(self.options.initial_radius)

        radius = self.param("radius", first_radius)
        context = context or Context()
        loss = losses.ring(
            features,
            radius,
            form=self.options.form,
            counted=context.counted,
            axis_name=context.axis_name,
        )
        total = self.options.weight * context.total(loss)
        return Objective(total, {"ring": loss}, {"radius": radius})


class CustomHead(nn.Module):
    """Computes a user's own loss. If the loss is a linen module, `CustomHead` owns its parameters.

    Attributes:
      loss: function or module from un-normalised features [batch, dim] and labels [batch] to the
        loss [batch] in floating point.
      title: name of the loss in metrics and messages.
      weight: factor of the loss in the objective.
    """

    loss: Callable
    title: str
    weight: float

    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """Returns the objective of the term.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: the step's context.

        Raises:
          InputError: the loss does not return one floating-point number per example.
        """
        loss = self.loss(features, labels)
        shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", type(loss))
        if shape != labels.shape or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"loss.custom: expected the loss {self.title} to return floats "
                f"[{labels.size}], one per example, found {dtype} of shape {shape}."
            )
        # A user's loss may be in bfloat16 or float16, in which a sum over the batch loses digits.
        loss = loss.astype(jnp.float32)
        return Objective(self.weight * context.total(loss), {self.title: loss}, {})


def mined(
    name: str, options: Any, features: jax.Array, labels: jax.Array, context: Context
) -> Objective:
    """Returns the `Objective` of a loss on mined pairs or triplets: those formed within the batch.

    There is one loss per example of this device, the anchor of its pairs or triplets. Their other
    examples come from the batches of all devices.

    Args:
      name: name of the loss.
      options: weight, margin and mining: a `BatchContrastiveTerm` or a `BatchTripletTerm`.
      features: [batch, dim] of this device's examples, un-normalised.
      labels: [batch] class ids.
      context: which examples are padding, and the mapped axis over which the batch is split.
    """
    batch_loss = losses.batch_contrastive
    if isinstance(options, BatchTripletTerm):
        batch_loss = losses.batch_triplet
    loss = batch_loss(
        features,
        labels,
        margin=options.margin,
        mining=options.mining,
        counted=context.counted,
        axis_name=context.axis_name,
    )
    return Objective(options.weight * context.total(loss), {name: loss}, {})
