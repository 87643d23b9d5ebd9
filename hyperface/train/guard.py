"""The guard of a step: an update that is not finite is not made, and its cause is named."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from hyperface.train.optim import OF_PARTS, parameter_groups

GROUPS = tuple(f"{part}.{name}" for part, names in OF_PARTS.items() for name in names)
"""Every group of parameters that a rule of the optimiser is for."""


def chosen(sound: jax.Array, new: Any, old: Any) -> Any:
    """A tree of the new arrays where the update is sound, of the old ones where it is not."""
    return jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)


def unsound_groups(tree: Any) -> jax.Array:
    """Which groups of parameters have a sum of squares that is not finite.

    Args:
      tree: parameters, or their gradients.

    Returns:
      [groups] int32, 1 where it is not, in order of `GROUPS`.
    """
    unsound = dict.fromkeys(GROUPS, jnp.zeros((), bool))
    labels = jax.tree.leaves(parameter_groups(tree))
    for label, leaf in zip(labels, jax.tree.leaves(tree), strict=True):
        unsound[label] |= ~jnp.isfinite(jnp.sum(jnp.square(leaf)))
    return jnp.stack(list(unsound.values())).astype(jnp.int32)


def packed(gradients: jax.Array, parameters: jax.Array) -> jax.Array:
    """Both results of `unsound_groups` as the bits of one int32."""
    bits = jnp.concatenate([gradients, parameters]) > 0
    return jnp.sum(bits << jnp.arange(bits.size, dtype=jnp.int32))


def unsound_names(bits: int) -> str:
    """What `packed` tells, in words; empty where all is finite.

    Example:
      >>> unsound_names(0b1001)
      'the gradients of backbone.kernels, backbone.norms'
    """
    kinds = {"gradients": bits, "new values": bits >> len(GROUPS)}
    found = {kind: ", ".join(_named(bits)) for kind, bits in kinds.items()}
    return " and ".join(f"the {kind} of {names}" for kind, names in found.items() if names)


def _named(bits: int) -> Iterable[str]:
    return (name for place, name in enumerate(GROUPS) if bits >> place & 1)
