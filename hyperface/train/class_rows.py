"""Finds the arrays of a state that have one row per class, and reads and writes sampled rows.

Such arrays are, for example, agents, the rows of a classification matrix. They may be split by rows
over the devices, and a step may use only a sample of the rows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from hyperface import losses
from hyperface.config.loss import Loss
from hyperface.losses import shards

_OF_HEADS = {"agents", "bias"}
"""Names of the parameters of a head with agents that have one row per class."""


def has_class_rows(path: tuple[Any, ...], loss: Loss) -> bool:
    """Returns whether an array of a `TrainState`, or of a part of one, has one row per class.

    Such arrays are agents (class weights), the softmax' biases, the centers of center loss, the
    momentum of all these, and `TrainState.distortion`.

    Args:
      path: path of the leaf in the tree: the tuple of keys that `jax.tree_util.tree_map_with_path`
        passes to its function.
      loss: the loss, whose terms determine which parameters have one row per class.
    """
    # Dictionaries have entries with a `key`, and dataclasses have entries with a `name`.
    names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
    if "backbone" in names:  # Its modules may have any names, those of our heads too.
        return False
    # The optimiser's state has paths that end as those of the parameters do.
    names = names[-3:]
    if names == ["distortion"]:
        return True
    match names:
        case ["head", "center", "centers"]:
            return True
        case ["head", head, name]:
            return head in loss.agent_heads() and name in _OF_HEADS
    return False


def global_norm(tree: Any, loss: Loss, split_axis: str | None) -> jax.Array:
    """Returns the Euclidean norm of all parameters or gradients together, a scalar.

    Args:
      tree: the arrays.
      loss: the loss, whose terms determine which parameters have one row per class.
      split_axis: the mapped axis over which arrays with one row per class are split; None if every
        device has all rows.
    """
    # Sums of squares of replicated arrays, and of arrays that may be split by rows.
    squares: list[jax.Array | float] = [0.0, 0.0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # Only split rows are added up below; replicated arrays would count once per device.
        squares[split_axis is not None and has_class_rows(path, loss)] += jnp.sum(leaf**2)
    replicated, split = squares
    if split_axis is None:
        return jnp.sqrt(replicated)
    return jnp.sqrt(replicated + jax.lax.psum(split, split_axis))


def sample(
    loss: Loss,
    key: jax.Array,
    labels: jax.Array,
    num_classes: int,
    axis_name: str | None,
    rows: int | None = None,
) -> losses.Sample | None:
    """Draws the classes that take part in a step; returns None if all classes do.

    Args:
      loss: its `sample_rate` is the share of the classes that is drawn; with 1 the result is None.
      key: random key, the same on every device.
      labels: [batch] class ids of this device's part of the batch.
      num_classes: number of people in the training split.
      axis_name: the mapped axis over which the batch is split; None on one device.
      rows: number of rows of agents (class weights) on this device, if agents are split over the
        axis too. On the last devices some of these rows may be padding. With None every device has
        all agents, and all devices draw the same classes.

    Returns:
      A `losses.Sample`, a list of drawn classes, or None. Its field `rows` [size] has the row of
      each drawn class in this device's agents. `present` [size] is False for a row that is not
      used. `labels` [batch] has, for each of this device's examples, the index of the example's
      class in the list.
    """
    if loss.sample_rate == 1:
        return None
    if axis_name is None:
        return losses.sample_classes(key, labels, num_classes, rate=loss.sample_rate)
    # The classes of all examples take part, also those whose examples are on other devices.
    global_labels = jax.lax.all_gather(labels, axis_name, tiled=True)
    if rows is None:
        drawn = losses.sample_classes(key, global_labels, num_classes, rate=loss.sample_rate)
    else:
        drawn = losses.sample_classes(
            key, global_labels, rows, rate=loss.sample_rate, axis_name=axis_name
        )
        # The last devices may draw rows of padding, which are no class.
        is_class = shards.first_row(rows, axis_name) + drawn.rows < num_classes
        drawn = drawn._replace(present=drawn.present & is_class)
    return drawn._replace(labels=shards.this_device_part(drawn.labels, axis_name, labels.size))


def gather_rows(tree: Any, loss: Loss, sample: losses.Sample | None) -> Any:
    """Returns a tree in which arrays with one row per class have only the sampled rows.

    The centers of center loss keep all rows.

    Args:
      tree: parameters or optimiser state.
      loss: the loss, whose terms determine which parameters have one row per class.
      sample: the sampled classes; None returns the tree unchanged.
    """
    if sample is None:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf[sample.rows] if _is_sampled(path, loss) else leaf, tree
    )


def scatter_rows(tree: Any, part: Any, loss: Loss, sample: losses.Sample | None) -> Any:
    """Writes the sampled rows back; the inverse of `gather_rows`.

    Args:
      tree: the whole parameters or optimiser state from before the step.
      part: the result of `gather_rows`, after the step.
      loss: the loss, whose terms determine which parameters have one row per class.
      sample: the sample that was used; None returns `part`.

    Returns:
      The whole tree with the values of `part`. Rows that `gather_rows` left out have the values of
      `tree`.
    """
    if sample is None:
        return part

    def replaced(path: tuple[Any, ...], leaf: jax.Array, new: jax.Array) -> jax.Array:
        if not _is_sampled(path, loss):
            return new
        # A sample has a fixed size, and its unused places repeat a row number. They would write old
        # values over new ones, so they get a row behind the last, which mode "drop" ignores.
        rows = jnp.where(sample.present, sample.rows, leaf.shape[0])
        return leaf.at[rows].set(new, mode="drop", unique_indices=False)

    return jax.tree_util.tree_map_with_path(replaced, tree, part)


def _is_sampled(path: tuple[Any, ...], loss: Loss) -> bool:
    """Returns whether a step with a sample uses only the sampled rows of a leaf."""
    # Center loss reads centers by their class id, and not by their place in the sample.
    return has_class_rows(path, loss) and path[-1].key != "centers"
