"""Computes class-wise losses: those that compare each feature with the agents of all classes.

Each such loss (softmax, C-contrastive, C-triplet, margin losses) reduces an example's similarities
to all other classes to one number, for example by a sum. Such a reduction is called a fold. It can
be computed block by block, and the results of two blocks can be merged. So the same code works for
one block of classes, for a loop over blocks, and for agents (class weights) that are split over
devices.

A loss is described by a `Term`: its fold, the fold's arguments, and a function that computes the
loss from the result of the fold and the similarity to the example's own class (the target). A
`Fold` describes how a block is reduced, how two results are merged, and the derivative. All other
parts are shared by all losses: matmuls, blocks, communication of devices, and the gradients. If
there are several blocks, no [batch, classes] array exists at any time, also not in the backward
pass.

The target is never part of a fold, because the gradient of a confident example would otherwise lose
its digits (see `losses.softmax`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient, Inputs, Layout, Precision
from hyperface.losses._engine import joint_losses, summed_losses, total
from hyperface.losses._folds import Block, Slope
from hyperface.losses._prepare import checked_state, prepare
from hyperface.losses._target import Target, slope_only
from hyperface.losses._term import Engine, Fold, Normalize, Term
from hyperface.losses._updates import RowUpdate, updating_sum
from hyperface.rules import AxisName, automatic, per_example
from hyperface.shapes import Agents, Bias, Features, Labels

__all__ = [
    "AgentGradient",
    "Block",
    "Engine",
    "Fold",
    "Gradient",
    "Normalize",
    "Precision",
    "RowUpdate",
    "Slope",
    "Target",
    "Term",
    "agent_rule",
    "joint",
    "single",
    "slope_only",
    "weighted_sum",
    "weighted_sum_with_update",
]

Gradient = Literal["exact", "caffe"]
""""exact" is the gradient of the paper's equation. "caffe" is the gradient that the authors'
published Caffe code computes in its place."""


def agent_rule(gradient: Gradient, term: Term, engine: Engine) -> Engine:
    """Returns the options `engine` with `agent_gradient` set according to the option `gradient`.

    Args:
      gradient: "exact" sets `agent_gradient` to "tangent", the exact gradient of normalised agents
        (class weights). "caffe" sets it to the term's attribute `released_gradient`, which says how
        the authors' published Caffe code computes this gradient.
      term: the class-wise loss.
      engine: the other options that class-wise losses accept.

    Raises:
      ValueError: `gradient` is unknown, or is "caffe" for a term without the attribute
        `released_gradient`.
    """
    _checks.one_of("gradient", gradient, get_args(Gradient))
    if gradient == "exact":
        return {**engine, "agent_gradient": "tangent"}
    # Optional, so that a user's term need not have the attribute.
    released = getattr(term, "released_gradient", None)
    if released is None:
        raise ValueError(
            f'expected gradient="exact" for {type(term).__name__}, found "caffe": the term states '
            "no `released_gradient` of its agents."
        )
    return {**engine, "agent_gradient": released}


def joint(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    bias: Bias | None = None,
    **engine: Unpack[Engine],
) -> tuple[jax.Array, ...]:
    """Computes several class-wise losses in one pass over one matrix of agents (class weights).

    A class-wise loss compares each feature with the agents of all classes.

    Args:
      terms: the losses with their hyper-parameters, such as `Softmax(2.0)`. All must have the same
        value of `normalize`, which says whether features and agents are scaled to unit length.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim] class weights; with `axis_name` only the rows of this device, in the
        order of the devices.
      labels: [batch] class ids among the classes of all devices.
      bias: [classes] numbers that are added to the logits, split like the agents. None adds
        nothing. Only terms that have logits accept a bias, such as softmax and its margin losses.
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities), `present` (which classes take part) and `agent_gradient` (whether the
        gradient of the agents is exact).

    Returns:
      One array of losses [batch] per term, in the order of `terms`. Under jit the loss is NaN where
      a label is out of range.

    Raises:
      TypeError: features or agents are not floating point, labels are not integers, or `present`
        is not bool.
      ValueError: shapes disagree, the terms differ in normalisation, the block size is below one,
        the budget is negative, or a label is out of range (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive, Softmax
      >>> features, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> both = joint([Softmax(2.0), CContrastive(3.0)], features, jnp.eye(2), labels)
      >>> print(*(loss.round(4) for loss in both))
      [0.1269] [1.]
    """
    return _joint("joint", terms, features, agents, labels, bias, engine)


def single(
    name: str,
    term: Term,
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    bias: Bias | None = None,
    **engine: Unpack[Engine],
) -> jax.Array:
    """Returns the loss [batch] of a single class-wise loss, which `joint` computes.

    Args:
      name: name of the public function that calls `single`, for messages.
      term: the loss with its hyper-parameters.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      bias: [classes] numbers that are added to the logits, or None.
      engine: options of the computation, all optional, such as `block_size` (classes per block) and
        `precision` (of matmuls); `classwise.Engine` describes all.
    """
    return _joint(name, (term,), features, agents, labels, bias, engine)[0]


def _joint(
    name: str,
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None,
    engine: Engine,
) -> tuple[jax.Array, ...]:
    layout, inputs, _ = prepare(name, terms, features, agents, labels, bias, (), **engine)
    # A scan over no classes has no first block.
    if not layout.num_rows:
        return _no_class(inputs)
    return automatic(partial(joint_losses, layout), inputs, split=per_example, like=inputs.x)


def _no_class(inputs: Inputs) -> tuple[jax.Array, ...]:
    """Returns NaN for every example: without classes no label is in range."""
    return tuple(jnp.full_like(inputs.norms, jnp.nan) for _ in inputs.terms)


def weighted_sum(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    labels: Labels,
    weights: Sequence[ArrayLike],
    *,
    bias: Bias | None = None,
    with_losses: bool = False,
    **engine: Unpack[Engine],
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum of several losses, over all terms and examples.

    The losses are those of `joint`. The result is the sum of weights[t][i] x loss_t[i] over terms t
    and examples i. When gradients are taken, hinge losses (`CContrastive`, and `CTriplet` over all
    negatives) need one pass over the classes instead of two. This is possible because the weights
    are known: the gradient of an agent (class weight) is a weighted sum over the examples. A block
    of classes in which every hinge is 0 skips the matmuls of the gradients. Other terms need two
    passes, as in `joint`.

    Args:
      terms: the losses with their hyper-parameters. All must have the same value of `normalize`,
        which says whether features and agents are scaled to unit length.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      bias: [classes] numbers that are added to the logits, or None.
      engine: options of the computation, all optional, such as `block_size` (classes per block) and
        `precision` (of matmuls); `classwise.Engine` describes all.
      weights: one array [batch] per term, the factor of each example's loss. For example, mask /
        count yields the mean. Weights are differentiable too.
      with_losses: also return the losses, for logs; no gradient flows through these.

    Returns:
      The sum, a scalar in at least float32. With `with_losses`, the pair (sum, losses), where
      `losses` has one array [batch] per term.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, the terms differ in normalisation, the weights are not one
        [batch] array per term, or a label is out of range (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive
      >>> agents, labels = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.array([0])
      >>> weights = (jnp.array([0.5]),)
      >>> features = jnp.array([[3.0, 0.0]])
      >>> print(weighted_sum([CContrastive()], features, agents, labels, weights).round(3))
      0.1
    """
    layout, inputs, summands = prepare(
        "weighted_sum", terms, features, agents, labels, bias, weights, **engine
    )
    return _sum(_summed, layout, inputs, summands, with_losses=with_losses)


def weighted_sum_with_update(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    state: Any,
    labels: Labels,
    weights: Sequence[ArrayLike],
    update: RowUpdate,
    *,
    bias: Bias | None = None,
    with_losses: bool = False,
    sum_over: AxisName | None = None,
    **engine: Unpack[Engine],
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the result of `weighted_sum`, and updates the agents in its reverse pass.

    Agents are the class weights. In place of the gradient to `agents`, JAX returns the UPDATED
    agents, and in place of the gradient to `state` the updated state. The backward scan computes
    them block by block, so that the agents' gradient is in memory for one block of rows at a time.
    If the caller donates agents and state to `jax.jit`, they are overwritten in place. The
    gradients to all other arguments are those of `weighted_sum`.

    If the sum is not finite, or if the cotangent of the sum is 0, agents and state are returned
    unchanged.

    The update cannot clip the gradient by its global norm, which is known only after the scan.

    Args:
      terms: the losses with their hyper-parameters. All must have the same value of `normalize`,
        which says whether features and agents are scaled to unit length.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim] class weights, one row per class. No other part of the differentiated
        function may use them.
      state: the optimiser's state of the agents: a pytree of floating-point arrays with one row per
        agent, such as their momentum; split over the devices as the agents are.
      labels: [batch] integer class ids.
      weights: one array [batch] per term, the factor of each example's loss. For example, mask /
        count yields the mean. Weights are differentiable too.
      bias: [classes] numbers that are added to the logits, or None.
      with_losses: also return the losses, for logs; no gradient flows through these.
      engine: options of the computation, all optional, such as `block_size` (classes per block) and
        `precision` (of matmuls); `classwise.Engine` describes all.
      update: function (some rows of the agents, their state, their gradient) -> (new rows, new
        state). It must treat each row independently of the others. It is a pytree whose leaves are
        its constants, such as a `jax.tree_util.Partial`; no gradient flows to them.
      sum_over: mapped axis, or axes, over which the batch is split while each device has the same
        agents. The agents' gradient is then added up over these axes, block by block. The gradients
        of features are those of this device's examples, as without `sum_over`.

    Returns:
      The sum, a scalar in at least float32. With `with_losses`, the pair (sum, losses), where
      `losses` has one array [batch] per term.

    Raises:
      TypeError: an array has the wrong kind of dtype, or the update is not a pytree.
      ValueError: shapes disagree, a label is out of range (values that jit traces are not checked),
        the terms differ in normalisation, the state does not have one row per agent, the update
        returns other shapes or dtypes, or `sum_over` lacks an axis over which the batch varies.

    Example:
      >>> import jax
      >>> from hyperface.losses import Softmax
      >>> def sgd(rate, rows, velocity, gradient):
      ...     velocity = 0.9 * velocity + gradient
      ...     return rows - rate * velocity, velocity
      >>> features, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> agents, weights = jnp.eye(2), [jnp.ones(1)]
      >>> def mean(features, agents, velocity):
      ...     update = jax.tree_util.Partial(sgd, 0.5)
      ...     return weighted_sum_with_update(
      ...         [Softmax(2.0)], features, agents, velocity, labels, weights, update
      ...     )
      >>> step = jax.value_and_grad(mean, argnums=(0, 1, 2))
      >>> _, (to_features, agents, velocity) = step(features, agents, jnp.zeros((2, 2)))
      >>> print(agents.round(4))
      [[ 1.      0.    ]
       [-0.1192  1.    ]]
    """
    layout, inputs, summands = prepare(
        "weighted_sum_with_update",
        terms,
        features,
        agents,
        labels,
        bias,
        weights,
        updates=True,
        sum_over=sum_over,
        **engine,
    )
    state = checked_state(layout, state, inputs, update)
    if layout.precision == "mixed" and all(term.fold.additive for term in inputs.terms):
        # Without an update these terms have no forward scan that could round.
        layout = layout._replace(precision="float32")
    return _sum(updating_sum, layout, inputs, summands, state, update, with_losses=with_losses)


def _sum(
    rule: Callable,
    layout: Layout,
    inputs: Inputs,
    weights: tuple[jax.Array, ...],
    *updated: Any,
    with_losses: bool,
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum that `rule` computes, and with `with_losses` also the losses.

    `updated` is empty, or the agents' optimiser state and its update.
    """
    # A scan over no classes has no first block.
    if not layout.num_rows:
        losses = _no_class(inputs)
        value = total(losses, weights)
    else:
        value, losses = automatic(
            partial(rule, layout),
            inputs,
            weights,
            *updated,
            split=lambda first_axis: (PartitionSpec(), per_example(first_axis)),
            like=inputs.x,
        )
    # The rules of the sum ignore cotangents of the losses, which would then be lost silently.
    return (value, jax.lax.stop_gradient(losses)) if with_losses else value


def _summed(
    layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # A fold that is not additive needs a forward scan first: one such term, and none saves it.
    if all(term.fold.additive for term in inputs.terms):
        return summed_losses(layout, inputs, weights)
    losses: tuple[jax.Array, ...] = joint_losses(layout, inputs)
    return total(losses, weights), losses
