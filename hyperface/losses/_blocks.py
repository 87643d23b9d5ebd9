"""Blocks of classes: the similarities of one block, and the scans from block to block."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.losses._folds import Block
from hyperface.losses.shards import Shards, first_class

Precision = Literal["float32", "tf32", "mixed", "bf16"]
AgentGradient = Literal["tangent", "inner-product", "distance"]
"""The agents' gradient: through their normalisation (NormFace, Eq. 4), or that of an inner product
or of a squared distance with rows that count as unit vectors already."""

# The eps of `l2_normalize`: both sides of a cosine are normalised by the same rule.
AGENT_EPS = 1e-12


class Layout(NamedTuple):
    """The static description of a problem: how its losses are computed."""

    normalize_agents: bool
    agent_gradient: AgentGradient
    num_rows: int
    """Classes on this device."""
    block_size: int
    shards: Shards
    precision: Precision
    save_similarities: bool
    """The forward scan saves the similarities for the backward scan, which computes them again
    otherwise."""


class Classes(NamedTuple):
    """The integer and bool arrays of a problem, which have no gradient."""

    labels: jax.Array
    """[batch] global class ids."""
    present: jax.Array | None
    """[classes on this device] bool: those that take part beside the targets; None for all."""


class Inputs(NamedTuple):
    """The arrays of a problem. Their gradients have the same form."""

    terms: tuple[Any, ...]
    """The class-wise losses: pytrees of their hyper-parameters."""
    x: jax.Array
    """[batch, dim] features, normalised where the terms say so."""
    features: jax.Array | None
    """[batch, dim] un-normalised, for the angle; None where no term needs it."""
    norms: jax.Array
    """[batch] length of the un-normalised features."""
    agents: jax.Array
    """[classes on this device, dim]."""
    bias: jax.Array | None
    """[classes on this device], or None."""
    classes: Any
    """`Classes`; None among gradients."""


class Gradients(NamedTuple):
    """Gradients from the backward scan: the part from the classes that are not the target."""

    x: jax.Array
    agents: jax.Array
    bias: jax.Array | None
    extra: Any
    """Whatever the slopes function adds up over the blocks beside the slopes."""


def similarities_of(
    layout: Layout, columns: jax.Array, agents: jax.Array, start: Any, *, forward: bool
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns the similarities [block, batch] of the block of agents that begins at row `start`.

    It also returns the rows of the block and, if agents are normalised, 1 / length of each row.

    Args:
      layout: how the problem is computed.
      columns: [dim, batch], the features as `columns_of` returns them.
      agents: [classes, dim].
      start: first row of the block.
      forward: whether the forward pass calls this, whose precision may differ.
    """
    rows = rows_of(agents, start, layout)
    inverse_norms = inverse_norms_of(layout, rows)
    similarities = matmul(layout, rows, columns, forward=forward)
    if inverse_norms is not None:
        # Scaling the similarities instead of the rows keeps the normalised agents from existing.
        similarities *= inverse_norms[:, None]
    return similarities, rows, inverse_norms


def columns_of(layout: Layout, x: jax.Array, *, forward: bool) -> jax.Array:
    """Returns the features as columns [dim, batch], rounded as a matmul's operand.

    They are computed once, before the scan. An optimisation barrier keeps XLA from fusing the
    transpose into each matmul of the scan, which would multiply rounded operands in float32.
    """
    return jax.lax.optimization_barrier(cast(layout, x, forward=forward).T)


def inverse_norms_of(layout: Layout, rows: jax.Array) -> jax.Array | None:
    """Returns 1 / length of each row, [rows]; None if agents are not normalised."""
    if not layout.normalize_agents:
        return None
    return jax.lax.rsqrt(jnp.sum(rows * rows, axis=1) + AGENT_EPS)


def block_of(
    layout: Layout,
    similarities: jax.Array,
    bias: jax.Array | None,
    classes: Classes,
    start: Any,
    first: Any,
) -> Block:
    """Returns the block that begins at row `start`, with the classes that a fold counts in it.

    Rows before `first` are not counted: the last block is moved back to have full size, and the
    block before it has counted them.
    """
    local = start + jnp.arange(layout.block_size, dtype=classes.labels.dtype)
    ids = local + first_class(layout.num_rows, layout.shards.axis_name)
    # A last block that was moved back repeats rows, which count in the block before it.
    takes_part = local >= first
    if classes.present is not None:
        takes_part &= rows_of(classes.present, start, layout)
    # The target is left out here, because `_target` computes its part.
    counted = (ids[:, None] != classes.labels[None, :]) & takes_part[:, None]
    bias_of_block = None if bias is None else rows_of(bias, start, layout)
    return Block(similarities, counted, ids, bias_of_block)


def rows_of(array: jax.Array, start: Any, layout: Layout) -> jax.Array:
    """Returns the block that begins at row `start` of an array with one row per class."""
    if layout.block_size == array.shape[0]:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start, layout.block_size, 0)


def _places(num_rows: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each block starts, and the first of its rows that counts.

    A last block that would run over the end is moved back. The rows that it then shares with the
    block before it count there. It goes first, so that in the gradient the other block's rows
    replace its zeros. No row is ever padded or copied.
    """
    starts = np.arange(0, num_rows, block_size, dtype=np.int32)
    firsts = starts.copy()
    # Every block has the same size, since a scan compiles its body for one shape.
    starts[-1] = num_rows - block_size
    order = np.roll(np.arange(starts.size), 1)
    return starts[order], firsts[order]


def forward_scan(
    layout: Layout, fold_block: Callable[..., tuple[Any, Any]]
) -> tuple[Any, tuple[Any, Any] | None]:
    """Returns the summaries over all classes of this device, and what each block saves.

    Args:
      layout: how the problem is computed.
      fold_block: (summaries so far or None, start, first) -> (summaries, what the block saves).
    """
    starts, firsts = _places(layout.num_rows, layout.block_size)
    # The first block runs outside of the scan: it makes the carry, so no fold needs a neutral one.
    summaries, saved = fold_block(None, starts[0], firsts[0])
    if starts.size == 1:
        return summaries, (saved, None) if layout.save_similarities else None
    summaries, more = jax.lax.scan(
        lambda carry, place: fold_block(carry, *place), summaries, (starts[1:], firsts[1:])
    )
    return summaries, (saved, more) if layout.save_similarities else None


def backward_scan(
    layout: Layout, step: Callable[..., Any], carry: Any, saved: tuple[Any, Any] | None
) -> Any:
    """Returns what `step` carries from block to block, after the last block.

    Args:
      layout: how the problem is computed.
      step: (carry, start, first, [similarities]) -> carry.
      carry: the value before the first block.
      saved: the similarities that `forward_scan` saved; None if `step` computes them again.
    """
    starts, firsts = _places(layout.num_rows, layout.block_size)
    if saved is None:
        places = (starts, firsts)
    else:
        # The forward scan saved its first block apart from the stack of the others.
        carry = step(carry, starts[0], firsts[0], saved[0])
        places = (starts[1:], firsts[1:], saved[1])
    return jax.lax.scan(lambda carry, place: (step(carry, *place), None), carry, places)[0]


def cast(layout: Layout, x: jax.Array, *, forward: bool) -> jax.Array:
    """Rounds an operand of a matmul to bfloat16 if the layout's precision requires it."""
    rounds = layout.precision == "bf16" or (forward and layout.precision == "mixed")
    return x.astype(jnp.bfloat16) if rounds else x


def matmul(layout: Layout, a: jax.Array, b: jax.Array, *, forward: bool) -> jax.Array:
    """Returns the product at the layout's precision, summed in float32 or better."""
    # bfloat16 operands would otherwise give a result that is rounded to bfloat16.
    dtype = a.dtype if a.dtype == jnp.float64 else jnp.float32
    return jnp.matmul(
        cast(layout, a, forward=forward),
        cast(layout, b, forward=forward),
        # Accelerators would round float32 operands by default. HIGH is TF32 on a GPU.
        precision=jax.lax.Precision.HIGH
        if layout.precision == "tf32"
        else jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
