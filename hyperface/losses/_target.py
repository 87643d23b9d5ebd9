"""Computes the part of the losses and gradients that comes from each example's own class.

The own class is called the target, and no fold contains it. `target_of` computes the numbers of
this class that terms use. `add_target` adds the target's part of the gradients to those that the
backward scan computed. If agents are split by rows, the device that has the target's row computes
its part, and the other devices add zeros.
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
    """Numbers of each example and its own class, from which a term computes its loss.

    They are needed separately, because the reduction over classes (the fold) leaves out the own
    class. The agent of a class is its class weight, a row of the classification matrix. For a label
    out of range all fields but `feature_norm` are NaN.
    """

    similarity: jax.Array
    """[batch] inner product of the feature and the agent of its class. Each side has unit length if
    the terms normalise it; with both it is the cosine."""
    agent_similarity: jax.Array
    """[batch] the same values as `similarity`, but their gradient reaches only the agent, and not
    the feature. Use it to give agent and feature gradients that are not derivatives of one
    function, as some authors' published code does."""
    agent_norm: jax.Array
    """[batch] length of the agent of the example's class, un-normalised."""
    bias: jax.Array
    """[batch] number that is added to the logit of the example's class; 0 without a bias."""
    own_angle: jax.Array | None
    """[batch] angle between feature and agent in radians; None unless a term has `needs_angle`.
    Read it through `angle`, which raises an error for None."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""

    @property
    def angle(self) -> jax.Array:
        """Returns the angle [batch] between each feature and the agent of its class, in radians.

        The angle is precise near 0 and pi, where the arccos of `similarity` is not.

        Raises:
          ValueError: the angle was not computed, because no term has `needs_angle = True`.
        """
        if self.own_angle is None:
            raise ValueError(
                "expected a term with needs_angle = True, which `angle` is computed for"
            )
        return self.own_angle


class _OwnClass(NamedTuple):
    """The fields of `Target` that depend on the agent of the example's class."""

    similarity: jax.Array
    agent_similarity: jax.Array
    agent_norm: jax.Array
    bias: jax.Array
    own_angle: jax.Array | None


def target_of(layout: Layout, inputs: Inputs, labels_here: jax.Array, norms: jax.Array) -> Target:
    """Returns the `Target` (numbers of the own class) of each of this device's examples.

    A label out of range gives NaN in all fields but `feature_norm`.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels, for the batch of all devices.
      labels_here: [batch] class ids of this device's examples.
      norms: [batch] lengths of the un-normalised features of these examples.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    own_bias = None if inputs.bias is None else inputs.bias[at.row]
    own = _own_class(layout, inputs.x, inputs.features, inputs.agents[at.row], own_bias)
    # Only one device has the row. The others add zeros, so that the sum is the value itself.
    own = layout.shards.reduce_over_axis(jax.tree.map(lambda v: jnp.where(at.is_here, v, 0.0), own))
    exists = locate(labels_here, layout.num_rows, layout.shards.axis_name).exists
    # The agent of a label out of range is on no device. The sum is then zero, which would look like
    # a cosine.
    own = jax.tree.map(lambda v: jnp.where(exists, v, jnp.nan), own)
    return Target(**own._asdict(), feature_norm=norms)


def add_target(
    layout: Layout, inputs: Inputs, to_terms: Any, to_target: Target, gradients: Gradients
) -> Inputs:
    """Adds the gradients that come from each example's own class, and returns all gradients.

    The backward scan (the loop over blocks of classes) leaves out the own class of each example.
    After the addition, the gradients to the features are summed over the devices. The gradient of
    each agent (class weight) is on the device that has its row.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels, for the batch of all devices.
      to_terms: gradients to the hyper-parameters of the terms, returned as they are.
      to_target: gradients to the fields of `Target` (such as the similarity to the own class) of
        this device's examples.
      gradients: the result of the backward scan: the gradients that come from the other classes.

    Returns:
      The gradients to all inputs, as an `Inputs`. Those to features and norms are for this device's
      examples.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    part = target_gradients(layout, inputs, inputs.agents[at.row], to_target)
    # `add` and not `set`, because several examples may be of one class.
    to_agents = gradients.agents.at[at.row].add(part.rows)
    to_bias = gradients.bias
    if to_bias is not None:
        to_bias = to_bias.at[at.row].add(part.bias)
    # Both parts of the gradient to x are added before the collective, so that they are sent once.
    to_x, to_features = layout.shards.reduce_over_axis((gradients.x + part.x, part.features))
    # Labels and flags are integers and bools, which have no gradient.
    return Inputs(to_terms, to_x, to_features, part.norms, to_agents, to_bias, classes=None)


class TargetGradients(NamedTuple):
    """Gradients that come from the examples' own classes, for classes on this device.

    [batch] means the examples of all devices, except for `norms`, which has this device's examples.
    The values are 0 for an example whose class is on another device.
    """

    x: jax.Array
    """[batch, dim] gradient to the features, which have unit length if the terms normalise them."""
    features: jax.Array | None
    """[batch, dim] gradient to the un-normalised features, from the angle; None without an
    angle."""
    norms: jax.Array
    """[batch] gradient to the lengths of the features of this device's examples."""
    rows: jax.Array
    """[batch, dim] each example's part of the gradient to the agent (class weight) of its class."""
    bias: jax.Array | None
    """[batch] each example's part of the gradient to the bias of its class; None without a bias."""


def target_gradients(
    layout: Layout, inputs: Inputs, rows: jax.Array, to_target: Target
) -> TargetGradients:
    """Returns the gradients that come from the examples' own classes, for classes on this device.

    They are not yet summed over the devices. They are found by automatic differentiation of the
    formulas for `Target`.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels, for the batch of all devices.
      rows: [batch, dim] the agents of the examples' own classes; an arbitrary row if another device
        has the agent.
      to_target: the gradients to the fields of `Target` (such as the similarity to the own class)
        of this device's examples.
    """
    at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
    fields = to_target._asdict()
    to_norms = fields.pop("feature_norm")
    to_own = layout.shards.all_gather_batch(_OwnClass(**fields))
    # For an agent on another device `at.row` is 0, and row 0 here must not get its gradient.
    to_own = jax.tree.map(lambda g: jnp.where(at.is_here, g, 0.0), to_own)
    own_bias = None if inputs.bias is None else jnp.zeros_like(to_own.similarity)
    # Cast to types that vary over the devices, as the rows do. The pull-back then gives this
    # device's part of the gradients, and JAX adds no sum over the devices.
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
    """Returns the facts that depend on the agent and bias of each example's class.

    Args:
      layout: the static options, such as block size and precision.
      x: [batch, dim] features, normalised if the terms say so.
      features: [batch, dim] un-normalised features, for the angle; None without it.
      rows: [batch, dim] the agent of each example's class, un-normalised.
      bias: [batch] the bias of each example's class, or None.
    """
    if not layout.normalize_agents:
        unit = rows
    elif layout.agent_gradient == "tangent":
        unit = l2_normalize(rows, eps=AGENT_EPS)
    else:
        # The value is the unit row, and the gradient is as if the row had been stored at unit
        # length.
        unit = jax.lax.stop_gradient(l2_normalize(rows, eps=AGENT_EPS)) + slope_only(rows)

    def similarity_of(x: jax.Array) -> jax.Array:
        # A sum of products and no matmul, whose operands an accelerator would round.
        similarity = jnp.sum(x * unit, axis=1)
        if layout.normalize_agents and layout.agent_gradient == "distance":
            # The gradient of -1/2 ||f~ - W||^2 to W is that of the inner product plus this one.
            similarity -= slope_only(0.5 * jnp.sum(unit * unit, axis=1))
        return similarity

    similarity = similarity_of(x)
    agent_similarity = similarity_of(jax.lax.stop_gradient(x))
    bias = jnp.zeros_like(similarity) if bias is None else bias
    own_angle = None if features is None else angle(features, rows)
    return _OwnClass(similarity, agent_similarity, l2_norm(rows), bias, own_angle)


def slope_only(x: jax.Array) -> jax.Array:
    """Returns zeros in the shape of x, but passes x's gradient through.

    A loss plus `slope_only(x)` has the value of the loss, and the sum of the gradients of the loss
    and of x. Terms use this function to compute the gradient of an author's published code, if that
    gradient is not the derivative of any loss.
    """
    return x - jax.lax.stop_gradient(x)
