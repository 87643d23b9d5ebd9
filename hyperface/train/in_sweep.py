"""Updates the agents inside the backward scan of the loss, block by block.

Agents are the rows [classes, dim] of a classification matrix. Their gradient as a whole would need
as much memory as they do, so each block of it is used and dropped. The update is the optimiser's
own rule for the group "agents", so the numbers are those of a step with the whole gradient. The
rest of the step computes with trees in which a scalar stands in for the agents, for their momentum
and for their gradient.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from hyperface.config.loss import Loss
from hyperface.heads import AgentUpdate
from hyperface.losses import RowUpdate
from hyperface.normalize import l2_normalize
from hyperface.train.state import TrainState

Leaves = dict[str, jax.Array]
"""Name of the head that owns the agents -> array."""


class AgentState(NamedTuple):
    """The state with which the backward scan updates the agents (class weights) of a head.

    The backward scan is the loop over blocks of classes that computes the gradient. It updates
    agents block by block, and never stores their whole gradient.
    """

    velocity: jax.Array
    """[classes, dim] momentum."""
    gradient_squares: jax.Array
    """[classes] squared length of each row of the mean loss' gradient, from which the norm of the
    whole gradient is computed after the scan. All values are 0 before the scan."""


def take(state: TrainState, tree: Any) -> tuple[Any, Leaves]:
    """Removes the arrays [classes, dim] of agents (class weights) from a tree.

    It removes only arrays of agents that the backward scan (the loop over blocks of classes)
    updates. The optimiser must not update these agents again.

    Args:
      state: the state of the run.
      tree: parameters, gradients or optimiser state.

    Returns:
      (tree, arrays): the tree with a scalar zero in place of each such array, and the arrays by the
      name of their head. If the backward scan updates no agents, the tree is unchanged and the
      arrays are {}.
    """
    taken: Leaves = {}
    if state.agents_optimizer is None:
        return tree, taken

    def stand_in(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        head = _head(path, state.network.head.loss)
        if head is None:
            return leaf
        taken[head] = leaf
        return jnp.zeros((), leaf.dtype)

    return jax.tree_util.tree_map_with_path(stand_in, tree), taken


def put(state: TrainState, tree: Any, leaves: Leaves) -> Any:
    """Puts arrays in place of the scalars that `take` left in a tree.

    Args:
      state: the state of the run.
      tree: a tree that `take` returned.
      leaves: name of the head -> array; {} returns the tree unchanged.
    """

    def replaced(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        head = _head(path, state.network.head.loss)
        return leaf if head is None else leaves[head]

    return jax.tree_util.tree_map_with_path(replaced, tree) if leaves else tree


def updates_of(
    state: TrainState, opt_state: Any, velocities: Leaves, divisor: jax.Array
) -> dict[str, AgentUpdate]:
    """Returns what the backward scan needs to update the agents (class weights) of each head.

    The backward scan is the loop over blocks of classes that computes the gradient. The result is a
    dict: name of a head -> the function that updates a block of its agents, and the `AgentState`
    with the momentum. It is {} if the backward scan updates no agents.

    Args:
      state: the state of the run.
      opt_state: the state of the whole optimiser, which contains the number of updates so far, on
        which the learning rate depends.
      velocities: name of the head -> momentum [classes, dim] of the agents that take part in this
        step. If classes are sampled, these are the agents of the sample.
      divisor: number of examples of the whole batch, by which the summed gradient is divided.
    """
    if state.agents_optimizer is None:
        return {}
    count, forced = _count(opt_state), state.network.head.loss.forced()
    return {
        head: AgentUpdate(
            _rule(state.agents_optimizer, count, divisor, unit=head in forced),
            AgentState(velocity, jnp.zeros(velocity.shape[0], velocity.dtype)),
        )
        for head, velocity in velocities.items()
    }


def gradient_norms(states: dict[str, AgentState]) -> Leaves:
    """Returns a dict: name of a head -> norm of the gradient of its agents, a scalar.

    If agents (class weights) are split over devices, it is the norm over this device's rows.

    Args:
      states: name of the head -> state of its agents after the backward scan.
    """
    # The step puts this scalar where the gradient would be, so that the norm of all gradients comes
    # out right.
    return {head: jnp.sqrt(jnp.sum(state.gradient_squares)) for head, state in states.items()}


def velocities(states: dict[str, AgentState]) -> Leaves:
    """Returns a dict: name of a head -> momentum [classes, dim] of its agents (class weights).

    Args:
      states: name of the head -> state of its agents after the backward scan.
    """
    return {head: state.velocity for head, state in states.items()}


def _rule(
    optimizer: optax.GradientTransformation, count: jax.Array, divisor: jax.Array, *, unit: bool
) -> RowUpdate:
    """Returns the function (rows, state, gradient) -> (rows, state) that updates a block of agents.

    Args:
      optimizer: the rule of the group "agents".
      count: number of earlier updates.
      divisor: as in `updates_of`.
      unit: whether agents are scaled to unit length after the update.
    """
    # A Partial is a pytree, whose arrays `count` and `divisor` may be traced values.
    return jax.tree_util.Partial(partial(_update_rows, optimizer, unit), count, divisor)


def _update_rows(
    optimizer: optax.GradientTransformation,
    unit: bool,
    count: jax.Array,
    divisor: jax.Array,
    rows: jax.Array,
    state: AgentState,
    gradient: jax.Array,
) -> tuple[jax.Array, AgentState]:
    gradient = gradient / divisor
    # The optimiser's state for these rows is built from its parts. `init` gives the structure; of
    # its leaves the only array with axes is the momentum, and the others are the count.
    leaves, structure = jax.tree.flatten(jax.eval_shape(optimizer.init, rows))
    known = jax.tree.unflatten(structure, [state.velocity if x.ndim else count for x in leaves])
    updates, new = optimizer.update(gradient, known, rows)
    (velocity,) = (leaf for leaf in jax.tree.leaves(new) if leaf.ndim)
    rows = cast(jax.Array, optax.apply_updates(rows, updates))
    if unit:
        # After the update, as in the released codes.
        rows = l2_normalize(rows)
    return rows, AgentState(velocity, jnp.sum(gradient**2, axis=1))


def _count(opt_state: Any) -> jax.Array:
    """Returns the number of updates so far, a scalar, from which the learning rate follows."""
    counts = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if getattr(path[-1], "name", None) == "count"
    ]
    # All groups count the same updates.
    return counts[0]


def _head(path: tuple[Any, ...], loss: Loss) -> str | None:
    """Returns the head to which a leaf belongs, if the leaf is its agents or their momentum.

    It returns None for any other leaf.
    """
    names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
    if "backbone" in names:  # Its modules may have any names, those of our heads too.
        return None
    match names[-3:]:
        case ["head", str(head), "agents"] if head in loss.agent_heads():
            return head
    return None
