"""The engine's two sweeps over the classes, forward and backward; `classwise` is its front.

A sweep goes over blocks of agents, on this device's rows only. The forward one folds similarities
into summaries; the backward one makes the similarities again and turns slopes into gradients.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.normalize import l2_norm

Precision = Literal["float32", "mixed", "bf16"]
Numbers = Any
"""A pytree of [batch] arrays."""

AGENT_EPS = 1e-12


class Block(NamedTuple):
    """Similarities of a block of classes, as a fold sees them."""

    similarities: jax.Array
    """[batch, block] <W~_j, f~>, or whatever the normalisation mode makes of it, plus the bias."""
    counted: jax.Array
    """[batch, block] bool, False at the target and at classes that another block counts."""
    classes: jax.Array
    """[block] global class ids."""


class Target(NamedTuple):
    """What a term may know of an example beside the other classes."""

    similarity: jax.Array
    """[batch] similarity to the example's own class."""
    agent_norm: jax.Array
    """[batch] length of the own class's agent."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""


class Layout(NamedTuple):
    """How a problem is cut: static."""

    normalize_agents: bool
    block_size: int
    axis_name: str | None
    precision: Precision


# ---------------------------------------------------------------------------------- two sweeps


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def joint_losses(layout, terms, x, norms, agents, bias, labels):
    """Losses [batch] of each term; the backward pass recomputes the similarities."""
    return _losses_fwd(layout, terms, x, norms, agents, bias, labels)[0]


def _losses_fwd(layout, terms, x, norms, agents, bias, labels):
    own = _own_class(layout, x, agents, bias, labels)
    numbers = _numbers(terms, own, norms)
    folds = [term.fold for term in terms]

    def fold_block(summaries, start, first):
        block, _ = _similarities(layout, x, agents, bias, labels, start, first, forward=True)
        found = [f.block(block, n) for f, n in zip(folds, numbers, strict=True)]
        if summaries is None:
            return found
        return [f.merge(a, b) for f, a, b in zip(folds, summaries, found, strict=True)]

    summaries = _sweep(layout, agents.shape[0], fold_block)
    summaries = [_merge_devices(layout, f, s) for f, s in zip(folds, summaries, strict=True)]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses = _finish(terms, own, norms, values)
    return losses, (terms, x, norms, agents, bias, labels, own, summaries)


def _losses_bwd(layout, residuals, cotangents):
    terms, x, norms, agents, bias, labels, own, summaries = residuals
    folds = [term.fold for term in terms]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    _, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, to_values = pull_loss(cotangents)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)

    def slopes(block):
        return _slopes(folds, numbers, summaries, to_values, block)

    gradients = _backward_sweep(layout, x, agents, bias, labels, slopes)
    to_x, to_agents, to_bias, to_numbers = gradients
    if layout.axis_name is not None:
        to_x, to_numbers = jax.lax.psum((to_x, to_numbers), layout.axis_name)
    more_to_terms, more_to_own, more_to_norms = pull_numbers(to_numbers)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), (more_to_terms, more_to_own, more_to_norms)
    )
    to_x, to_agents, to_bias = _own_class_bwd(
        layout, x, agents, labels, to_own, to_x, to_agents, to_bias
    )
    return to_terms, to_x, to_norms, to_agents, to_bias, None


joint_losses.defvjp(_losses_fwd, _losses_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_losses(layout, terms, x, norms, agents, bias, labels, weights):
    """Their weighted sum, for additive folds; differentiation makes all gradients in the one sweep
    that makes the value."""
    return total(_losses_fwd(layout, terms, x, norms, agents, bias, labels)[0], weights)


def _sum_fwd(layout, terms, x, norms, agents, bias, labels, weights):
    own = _own_class(layout, x, agents, bias, labels)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)
    # The losses are linear in the values, so their slope is the same at any value.
    to_values = jax.vjp(_finish, terms, own, norms, [jnp.zeros_like(norms)] * len(terms))[1](
        weights
    )[3]
    folds = [term.fold for term in terms]

    def slopes(block):
        slope, to_numbers = _slopes(folds, numbers, [None] * len(folds), to_values, block)
        summaries = [f.block(block, n) for f, n in zip(folds, numbers, strict=True)]
        return slope, (to_numbers, summaries)

    to_x, to_agents, to_bias, (to_numbers, summaries) = _backward_sweep(
        layout, x, agents, bias, labels, slopes, sparse=True
    )
    if layout.axis_name is not None:
        to_x, to_numbers, summaries = jax.lax.psum((to_x, to_numbers, summaries), layout.axis_name)
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, _ = pull_loss(weights)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), pull_numbers(to_numbers)
    )
    to_x, to_agents, to_bias = _own_class_bwd(
        layout, x, agents, labels, to_own, to_x, to_agents, to_bias
    )
    return total(losses, weights), (to_terms, to_x, to_norms, to_agents, to_bias, None, losses)


def _sum_bwd(layout, gradients, cotangent):
    del layout
    return jax.tree.map(lambda gradient: cotangent * gradient, gradients)


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


def _backward_sweep(layout, x, agents, bias, labels, slopes, *, sparse=False):
    """Gradients to x, agents and bias from the classes that are not the target, and what `slopes`
    gives beside the slope, added up over the blocks."""

    def products(slope, rows, inverse, cosines):
        scaled = slope if inverse is None else slope * inverse[None, :]
        to_x = _matmul(layout, scaled, rows, forward=False)
        flipped = _cast(layout, scaled, forward=False).T
        if layout.precision == "bf16":
            # The barrier keeps the transpose out of the matmul, which is then one of row-major
            # operands: XLA's CPU backend has no other for bf16.
            flipped = jax.lax.optimization_barrier(flipped)
        to_rows = _matmul(layout, flipped, x, forward=False)
        if inverse is not None:
            # Eq. 4's projection: <dL/dW~_j, W~_j> is the column sum of slope times cosine.
            radial = jnp.sum(slope * cosines, axis=0) * inverse**2
            to_rows -= radial[:, None] * rows
        return to_x, to_rows

    def block_gradients(carry, start, first):
        block, parts = _similarities(layout, x, agents, bias, labels, start, first, forward=False)
        slope, more = slopes(block)
        if sparse:
            to_x, to_rows = jax.lax.cond(
                jnp.any(slope != 0),
                products,
                lambda slope, rows, inverse, cosines: (jnp.zeros_like(x), jnp.zeros_like(rows)),
                slope,
                *parts,
            )
        else:
            to_x, to_rows = products(slope, *parts)
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

    if layout.block_size == agents.shape[0]:
        return block_gradients(None, 0, 0)
    shapes = jax.eval_shape(lambda: block_gradients(None, 0, 0)[3])
    empty = (
        jnp.zeros_like(x),
        jnp.zeros_like(agents),
        None if bias is None else jnp.zeros_like(bias),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    )
    return _scan(layout, agents.shape[0], block_gradients, empty)


# ----------------------------------------------------------------------------------- own class


def _own_class(layout, x, agents, bias, labels):
    """[batch] similarity of each example to its own class, and that agent's length.

    NaN for a label out of range.
    """
    local, mine, in_range = _local(layout, agents.shape[0], labels)
    rows, inverse = _unit_rows(layout, agents[local])
    similarity = jnp.sum(x * rows, axis=1) * (1.0 if inverse is None else inverse)
    if bias is not None:
        similarity += bias[local]
    own = jax.tree.map(lambda v: jnp.where(mine, v, 0.0), (similarity, l2_norm(rows)))
    if layout.axis_name is not None:
        own = jax.lax.psum(own, layout.axis_name)
    return jax.tree.map(lambda v: jnp.where(in_range, v, jnp.nan), own)


def _own_class_bwd(layout, x, agents, labels, to_own, to_x, to_agents, to_bias):
    local, mine, _ = _local(layout, agents.shape[0], labels)
    rows, inverse = _unit_rows(layout, agents[local])
    slope, to_norm = (jnp.where(mine, cotangent, 0.0)[:, None] for cotangent in to_own)
    if inverse is None:
        to_rows, part_of_x = slope * x, slope * rows
    else:
        unit = rows * inverse[:, None]
        cosine = jnp.sum(x * unit, axis=1, keepdims=True)
        to_rows = slope * (x - cosine * unit) * inverse[:, None]
        part_of_x = slope * unit
    if layout.axis_name is not None:
        part_of_x = jax.lax.psum(part_of_x, layout.axis_name)
    to_rows += to_norm * rows / l2_norm(rows, keepdims=True)
    to_agents = to_agents.at[local].add(to_rows)
    if to_bias is not None:
        to_bias = to_bias.at[local].add(slope[:, 0])
    return to_x + part_of_x, to_agents, to_bias


def _local(layout, classes, labels):
    """Row of each label on this device, whether it is here, and whether it exists at all."""
    if layout.axis_name is None:
        first, total = 0, classes
    else:
        first = jax.lax.axis_index(layout.axis_name) * classes
        total = jax.lax.axis_size(layout.axis_name) * classes
    local = labels - first
    mine = (local >= 0) & (local < classes)
    return jnp.clip(local, 0, classes - 1), mine, (labels >= 0) & (labels < total)


def _unit_rows(layout, rows):
    if not layout.normalize_agents:
        return rows, None
    return rows, jax.lax.rsqrt(jnp.sum(rows * rows, axis=1) + AGENT_EPS)


# -------------------------------------------------------------------------------------- blocks


def _similarities(layout, x, agents, bias, labels, start, first, *, forward):
    """The block that begins at row `start` and counts classes from row `first` on."""
    rows, inverse = _unit_rows(layout, _slice(agents, start, layout))
    similarities = _matmul(layout, x, rows.T, forward=forward)
    if inverse is not None:
        similarities *= inverse[None, :]
    cosines = similarities
    if bias is not None:
        similarities += _slice(bias, start, layout)[None, :]
    local = start + jnp.arange(layout.block_size, dtype=labels.dtype)
    classes = local
    if layout.axis_name is not None:
        classes = local + jax.lax.axis_index(layout.axis_name) * agents.shape[0]
    counted = (classes[None, :] != labels[:, None]) & (local >= first)[None, :]
    return Block(similarities, counted, classes), (rows, inverse, cosines)


def _slice(array, start, layout):
    if layout.block_size == array.shape[0]:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start, layout.block_size, 0)


def _places(classes: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each block starts, and its first row that counts.

    A last block that would run over the end is moved back; the rows it shares with the one before
    count there. It goes first, so that in the gradient the other block's rows replace its zeros.
    No row is ever padded or copied.
    """
    starts = np.arange(0, classes, block_size, dtype=np.int32)
    firsts = starts.copy()
    starts[-1] = classes - block_size
    order = np.roll(np.arange(starts.size), 1)
    return starts[order], firsts[order]


def _sweep(layout, classes, fold_block):
    """Summaries over all classes of this device."""
    starts, firsts = _places(classes, layout.block_size)
    summaries = fold_block(None, starts[0], firsts[0])
    if starts.size == 1:
        return summaries
    return jax.lax.scan(
        lambda carry, place: (fold_block(carry, *place), None), summaries, (starts[1:], firsts[1:])
    )[0]


def _scan(layout, classes, step, carry):
    places = _places(classes, layout.block_size)
    return jax.lax.scan(lambda carry, place: (step(carry, *place), None), carry, places)[0]


def _merge_devices(layout, fold, summary):
    if layout.axis_name is None:
        return summary
    gathered = jax.lax.all_gather(summary, layout.axis_name)
    merged = jax.tree.map(lambda s: s[0], gathered)
    for device in range(1, jax.lax.axis_size(layout.axis_name)):
        merged = fold.merge(merged, jax.tree.map(lambda s, d=device: s[d], gathered))
    return merged


def _cast(layout, x, *, forward):
    """Rounds a matmul's operand where the precision says so."""
    rounds = layout.precision == "bf16" or (forward and layout.precision == "mixed")
    return x.astype(jnp.bfloat16) if rounds else x


def _matmul(layout, a, b, *, forward):
    dtype = a.dtype if a.dtype == jnp.float64 else jnp.float32
    return jnp.matmul(
        _cast(layout, a, forward=forward),
        _cast(layout, b, forward=forward),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
