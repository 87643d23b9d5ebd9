"""The context that a head gets per step, its result, and access to rows on other devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses
from hyperface.losses import shards


class AgentUpdate(NamedTuple):
    """How a head's agents are updated in the reverse pass."""

    rule: losses.RowUpdate
    state: Any
    """The optimiser's state of the agents, which the reverse pass updates too."""


class Context(NamedTuple):
    """What a step knows beside features and labels."""

    step: jax.Array | int = 0
    """Optimiser steps done: annealing is a function of it."""
    counted: jax.Array | None = None
    """[batch] bool, False for padding; None counts all."""
    keys: jax.Array | None = None
    """[batch] random keys for dropout, one per example, so that what is dropped does not depend on
    how the batch is spread over devices. None drops nothing."""
    sample: losses.Sample | None = None
    """The classes that take part; heads then hold their rows of the agents only."""
    axis_name: str | None = None
    """Mapped axis that the batch is spread over."""
    split_classes: bool = False
    """Heads hold this device's rows of agents and centers, which are split over the same axis. Rows
    beyond the last class are padding."""
    agent_updates: dict[str, AgentUpdate] | None = None
    """Updates of the agents by name of their head; None differentiates the agents as any other
    parameter."""

    def weights(self, batch: int) -> jax.Array:
        """[batch] float32, 1 for an example and 0 for padding."""
        if self.counted is None:
            return jnp.ones(batch, jnp.float32)
        return self.counted.astype(jnp.float32)


class Objective(NamedTuple):
    """What heads make of a batch."""

    total: jax.Array
    """The weighted sum of all terms over the counted examples, to be differentiated."""
    terms: dict[str, jax.Array]
    """Each term's unweighted loss [batch], to be looked at."""
    scalars: dict[str, jax.Array]
    """Scale, radius and the like, to be looked at."""
    agent_distances: jax.Array | None = None
    """[batch] squared distance of each normalised feature to its own agent (Proposition 3)."""


def whole_batch(tree: Any, axis_name: str | None) -> Any:
    """Returns arrays of the whole batch: the parts of all devices, joined in their order."""
    if axis_name is None:
        return tree
    return jax.lax.all_gather(tree, axis_name, tiled=True)


def rows_of(matrix: jax.Array, labels: jax.Array, context: Context) -> jax.Array:
    """Returns the matrix row of each of this device's examples, whichever device has that row.

    A label out of range gives a row of NaN.
    """
    axis_name = context.axis_name if context.split_classes else None
    rows = matrix.shape[0]
    at = shards.locate(whole_batch(labels, axis_name), rows, axis_name)
    found = jnp.where(at.is_here[:, None], matrix[at.row], 0.0)
    if axis_name is not None:
        # One device holds each row and the others add zeros.
        found = jax.lax.psum_scatter(found, axis_name, tiled=True)
    exists = shards.locate(labels, rows, axis_name).exists
    # Otherwise a label out of range would silently be the zero vector.
    return jnp.where(exists[:, None], found, jnp.nan)


def xavier(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns Caffe's Xavier initial values of a matrix with one output per row."""
    # So fan-in is the last axis, which linen calls the out axis.
    return nn.initializers.variance_scaling(1.0, "fan_out", "uniform")(key, shape)
