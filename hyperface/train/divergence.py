"""Handles steps whose numbers are not finite: finds them, names the cause, and skips or stops."""

import logging
import math
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hyperface.devices.processes import AgreedStop
from hyperface.train.optim import OF_PARTS, parameter_groups

log = logging.getLogger("hyperface")

OnNan = Literal["stop", "skip", "rollback"]
MAX_LEFT_OUT = 10
"""Number of bad steps that a run skips or goes back for. At one more the run has diverged."""

# These metrics are sums over many parts, so that one bad part makes them bad too.
_CONSEQUENCES = ("gradient_norm", "loss", "parameter_norm")


class DivergenceError(AgreedStop):
    """The exception of a step in which a metric became NaN or infinite.

    Args:
      step: number of the step.
      message: names the step, the metrics and the groups of parameters that are not finite.
      updated: whether the update was applied although its result is not finite. The state before
        the update is then lost, and the run can only continue from a checkpoint.
    """

    def __init__(self, step: int, message: str, *, updated: bool = False) -> None:
        super().__init__(message)
        self.step, self.updated = step, updated


class Divergences:
    """Determines what a run does after a bad step, and counts the bad steps.

    A step is bad if one of its metrics is NaN or infinite.

    Args:
      on_nan: what the run does after a bad step. "stop" raises an error. "skip" leaves out the
        update of the step. "rollback" goes back to the newest checkpoint.
    """

    def __init__(self, on_nan: OnNan) -> None:
        self.count = 0
        self.left_out: set[int] = set()
        """Steps that a rollback undid: they are repeated without an update."""
        self._on_nan: OnNan = on_nan
        self._counted: set[int] = set()

    def passes(self, step: int, metrics: dict[str, float], nonfinite: str) -> bool:
        """Returns True if all metrics of a step are finite, and False if the run skips the step.

        A skipped step is logged.

        Args:
          step: number of the step.
          metrics: name -> value, the metrics of the step.
          nonfinite: text for the message: the groups of parameters (such as "backbone.kernels")
            that are not finite; "" if they are not known.

        Raises:
          DivergenceError: a metric is not finite, and the run does not skip the step. The run skips
            a step only if `on_nan` is "skip", if the update was not applied, and if there were at
            most `MAX_LEFT_OUT` (10) bad steps so far.
        """
        try:
            check_finite(step, metrics, nonfinite)
        except DivergenceError as error:
            # After an update that overflowed, no state before it is left to go on from.
            if error.updated or self._on_nan != "skip" or not self._one_more(step):
                raise
            log.warning(f"{error} Its update is left out.")
            return False
        return True

    def rolls_back(self, error: DivergenceError, saved: int) -> bool:
        """Returns whether the run goes back to its newest checkpoint after a bad step.

        With `on_nan` "rollback" the run goes back, and with "stop" it does not. With "skip" it goes
        back only if the state before the update is lost. After more than `MAX_LEFT_OUT` (10) bad
        steps the result is always False.

        A run that goes back repeats the steps since the checkpoint, some of them without an update.
        This method adds the numbers of these steps to the attribute `left_out`: with "rollback" all
        steps from the checkpoint to the bad step, with "skip" only the bad step.

        Args:
          error: the error of the step.
          saved: step of the newest checkpoint, 0 if there is none.
        """
        back = self._on_nan == "rollback" or (self._on_nan == "skip" and error.updated)
        if not back or not self._one_more(error.step):
            return False
        # "rollback" leaves out all updates since the checkpoint, since an earlier one may be the
        # cause. "skip" goes back only because the state is lost, and leaves out only the bad step.
        first = saved + 1 if self._on_nan == "rollback" else error.step
        self.left_out |= set(range(first, error.step + 1))
        log.warning(f"{error} Back to step {saved}; updates left out: {first} to {error.step}.")
        return True

    def _one_more(self, step: int) -> bool:
        """Counts a bad step, and returns whether the run may leave out one more."""
        if step not in self._counted:  # A step repeated after a rollback is already counted.
            self._counted.add(step)
            self.count += 1
        return self.count <= MAX_LEFT_OUT


def check_finite(step: int, metrics: dict[str, float], nonfinite: str = "") -> None:
    """Raises an error if a metric of a step is not finite.

    Args:
      step: number of the optimiser step, for the message.
      metrics: name -> value. "gradient_norm", "loss" and "parameter_norm" follow from the other
        metrics. The message names them only if all other metrics are finite.
      nonfinite: text for the message: the groups of parameters (such as "backbone.kernels") that
        are not finite, as `nonfinite_names` returns it; "" if they are not known.

    Raises:
      DivergenceError: a metric is not finite. The message names the step, the metrics and the
        groups.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    # If one term is NaN, so are these sums; naming them would hide the name of the term.
    causes = [name for name in bad if name not in _CONSEQUENCES] or bad[:1]
    found = ", ".join(f"{name} = {metrics[name]}" for name in causes)
    where = f" Not finite: {nonfinite}." if nonfinite else ""
    raise DivergenceError(
        step,
        f"step {step}: expected finite metrics, found {found}.{where}",
        # All other metrics are from before the update. If they are finite, the update was applied
        # at least in part, so the state before it is lost.
        updated="parameter_norm" in bad and set(bad) <= {"gradient_norm", "parameter_norm"},
    )


GROUPS = tuple(f"{part}.{name}" for part, names in OF_PARTS.items() for name in names)
"""Every group of parameters for which the optimiser has a rule."""


def all_finite(metrics: dict[str, jax.Array]) -> jax.Array:
    """Returns whether every metric is finite, as a scalar bool."""
    return jnp.all(jnp.isfinite(jnp.stack([jnp.float32(x) for x in metrics.values()])))


def select_update(is_finite: jax.Array, new: Any, old: Any) -> Any:
    """Returns the tree `new` if `is_finite` is True, and otherwise the tree `old`.

    Args:
      is_finite: scalar bool, which may be a traced value under jit.
      new: a tree of arrays.
      old: a tree of the same structure.
    """
    # jnp.where and not a product by 0: a NaN times 0 is NaN.
    return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)


def nonfinite_groups(tree: Any) -> jax.Array:
    """Finds the groups of parameters whose sum of squares is not finite.

    Args:
      tree: the parameters of an `EmbeddingNetwork`, or their gradients.

    Returns:
      [groups] int32, 1 for a group that is not finite and 0 for any other. The groups are in the
      order of `GROUPS`, a tuple of names such as "backbone.kernels".
    """
    found = dict.fromkeys(GROUPS, jnp.zeros((), bool))
    labels = jax.tree.leaves(parameter_groups(tree))
    for label, leaf in zip(labels, jax.tree.leaves(tree), strict=True):
        # Squares, as in the norms: if a square overflows, the norm is not finite, and the group of
        # the value must be named.
        found[label] |= ~jnp.isfinite(jnp.sum(jnp.square(leaf)))
    return jnp.stack(list(found.values())).astype(jnp.int32)


def encode_groups(gradients: jax.Array, parameters: jax.Array) -> jax.Array:
    """Packs two results of `nonfinite_groups` into the bits of one int32, a metric of the step.

    Bit i is 1 if the gradients of group i are not finite. With n groups, bit n + i is 1 if the new
    values of group i are not finite.

    Args:
      gradients: [groups] 1 for each group whose gradients are not finite.
      parameters: [groups] 1 for each group whose new values are not finite.
    """
    # Above 0 and not equal to 1, because the flags may have been added over devices.
    bits = jnp.concatenate([gradients, parameters]) > 0
    # One number, since metrics are scalars. Two bits per group leave room in an int32.
    return jnp.sum(bits << jnp.arange(bits.size, dtype=jnp.int32))


def nonfinite_names(bits: int) -> str:
    """Returns the names of the groups in the bits of `encode_groups`, as a text for a message.

    The result is "" if everything is finite.

    Example:
      >>> nonfinite_names(0b1001)
      'the gradients of backbone.kernels, backbone.norms'
    """
    kinds = {"gradients": bits, "new values": bits >> len(GROUPS)}
    found = {kind: ", ".join(_named(bits)) for kind, bits in kinds.items()}
    return " and ".join(f"the {kind} of {names}" for kind, names in found.items() if names)


def _named(bits: int) -> Iterable[str]:
    """Returns the names of the groups whose bit is 1; higher bits are ignored."""
    return (name for place, name in enumerate(GROUPS) if bits >> place & 1)
