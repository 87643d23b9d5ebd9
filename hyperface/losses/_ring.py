"""Ring loss: pulls the feature norm towards a learned radius."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.normalize import l2_norm
from hyperface.rules import AxisName, axes_of, is_tracked, reverse_mode_only, vary_alike, vary_over
from hyperface.shapes import Features, Flags, Losses

Form = Literal["paper", "released-l2", "released-l1", "released-auto"]
"""The equation that is used, see `ring`."""


def ring(
    features: Features,
    radius: ArrayLike,
    *,
    form: Form = "paper",
    counted: Flags | None = None,
    axis_name: AxisName | None = None,
) -> Losses:
    """Computes Ring loss, Eq. 4: half the squared distance of the feature norm from a radius.

        L = 1/2 (||f|| - R)^2

    f is the feature and R the radius. The gradients of one example are (Ring loss, Eq. 5 and 6,
    with lambda = 1)

        dL/dR = -(||f|| - R),   dL/df = (1 - R / ||f||) f

    The paper's loss is lambda times the batch mean of this function. The norm is computed as
    sqrt(sum of squares + 1e-12), as in NormFace. At the zero vector the norm is 1e-6, the gradient
    to the feature is zero, and the gradient to R is R - 1e-6.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      radius: R, the learned radius, a scalar in units of the feature norm. Initialise it with the
        mean norm of the first batch.
      form: "paper" is the equation. The other forms are those of the authors' published code:

        - "released-l2": (||f|| - R)^2, without the 1/2; with the weight 0.01 it equals "paper" with
          the weight 0.02
        - "released-l1": twice the smooth L1 distance: h^2 if |h| < 1, and otherwise 2 |h| - 1, with
          h = ||f|| - R
        - "released-auto": (||f|| - R)^2 / max(0.5, M), where M is the mean norm of the batch; no
          gradient flows through M

      counted: [batch] bool, False for padding, which is not in the mean norm of the batch; None
        counts all. Only "released-auto" needs it.
      axis_name: the mapped axis over which the batch is split. Only "released-auto" needs it, for
        the mean norm of the batch.

    Returns:
      [batch] loss, float32 (float64 for float64 inputs). "paper" and "released-l2" are in squared
      units of the norm.

    Raises:
      TypeError: features are not floating point, or counted is not bool.
      ValueError: features are not a matrix, radius is not a scalar, form is unknown, or there is
        not one flag per example.

    Example:
      >>> import jax.numpy as jnp
      >>> print(ring(jnp.array([[3.0, 4.0], [0.0, 1.0]]), 2.0))
      [4.5 0.5]

    References:
      Zheng et al., Ring loss: Convex Feature Normalization for Face Recognition, CVPR 2018, 2.2.
    """
    features = _checks.float_matrix("features", features, "batch, dim")
    radius = _checks.scalar("radius", radius).astype(features.dtype)
    _checks.one_of("form", form, get_args(Form))
    if counted is not None:
        counted = _checks.flags("counted", counted, features.shape[0], "per feature")
    features, radius = reverse_mode_only("ring", (features, radius))
    # All forms are computed from the paper's, so that one gradient rule is enough.
    squared = 2.0 * _ring(*vary_alike(features, radius))
    if form == "paper":
        return 0.5 * squared
    if form == "released-l2":
        return squared
    norm = l2_norm(features)
    if form == "released-auto":
        # The mean is constant in the released gradient too.
        mean = _mean(jax.lax.stop_gradient(norm), counted, axis_name)
        # The floor 0.5 is that of the released code.
        return squared / jnp.maximum(mean, 0.5)
    apart = jnp.abs(norm - radius)
    return jnp.where(apart < 1.0, squared, 2.0 * apart - 1.0)


def _mean(norm: jax.Array, counted: jax.Array | None, axis_name: AxisName | None) -> jax.Array:
    """Returns the mean norm of the counted examples of all devices; zero if there is none."""
    counted = jnp.ones(norm.shape, bool) if counted is None else counted
    sums = jnp.sum(jnp.where(counted, norm, 0.0)), jnp.sum(counted)
    if axis_name is not None:
        if is_tracked(axis_name):
            sums = vary_over(axes_of(axis_name), sums)
        # Sums and counts, because a mean of means is wrong if the devices count different numbers.
        sums = jax.lax.psum(sums, axis_name)
    return sums[0] / jnp.maximum(sums[1], 1)


@jax.custom_vjp
def _ring(features: jax.Array, radius: jax.Array) -> jax.Array:
    """Returns the paper's loss [batch], with its gradients (Ring loss, Eq. 5 and 6)."""
    return _ring_fwd(features, radius)[0]


def _ring_fwd(features: jax.Array, radius: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    norm = l2_norm(features)
    return 0.5 * (norm - radius) ** 2, (features, norm, radius)


def _ring_bwd(
    residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    features, norm, radius = residuals
    # The norm is at least 1e-6, so that the quotient is finite.
    to_features = (cotangent * (1.0 - radius / norm))[:, None] * features
    return to_features, -jnp.sum(cotangent * (norm - radius))


_ring.defvjp(_ring_fwd, _ring_bwd)
