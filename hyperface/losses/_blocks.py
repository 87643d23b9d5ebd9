"""Computes similarities of blocks of classes, and scans from block to block.

The classes are processed in blocks, so that the whole [batch, classes] array never has to exist.
Agents are the class weights, one row per class.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.losses._folds import Block
from hyperface.losses.shards import Shards, first_row

Precision = Literal["float32", "tf32", "mixed", "bf16"]
AgentGradient = Literal["tangent", "inner-product", "distance"]
"""How the gradient of normalised agents is computed:

- "tangent": through the normalisation (NormFace, Eq. 4), the exact gradient
- "inner-product": the gradient of the inner product of feature and agent, as if the agents had
  been stored at unit length, so that no scaling has to be differentiated
- "distance": the gradient of the squared distance of feature and agent, in the same way
"""

# The eps of `l2_normalize`: both sides of a cosine are normalised by the same rule.
AGENT_EPS = 1e-12


class Layout(NamedTuple):
    """The static options with which one call of class-wise losses is computed.

    Agents are the class weights, one row per class. They are processed in blocks of classes. The
    loop over the blocks is called forward scan in the forward pass, and backward scan in the
    backward pass.
    """

    normalize_agents: bool
    """Whether agents are scaled to unit length."""
    agent_gradient: AgentGradient
    """The gradient of agents that are scaled to unit length. "tangent" is exact. "inner-product"
    and "distance" leave out the derivative of the scaling: they are the gradient of the inner
    product or of the squared distance, as if the agents had unit length already."""
    num_rows: int
    """Number of classes on this device."""
    block_size: int
    """Number of classes per block."""
    shards: Shards
    """How classes and batch are split over devices."""
    precision: Precision
    """Precision of the operands of matmuls: "float32", "tf32", "bf16", or "mixed", which is bf16 in
    the forward scan only."""
    save_similarities: bool
    """Whether the forward scan saves the similarities for the backward scan. Otherwise, the
    backward scan computes them again."""


class Classes(NamedTuple):
    """The integer and bool inputs of class-wise losses, which have no gradient."""

    labels: jax.Array
    """[batch] class ids among the classes of all devices."""
    present: jax.Array | None
    """[classes on this device] bool, the classes that take part in all losses; None for all. The
    own class of an example always takes part in its loss."""


class Inputs(NamedTuple):
    """The inputs of class-wise losses. Their gradients are an `Inputs` too."""

    terms: tuple[Any, ...]
    """The class-wise losses: pytrees of their hyper-parameters."""
    x: jax.Array
    """[batch, dim] features, of unit length if the terms normalise them."""
    features: jax.Array | None
    """[batch, dim] un-normalised features, for the angle; None if no term needs the angle."""
    norms: jax.Array
    """[batch] length of the un-normalised features."""
    agents: jax.Array
    """[classes on this device, dim] class weights, un-normalised."""
    bias: jax.Array | None
    """[classes on this device] numbers that are added to the logits; None adds nothing."""
    classes: Any
    """The labels, and the classes that take part, a `Classes`; None if the other fields are
    gradients."""


class Gradients(NamedTuple):
    """The gradients that the backward scan (the loop over blocks of classes) returns.

    The scan leaves out each example's own class. `add_target` adds this part of the gradients
    later.
    """

    x: jax.Array
    """[batch, dim] gradient to the features."""
    agents: jax.Array
    """[classes on this device, dim] gradient to the agents (class weights)."""
    bias: jax.Array | None
    """[classes on this device] gradient to the bias; None without a bias."""
    extra: Any
    """The derivatives by the arguments of the folds (the reductions over classes), summed over the
    blocks. For `weighted_sum` a pair: these derivatives, and the summaries of the folds."""


def similarities_of(
    layout: Layout, columns: jax.Array, agents: jax.Array, start: Any, *, forward: bool
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns the similarities (cosines or inner products) of a block of agents to the whole batch.

    Args:
      layout: the static options, such as block size and precision.
      columns: [dim, batch], the features as `columns_of` returns them.
      agents: [classes, dim] class weights, of which the rows from `start` on are used.
      start: first row of the block.
      forward: whether this is the forward pass, in which the precision "mixed" rounds to bfloat16.

    Returns:
      Three arrays:

      - similarities: [block, batch]
      - rows: [block, dim] the agents of the block
      - inverse_norms: [block] 1 / length of each of these agents; None if agents are not normalised
    """
    rows = rows_of(agents, start, layout)
    inverse_norms = inverse_norms_of(layout, rows)
    similarities = matmul(layout, rows, columns, forward=forward)
    if inverse_norms is not None:
        # The similarities are scaled instead of the rows, so that no array of normalised agents
        # exists.
        similarities *= inverse_norms[:, None]
    return similarities, rows, inverse_norms


def columns_of(layout: Layout, x: jax.Array, *, forward: bool) -> jax.Array:
    """Returns the features as columns [dim, batch], rounded as an operand of a matmul.

    The columns are computed once, before the scan over blocks. An optimisation barrier prevents XLA
    from fusing the transpose into each matmul of the scan, because XLA would then multiply the
    rounded operands in float32.

    Args:
      layout: the static options, such as block size and precision.
      x: [batch, dim] features.
      forward: whether this is the forward pass, in which the precision "mixed" rounds to bfloat16.
    """
    return jax.lax.optimization_barrier(cast(layout, x, forward=forward).T)


def inverse_norms_of(layout: Layout, rows: jax.Array) -> jax.Array | None:
    """Returns 1 / length of each row of agents, [rows]; None if agents are not normalised."""
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
    """Returns a `Block`: similarities, class ids and bias of the classes from row `start` on.

    Its flags `counted` are False for classes that a reduction must leave out: each example's own
    class, classes that do not take part, and those of rows before `first`.

    Args:
      layout: the static options, such as block size and precision.
      similarities: [block, batch] similarities of the block's classes to each example.
      bias: [classes on this device] numbers that are added to the logits; None adds nothing.
      classes: the labels, and the classes that take part.
      start: first row of the block.
      first: first row that is counted. `first` exceeds `start` only in the last block, if this
        block was moved back to have full size. The rows from `start` to `first` are then in the
        block before too, which has counted them.
    """
    local = start + jnp.arange(layout.block_size, dtype=classes.labels.dtype)
    ids = local + first_row(layout.num_rows, layout.shards.axis_name)
    takes_part = local >= first
    if classes.present is not None:
        takes_part &= rows_of(classes.present, start, layout)
    # The example's own class is left out, because `_target` computes its part.
    counted = (ids[:, None] != classes.labels[None, :]) & takes_part[:, None]
    bias_of_block = None if bias is None else rows_of(bias, start, layout)
    return Block(similarities, counted, ids, bias_of_block)


def rows_of(array: jax.Array, start: Any, layout: Layout) -> jax.Array:
    """Returns `layout.block_size` rows, from row `start` on, of an array with one row per class."""
    if layout.block_size == array.shape[0]:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start, layout.block_size, 0)


def _places(num_rows: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (starts, firsts): the first row of each block, and the first of its rows that counts.

    A last block that would exceed the end is moved back. The rows that it then shares with the
    block before it count only there. The last block is processed first: its gradient has zeros in
    the shared rows, and the other block later replaces them. No row is ever padded or copied.
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
    """Reduces the similarities to all classes of this device, block by block.

    A summary is the partial result of a reduction over classes, such as a sum so far.

    Args:
      layout: the static options, such as block size and precision.
      fold_block: function (summaries, start, first) -> (summaries, similarities). It adds the block
        of the rows from `start` on to the summaries so far, which are None for the first block.
        Rows before `first` are not counted, because an earlier block has counted them.

    Returns:
      (summaries, saved): the summaries over all classes of this device, and the similarities for
      `backward_scan`. `saved` is (those of the first block, those of all others), or None if the
      layout does not save them.
    """
    starts, firsts = _places(layout.num_rows, layout.block_size)
    # The first block is folded outside of the scan. Its result is the first carry, so that no fold
    # has to define a neutral summary.
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
    """Calls `step` once per block of classes, and returns the carry after the last block.

    Args:
      layout: the static options, such as block size and precision.
      step: function (carry, start, first, [similarities]) -> carry, for the block of the rows from
        `start` on. Rows before `first` are not counted, because an earlier block has counted them.
        The last argument, [block, batch], is absent if nothing was saved.
      carry: pytree that `step` passes from block to block: its value before the first block.
      saved: the similarities that `forward_scan` saved; None if `step` computes them again.
    """
    starts, firsts = _places(layout.num_rows, layout.block_size)
    if saved is None:
        places = (starts, firsts)
    else:
        # The forward scan saved the first block separately from the stack of the others.
        carry = step(carry, starts[0], firsts[0], saved[0])
        places = (starts[1:], firsts[1:], saved[1])
    return jax.lax.scan(lambda carry, place: (step(carry, *place), None), carry, places)[0]


def cast(layout: Layout, x: jax.Array, *, forward: bool) -> jax.Array:
    """Returns an operand x of a matmul, rounded to bfloat16 if the precision requires it.

    "bf16" rounds always, "mixed" only if `forward` is set, and "float32" and "tf32" never.
    """
    rounds = layout.precision == "bf16" or (forward and layout.precision == "mixed")
    return x.astype(jnp.bfloat16) if rounds else x


def matmul(layout: Layout, a: jax.Array, b: jax.Array, *, forward: bool) -> jax.Array:
    """Returns the matrix product a b at the layout's precision, summed in float32 or float64.

    Args:
      layout: its `precision` says how the operands are rounded.
      a: [rows, inner], the left operand.
      b: [inner, columns], the right operand.
      forward: whether this is the forward pass, in which the precision "mixed" rounds to bfloat16.
    """
    # Without `preferred_element_type`, bfloat16 operands give a result rounded to bfloat16.
    dtype = a.dtype if a.dtype == jnp.float64 else jnp.float32
    return jnp.matmul(
        cast(layout, a, forward=forward),
        cast(layout, b, forward=forward),
        # By default accelerators round float32 operands. HIGH is TF32 on a GPU.
        precision=jax.lax.Precision.HIGH
        if layout.precision == "tf32"
        else jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
