"""The engine's two hand-written gradient rules over its scans. `classwise` calls it.

A scan goes over blocks of agents (class weights), on this device's rows only. The forward scan
folds similarities into summaries. The backward scan computes the similarities again and turns
slopes (derivatives of the losses by similarities) into gradients. If the batch is split over the
devices, the scans process the whole batch, and all other code processes this device's part of it.

A fold never contains the target, the example's own class. `_target` computes its part.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperface.losses._blocks import (
    Gradients,
    Inputs,
    Layout,
    backward_scan,
    block_of,
    cast,
    columns_of,
    forward_scan,
    inverse_norms_of,
    matmul,
    rows_of,
    similarities_of,
)
from hyperface.losses._folds import Block
from hyperface.losses._target import Target, add_target, target_of
from hyperface.rules import vary_over, varying_axes

Summaries = list[Any]
"""One summary per term: the result of its fold over the classes so far."""


class Residuals(NamedTuple):
    """The arrays that the forward pass of `joint_losses` stores for the backward pass."""

    inputs: Inputs
    """Terms, features, agents and labels. Features and labels are gathered from all devices, if the
    batch is split. The lengths `norms` are those of this device's examples."""
    target: Target
    """The numbers of each of this device's examples and its own class: similarity, angle, norms."""
    summaries: Summaries
    """One entry per term (class-wise loss), for this device's examples: arrays [batch] from which
    the term's fold (its reduction over all other classes) computes its value."""
    saved: Any
    """The similarities to all other classes: (those of the first block, those of all others). None
    if they do not fit the memory budget, so that the backward pass computes them again."""


# ---------------------------------------------------------------------------------- the two rules


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def joint_losses(layout: Layout, inputs: Inputs) -> tuple[jax.Array, ...]:
    """Returns one array of losses [batch] per term (class-wise loss).

    The gradient is computed by hand-written code, block by block of classes.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels; features and labels are this device's part of
        the batch.
    """
    # This body runs only without differentiation, where nothing reads the similarities again.
    return losses_fwd(layout._replace(save_similarities=False), inputs)[0]


def losses_fwd(layout: Layout, inputs: Inputs) -> tuple[tuple[jax.Array, ...], Residuals]:
    """Returns (losses, residuals): one array [batch] per term, and a `Residuals`.

    The residuals are the arrays that the backward pass needs.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels; features and labels are this device's part of
        the batch.
    """
    shards, folds = layout.shards, _folds(inputs)
    whole = _of_whole_batch(layout, inputs)
    target = target_of(layout, whole, inputs.classes.labels, inputs.norms)
    batch_fold_args = shards.all_gather_batch(_fold_args(inputs.terms, target))
    # A scan's carry must keep its type, so it varies over the devices from the start, as the agents
    # do.
    axes = varying_axes(whole.x, whole.agents)
    columns = columns_of(layout, whole.x, forward=True)

    def fold_block(summaries: Summaries | None, start: Any, first: Any) -> tuple[Summaries, Any]:
        similarities, *_ = similarities_of(layout, columns, whole.agents, start, forward=True)
        block = block_of(layout, similarities, whole.bias, whole.classes, start, first)
        new = [f.block(block, a) for f, a in zip(folds, batch_fold_args, strict=True)]
        if summaries is not None:
            new = [f.merge(a, b) for f, a, b in zip(folds, summaries, new, strict=True)]
        return vary_over(axes, new), similarities if layout.save_similarities else None

    summaries, saved = forward_scan(layout, fold_block)
    summaries = [shards.merge_shards(f, s) for f, s in zip(folds, summaries, strict=True)]
    losses = _losses(inputs.terms, target, _values(folds, summaries))
    return losses, Residuals(whole, target, summaries, saved)


def _losses_bwd(layout: Layout, residuals: Residuals, cotangents: Any) -> tuple[Inputs]:
    slopes, pull_terms = pull_losses(layout, residuals, cotangents)
    gradients = _scan_gradients(layout, residuals.inputs, slopes, saved=residuals.saved)
    to_terms, to_target = pull_terms(gradients.extra)
    return (add_target(layout, residuals.inputs, to_terms, to_target, gradients),)


def pull_losses(
    layout: Layout, residuals: Residuals, cotangents: Any
) -> tuple[Callable[[Block], Any], Callable[[Any], tuple[Any, Target]]]:
    """Returns the functions (slopes, pull_terms), which compute parts of the gradients.

    `slopes` is called in each block of the backward scan (the loop over blocks of classes), and
    `pull_terms` once after the scan.

    Args:
      layout: the static options, such as block size and precision.
      residuals: the arrays that the forward pass stored.
      cotangents: one array [batch] per term, the derivative of the final result by each loss.

    Returns:
      Two functions:

      - slopes(block) -> ((to_similarities, to_bias), to_fold_args): the derivatives by the block's
        similarities [block, batch] and bias [block], and the block's part of the derivatives by the
        arguments of the folds (the reductions over classes)
      - pull_terms(to_fold_args) -> (to_terms, to_target), where `to_fold_args` is summed over all
        blocks: the gradients to the terms' hyper-parameters, and to the `Target` (the numbers of
        each example's own class)
    """
    inputs, target, summaries, _ = residuals
    shards, folds = layout.shards, _folds(inputs)
    # Outside of the scan a term's own formula is plain jax, so autodiff is enough for it.
    _, pull = jax.vjp(_losses, inputs.terms, target, _values(folds, summaries))
    to_terms, to_target, to_values = pull(cotangents)
    fold_args, pull_fold_args = jax.vjp(_fold_args, inputs.terms, target)
    # Each device scans its own classes for the whole batch, so it needs the cotangents of all.
    batch_fold_args, batch_summaries, value_cotangents = shards.all_gather_batch(
        (fold_args, summaries, to_values)
    )

    def slopes(block: Block) -> Any:
        return _slopes(folds, batch_fold_args, batch_summaries, value_cotangents, block)

    def pull_terms(extra: Any) -> tuple[Any, Target]:
        # The loss depends on terms and target in two ways: directly, and through the arguments of
        # the folds.
        second_part = pull_fold_args(shards.reduce_over_axis(extra))
        return jax.tree.map(jnp.add, (to_terms, to_target), second_part)

    return slopes, pull_terms


joint_losses.defvjp(losses_fwd, _losses_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_losses(
    layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum of class-wise losses whose reductions over classes are plain sums.

    Such a reduction is the sum of hinges max(0, similarity - c) over the classes. If the result is
    differentiated, one scan over the classes computes both the sum and all gradients.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels; features and labels are this device's part of
        the batch.
      weights: one array [batch] per term, the weight of each example's loss.

    Returns:
      (sum, losses): the scalar sum over terms and examples of weight x loss, and one array of
      unweighted losses [batch] per term.
    """
    # This body runs only without differentiation; otherwise, `_sum_fwd` takes its place.
    losses: tuple[jax.Array, ...] = joint_losses(layout, inputs)
    return total(losses, weights), losses


def _sum_fwd(layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...]) -> tuple[Any, Any]:
    shards, folds, terms = layout.shards, _folds(inputs), inputs.terms
    whole = _of_whole_batch(layout, inputs)
    target = target_of(layout, whole, inputs.classes.labels, inputs.norms)
    fold_args, pull_fold_args = jax.vjp(_fold_args, terms, target)
    # The losses are linear in the values, so their slope is the same at any value.
    zeros = [jnp.zeros_like(inputs.norms)] * len(terms)
    to_values = jax.vjp(partial(_losses, terms, target), zeros)[1](weights)[0]
    batch_fold_args, value_cotangents = shards.all_gather_batch((fold_args, to_values))

    def slopes(block: Block) -> Any:
        # The slope of an additive fold does not depend on the summary, so one scan is enough.
        no_summaries = [None] * len(folds)
        slope, extra = _slopes(folds, batch_fold_args, no_summaries, value_cotangents, block)
        summaries = [f.block(block, a) for f, a in zip(folds, batch_fold_args, strict=True)]
        return slope, (extra, summaries)

    gradients = _scan_gradients(layout, whole, slopes, sparse=True)
    # Additive summaries merge by adding, so that one sum over the devices serves both parts.
    to_fold_args, summaries = shards.reduce_over_axis(gradients.extra)
    losses, pull_losses = jax.vjp(_losses, terms, target, _values(folds, summaries))
    # The third result is known already: it is `to_values` above.
    to_terms, to_target, _ = pull_losses(weights)
    second_part = pull_fold_args(to_fold_args)
    to_terms, to_target = jax.tree.map(jnp.add, (to_terms, to_target), second_part)
    to_inputs = add_target(layout, whole, to_terms, to_target, gradients)
    # The losses are the gradient to the weights.
    return (total(losses, weights), losses), (to_inputs, losses)


def _sum_bwd(layout: Layout, gradients: Any, cotangents: Any) -> Any:
    del layout
    to_total, _ = cotangents  # `weighted_sum` stops gradients to the losses.
    # The gradients were computed for a cotangent of 1, and are linear in the cotangent.
    return jax.tree.map(lambda gradient: to_total * gradient, gradients)


summed_losses.defvjp(_sum_fwd, _sum_bwd)


def total(losses: Sequence[jax.Array], weights: Sequence[jax.Array]) -> jax.Array:
    """Returns the sum over terms t and examples i of weights[t][i] losses[t][i]."""
    parts = [jnp.sum(w * loss) for w, loss in zip(weights, losses, strict=True)]
    return sum(parts, jnp.zeros((), jnp.float32))


def _of_whole_batch(layout: Layout, inputs: Inputs) -> Inputs:
    """Returns the inputs with the features and labels of all devices, if the batch is split."""
    x, features, labels = layout.shards.all_gather_batch(
        (inputs.x, inputs.features, inputs.classes.labels)
    )
    return inputs._replace(x=x, features=features, classes=inputs.classes._replace(labels=labels))


# ------------------------------------------------------------------------- the folds of the terms


def _folds(inputs: Inputs) -> list[Any]:
    """Returns one fold per term, the reduction of its similarities over the classes."""
    return [term.fold for term in inputs.terms]


def _fold_args(terms: Sequence[Any], target: Target) -> list[Any]:
    """Returns the argument of each term's fold, mostly [batch]."""
    return [term.fold_args(target) for term in terms]


def _values(folds: Sequence[Any], summaries: Summaries) -> list[jax.Array]:
    """Returns the value [batch] of each fold, from its summary over all classes."""
    return [fold.value(summary) for fold, summary in zip(folds, summaries, strict=True)]


def _losses(
    terms: Sequence[Any], target: Target, values: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """Returns the losses [batch] of each term, from the target and the value of its fold."""
    return tuple(term.loss(target, value) for term, value in zip(terms, values, strict=True))


def _slopes(
    folds: Sequence[Any],
    fold_args: list[Any],
    summaries: list[Any],
    value_cotangents: list[jax.Array],
    block: Block,
) -> tuple[Any, Any]:
    """Returns the derivatives of the sum of all folds' values, weighted, by one block of classes.

    Args:
      folds: one fold per term.
      fold_args: the argument of each fold, for the whole batch.
      summaries: the summary of each fold over all classes, or None for an additive fold.
      value_cotangents: the weight [batch] of each fold's value.
      block: the block.

    Returns:
      ((to_similarities, to_bias), to_fold_args): [block, batch]; [block], or None without a bias;
      and the derivative by each fold's argument.
    """
    found = [f.slope(block, a, s) for f, a, s in zip(folds, fold_args, summaries, strict=True)]
    weighted = list(zip(value_cotangents, found, strict=True))
    # Slopes are added before the matmuls, so that several terms cost one pair of matmuls, as one
    # term does.
    to_similarities = sum(g[None, :] * slope.similarities for g, slope in weighted)
    to_bias = None
    if block.bias is not None:
        to_bias = sum(jnp.sum(g[None, :] * slope.bias, axis=1) for g, slope in weighted)
    to_fold_args = [jax.tree.map(lambda d, g=g: g * d, slope.fold_args) for g, slope in weighted]
    return (to_similarities, to_bias), to_fold_args


# ------------------------------------------------------------------------------ the backward scan


class BlockGradients(NamedTuple):
    """The gradients that come from one block of classes, and the agents of the block."""

    x: jax.Array
    """[batch, dim] gradient to the features."""
    rows: jax.Array
    """[block, dim] gradient to the block's agents."""
    bias: jax.Array | None
    """[block] gradient to the block's bias; None without a bias."""
    extra: Any
    """The block's part of the derivatives by the arguments of the folds (the reductions over
    classes). For `weighted_sum` a pair: these derivatives, and the block's summaries."""
    agents: jax.Array
    """[block, dim] the block's agents (class weights) themselves, for a caller that updates
    them."""


def block_gradients_of(
    layout: Layout,
    inputs: Inputs,
    slopes: Callable[[Block], tuple[Any, Any]],
    *,
    sparse: bool = False,
) -> Callable[..., BlockGradients]:
    """Returns a function that computes the gradients that come from one block of classes.

    The returned function has the signature (agents, start, first, [similarities]) ->
    BlockGradients. The block consists of the rows of `agents` from `start` on. Rows before `first`
    are not counted, because an earlier block has counted them. If the function gets no similarities
    [block, batch], it computes them.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, labels and bias, for the batch of all devices. The field `agents` of
        these inputs is not used.
      slopes: function (block) -> ((to_similarities, to_bias), extra): the derivatives by the
        block's similarities [block, batch] and bias [block], and the value of the field `extra` of
        the result.
      sparse: whether the matmuls are skipped for a block whose `to_similarities` are all zero.
    """
    axes = varying_axes(inputs.x, inputs.agents)
    columns = columns_of(layout, inputs.x, forward=False)
    # The barrier has the reason that the docstring of `columns_of` gives.
    features = jax.lax.optimization_barrier(cast(layout, inputs.x, forward=False))

    def gradients(
        agents: jax.Array, start: Any, first: Any, similarities: jax.Array | None = None
    ) -> BlockGradients:
        if similarities is None:
            similarities, rows, inverse_norms = similarities_of(
                layout, columns, agents, start, forward=False
            )
        else:
            rows = rows_of(agents, start, layout)
            inverse_norms = inverse_norms_of(layout, rows)
        block = block_of(layout, similarities, inputs.bias, inputs.classes, start, first)
        (slope, to_bias), extra = slopes(block)
        operands = (features, slope, rows, inverse_norms)
        if not sparse:
            to_x, to_rows = _products(layout, *operands)
            return BlockGradients(to_x, to_rows, to_bias, extra, rows)
        # `cond` requires the same type from both branches, including the mapped axes over which
        # they vary.
        zeros = vary_over(axes, (jnp.zeros_like(inputs.x), jnp.zeros_like(rows)))
        to_x, to_rows = jax.lax.cond(
            # A block without an active hinge has slopes of zero, and so would be both products.
            jnp.any(slope != 0),
            lambda *operands: vary_over(axes, _products(layout, *operands)),
            lambda *operands: zeros,
            *operands,
        )
        return BlockGradients(to_x, to_rows, to_bias, extra, rows)

    return gradients


def no_extra(layout: Layout, inputs: Inputs, step: Callable[..., BlockGradients]) -> Any:
    """Returns zeros, the initial value of a sum of `BlockGradients.extra` over the blocks.

    The structure of the zeros depends on the terms, so `step` is traced (not run) for one block.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels, for the batch of all devices.
      step: the function for one block that `block_gradients_of` returned.
    """
    shapes = jax.eval_shape(lambda: step(inputs.agents, 0, 0).extra)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _scan_gradients(
    layout: Layout,
    inputs: Inputs,
    slopes: Callable[[Block], tuple[Any, Any]],
    *,
    saved: Any = None,
    sparse: bool = False,
) -> Gradients:
    """Returns the gradients that come from classes other than the target.

    Args:
      layout: as in `block_gradients_of`.
      inputs: as in `block_gradients_of`, with the agents.
      slopes: as in `block_gradients_of`.
      saved: the similarities that the forward scan saved, or None.
      sparse: as in `block_gradients_of`.
    """
    agents, bias = inputs.agents, inputs.bias
    axes = varying_axes(inputs.x, agents)
    gradients_of = block_gradients_of(layout, inputs, slopes, sparse=sparse)
    if layout.block_size == layout.num_rows:
        found = gradients_of(agents, 0, 0, saved and saved[0])
        return Gradients(found.x, found.rows, found.bias, found.extra)

    def add_block(carry: Gradients, start: Any, first: Any, *similarities: jax.Array) -> Gradients:
        found = gradients_of(agents, start, first, *similarities)
        return vary_over(
            axes,
            Gradients(
                carry.x + found.x,
                # Written and not added, because each class counts in one block only.
                write_rows(carry.agents, found.rows, start),
                None if carry.bias is None else write_rows(carry.bias, found.bias, start),
                jax.tree.map(jnp.add, carry.extra, found.extra),
            ),
        )

    # Unlike the forward scan, this one starts from zeros: a gradient has a neutral value.
    zeros = Gradients(
        jnp.zeros_like(inputs.x),
        jnp.zeros_like(agents),
        None if bias is None else jnp.zeros_like(bias),
        no_extra(layout, inputs, gradients_of),
    )
    return backward_scan(layout, add_block, vary_over(axes, zeros), saved)


def _products(
    layout: Layout,
    x: jax.Array,
    slope: jax.Array,
    rows: jax.Array,
    inverse_norms: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (to_x, to_rows): the gradients to the features and to the agents of one block.

    Args:
      layout: the static options, such as block size and precision.
      x: [batch, dim] features.
      slope: [block, batch] derivatives by the similarities.
      rows: [block, dim] agents, un-normalised.
      inverse_norms: [block] 1 / length of each agent; None if agents are not normalised.
    """
    # The slopes are multiplied by 1 / length, so that normalised rows need not be stored.
    scaled = slope if inverse_norms is None else slope * inverse_norms[:, None]
    to_rows = matmul(layout, scaled, x, forward=False)
    flipped = cast(layout, scaled, forward=False).T
    if layout.precision == "bf16":
        # Only with a barrier around the flat array XLA transposes it in memory. Otherwise, the
        # matmul has an operand that is not row-major, which XLA's CPU backend computes in float32.
        flat = jax.lax.optimization_barrier(flipped.reshape(-1))
        flipped = flat.reshape(flipped.shape)
    to_x = matmul(layout, flipped, rows, forward=False)
    if inverse_norms is None:
        return to_x, to_rows
    if layout.agent_gradient == "tangent":
        # The projection of NormFace's Eq. 4. <dL/dW~_j, W~_j> is also the sum over the batch of
        # slope times cosine. That has fewer terms, but it would keep all similarities in memory up
        # to here, and is slower for this reason.
        radial = jnp.sum(to_rows * rows, axis=1) * inverse_norms**2
        return to_x, to_rows - radial[:, None] * rows
    # The released gradients are those of a unit row, so the factor 1 / length is taken off again.
    to_rows /= inverse_norms[:, None]
    if layout.agent_gradient == "distance":
        # d ||f~ - W||^2 / dW = -2 (f~ - W), and the slope is that of the cosine, which is -1/2 of
        # the distance.
        to_rows -= (jnp.sum(slope, axis=1) * inverse_norms)[:, None] * rows
    return to_x, to_rows


def write_rows(whole: jax.Array, part: Any, start: Any) -> jax.Array:
    """Returns the array `whole` with its rows from `start` on replaced by those of `part`."""
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
