"""Types of a head's inputs and outputs besides features, and access to rows on other devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses
from hyperface.losses import shards


class AgentUpdate(NamedTuple):
    """An update of the agents (class weights) that the reverse pass of their loss applies."""

    rule: losses.RowUpdate
    """The function that updates some rows of the agents: (rows, their state, their gradient) ->
    (new rows, new state)."""
    state: Any
    """The optimiser's state of the agents, such as their momentum: arrays with one row per agent.
    The reverse pass updates the state too."""


class Context(NamedTuple):
    """The inputs of a head that differ from step to step, besides features and labels.

    A head is a module that computes one or more losses and owns their parameters.
    """

    step: jax.Array | int = 0
    """Number of optimiser steps that are done. SphereFace's losses compute from it how strong their
    margin is."""
    counted: jax.Array | None = None
    """[batch] bool, False for padding; None counts all examples."""
    keys: jax.Array | None = None
    """[batch] random keys for dropout; None drops nothing. There is one key per example, so that
    dropout does not depend on how the batch is split over devices."""
    sample: losses.Sample | None = None
    """The sampled classes of this step. The agents (class weights) then contain only the rows of
    this sample. None takes all classes."""
    axis_name: str | None = None
    """Name of the mapped axis over which the batch is split; None on one device."""
    split_classes: bool = False
    """Whether agents and centers are split by rows over the axis `axis_name`. A head then has only
    this device's rows. Rows beyond the last class are padding."""
    agent_updates: dict[str, AgentUpdate] | None = None
    """Name of a head -> update of its agents (class weights). The reverse pass then returns the
    updated agents in place of their gradient. None: the agents get a gradient, like any other
    parameter."""

    def weights(self, batch: int) -> jax.Array:
        """Returns the weights [batch] of the examples in sums: 1, or 0 for padding, in float32.

        Args:
          batch: number of examples, with padding.
        """
        if self.counted is None:
            return jnp.ones(batch, jnp.float32)
        return self.counted.astype(jnp.float32)

    def with_padding_of_ones(self, features: jax.Array) -> jax.Array:
        """Returns features [batch, dim] with ones in the rows of padding.

        Padding has the weight 0, but the loss or gradient of a row of zeros may be infinite, and 0
        times infinity is NaN. For a row of ones all losses are finite.
        """
        if self.counted is None:
            return features
        return jnp.where(self.counted[:, None], features, 1.0)

    def total(self, loss: jax.Array) -> jax.Array:
        """Returns the sum, a scalar, of the losses [batch] of all examples but padding."""
        return jnp.sum(self.weights(loss.size) * loss)


class Objective(NamedTuple):
    """The objective of a batch, with the values to log.

    The objective is a weighted sum of terms. A term is one loss, such as softmax or Ring loss.
    """

    total: jax.Array
    """The objective, a scalar that is differentiated: the sum over terms and examples of weight x
    loss, without padding. It is not yet divided by the number of examples."""
    terms: dict[str, jax.Array]
    """Name of each term -> its unweighted loss [batch], to be logged."""
    scalars: dict[str, jax.Array]
    """Name -> scalar to be logged, such as scale and radius."""
    agent_distances: jax.Array | None = None
    """[batch] squared distance of each normalised feature to the agent (class weight) of its class,
    to log the bound of NormFace's Proposition 3; None if no term has agents."""


def rows_of(matrix: jax.Array, labels: jax.Array, context: Context) -> jax.Array:
    """Returns for each label the matrix row of this number, even if another device has the row.

    Args:
      matrix: [rows, dim], all rows of the matrix, or those that are on this device.
      labels: [batch] row numbers in the whole matrix, for this device's examples.
      context: its `split_classes` says whether the rows are split over the devices.

    Returns:
      [batch, dim]. For a label out of range the row is NaN.
    """
    axis_name = context.axis_name if context.split_classes else None
    rows = matrix.shape[0]
    at = shards.locate(shards.whole_batch(labels, axis_name), rows, axis_name)
    found = jnp.where(at.is_here[:, None], matrix[at.row], 0.0)
    if axis_name is not None:
        # Exactly one device has each row, and the others add zeros.
        found = jax.lax.psum_scatter(found, axis_name, tiled=True)
    exists = shards.locate(labels, rows, axis_name).exists
    # Without NaN a label out of range would silently give the zero vector.
    return jnp.where(exists[:, None], found, jnp.nan)


def xavier(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns initial values by Caffe's xavier filler, for a matrix [classes, dim].

    They are uniform in +-sqrt(3 / dim).
    """
    # Flax takes the last axis for the outputs. Here it is that of the inputs, so that Flax's
    # fan_out is the fan_in.
    return nn.initializers.variance_scaling(1.0, "fan_out", "uniform")(key, shape)
