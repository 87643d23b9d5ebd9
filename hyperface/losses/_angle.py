"""The angle between a feature and an agent, with float32's digits at 0 and pi too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPS = 1e-12
"""Inside the root of both lengths, as in `normalize` and in the engine."""


class _Parts(NamedTuple):
    """The values from which the angle and its gradient are computed."""

    cosine: jax.Array
    """[batch]"""
    across: jax.Array
    """[batch, dim] the part of the unit feature that is orthogonal to the row."""
    unit_row: jax.Array
    """[batch, dim]"""
    feature_loss: jax.Array
    """[batch] 1 - ||f~||^2, which the eps inside the root leaves."""
    row_loss: jax.Array
    """[batch] 1 / ||W~||^2 - 1."""
    inverse_feature_norm: jax.Array
    """[batch]"""
    inverse_row_norm: jax.Array
    """[batch]"""

    @property
    def squared_sine_to_row(self) -> jax.Array:
        """[batch] 1 - cos^2 of the angle between f~ and the direction of the row."""
        return jnp.sum(self.across**2, axis=1) + self.feature_loss

    @property
    def sine(self) -> jax.Array:
        """[batch] sqrt(1 - cosine^2), without that difference."""
        return jnp.sqrt(self.squared_sine_to_row + self.cosine**2 * self.row_loss)


@jax.custom_vjp
def angle(features: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the angle between each feature and its row, with float32's full precision.

        theta = atan2(sin theta, <f~, W~>),   sin^2 theta = 1 - <f~, W~>^2

    The arccos of a rounded cosine would be imprecise: in float32 the cosine is 1 for every angle
    below 3e-4 rad. Here the sine is computed from the part of the feature that is orthogonal to the
    row, so the angle and its gradient keep their digits. The gradient to the feature is as follows,
    and the gradient to the row has the same form:

        dtheta/df = -(W~ - cos theta f~) / (sin theta ||f||)

    Both unit vectors are computed with the eps of `l2_normalize` inside the root. So the angle is
    never exactly 0, and has a gradient everywhere. The angle of a zero vector to any other vector
    is pi / 2.

    Args:
      features: [batch, dim] floating point, un-normalised.
      rows: [batch, dim] the agent of each feature, un-normalised.

    Returns:
      [batch] in radians, 0 to pi.
    """
    return _angle_fwd(features, rows)[0]


def _angle_fwd(features: jax.Array, rows: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    parts = _parts(features, rows)
    return jnp.arctan2(parts.sine, parts.cosine), (features, rows)


def _angle_bwd(
    residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    parts = _parts(*residuals)
    sine = parts.sine
    # The eps keeps the sine above zero, unless it underflows beside a very long vector.
    slope = cotangent / jnp.where(sine > 0.0, sine, 1.0)
    # f~ - cos W~ and W~ - cos f~ as sums of their parts across and along the row: the differences
    # themselves would be of two nearly equal vectors.
    along_row = parts.cosine * parts.row_loss
    from_row = parts.across + along_row[:, None] * parts.unit_row
    from_feature = (
        parts.squared_sine_to_row[:, None] * parts.unit_row - parts.cosine[:, None] * parts.across
    )
    to_features = -(slope * parts.inverse_feature_norm)[:, None] * from_feature
    to_rows = -(slope * parts.inverse_row_norm)[:, None] * from_row
    return to_features, to_rows


angle.defvjp(_angle_fwd, _angle_bwd)


def _parts(features: jax.Array, rows: jax.Array) -> _Parts:
    features, feature_eps, feature_shrink = _shrunk(features)
    rows, row_eps, row_shrink = _shrunk(rows)
    squared_row = jnp.sum(rows * rows, axis=1)
    squared_feature = jnp.sum(features * features, axis=1) + feature_eps
    inverse_row = jax.lax.rsqrt(squared_row + row_eps)
    inverse_feature = jax.lax.rsqrt(squared_feature)
    unit_row = rows * inverse_row[:, None]
    return _Parts(
        cosine=jnp.sum(features * unit_row, axis=1) * inverse_feature,
        across=_orthogonal(features, rows, squared_row) * inverse_feature[:, None],
        unit_row=unit_row,
        feature_loss=feature_eps / squared_feature,
        row_loss=_over(row_eps, squared_row),
        # The gradient is to the vectors as given, so that the shrinking is undone.
        inverse_feature_norm=inverse_feature * feature_shrink,
        inverse_row_norm=inverse_row * row_shrink,
    )


def _orthogonal(features: jax.Array, rows: jax.Array, squared_row: jax.Array) -> jax.Array:
    """features - (<features, rows> / |rows|^2) rows, to the digits of the result.

    The factor is rounded to half of its bits and the rows are cut into two halves, so that both
    products have no rounding error. A second projection takes away what the rounded factor left.
    """
    # Half of the bits times half of the bits fits the mantissa.
    factor = _half_bits(_over(jnp.sum(features * rows, axis=1), squared_row))[:, None]
    high = _half_bits(rows)
    rest = (features - factor * high) - factor * (rows - high)
    return rest - _over(jnp.sum(rest * rows, axis=1), squared_row)[:, None] * rows


def _half_bits(x: jax.Array) -> jax.Array:
    found = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, exponent_bits=found.nexp, mantissa_bits=found.nmant // 2)


def _over(x: jax.Array, y: jax.Array) -> jax.Array:
    """Divides x by y, and returns 0 where y is 0."""
    # The inner `where` keeps 0 / 0 from being computed, which a checker of NaN would report.
    return jnp.where(y > 0.0, x / jnp.where(y > 0.0, y, 1.0), 0.0)


def _shrunk(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors whose squares do not overflow, their eps, and the power of two they were shrunk by.

    Multiplying by a power of two rounds nothing.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1))
    # Without mantissa bits only a power of two is left.
    power = jax.lax.reduce_precision(largest, jnp.finfo(x.dtype).nexp, mantissa_bits=0)
    # Only large squares overflow, so nothing below 1 is scaled. The reciprocal of 2^127 would be
    # subnormal, which devices flush to zero, and 2^-100 is enough.
    shrink = 1.0 / jnp.clip(power, 1.0, 2.0**100)
    return x * shrink[:, None], EPS * shrink**2, shrink
