"""Computes the angle between features and class weights, with full precision near 0 and pi too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPS = 1e-12
"""Number that is added to a squared length before its root, as in `normalize` and in the engine."""


class _Parts(NamedTuple):
    """The values from which the angle and its gradient are computed.

    f~ is the unit feature, and W~ is the unit row, the class weight of the feature's class.
    """

    cosine: jax.Array
    """[batch] <f~, W~>."""
    across: jax.Array
    """[batch, dim] the part of f~ that is orthogonal to W~."""
    unit_row: jax.Array
    """[batch, dim] W~."""
    feature_loss: jax.Array
    """[batch] 1 - ||f~||^2. It is above zero because of the eps inside the root."""
    row_loss: jax.Array
    """[batch] 1 / ||W~||^2 - 1, which is above zero for the same reason."""
    inverse_feature_norm: jax.Array
    """[batch] 1 / length of the feature as it was given."""
    inverse_row_norm: jax.Array
    """[batch] 1 / length of the row as it was given."""

    @property
    def squared_sine_to_row(self) -> jax.Array:
        """Returns 1 - cos^2 of the angle between f~ and the row's direction, [batch]."""
        return jnp.sum(self.across**2, axis=1) + self.feature_loss

    @property
    def sine(self) -> jax.Array:
        """Returns sqrt(1 - cosine^2), [batch]."""
        # As a sum of squares: 1 - cosine^2 itself would lose all digits near cosine 1.
        return jnp.sqrt(self.squared_sine_to_row + self.cosine**2 * self.row_loss)


@jax.custom_vjp
def angle(features: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the angle between each feature and its row, with float32's full precision.

        theta = atan2(sin theta, <f~, W~>),   sin^2 theta = 1 - <f~, W~>^2

    f~ is the feature f and W~ the row W, both at unit length; <,> is the inner product.

    The arccos of a rounded cosine would be imprecise: in float32 the cosine is 1 for every angle
    below 3e-4 rad. Therefore the sine is computed from the part of the feature that is orthogonal
    to the row, so the angle and its gradient keep their digits. The gradient to the feature is the
    following; the gradient to the row has the same form:

        dtheta/df = -(W~ - cos theta f~) / (sin theta ||f||)

    Both unit vectors are computed as x / sqrt(||x||^2 + 1e-12), as by `l2_normalize`. So the angle
    is never exactly 0, and has a gradient everywhere. The angle of a zero vector to any other
    vector is pi / 2.

    Args:
      features: [batch, dim] floating point, un-normalised.
      rows: [batch, dim] the agent (class weight) to which each feature's angle is computed,
        un-normalised.

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
    # The eps keeps the sine above zero, except for very long vectors, beside which it underflows.
    slope = cotangent / jnp.where(sine > 0.0, sine, 1.0)
    # f~ - cos W~ and W~ - cos f~ are computed as sums of their parts orthogonal and parallel to the
    # row. Near cosine 1 the differences themselves would cancel.
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
    """Returns the values for features [batch, dim] and their rows [batch, dim]."""
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
        # The gradient is with respect to the vectors as they were given, so the shrinking is
        # undone.
        inverse_feature_norm=inverse_feature * feature_shrink,
        inverse_row_norm=inverse_row * row_shrink,
    )


def _orthogonal(features: jax.Array, rows: jax.Array, squared_row: jax.Array) -> jax.Array:
    """Returns the part of each feature that is orthogonal to its row, with full relative precision.

        features - (<features, rows> / |rows|^2) rows

    The factor is rounded to half of its bits, and the rows are divided into two halves of their
    bits, so that both products have no rounding error. A second projection removes the part that
    remains because the factor was rounded.

    Args:
      features: [batch, dim].
      rows: [batch, dim].
      squared_row: [batch] squared length of each row.
    """
    # A product of two numbers with half of the bits each fits into the mantissa.
    factor = _half_bits(_over(jnp.sum(features * rows, axis=1), squared_row))[:, None]
    high = _half_bits(rows)
    rest = (features - factor * high) - factor * (rows - high)
    return rest - _over(jnp.sum(rest * rows, axis=1), squared_row)[:, None] * rows


def _half_bits(x: jax.Array) -> jax.Array:
    """Returns x rounded to half of the bits of its mantissa."""
    found = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, exponent_bits=found.nexp, mantissa_bits=found.nmant // 2)


def _over(x: jax.Array, y: jax.Array) -> jax.Array:
    """Divides x by y, and returns 0 where y is 0."""
    # The inner `where` keeps 0 / 0 from being computed, which a checker of NaN would report.
    return jnp.where(y > 0.0, x / jnp.where(y > 0.0, y, 1.0), 0.0)


def _shrunk(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scales vectors [batch, dim] down so that their squares do not overflow.

    Returns:
      (vectors, eps, factor): the scaled vectors; [batch] EPS scaled like their squares; and the
      [batch] factors, powers of two, by which multiplication does not round.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1))
    # Without mantissa bits only a power of two is left.
    power = jax.lax.reduce_precision(largest, jnp.finfo(x.dtype).nexp, mantissa_bits=0)
    # Only large squares overflow, so vectors with all elements below 1 stay. The reciprocal of
    # 2^127 would be subnormal, and devices flush subnormal numbers to zero; 2^-100 is enough.
    shrink = 1.0 / jnp.clip(power, 1.0, 2.0**100)
    return x * shrink[:, None], EPS * shrink**2, shrink
