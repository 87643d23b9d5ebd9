"""What a run does about a step that is not finite."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hyperface.devices.processes import AgreedStop
from hyperface.train.optim import OF_PARTS, parameter_groups

OnNan = Literal["stop", "skip", "rollback"]
MAX_LEFT_OUT = 10
"""Times that a run passes over what is not finite, before it is held to diverge."""

_CONSEQUENCES = ("gradient_norm", "loss", "parameter_norm")


class DivergenceError(AgreedStop):
    """A metric became NaN or infinite.

    Args:
      step: whose batch it was.
      message: the step, the metric and the groups of parameters.
      updated: the update itself overflowed, so that the state before it is gone.
    """

    def __init__(self, step: int, message: str, *, updated: bool = False):
        super().__init__(message)
        self.step, self.updated = step, updated


class Divergences:
    """What a run does about steps that are not finite, and how often it did.

    Args:
      on_nan: "stop", "skip" or "rollback".
      say: is told of each that is passed over.
    """

    def __init__(self, on_nan: OnNan, say: Callable[[str], None]):
        self.count = 0
        self.left_out: set[int] = set()
        """Steps before which the run went back: they are passed over, without an update."""
        self._on_nan, self._say = on_nan, say
        self._counted: set[int] = set()

    def passes(self, step: int, metrics: dict[str, float], unsound: str) -> bool:
        """Whether a step is finite; False where it is not, and the run skips it.

        Raises:
          DivergenceError: it is not, and the run does not skip it.
        """
        try:
            check_finite(step, metrics, unsound)
        except DivergenceError as error:
            if error.updated or self._on_nan != "skip" or not self._one_more(step):
                raise
            self._say(f"{error} Its update is left out.")
            return False
        return True

    def rolls_back(self, error: DivergenceError, saved: int) -> bool:
        """Whether the run is to go back to step `saved`, its newest checkpoint, and on from there.

        With "skip" too, where the state before the update is gone: the steps since are made again.
        """
        back = self._on_nan == "rollback" or (self._on_nan == "skip" and error.updated)
        if not back or not self._one_more(error.step):
            return False
        first = saved + 1 if self._on_nan == "rollback" else error.step
        self.left_out |= set(range(first, error.step + 1))
        self._say(f"{error} Back to step {saved}; updates left out: {first} to {error.step}.")
        return True

    def _one_more(self, step: int) -> bool:
        if step not in self._counted:  # One that is made again, after a rollback, is.
            self._counted.add(step)
            self.count += 1
        return self.count <= MAX_LEFT_OUT


def check_finite(step: int, metrics: dict[str, float], unsound: str = "") -> None:
    """Refuses metrics that are not finite.

    Args:
      step: optimiser steps done, for the message.
      metrics: by name; "gradient_norm", "loss" and "parameter_norm", which follow from the others,
        are blamed where no other is.
      unsound: the groups of parameters that are not finite, in words.

    Raises:
      DivergenceError: naming the step, the terms that are not finite, and the groups.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    causes = [name for name in bad if name not in _CONSEQUENCES] or bad[:1]
    found = ", ".join(f"{name} = {metrics[name]}" for name in causes)
    where = f" Not finite: {unsound}." if unsound else ""
    raise DivergenceError(
        step,
        f"step {step}: expected finite metrics, found {found}.{where}",
        updated=bad == ["parameter_norm"],
    )


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
