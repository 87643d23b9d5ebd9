"""The engine's two sweeps over the classes, forward and backward; `classwise` is its front.

A sweep goes over blocks of agents, on this device's rows only. The forward one folds similarities
into summaries; the backward one makes the similarities again and turns slopes into gradients. Of a
batch that is split over the devices the sweeps see the whole, and all else this device's part.
"""

from functools import partial

import jax
import jax.numpy as jnp

from hyperface.losses._angle import angle
from hyperface.losses._blocks import (
    Target,
    added,
    block_of,
    cast,
    cosines_of,
    folded,
    gathered,
    matmul,
    merged,
    rows_of,
    swept,
    unit_rows,
)
from hyperface.normalize import l2_norm

# ---------------------------------------------------------------------------------- two sweeps


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def joint_losses(layout, terms, x, features, norms, agents, bias, classes):
    """Losses [batch] of each term; the backward pass recomputes the similarities unless kept.

    `features` are the un-normalised ones, for the angle; None where no term needs it.
    """
    layout = layout._replace(keep=False)
    return _losses_fwd(layout, terms, x, features, norms, agents, bias, classes)[0]


def _losses_fwd(layout, terms, x, features, norms, agents, bias, classes):
    x, features, labels = gathered(layout, (x, features, classes.labels))
    seen = classes._replace(labels=labels)
    own = _own_class(layout, x, features, agents, bias, seen.labels, classes.labels)
    numbers = gathered(layout, _numbers(terms, own, norms))
    folds = [term.fold for term in terms]

    def fold_block(summaries, start, first):
        cosines, _ = cosines_of(layout, x, agents, start, forward=True)
        block = block_of(layout, cosines, bias, seen, start, first)
        found = [f.block(block, n) for f, n in zip(folds, numbers, strict=True)]
        if summaries is not None:
            found = [f.merge(a, b) for f, a, b in zip(folds, summaries, found, strict=True)]
        return found, cosines if layout.keep else None

    summaries, kept = folded(layout, fold_block)
    summaries = [merged(layout, f, s) for f, s in zip(folds, summaries, strict=True)]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses = _finish(terms, own, norms, values)
    return losses, (terms, x, features, norms, agents, bias, seen, own, summaries, kept)


def _losses_bwd(layout, residuals, cotangents):
    terms, x, features, norms, agents, bias, classes, own, summaries, kept = residuals
    folds = [term.fold for term in terms]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    _, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, to_values = pull_loss(cotangents)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)
    seen = gathered(layout, (numbers, summaries, to_values))

    def slopes(block):
        return _slopes(folds, *seen, block)

    gradients = _backward_sweep(layout, x, agents, bias, classes, slopes, kept=kept)
    to_x, to_agents, to_bias, to_numbers = gradients
    more_to_terms, more_to_own, more_to_norms = pull_numbers(added(layout, to_numbers))
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), (more_to_terms, more_to_own, more_to_norms)
    )
    to_x, to_features, to_agents, to_bias = _own_class_bwd(
        layout, x, features, agents, classes.labels, to_own, to_x, to_agents, to_bias
    )
    return to_terms, to_x, to_features, to_norms, to_agents, to_bias, None


joint_losses.defvjp(_losses_fwd, _losses_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_losses(layout, terms, x, features, norms, agents, bias, classes, weights):
    """Their weighted sum and the losses, for additive folds; differentiation makes all gradients of
    the sum in the one sweep that makes its value."""
    losses = joint_losses(layout, terms, x, features, norms, agents, bias, classes)
    return total(losses, weights), losses


def _sum_fwd(layout, terms, x, features, norms, agents, bias, classes, weights):
    x, features, labels = gathered(layout, (x, features, classes.labels))
    seen = classes._replace(labels=labels)
    own = _own_class(layout, x, features, agents, bias, seen.labels, classes.labels)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)
    # The losses are linear in the values, so their slope is the same at any value.
    to_values = jax.vjp(_finish, terms, own, norms, [jnp.zeros_like(norms)] * len(terms))[1](
        weights
    )[3]
    folds = [term.fold for term in terms]
    everyones = gathered(layout, numbers)
    weighing = gathered(layout, to_values)

    def slopes(block):
        slope, to_numbers = _slopes(folds, everyones, [None] * len(folds), weighing, block)
        summaries = [f.block(block, n) for f, n in zip(folds, everyones, strict=True)]
        return slope, (to_numbers, summaries)

    to_x, to_agents, to_bias, (to_numbers, summaries) = _backward_sweep(
        layout, x, agents, bias, seen, slopes, sparse=True
    )
    to_numbers, summaries = added(layout, (to_numbers, summaries))
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, _ = pull_loss(weights)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), pull_numbers(to_numbers)
    )
    to_x, to_features, to_agents, to_bias = _own_class_bwd(
        layout, x, features, agents, seen.labels, to_own, to_x, to_agents, to_bias
    )
    gradients = (to_terms, to_x, to_features, to_norms, to_agents, to_bias, None, losses)
    return (total(losses, weights), losses), gradients


def _sum_bwd(layout, gradients, cotangents):
    del layout
    to_total, _ = cotangents  # The front stops what would reach the losses.
    return jax.tree.map(lambda gradient: to_total * gradient, gradients)


summed_losses.defvjp(_sum_fwd, _sum_bwd)


def total(losses, weights):
    """sum over terms t and examples i of weights[t][i] losses[t][i]."""
    return sum(jnp.sum(w * loss) for w, loss in zip(weights, losses, strict=True))


def _slopes(folds, numbers, summaries, to_values, block):
    """d / d similarities of the weighted values, and d / d numbers, of one block."""
    found = [f.slope(block, n, s) for f, n, s in zip(folds, numbers, summaries, strict=True)]
    slope = sum(g[:, None] * s for g, (s, _) in zip(to_values, found, strict=True))
    to_numbers = [
        jax.tree.map(lambda d, g=g: g * d, to_number)
        for g, (_, to_number) in zip(to_values, found, strict=True)
    ]
    return slope, to_numbers


def _numbers(terms, own, norms):
    return [term.numbers(Target(*own, norms)) for term in terms]


def _finish(terms, own, norms, values):
    target = Target(*own, norms)
    return tuple(term.loss(target, value) for term, value in zip(terms, values, strict=True))


def _backward_sweep(layout, x, agents, bias, classes, slopes, *, kept=None, sparse=False):
    """Gradients to x, agents and bias from the classes that are not the target, and what `slopes`
    gives beside the slope, added up over the blocks."""

    def products(slope, rows, inverse, cosines):
        scaled = slope if inverse is None else slope * inverse[None, :]
        to_x = matmul(layout, scaled, rows, forward=False)
        flipped = cast(layout, scaled, forward=False).T
        if layout.precision == "bf16":
            # The barrier keeps the transpose out of the matmul, which is then one of row-major
            # operands: XLA's CPU backend has no other for bf16.
            flipped = jax.lax.optimization_barrier(flipped)
        to_rows = matmul(layout, flipped, x, forward=False)
        if inverse is None:
            return to_x, to_rows
        if layout.agent_gradient == "tangent":
            # Eq. 4's projection: <dL/dW~_j, W~_j> is the column sum of slope times cosine.
            radial = jnp.sum(slope * cosines, axis=0) * inverse**2
            return to_x, to_rows - radial[:, None] * rows
        to_rows /= inverse[:, None]
        if layout.agent_gradient == "distance":
            # d ||f~ - W||^2 / dW = -2 (f~ - W), and slope is of the cosine, -1/2 of the distance.
            to_rows -= (jnp.sum(slope, axis=0) * inverse)[:, None] * rows
        return to_x, to_rows

    def block_gradients(carry, start, first, cosines=None):
        if cosines is None:
            cosines, parts = cosines_of(layout, x, agents, start, forward=False)
        else:
            parts = unit_rows(layout, rows_of(agents, start, layout))
        slope, more = slopes(block_of(layout, cosines, bias, classes, start, first))
        if sparse:
            to_x, to_rows = jax.lax.cond(
                jnp.any(slope != 0),
                products,
                lambda slope, rows, inverse, cosines: (jnp.zeros_like(x), jnp.zeros_like(rows)),
                slope,
                *parts,
                cosines,
            )
        else:
            to_x, to_rows = products(slope, *parts, cosines)
        to_bias = None if bias is None else jnp.sum(slope, axis=0)
        if carry is None:
            return to_x, to_rows, to_bias, more
        sum_x, all_rows, all_bias, sum_more = carry
        return (
            sum_x + to_x,
            jax.lax.dynamic_update_slice_in_dim(all_rows, to_rows, start, 0),
            None
            if bias is None
            else jax.lax.dynamic_update_slice_in_dim(all_bias, to_bias, start, 0),
            jax.tree.map(jnp.add, sum_more, more),
        )

    if layout.block_size == layout.num_rows:
        return block_gradients(None, 0, 0, kept and kept[0])
    shapes = jax.eval_shape(lambda: block_gradients(None, 0, 0)[3])
    empty = (
        jnp.zeros_like(x),
        jnp.zeros_like(agents),
        None if bias is None else jnp.zeros_like(bias),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    )
    return swept(layout, block_gradients, empty, kept)


# ----------------------------------------------------------------------------------- own class


def _own_class(layout, x, features, agents, bias, labels, labels_here):
    """`Target` without its last field for `labels_here`; NaN for a label out of range."""
    local, mine, _ = _local(layout, labels)
    rows, inverse = unit_rows(layout, agents[local])
    similarity = jnp.sum(x * rows, axis=1) * (1.0 if inverse is None else inverse)
    if bias is not None:
        similarity += bias[local]
    own = (similarity, l2_norm(rows), None if features is None else angle(features, rows))
    own = jax.tree.map(lambda v: jnp.where(mine, v, 0.0), own)
    _, _, in_range = _local(layout, labels_here)
    similarity, *rest = jax.tree.map(lambda v: jnp.where(in_range, v, jnp.nan), added(layout, own))
    return similarity, similarity, *rest


def _own_class_bwd(layout, x, features, agents, labels, to_own, to_x, to_agents, to_bias):
    """The gradients with the own class's, the features' added up over the devices."""
    to_own = gathered(layout, to_own)
    local, mine, _ = _local(layout, labels)
    rows, inverse = unit_rows(layout, agents[local])
    *to_own, to_angle = jax.tree.map(lambda g: jnp.where(mine, g, 0.0), to_own)
    slope, agent_slope, to_norm = (g[:, None] for g in to_own)
    agent_slope += slope
    unit = rows if inverse is None else rows * inverse[:, None]
    part_of_x = slope * unit
    if inverse is None or layout.agent_gradient == "inner-product":
        to_rows = agent_slope * x
    elif layout.agent_gradient == "distance":
        to_rows = agent_slope * (x - unit)
    else:
        cosine = jnp.sum(x * unit, axis=1, keepdims=True)
        to_rows = agent_slope * (x - cosine * unit) * inverse[:, None]
    to_rows += to_norm * rows / l2_norm(rows, keepdims=True)
    to_features = None
    if features is not None:
        to_features, more_to_rows = jax.vjp(angle, features, rows)[1](to_angle)
        to_rows += more_to_rows
    to_agents = to_agents.at[local].add(to_rows)
    if to_bias is not None:
        to_bias = to_bias.at[local].add(agent_slope[:, 0])
    to_x, to_features = added(layout, (to_x + part_of_x, to_features))
    return to_x, to_features, to_agents, to_bias


def _local(layout, labels):
    """Row of each label on this device, whether it is here, and whether it exists at all."""
    first, total = 0, layout.num_rows
    if layout.axis_name is not None:
        first = jax.lax.axis_index(layout.axis_name) * layout.num_rows
        total = jax.lax.axis_size(layout.axis_name) * layout.num_rows
    local = labels - first
    mine = (local >= 0) & (local < layout.num_rows)
    return jnp.clip(local, 0, layout.num_rows - 1), mine, (labels >= 0) & (labels < total)
