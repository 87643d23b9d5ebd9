"""Updates the agents inside the backward scan, so that their whole gradient is never in memory.

Agents are the class weights, one row per class. The scan carries the agents and their optimiser's
state. In each step it reads a block of rows, computes the block's gradient, and overwrites the
block by the updated rows. No copy is made if the caller donates agents and state.

One part of the gradient is known only after the scan: that of the targets, the examples' own
classes, for terms whose fold depends on the target. So the scan also collects the rows of these
classes as they were before the scan, and the gradient that the scan computed for them. After the
scan these few rows are updated again, from the collected values and by their whole gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from hyperface.losses._blocks import Inputs, Layout, backward_scan, rows_of
from hyperface.losses._engine import (
    Residuals,
    block_gradients_of,
    joint_losses,
    losses_fwd,
    no_extra,
    pull_losses,
    total,
    write_rows,
)
from hyperface.losses._sampling import first_alike
from hyperface.losses._target import target_gradients
from hyperface.losses.shards import Location, locate, this_device_part
from hyperface.rules import vary_over, varying_axes


class RowUpdate(Protocol):
    """A function that applies an optimiser to some rows of the agents (class weights).

    It is called as (rows, their state, their gradient), and returns (new rows, new state). It is a
    pytree whose leaves are its constants, such as `jax.tree_util.Partial(sgd, rate)`.

    A new row and its new state must depend on this row alone, because the update is called once per
    block of rows, and once more for the rows of the batch's own classes.
    """

    def __call__(self, rows: jax.Array, state: Any, gradient: jax.Array, /) -> tuple[Any, Any]:
        """Returns (rows, state): the updated rows and their updated state.

        Args:
          rows: [rows, dim] agents.
          state: their part of the optimiser's state: arrays with one row per agent.
          gradient: [rows, dim] of the sum of all devices' losses.
        """
        ...


class Rows(NamedTuple):
    """Some rows of the agents (class weights), with their gradient and their optimiser state."""

    agents: jax.Array
    """[rows, dim] the rows themselves, before the update."""
    state: Any
    """The optimiser's state of these rows: arrays with one row per agent."""
    gradient: jax.Array
    """[rows, dim] gradient of the loss to the rows, summed over all devices. The scan over blocks
    of classes computes only the part that comes from examples of other classes than the row's. The
    part of the examples of the row's class is added after the scan."""


class Sweep(NamedTuple):
    """The values that the backward scan (the loop over blocks of classes) passes from block to
    block."""

    x: jax.Array
    """[batch, dim] gradient to the features so far."""
    agents: jax.Array
    """[classes on this device, dim] agents, partly updated."""
    state: Any
    """The optimiser's state of all agents, partly updated."""
    own: Rows
    """The rows of the examples' own classes as they were before the scan, one per example. They are
    updated once more after the scan, with the whole gradient."""
    bias: jax.Array | None
    """[classes on this device] gradient to the bias so far; None without a bias."""
    extra: Any
    """Sum over the blocks so far of the derivatives by the arguments of the folds (the reductions
    over classes)."""


class OwnRows(NamedTuple):
    """The positions of the rows of the examples' own classes, for the examples of all devices."""

    labels: jax.Array
    """[batch] class ids of all examples."""
    at: Location
    """Whether the agent (class weight) of each example's class is on this device, and its row."""
    order: jax.Array
    """[batch] positions of the examples in the batch, sorted by the row of their class."""
    sorted_rows: jax.Array
    """[batch] row numbers of the examples' classes on this device, sorted as `order` says. For a
    class on another device, the entry is the number of rows on this device, which is one more than
    the last row number."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def updating_sum(
    layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...], state: Any, update: RowUpdate
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum of the losses, and updates the agents in its reverse pass.

    Agents are the class weights. The reverse pass returns the updated agents in place of the
    gradient to `inputs.agents`, and the updated state in place of the gradient to `state`.

    Args:
      layout: the static options, such as block size and precision.
      inputs: terms, features, agents and labels; features and labels are this device's part of
        the batch.
      weights: one array [batch] per term, the weight of each example's loss.
      state: the optimiser's state of the agents: arrays with one row per agent.
      update: function (rows, their state, their gradient) -> (new rows, new state).

    Returns:
      (sum, losses): the scalar sum over terms and examples of weight x loss, and one array of
      unweighted losses [batch] per term.
    """
    losses: tuple[jax.Array, ...] = joint_losses(layout, inputs)
    return total(losses, weights), losses


def _fwd(
    layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...], state: Any, update: RowUpdate
) -> tuple[Any, Any]:
    losses, residuals = losses_fwd(layout, inputs)
    value = total(losses, weights)
    return (value, losses), (residuals, losses, value, weights, state, update)


def _bwd(layout: Layout, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    residuals, losses, value, weights, state, update = saved
    to_total, _ = cotangents  # The public function stops gradients to the losses.
    inputs = residuals.inputs
    slopes, pull_terms = pull_losses(layout, residuals, tuple(to_total * w for w in weights))
    # The value is known here, and no row was updated yet, so this is the last chance to leave out
    # the update. The sums over the devices let all devices decide alike.
    of_all, cotangent_of_all = layout.shards.sum_over_batch((value, to_total))
    may_update = jnp.isfinite(of_all) & (cotangent_of_all != 0)
    own = _own_rows(layout, inputs)
    swept = _sweep(layout, residuals, state, update, slopes, may_update, own)
    to_terms, to_target = pull_terms(swept.extra)
    batch = inputs.classes.labels.size
    rows = this_device_part(swept.own.agents, layout.shards.sum_over, batch)
    part = target_gradients(layout, inputs, rows, to_target)
    to_rows = layout.shards.gather_examples(part.rows)
    agents, state = _update_own_rows(layout, swept, update, to_rows, own, may_update)
    to_bias = swept.bias
    if to_bias is not None:
        at = locate(inputs.classes.labels, layout.num_rows, layout.shards.axis_name)
        to_bias = to_bias.at[at.row].add(part.bias)
    to_x, to_features = layout.shards.reduce_over_axis((swept.x + part.x, part.features))
    to_inputs = Inputs(to_terms, to_x, to_features, part.norms, agents, to_bias, classes=None)
    return to_inputs, tuple(to_total * loss for loss in losses), state, None


updating_sum.defvjp(_fwd, _bwd)


def _own_rows(layout: Layout, inputs: Inputs) -> OwnRows:
    """Returns where the rows of the examples' own classes are, sorted by row."""
    labels = layout.shards.gather_examples(inputs.classes.labels)
    at = locate(labels, layout.num_rows, layout.shards.axis_name)
    keys = jnp.where(at.is_here, at.row, layout.num_rows)
    order = jnp.argsort(keys)
    return OwnRows(labels, at, order, keys[order])


def _sweep(
    layout: Layout,
    residuals: Residuals,
    state: Any,
    update: RowUpdate,
    slopes: Callable[..., Any],
    may_update: jax.Array,
    own: OwnRows,
) -> Sweep:
    """Runs the backward scan, which updates every row that it reads, and returns its last carry.

    Args:
      layout: the static options, such as block size and precision.
      residuals: the arrays that the forward pass stored.
      state: the optimiser's state of the agents.
      update: function (rows, their state, their gradient) -> (new rows, new state).
      slopes: as in `block_gradients_of`.
      may_update: scalar bool; if False, agents and state stay unchanged.
      own: the positions of the rows of the examples' own classes.
    """
    inputs, shards = residuals.inputs, layout.shards
    sparse = all(term.fold.additive for term in inputs.terms)
    gradients_of = block_gradients_of(layout, inputs, slopes, sparse=sparse)
    # Agents and state are equal on devices that differ only in their examples.
    of_rows = varying_axes(inputs.agents)
    axes = of_rows | varying_axes(inputs.x)

    def update_block(carry: Sweep, start: Any, first: Any, *similarities: jax.Array) -> Sweep:
        found = gradients_of(carry.agents, start, first, *similarities)
        state = jax.tree.map(lambda leaf: rows_of(leaf, start, layout), carry.state)
        rows = Rows(found.agents, state, shards.sum_over_copies(found.rows))
        summed = (carry.x + found.x, jax.tree.map(jnp.add, carry.extra, found.extra))
        to_bias = carry.bias
        if to_bias is not None:
            to_bias = vary_over(axes, write_rows(to_bias, found.bias, start))
        # Collected before the update, which overwrites the rows.
        collected = _collect(layout, carry.own, rows, start, first, own)
        written = _update_block(layout, carry, rows, update, may_update, start, first)
        (x, extra), kept = vary_over(axes, summed), vary_over(of_rows, (*written, collected))
        return Sweep(x, *kept, to_bias, extra)

    def example_rows(leaf: jax.Array, fill: float) -> jax.Array:
        return jnp.full((own.labels.size, *leaf.shape[1:]), fill, leaf.dtype)

    nothing = Rows(
        # Places for rows of other devices keep this value. It is not zero, because the gradient at
        # a zero row may not be finite.
        example_rows(inputs.agents, 1.0),
        jax.tree.map(lambda leaf: example_rows(leaf, 0.0), state),
        example_rows(inputs.agents, 0.0),
    )
    to_bias = None if inputs.bias is None else vary_over(axes, jnp.zeros_like(inputs.bias))
    extra = no_extra(layout, inputs, gradients_of)
    x, extra = vary_over(axes, (jnp.zeros_like(inputs.x), extra))
    kept = vary_over(of_rows, (inputs.agents, state, nothing))
    carry, saved = Sweep(x, *kept, to_bias, extra), residuals.saved
    if layout.block_size == layout.num_rows:
        return update_block(carry, 0, 0, *([] if saved is None else [saved[0]]))
    return backward_scan(layout, update_block, carry, saved)


def _collect(
    layout: Layout, collected: Rows, block: Rows, start: Any, first: Any, own: OwnRows
) -> Rows:
    """Copies the rows of the examples' own classes that count in one block.

    Args:
      layout: the static options, such as block size and precision.
      collected: one row per example, those of earlier blocks filled in.
      block: the rows of the block.
      start: first row of the block.
      first: first row of the block that counts.
      own: the positions of the rows of the examples' own classes.

    Returns:
      `collected`, with the rows of this block filled in.
    """
    # As rows are sorted, the examples of this block are neighbours.
    low, high = (jnp.sum(own.sorted_rows < row) for row in (first, start + layout.block_size))

    def copy_row(place: jax.Array, collected: Rows) -> Rows:
        example, row = own.order[place], own.sorted_rows[place] - start

        def copied(to: jax.Array, source: jax.Array) -> jax.Array:
            return write_rows(to, jax.lax.dynamic_slice_in_dim(source, row, 1), example)

        return jax.tree.map(copied, collected, block)

    # A loop over the few examples of this block. A gather for all examples in each block would cost
    # more, and XLA would fuse it with the update, which would then need a copy of all agents.
    axes = varying_axes(collected, block)
    return jax.lax.fori_loop(low, high, copy_row, vary_over(axes, collected))


def _update_block(
    layout: Layout,
    carry: Sweep,
    rows: Rows,
    update: RowUpdate,
    may_update: jax.Array,
    start: Any,
    first: Any,
) -> tuple[jax.Array, Any]:
    """Returns (agents, state): all agents and their optimiser state, with one block updated.

    Args:
      layout: the static options, such as block size and precision.
      carry: the agents and their state before the block.
      rows: the rows of the block, with their state and gradient.
      update: function (rows, their state, their gradient) -> (new rows, new state).
      may_update: scalar bool; if False, agents and state stay unchanged.
      start: first row of the block.
      first: first row of the block that counts.
    """

    def updated(agents: jax.Array, state: Any, rows: Rows, start: Any, first: Any) -> Any:
        counts = start + jnp.arange(layout.block_size) >= first

        def written(whole: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
            # Rows that do not count here are updated in the block in which they count.
            counted = counts.reshape(-1, *[1] * (new.ndim - 1))
            return write_rows(whole, jnp.where(counted, new, old), start)

        new_rows, new_state = update(rows.agents, rows.state, rows.gradient)
        return vary_over(
            axes,
            (
                written(agents, new_rows, rows.agents),
                jax.tree.map(written, state, new_state, rows.state),
            ),
        )

    axes = varying_axes(carry.agents, rows)
    # A separate branch, because XLA would otherwise fuse the reads of one array into the write of
    # another, and would then copy both arrays in every block.
    return jax.lax.cond(
        may_update,
        updated,
        lambda agents, state, *_: vary_over(axes, (agents, state)),
        carry.agents,
        carry.state,
        rows,
        start,
        first,
    )


def _update_own_rows(
    layout: Layout,
    swept: Sweep,
    update: RowUpdate,
    to_rows: jax.Array,
    own: OwnRows,
    may_update: jax.Array,
) -> tuple[jax.Array, Any]:
    """Returns (agents, state) after the rows of the examples' own classes were updated again.

    Args:
      layout: the static options, such as block size and precision.
      swept: the result of the scan.
      update: function (rows, their state, their gradient) -> (new rows, new state).
      to_rows: [batch, dim] each example's part of the gradient to the agent of its class.
      own: the positions of these rows.
      may_update: scalar bool; if False, agents and state stay unchanged.
    """
    # The gradients of several examples of one class are added at the first of them, in the order of
    # the batch.
    first = first_alike(own.labels)
    gradient = swept.own.gradient.at[first].add(to_rows)
    rows, state = update(swept.own.agents, swept.own.state, gradient)
    is_first = first == jnp.arange(own.labels.size)
    # A row with an index behind the end is dropped. A negative index would count from the end.
    place = jnp.where(own.at.is_here & is_first & may_update, own.at.row, layout.num_rows)
    put = partial(_put_rows, place)
    return put(swept.agents, rows), jax.tree.map(put, swept.state, state)


def _put_rows(place: jax.Array, whole: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns `whole` with its rows at `place` replaced; an index behind the end is dropped."""
    return whole.at[place].set(rows, mode="drop")
