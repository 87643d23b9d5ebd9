"""The L2 normalisation layer of NormFace: Eq. 3 forward, Eq. 4 backward.

Half-precision inputs are summed in float32; float64 stays float64. Both functions carry
hand-written reverse-mode rules. Reverse mode may be nested (`grad` of `grad`). For forward mode
use `hyperface.reference`, which has the same functions without such rules.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from hyperface.rules import reverse_mode_only, vary_alike
from hyperface.shapes import Agents, Cosines, Features, SameShape, Vectors


def l2_normalize(x: Vectors, axis: int = -1, *, eps: float = 1e-12) -> SameShape:
    """Scales vectors to unit length: NormFace, Eq. 3.

        x~ = x / ||x||,   ||x|| = sqrt(sum_i x_i^2 + eps)

    Gradient (NormFace, Eq. 4), which is exact with the eps inside the root:

        dL/dx = (dL/dx~ - x~ <dL/dx~, x~>) / ||x||

    L is the loss that is computed from x~. The component of dL/dx~ along x~ is removed, so the
    gradient is orthogonal to x, and a gradient step can only lengthen x.

    At the zero vector the output is zero and the gradient is dL/dx~ / sqrt(eps). That is finite,
    and with the default eps a million times the incoming gradient. If a component of x exceeds
    about 1e19, its square overflows in float32, and the output is zero.

    Args:
      x: [..., dim, ...] real floating-point array.
      axis: the axis whose vectors are normalised.
      eps: positive number inside the root, in squared units of x.

    Returns:
      Array of x's shape and dtype. bfloat16 and float16 are computed in float32 and rounded once.

    Raises:
      TypeError: x is not real floating point.
      ValueError: x is a scalar, or axis is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(l2_normalize(jnp.array([3.0, 4.0])))
      [0.6 0.8]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.2.
    """
    x = reverse_mode_only("l2_normalize", _checked(x, axis))
    rows = jnp.moveaxis(at_least_float32(x), axis, -1)
    unit = _l2_normalize(*vary_alike(rows, jnp.asarray(eps, rows.dtype)))
    # Half precision is computed in float32 and rounded only here.
    return jnp.moveaxis(unit, -1, axis).astype(x.dtype)


def l2_norm(
    x: Vectors, axis: int = -1, *, eps: float = 1e-12, keepdims: bool = False
) -> Float[jax.Array, "..."]:
    """Returns the Euclidean norm, with the eps inside the root: NormFace, Eq. 3.

        ||x|| = sqrt(sum_i x_i^2 + eps),   gradient x / ||x||

    At the zero vector the norm is sqrt(eps) and the gradient is zero. The gradient of
    `jnp.linalg.norm` would be NaN there.

    Args:
      x: [..., dim, ...] real floating-point array.
      axis: the axis that is summed.
      eps: positive number inside the root, in squared units of x.
      keepdims: keep the summed axis with size one.

    Returns:
      Array of x's shape without `axis` (of size 1 there with `keepdims`), in float32 or in x's
      dtype if that is wider. For a bfloat16 input it is float32, because a norm in bfloat16 would
      have only three digits.

    Raises:
      TypeError: x is not real floating point.
      ValueError: x is a scalar, or axis is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(l2_norm(jnp.array([[3.0, 4.0], [0.0, 2.0]])))
      [5. 2.]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.2.
    """
    x = reverse_mode_only("l2_norm", _checked(x, axis))
    rows = jnp.moveaxis(at_least_float32(x), axis, -1)
    norm = _l2_norm(*vary_alike(rows, jnp.asarray(eps, rows.dtype)))
    return jnp.expand_dims(norm, axis) if keepdims else norm


def cosine_similarity(features: Features, agents: Agents) -> Cosines:
    """Returns the cosine between every feature and every agent: NormFace, Eq. 5.

        d(f, W_j) = <f, W_j> / (||f|| ||W_j||)

    The products have full float32 precision, also on accelerators that round the operands of matrix
    products by default.

    Args:
      features: [batch, dim] real floating-point array with a feature f per row.
      agents: [classes, dim] real floating-point array with an agent (class weight) W_j per row.

    Returns:
      [batch, classes] cosines in [-1, 1] (up to rounding), in float32 or wider.

    Raises:
      TypeError: an argument is not real floating point.
      ValueError: an argument is not a matrix, or the last dimensions differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(cosine_similarity(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0]])))
      [[1. 0.]]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3.
    """
    features, agents = _checked(features, -1), _checked(agents, -1)
    if features.ndim != 2 or agents.ndim != 2 or features.shape[1] != agents.shape[1]:
        raise ValueError(
            "expected features [batch, dim] and agents [classes, dim] of one dim, "
            f"found {features.shape} and {agents.shape}"
        )
    return jnp.matmul(
        l2_normalize(at_least_float32(features)),
        l2_normalize(at_least_float32(agents)).T,
        precision=jax.lax.Precision.HIGHEST,
    )


@jax.custom_vjp
def _l2_normalize(x: jax.Array, eps: jax.Array) -> jax.Array:
    return _l2_normalize_fwd(x, eps)[0]


def _l2_normalize_fwd(x: jax.Array, eps: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # The eps inside the root keeps the zero vector finite, in the value and in the gradient.
    inverse_norm = jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + eps)
    unit = x * inverse_norm
    # The backward rule needs the unit vector and not x, so XLA may free x.
    return unit, (unit, inverse_norm)


def _l2_normalize_bwd(
    residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    unit, inverse_norm = residuals
    radial = jnp.sum(cotangent * unit, axis=-1, keepdims=True)
    # The second result is the gradient of eps. It is an argument of the rule, so that a traced eps
    # is allowed.
    return (cotangent - unit * radial) * inverse_norm, -0.5 * jnp.sum(radial * inverse_norm**2)


_l2_normalize.defvjp(_l2_normalize_fwd, _l2_normalize_bwd)


@jax.custom_vjp
def _l2_norm(x: jax.Array, eps: jax.Array) -> jax.Array:
    return _l2_norm_fwd(x, eps)[0]


def _l2_norm_fwd(x: jax.Array, eps: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    norm = jnp.sqrt(jnp.sum(x * x, axis=-1) + eps)
    return norm, (x, norm)


def _l2_norm_bwd(
    residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    x, norm = residuals
    # The norm is at least sqrt(eps), so the quotient is finite at the zero vector too.
    per_norm = cotangent / norm
    return per_norm[..., None] * x, 0.5 * jnp.sum(per_norm)


_l2_norm.defvjp(_l2_norm_fwd, _l2_norm_bwd)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns a float64 array unchanged, and any other floating-point array in float32."""
    # Tests check the gradients by finite differences, which need float64.
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _checked(x: ArrayLike, axis: int) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected real floating-point vectors, found dtype {x.dtype}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"expected an axis of shape {x.shape}, found axis {axis}")
    return x
