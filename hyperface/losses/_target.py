"""The target of each example: its own class, which no fold contains.

`target_of` computes what a term may know of it. `add_target` is the way back: it adds the target's
part of the gradients to those that the backward scan found. With agents that are split by rows the
device that holds the row computes, and the others add zeros.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperface.losses._angle import angle
from hyperface.losses._blocks import AGENT_EPS, Gradients, Inputs, Layout
from hyperface.losses.shards import locate
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.rules import vary_over, varying_axes


class Target(NamedTuple):
    """What a term may use of each example apart from the folded value of the other classes."""

    similarity: jax.Array
    """[batch] similarity to the example's own class."""
    agent_similarity: jax.Array
    """[batch] the same number, whose gradient reaches the own class's agent alone: for released
    gradients that differ between the two sides."""
    agent_norm: jax.Array
    """[batch] length of the own class's agent."""
    bias: jax.Array
    """[batch] what is added to the own class's logit; 0 without a bias."""
    own_angle: jax.Array | None
    """The value that `angle` returns; None unless a term has `needs_angle`."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""

    @property
    def angle(self) -> jax.Array:
        """Returns the angle [batch] between each feature and the agent of its class, in radians.

        It is precise near 0 and pi, where the arccos of `similarity` is not.

        Raises:
          ValueError: no term has `needs_angle`.
        """
        if self.own_angle is None:
            raise ValueError(
                "expected a term with needs_angle = True, which `angle` is computed for"
            )
        return self.own_angle


class _OwnClass(NamedTuple):
    """The fields of `Target` that depend on the example's own agent."""

    similarity: jax.Array
    agent_similarity: jax.Array
    agent_norm: jax.Array
    bias: jax.Array
    own_angle: jax.Array | None


def target_of(layout: Layout, inputs: Inputs, labels_here: jax.Array, norms: jax.Array) -> Target:
    """Returns the targets of `labels_here`, NaN for a label out of range.

    Args:
      layout: how the problem is computed.
      inputs: the arrays of the whole batch.
      labels_here: [batch] class ids of this device's part of the batch.
      norms: [batch] lengths of the un-normalised features of that part.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    own_bias = None if inputs.bias is None else inputs.bias[at.row]
    own = _own_class(layout, inputs.x, inputs.features, inputs.agents[at.row], own_bias)
    # One device holds the row and the others add zeros, so that the sum is the value itself.
    own = layout.shards.reduce_over_axis(jax.tree.map(lambda v: jnp.where(at.is_here, v, 0.0), own))
    exists = locate(labels_here, layout.num_rows, layout.shards.axis_name).exists
    # A label out of range is on no device and sums to zero, which would pass for a cosine.
    own = jax.tree.map(lambda v: jnp.where(exists, v, jnp.nan), own)
    return Target(**own._asdict(), feature_norm=norms)


def add_target(
    layout: Layout, inputs: Inputs, to_terms: Any, to_target: Target, gradients: Gradients
) -> Inputs:
    """Returns the gradients to all inputs, with the target's part added.

    The gradients to x and to the features are summed over the devices. The gradient of each agent
    is on the device that has its row.

    Args:
      layout: how the problem is computed.
      inputs: the arrays of the whole batch.
      to_terms, to_target: gradients to the terms and to this device's part of the targets.
      gradients: the gradients that come from the other classes.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    part = target_gradients(layout, inputs, inputs.agents[at.row], to_target)
    # Several examples of one class add to one row.
    to_agents = gradients.agents.at[at.row].add(part.rows)
    to_bias = gradients.bias
    if to_bias is not None:
        to_bias = to_bias.at[at.row].add(part.bias)
    # Both parts of x are added before the collective, which then sends them once.
    to_x, to_features = layout.shards.reduce_over_axis((gradients.x + part.x, part.features))
    # Labels and flags are integers and bools, which have no gradient.
    return Inputs(to_terms, to_x, to_features, part.norms, to_agents, to_bias, classes=None)


class TargetGradients(NamedTuple):
    """Gradients that come from the targets, on this device's rows."""

    x: jax.Array
    features: jax.Array | None
    norms: jax.Array
    rows: jax.Array
    """[batch, dim] what each example adds to the row of its own class."""
    bias: jax.Array | None
    """[batch] what it adds to the bias of its own class."""


def target_gradients(
    layout: Layout, inputs: Inputs, rows: jax.Array, to_target: Target
) -> TargetGradients:
    """Returns the part of the gradients that comes from the targets, not yet summed over devices.

    Args:
      layout: how the problem is computed.
      inputs: the arrays of the whole batch.
      rows: [batch, dim] the agents of the examples' own classes; an arbitrary row if another device
        has the agent.
      to_target: the gradient to this device's part of the targets.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    fields = to_target._asdict()
    to_norms = fields.pop("feature_norm")
    to_own = layout.shards.all_gather_batch(_OwnClass(**fields))
    # `at.row` is 0 for a row of another device: row 0 here must not get its gradient.
    to_own = jax.tree.map(lambda g: jnp.where(at.is_here, g, 0.0), to_own)
    own_bias = None if inputs.bias is None else jnp.zeros_like(to_own.similarity)
    # As ones that vary with the rows: the pull-back then gives this device's part of the sum.
    axes = varying_axes(inputs.x, rows)
    x, features, rows = vary_over(axes, (inputs.x, inputs.features, rows))
    _, pull = jax.vjp(partial(_own_class, layout), x, features, rows, own_bias)
    to_x, to_features, to_rows, to_bias = pull(to_own)
    return TargetGradients(to_x, to_features, to_norms, to_rows, to_bias)


def _own_class(
    layout: Layout,
    x: jax.Array,
    features: jax.Array | None,
    rows: jax.Array,
    bias: jax.Array | None,
) -> _OwnClass:
    """Returns what depends on each example's own agent (a row of `rows`) and bias."""
    if not layout.normalize_agents:
        unit = rows
    elif layout.agent_gradient == "tangent":
        unit = l2_normalize(rows, eps=AGENT_EPS)
    else:
        # The value is the unit row; the gradient passes as if the row were stored at unit length.
        unit = jax.lax.stop_gradient(l2_normalize(rows, eps=AGENT_EPS)) + slope_only(rows)

    def similarity_of(x: jax.Array) -> jax.Array:
        # A sum of products stays float32 where accelerators would round a matmul's operands.
        similarity = jnp.sum(x * unit, axis=1)
        if layout.normalize_agents and layout.agent_gradient == "distance":
            # -1/2 ||f~ - W||^2 has this slope beside that of the inner product.
            similarity -= slope_only(0.5 * jnp.sum(unit * unit, axis=1))
        return similarity

    similarity = similarity_of(x)
    agent_similarity = similarity_of(jax.lax.stop_gradient(x))
    bias = jnp.zeros_like(similarity) if bias is None else bias
    own_angle = None if features is None else angle(features, rows)
    return _OwnClass(similarity, agent_similarity, l2_norm(rows), bias, own_angle)


def slope_only(x: jax.Array) -> jax.Array:
    """Returns zero but passes x's gradient through.

    Released gradients use it where they are not the derivative of any loss.
    """
    return x - jax.lax.stop_gradient(x)
