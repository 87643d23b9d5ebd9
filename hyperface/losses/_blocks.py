"""Blocks of classes: the similarities of one, and how a sweep goes from one to the next."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Precision = Literal["float32", "mixed", "bf16"]
AgentGradient = Literal["tangent", "inner-product", "distance"]
"""Through the agents' normalisation (Eq. 4), or that of an inner product or a squared distance with
rows that count as unit vectors already."""
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
    agent_similarity: jax.Array
    """[batch] The same number, whose gradient reaches the own class's agent alone: for released
    gradients that differ between the two sides."""
    agent_norm: jax.Array
    """[batch] length of the own class's agent."""
    angle: jax.Array | None
    """[batch] angle to the own class's agent in radians, with its digits near 0 and pi, which the
    arccos of `similarity` loses; None unless a term has `needs_angle`."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""


class Layout(NamedTuple):
    """How a problem is cut: static."""

    normalize_agents: bool
    agent_gradient: AgentGradient
    num_rows: int
    """Classes on this device."""
    block_size: int
    axis_name: str | None
    split_batch: bool
    """Features, labels and losses are this device's part of the batch."""
    precision: Precision
    keep: bool
    """The forward sweep keeps the similarities, and the backward one does not make them again."""


class Classes(NamedTuple):
    """What is not differentiated."""

    labels: jax.Array
    """[batch] global class ids."""
    present: jax.Array | None
    """[classes on this device] bool: those that take part beside the targets; None for all."""


def unit_rows(layout, rows):
    """The rows, and 1 / length of each where agents are normalised."""
    if not layout.normalize_agents:
        return rows, None
    return rows, jax.lax.rsqrt(jnp.sum(rows * rows, axis=1) + AGENT_EPS)


def cosines_of(layout, x, agents, start, *, forward):
    """Similarities without bias to the block that begins at row `start`; its rows and 1 / norm."""
    rows, inverse = unit_rows(layout, rows_of(agents, start, layout))
    cosines = matmul(layout, x, rows.T, forward=forward)
    if inverse is not None:
        cosines *= inverse[None, :]
    return cosines, (rows, inverse)


def block_of(layout, cosines, bias, classes, start, first):
    """The block as a fold sees it, which counts classes from row `first` on."""
    similarities = cosines
    if bias is not None:
        similarities += rows_of(bias, start, layout)[None, :]
    local = start + jnp.arange(layout.block_size, dtype=classes.labels.dtype)
    ids = local
    if layout.axis_name is not None:
        ids += jax.lax.axis_index(layout.axis_name) * layout.num_rows
    taking_part = local >= first
    if classes.present is not None:
        taking_part &= rows_of(classes.present, start, layout)
    counted = (ids[None, :] != classes.labels[:, None]) & taking_part[None, :]
    return Block(similarities, counted, ids)


def rows_of(array, start, layout):
    """The part of an array with one row a class that belongs to the block from row `start` on."""
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


def folded(layout, fold_block):
    """Summaries over all classes of this device, and what each block keeps."""
    starts, firsts = _places(layout.num_rows, layout.block_size)
    summaries, kept = fold_block(None, starts[0], firsts[0])
    if starts.size == 1:
        return summaries, (kept, None) if layout.keep else None
    summaries, more = jax.lax.scan(
        lambda carry, place: fold_block(carry, *place), summaries, (starts[1:], firsts[1:])
    )
    return summaries, (kept, more) if layout.keep else None


def swept(layout, step, carry, kept):
    """What a step of the backward sweep carries from block to block, after the last one."""
    starts, firsts = _places(layout.num_rows, layout.block_size)
    xs = (starts, firsts)
    if kept:
        carry = step(carry, starts[0], firsts[0], kept[0])
        xs = (starts[1:], firsts[1:], kept[1])
    return jax.lax.scan(lambda carry, place: (step(carry, *place), None), carry, xs)[0]


def merged(layout, fold, summary):
    """The summary over all devices' classes, from each device's; of a split batch this device's
    part."""
    if layout.axis_name is None:
        return summary
    devices = jax.lax.axis_size(layout.axis_name)
    if layout.split_batch:
        each = jax.tree.map(
            lambda s: jax.lax.all_to_all(s, layout.axis_name, 0, 0, tiled=True).reshape(
                devices, -1, *s.shape[1:]
            ),
            summary,
        )
    else:
        each = jax.lax.all_gather(summary, layout.axis_name)
    whole = jax.tree.map(lambda s: s[0], each)
    for device in range(1, devices):
        whole = fold.merge(whole, jax.tree.map(lambda s, d=device: s[d], each))
    return whole


def gathered(layout, tree):
    """Of the whole batch, from this device's part where it is split."""
    return jax.lax.all_gather(tree, layout.axis_name, tiled=True) if layout.split_batch else tree


def added(layout, tree):
    """The sum over the devices of what each has for the whole batch; this device's part of it where
    the batch is split."""
    if layout.axis_name is None:
        return tree
    if layout.split_batch:
        return jax.lax.psum_scatter(tree, layout.axis_name, tiled=True)
    return jax.lax.psum(tree, layout.axis_name)


def cast(layout, x, *, forward):
    """Rounds a matmul's operand where the precision says so."""
    rounds = layout.precision == "bf16" or (forward and layout.precision == "mixed")
    return x.astype(jnp.bfloat16) if rounds else x


def matmul(layout, a, b, *, forward):
    """The product at the layout's precision, summed in float32 or better."""
    dtype = a.dtype if a.dtype == jnp.float64 else jnp.float32
    return jnp.matmul(
        cast(layout, a, forward=forward),
        cast(layout, b, forward=forward),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
