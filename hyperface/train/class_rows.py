"""Which arrays of a state have one row a class, and the length of a tree that has some."""

from typing import Any

import jax
import jax.numpy as jnp

from hyperface import losses
from hyperface.config.loss import Loss
from hyperface.losses import shards

_OF_HEADS = {"agents", "bias"}


def has_class_rows(path: tuple[Any, ...], loss: Loss) -> bool:
    """Whether a leaf of parameters, of the optimiser's state or of a `TrainState` is per class.

    Args:
      path: the leaf's, as `jax.tree_util.tree_map_with_path` gives it.
      loss: whose heads the parameters are.
    """
    names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path[-3:]]
    if names == ["distortion"]:
        return True
    match names:
        case ["head", "center", "centers"]:
            return True
        case ["head", head, name]:
            return head in loss.agent_heads() and name in _OF_HEADS
    return False


def length(tree: Any, loss: Loss, split_axis: str | None) -> jax.Array:
    """The length of a whole tree of parameters or gradients.

    Args:
      tree: the arrays.
      loss: whose heads they are of.
      split_axis: the mapped axis over which those with a row a class are split; None for whole
        ones.
    """
    squares = [0.0, 0.0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        squares[split_axis is not None and has_class_rows(path, loss)] += jnp.sum(leaf**2)
    whole, here = squares
    return jnp.sqrt(whole if split_axis is None else whole + jax.lax.psum(here, split_axis))


def draw(
    loss: Loss,
    key: jax.Array,
    labels: jax.Array,
    num_classes: int,
    axis_name: str | None,
    rows: int | None = None,
) -> losses.Sample | None:
    """The classes of a step; None where all take part.

    Args:
      loss: says the rate.
      key: the same on every device.
      labels: [batch] class ids of this device's part of the batch.
      num_classes: people in the training split.
      axis_name: the mapped axis that the batch is spread over.
      rows: agents on this device, where they are split over the axis too; the last devices' may
        be padding. None where every device holds all agents and draws the same.

    Returns:
      A sample whose labels are those of this device's examples.
    """
    if loss.sample_rate == 1:
        return None
    if axis_name is None:
        return losses.sample_classes(key, labels, num_classes, rate=loss.sample_rate)
    everyones = jax.lax.all_gather(labels, axis_name, tiled=True)
    if rows is None:
        sample = losses.sample_classes(key, everyones, num_classes, rate=loss.sample_rate)
    else:
        sample = losses.sample_classes(
            key, everyones, rows, rate=loss.sample_rate, axis_name=axis_name
        )
        real = shards.first_class(rows, axis_name) + sample.rows < num_classes
        sample = sample._replace(present=sample.present & real)
    return sample._replace(labels=shards.this_device_part(sample.labels, axis_name, labels.size))


def take(tree: Any, loss: Loss, sample: losses.Sample) -> Any:
    """Parameters or optimiser state with only the sampled rows of what has one row a class."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf[sample.rows] if _per_class(path, loss) else leaf, tree
    )


def put(tree: Any, part: Any, loss: Loss, sample: losses.Sample) -> Any:
    """The tree with what `take` took replaced; other rows are not touched."""

    def replaced(path, leaf, new):
        if not _per_class(path, loss):
            return new
        # Places without a class would write old values over a neighbour's new ones.
        rows = jnp.where(sample.present, sample.rows, leaf.shape[0])
        return leaf.at[rows].set(new, mode="drop", unique_indices=False)

    return jax.tree_util.tree_map_with_path(replaced, tree, part)


def _per_class(path: tuple[Any, ...], loss: Loss) -> bool:
    return has_class_rows(path, loss) and path[-1].key != "centers"
