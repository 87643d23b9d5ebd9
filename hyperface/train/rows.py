"""Which arrays of a state have one row a class."""

from typing import Any

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
