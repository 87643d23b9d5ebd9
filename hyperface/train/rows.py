"""Which arrays of a state have one row a class, and the length of a tree that has some."""

from typing import Any

import jax
import jax.numpy as jnp

from hyperface.objective import Loss

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
