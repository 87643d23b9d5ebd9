"""The engine's two scans over the classes, forward and backward. `classwise` is its front.

A scan goes over blocks of agents, on this device's rows only. The forward scan folds similarities
into summaries. The backward scan computes the similarities again and turns slopes into gradients.
Where the batch is split over the devices, the scans see the whole batch, and all other code sees
this device's part of it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperface.losses._angle import angle
from hyperface.losses._blocks import (
    AGENT_EPS,
    Classes,
    Layout,
    backward_scan,
    block_of,
    cast,
    forward_scan,
    inverse_norms_of,
    matmul,
    rows_of,
    similarities_of,
)
from hyperface.losses._folds import Block
from hyperface.losses.shards import locate
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.rules import vary_over, varying_axes

Summaries = list[Any]
"""One summary per term: what its fold knows of the classes so far."""


class Target(NamedTuple):
    """What a term may know of each example beside the other classes."""

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
    """What `angle` returns; None unless a term has `needs_angle`."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""

    @property
    def angle(self) -> jax.Array:
        """[batch] angle to the own class's agent in radians.

        It has its digits near 0 and pi, which the arccos of `similarity` loses.

        Raises:
          ValueError: no term has `needs_angle`.
        """
        if self.own_angle is None:
            raise ValueError(
                "expected a term with needs_angle = True, which `angle` is computed for"
            )
        return self.own_angle


class Residuals(NamedTuple):
    """What the forward pass leaves to the backward pass of `joint_losses`."""

    terms: Any
    x: jax.Array
    """[whole batch, dim]."""
    features: jax.Array | None
    """[whole batch, dim]."""
    norms: jax.Array
    agents: jax.Array
    bias: jax.Array | None
    classes: Classes
    """With the labels of the whole batch."""
    own: tuple[jax.Array | None, ...]
    summaries: Summaries
    saved: Any


class Gradients(NamedTuple):
    """What the backward scan gives: the part that comes from classes that are not the target."""

    x: jax.Array
    agents: jax.Array
    bias: jax.Array | None
    extra: Any
    """Whatever the slopes function adds up over the blocks beside the slopes."""


# ---------------------------------------------------------------------------------- the two rules


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def joint_losses(
    layout: Layout,
    terms: tuple[Any, ...],
    x: jax.Array,
    features: jax.Array | None,
    norms: jax.Array,
    agents: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
) -> tuple[jax.Array, ...]:
    """Returns the losses [batch] of each term.

    Args:
      layout: static description of the problem.
      terms: the class-wise losses.
      x: [batch, dim] features, normalised where the terms say so.
      features: [batch, dim] un-normalised, for the angle; None where no term needs it.
      norms: [batch] length of the un-normalised features.
      agents: [classes on this device, dim].
      bias: [classes on this device] or None.
      classes: the labels, and which classes take part.
    """
    layout = layout._replace(save_similarities=False)
    return _losses_fwd(layout, terms, x, features, norms, agents, bias, classes)[0]


def _losses_fwd(
    layout: Layout,
    terms: tuple[Any, ...],
    x: jax.Array,
    features: jax.Array | None,
    norms: jax.Array,
    agents: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
) -> tuple[Any, Any]:
    shards, folds = layout.shards, [term.fold for term in terms]
    x, features, labels = shards.all_gather_batch((x, features, classes.labels))
    global_classes = classes._replace(labels=labels)
    own = _own_class(layout, x, features, agents, bias, labels, classes.labels)
    batch_fold_args = shards.all_gather_batch(_fold_args(terms, own, norms))
    # A scan's carry keeps its type: it varies over devices from the start, as the agents do.
    axes = varying_axes(x, agents)

    def fold_block(summaries: list[Any], start: Any, first: Any) -> Any:
        similarities, *_ = similarities_of(layout, x, agents, start, forward=True)
        block = block_of(layout, similarities, bias, global_classes, start, first)
        new = [f.block(block, a) for f, a in zip(folds, batch_fold_args, strict=True)]
        if summaries is not None:
            new = [f.merge(a, b) for f, a, b in zip(folds, summaries, new, strict=True)]
        return vary_over(axes, new), similarities if layout.save_similarities else None

    summaries, saved = forward_scan(layout, fold_block)
    summaries = [shards.merge_shards(f, s) for f, s in zip(folds, summaries, strict=True)]
    losses = _losses(terms, own, norms, _values(folds, summaries))
    return losses, Residuals(
        terms, x, features, norms, agents, bias, global_classes, own, summaries, saved
    )


def _losses_bwd(layout: Layout, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    terms, x, features, norms, agents, bias, classes, own, summaries, saved = residuals
    shards, folds = layout.shards, [term.fold for term in terms]
    _, pull_losses = jax.vjp(_losses, terms, own, norms, _values(folds, summaries))
    to_terms, to_own, to_norms, to_values = pull_losses(cotangents)
    fold_args, pull_fold_args = jax.vjp(_fold_args, terms, own, norms)
    batch_fold_args, batch_summaries, value_cotangents = shards.all_gather_batch(
        (fold_args, summaries, to_values)
    )

    def slopes(block: Block) -> Any:
        return _slopes(folds, batch_fold_args, batch_summaries, value_cotangents, block)

    gradients = _scan_gradients(layout, x, agents, bias, classes, slopes, saved=saved)
    # The fold's arguments depend on terms, target and norms, which so have a second part.
    second_part = pull_fold_args(shards.reduce_over_axis(gradients.extra))
    to_terms, to_own, to_norms = jax.tree.map(jnp.add, (to_terms, to_own, to_norms), second_part)
    to_x, to_features, to_agents, to_bias = _add_own_class(
        layout, x, features, agents, classes.labels, to_own, gradients
    )
    return to_terms, to_x, to_features, to_norms, to_agents, to_bias, None


joint_losses.defvjp(_losses_fwd, _losses_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_losses(
    layout: Layout,
    terms: tuple[Any, ...],
    x: jax.Array,
    features: jax.Array | None,
    norms: jax.Array,
    agents: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
    weights: tuple[jax.Array, ...],
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum of the losses, and the losses, for terms whose folds are additive.

    Differentiation computes all gradients of the sum in the one scan that computes its value.
    """
    losses: tuple[jax.Array, ...] = joint_losses(
        layout, terms, x, features, norms, agents, bias, classes
    )
    return total(losses, weights), losses


def _sum_fwd(
    layout: Layout,
    terms: tuple[Any, ...],
    x: jax.Array,
    features: jax.Array | None,
    norms: jax.Array,
    agents: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
    weights: tuple[jax.Array, ...],
) -> tuple[Any, Any]:
    shards, folds = layout.shards, [term.fold for term in terms]
    x, features, labels = shards.all_gather_batch((x, features, classes.labels))
    own = _own_class(layout, x, features, agents, bias, labels, classes.labels)
    fold_args, pull_fold_args = jax.vjp(_fold_args, terms, own, norms)
    # The losses are linear in the values, so their slope is the same at any value.
    zeros = [jnp.zeros_like(norms)] * len(terms)
    to_values = jax.vjp(partial(_losses, terms, own, norms), zeros)[1](weights)[0]
    batch_fold_args, value_cotangents = shards.all_gather_batch((fold_args, to_values))

    def slopes(block: Block) -> Any:
        no_summaries = [None] * len(folds)
        slope, extra = _slopes(folds, batch_fold_args, no_summaries, value_cotangents, block)
        summaries = [f.block(block, a) for f, a in zip(folds, batch_fold_args, strict=True)]
        return slope, (extra, summaries)

    global_classes = classes._replace(labels=labels)
    gradients = _scan_gradients(layout, x, agents, bias, global_classes, slopes, sparse=True)
    to_fold_args, summaries = shards.reduce_over_axis(gradients.extra)
    losses, pull_losses = jax.vjp(_losses, terms, own, norms, _values(folds, summaries))
    to_terms, to_own, to_norms, _ = pull_losses(weights)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), pull_fold_args(to_fold_args)
    )
    to_x, to_features, to_agents, to_bias = _add_own_class(
        layout, x, features, agents, labels, to_own, gradients
    )
    residuals = (to_terms, to_x, to_features, to_norms, to_agents, to_bias, None, losses)
    return (total(losses, weights), losses), residuals


def _sum_bwd(layout: Layout, gradients: Any, cotangents: Any) -> tuple[Any, ...]:
    del layout
    to_total, _ = cotangents  # `weighted_sum` stops gradients to the losses.
    return jax.tree.map(lambda gradient: to_total * gradient, gradients)


summed_losses.defvjp(_sum_fwd, _sum_bwd)


def total(losses: Sequence[jax.Array], weights: Sequence[jax.Array]) -> jax.Array:
    """Returns the sum over terms t and examples i of weights[t][i] losses[t][i]."""
    parts = [jnp.sum(w * loss) for w, loss in zip(weights, losses, strict=True)]
    return sum(parts, jnp.zeros((), jnp.float32))


# ------------------------------------------------------------------ what the terms say of the folds


def _fold_args(terms: Sequence[Any], own: tuple[Any, ...], norms: jax.Array) -> list[Any]:
    return [term.fold_args(Target(*own, feature_norm=norms)) for term in terms]


def _values(folds: Sequence[Any], summaries: list[Any]) -> list[jax.Array]:
    return [fold.value(summary) for fold, summary in zip(folds, summaries, strict=True)]


def _losses(
    terms: tuple[Any, ...], own: tuple[Any, ...], norms: jax.Array, values: list[jax.Array]
) -> tuple[jax.Array, ...]:
    target = Target(*own, feature_norm=norms)
    return tuple(term.loss(target, value) for term, value in zip(terms, values, strict=True))


def _slopes(
    folds: Sequence[Any],
    fold_args: list[Any],
    summaries: list[Any],
    value_cotangents: list[jax.Array],
    block: Block,
) -> tuple[Any, Any]:
    """Returns the derivatives of the weighted values by one block: by similarities and logits
    (for the bias), and by the folds' arguments."""
    found = [f.slope(block, a, s) for f, a, s in zip(folds, fold_args, summaries, strict=True)]
    weighted = list(zip(value_cotangents, found, strict=True))
    to_similarities = sum(g[:, None] * slope.similarities for g, slope in weighted)
    to_bias = None
    if block.bias is not None:
        to_bias = sum(jnp.sum(g[:, None] * slope.bias, axis=0) for g, slope in weighted)
    to_fold_args = [jax.tree.map(lambda d, g=g: g * d, slope.fold_args) for g, slope in weighted]
    return (to_similarities, to_bias), to_fold_args


# ------------------------------------------------------------------------------ the backward scan


def _scan_gradients(
    layout: Layout,
    x: jax.Array,
    agents: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
    slopes: Callable[[Block], tuple[Any, Any]],
    *,
    saved: Any = None,
    sparse: bool = False,
) -> Gradients:
    """Returns the gradients that come from classes that are not the target.

    Args:
      layout, x, agents, bias, classes: of the problem.
      slopes: of a block; returns what `_slopes` does.
      saved: similarities that the forward scan saved.
      sparse: leave out the matmuls of blocks whose slopes are all zero.
    """
    axes = varying_axes(x, agents)

    def block_gradients(
        carry: Any, start: Any, first: Any, similarities: jax.Array | None = None
    ) -> Any:
        if similarities is None:
            similarities, rows, inverse_norms = similarities_of(
                layout, x, agents, start, forward=False
            )
        else:
            rows = rows_of(agents, start, layout)
            inverse_norms = inverse_norms_of(layout, rows)
        block = block_of(layout, similarities, bias, classes, start, first)
        (slope, to_bias), extra = slopes(block)
        operands = (x, slope, rows, inverse_norms)
        if sparse:
            zeros = vary_over(axes, (jnp.zeros_like(x), jnp.zeros_like(rows)))
            to_x, to_rows = jax.lax.cond(
                jnp.any(slope != 0),
                lambda *operands: vary_over(axes, _products(layout, *operands)),
                lambda *operands: zeros,
                *operands,
            )
        else:
            to_x, to_rows = _products(layout, *operands)
        if carry is None:
            return Gradients(to_x, to_rows, to_bias, extra)
        return vary_over(
            axes,
            Gradients(
                carry.x + to_x,
                _updated(carry.agents, to_rows, start),
                None if bias is None else _updated(carry.bias, to_bias, start),
                jax.tree.map(jnp.add, carry.extra, extra),
            ),
        )

    if layout.block_size == layout.num_rows:
        return block_gradients(None, 0, 0, saved and saved[0])
    shapes = jax.eval_shape(lambda: block_gradients(None, 0, 0).extra)
    zeros = Gradients(
        jnp.zeros_like(x),
        jnp.zeros_like(agents),
        None if bias is None else jnp.zeros_like(bias),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    )
    return backward_scan(layout, block_gradients, vary_over(axes, zeros), saved)


def _products(
    layout: Layout,
    x: jax.Array,
    slope: jax.Array,
    rows: jax.Array,
    inverse_norms: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients to x and to a block's rows from the slopes [batch, block]."""
    scaled = slope if inverse_norms is None else slope * inverse_norms[None, :]
    to_x = matmul(layout, scaled, rows, forward=False)
    flipped = cast(layout, scaled, forward=False).T
    if layout.precision == "bf16":
        # The barrier keeps the transpose out of the matmul, which then has row-major operands
        # alone: XLA's CPU backend multiplies bf16 fast in no other form.
        flipped = jax.lax.optimization_barrier(flipped)
    to_rows = matmul(layout, flipped, x, forward=False)
    if inverse_norms is None:
        return to_x, to_rows
    if layout.agent_gradient == "tangent":
        # Eq. 4's projection. <dL/dW~_j, W~_j> is also the column sum of slope times cosine, which
        # has fewer terms but keeps all similarities alive up to here, and is slower for that.
        radial = jnp.sum(to_rows * rows, axis=1) * inverse_norms**2
        return to_x, to_rows - radial[:, None] * rows
    to_rows /= inverse_norms[:, None]
    if layout.agent_gradient == "distance":
        # d ||f~ - W||^2 / dW = -2 (f~ - W), and the slope is that of the cosine, which is -1/2 of
        # the distance.
        to_rows -= (jnp.sum(slope, axis=0) * inverse_norms)[:, None] * rows
    return to_x, to_rows


def _updated(whole: jax.Array, part: jax.Array, start: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)


# ----------------------------------------------------------------------------------- the own class


def _own_class(
    layout: Layout,
    x: jax.Array,
    features: jax.Array | None,
    agents: jax.Array,
    bias: jax.Array | None,
    labels: jax.Array,
    labels_here: jax.Array,
) -> tuple[jax.Array | None, ...]:
    """Returns `Target` without its last field for `labels_here`, NaN for a label out of range.

    `x`, `features` and `labels` are of the whole batch; the result is of this device's part.
    """
    at = locate(labels, layout.num_rows, layout.shards.axis_name)
    own_bias = None if bias is None else bias[at.row]
    own = _of_rows(layout, x, features, agents[at.row], own_bias)
    own = layout.shards.reduce_over_axis(jax.tree.map(lambda v: jnp.where(at.is_here, v, 0.0), own))
    exists = locate(labels_here, layout.num_rows, layout.shards.axis_name).exists
    return jax.tree.map(lambda v: jnp.where(exists, v, jnp.nan), own)


def _of_rows(
    layout: Layout,
    x: jax.Array,
    features: jax.Array | None,
    rows: jax.Array,
    bias: jax.Array | None,
) -> tuple[jax.Array | None, ...]:
    """Returns `Target` without its last field from each example's own agent and bias."""
    if not layout.normalize_agents:
        unit = rows
    elif layout.agent_gradient == "tangent":
        unit = l2_normalize(rows, eps=AGENT_EPS)
    else:
        unit = jax.lax.stop_gradient(l2_normalize(rows, eps=AGENT_EPS)) + slope_only(rows)

    def similarity_of(x: jax.Array) -> Any:
        found = jnp.sum(x * unit, axis=1)
        if layout.normalize_agents and layout.agent_gradient == "distance":
            # -1/2 ||f~ - W||^2 has this slope beside that of the inner product.
            found -= slope_only(0.5 * jnp.sum(unit * unit, axis=1))
        return found

    similarity = similarity_of(x)
    agent_similarity = similarity_of(jax.lax.stop_gradient(x))
    bias = jnp.zeros_like(similarity) if bias is None else bias
    own_angle = None if features is None else angle(features, rows)
    return similarity, agent_similarity, l2_norm(rows), bias, own_angle


def _add_own_class(
    layout: Layout,
    x: jax.Array,
    features: jax.Array | None,
    agents: jax.Array,
    labels: jax.Array,
    to_own: Any,
    gradients: Gradients,
) -> Any:
    """Returns the gradients to x, features, agents and bias, with the own classes' part added.

    Those to x and features are summed over the devices. The agents' rows are where they belong.
    """
    at = locate(labels, layout.num_rows, layout.shards.axis_name)
    to_own = layout.shards.all_gather_batch(to_own)
    to_own = jax.tree.map(lambda g: jnp.where(at.is_here, g, 0.0), to_own)
    own_bias = None if gradients.bias is None else jnp.zeros_like(to_own[0])
    # As ones that vary with the rows: the pull-back then gives this device's part of the sum.
    x, features = vary_over(varying_axes(agents), (x, features))
    _, pull = jax.vjp(partial(_of_rows, layout), x, features, agents[at.row], own_bias)
    to_x, to_features, to_rows, to_own_bias = pull(to_own)
    to_agents = gradients.agents.at[at.row].add(to_rows)
    to_bias = gradients.bias
    if to_bias is not None:
        to_bias = to_bias.at[at.row].add(to_own_bias)
    to_x, to_features = layout.shards.reduce_over_axis((gradients.x + to_x, to_features))
    return to_x, to_features, to_agents, to_bias


def slope_only(x: jax.Array) -> jax.Array:
    """Returns zero but passes x's gradient through.

    Released gradients use it where they are not the derivative of any loss.
    """
    return x - jax.lax.stop_gradient(x)
