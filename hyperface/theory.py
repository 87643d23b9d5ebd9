"""What the papers prove about normalised softmax, as functions of the class count and the scale.

Everywhere `scale` is s = l^2, the factor on the cosine, and losses are in nats.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def softmax_lower_bound(num_classes: int, scale: ArrayLike) -> jax.Array:
    """The least softmax loss that normalised features can reach: NormFace, Proposition 2.

        log(1 + (n - 1) exp(-n / (n - 1) s)),   s = l^2

    It assumes equally frequent classes. It is met when every feature equals its agent and the
    agents form a regular simplex, which needs dim >= n - 1; in fewer dimensions the true minimum
    is higher.

    Args:
      num_classes: n, at least 1. With one class the bound is zero.
      scale: s, a number or an array of any shape.

    Returns:
      The bound in nats, of scale's shape.

    Raises:
      ValueError: num_classes is below 1.

    Example:
      >>> print(f"{softmax_lower_bound(10575, 1.0):.4f}")  # the paper: 8.27, loss stuck at 8.50
      8.2663

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3, 8.2.
    """
    n = _checked_classes(num_classes, least=1)
    scale = jnp.asarray(scale, jnp.result_type(float))
    if n == 1:
        return jnp.zeros_like(scale)
    return jax.nn.softplus(jnp.log(n - 1.0) - n / (n - 1.0) * scale)


def scale_for_bound(num_classes: int, bound: ArrayLike) -> jax.Array:
    """The scale at which Proposition 2's bound takes a given value: its inverse.

        s = (n - 1) / n log((n - 1) / (exp(bound) - 1))

    Args:
      num_classes: n, at least 2.
      bound: the wanted lower bound in nats, above zero.

    Returns:
      The scale s, of bound's shape; negative where bound exceeds log(n), the loss of a guess.

    Raises:
      ValueError: num_classes is below 2.

    Example:
      >>> print(f"{scale_for_bound(10572, 0.1):.3f}")
      11.517

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3.
    """
    n = _checked_classes(num_classes, least=2)
    bound = jnp.asarray(bound, jnp.result_type(float))
    return (n - 1.0) / n * (jnp.log(n - 1.0) - jnp.log(jnp.expm1(bound)))


def max_probability(num_classes: int, scale: ArrayLike = 1.0) -> jax.Array:
    """The largest probability a cosine softmax can give: NormFace, 3.3.

        e^s / (e^s + (n - 1) e^-s)

    This is the extreme case of one class at cosine 1 and all others at cosine -1, beyond what n
    agents can do at once when n > 2.

    Args:
      num_classes: n, at least 1.
      scale: s; the paper's case is 1.

    Returns:
      Probability in (0, 1], of scale's shape.

    Raises:
      ValueError: num_classes is below 1.

    Example:
      >>> print(f"{max_probability(10):.2f} {max_probability(1000):.3f}")  # the paper's two numbers
      0.45 0.007

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3.
    """
    n = _checked_classes(num_classes, least=1)
    scale = jnp.asarray(scale, jnp.result_type(float))
    return 1.0 / (1.0 + (n - 1.0) * jnp.exp(-2.0 * scale))


def _checked_classes(num_classes: int, least: int) -> int:
    if num_classes < least:
        raise ValueError(f"expected at least {least} classes, found {num_classes}")
    return num_classes
