"""Softmax loss with NormFace's four normalisation modes."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.normalize import inner_products, l2_normalize

Normalize = Literal["both", "features", "agents", "none"]


def softmax(
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    *,
    normalize: Normalize = "both",
    scale: ArrayLike = 1.0,
    bias: ArrayLike | None = None,
    allow_normalized_bias: bool = False,
) -> jax.Array:
    """Softmax cross-entropy on scaled cosines: NormFace, Eq. 6 (and Eq. 1 with "none").

        L = -log( exp(s <W~_y, f~>) / sum_j exp(s <W~_j, f~>) )

    With s = 1 and both sides normalised the loss cannot fall below
    `theory.softmax_lower_bound(classes, 1)` and training stalls there: choose the scale by
    `theory.scale_for_bound`, or learn it.

    The target is kept out of the denominator, L = softplus(log Z_others - target logit). The value
    is the same; the gradient of a confident example, -sigmoid(log Z_others - target logit), keeps
    its digits where `logsumexp - target` cancels them all.

    Args:
      features: [batch, dim], floating point; half precision is computed in float32.
      agents: [classes, dim], one row a class.
      labels: [batch] integer class ids in [0, classes).
      normalize: which side is brought to unit length: "both" (NormFace), "features"
        (L2-constrained softmax), "agents" (as SphereFace with m = 1), "none" (plain softmax).
      scale: s, a scalar factor on the similarities; may be learned.
      bias: [classes] added to the logits. Refused when anything is normalised unless
        `allow_normalized_bias`, for the reason Proposition 1 gives.
      allow_normalized_bias: accept a bias beside normalisation.

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs), non-negative. An example whose
      label is out of range is NaN under jit, where the range cannot be checked beforehand; it never
      reads another class.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, a known label is out of range, `normalize` is unknown, or a bias
        meets normalisation.

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0]])
      >>> agents = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> print(softmax(features, agents, jnp.array([0]), scale=2.0))
      [0.126928]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.
      Ranjan et al., L2-constrained Softmax Loss for Discriminative Face Verification, 2017.
    """
    features = _checks.float_matrix("features", features, "batch, dim")
    agents = _checks.float_matrix("agents", agents, "classes, dim")
    batch, num_classes = features.shape[0], agents.shape[0]
    labels = _checks.class_labels(labels, batch, num_classes)
    if normalize not in get_args(Normalize):
        raise ValueError(f"expected normalize in {get_args(Normalize)}, found {normalize!r}")
    if normalize in ("both", "features"):
        features = l2_normalize(features)
    if normalize in ("both", "agents"):
        agents = l2_normalize(agents)
    similarities = inner_products(features, agents)
    logits = similarities * _checks.scalar("scale", scale, similarities.dtype)
    if bias is not None:
        logits += _checked_bias(bias, num_classes, normalize, allow_normalized_bias)
    return _cross_entropy(logits, labels)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)
    is_target = labels[:, None] == classes[None, :]
    target = jnp.sum(jnp.where(is_target, logits, 0.0), axis=1)
    target = jnp.where(jnp.any(is_target, axis=1), target, jnp.nan)
    # A finite floor instead of -inf: with one class nothing else is left in the sum, and the
    # gradient of logsumexp over -inf alone is NaN.
    floor = jnp.finfo(logits.dtype).min / 4
    others = jax.nn.logsumexp(jnp.where(is_target, floor, logits), axis=1)
    return jax.nn.softplus(others - target)


def _checked_bias(
    bias: ArrayLike, num_classes: int, normalize: Normalize, allow_normalized_bias: bool
) -> jax.Array:
    if normalize != "none" and not allow_normalized_bias:
        raise ValueError(
            f'expected bias=None with normalize="{normalize}", found a bias: NormFace\'s '
            "Proposition 1 (the winning class only gains when features grow, so that their length "
            "may be dropped) needs inner products without bias. With one, classes can be told "
            "apart by bias alone, their features gather at zero, and normalisation scatters them "
            "over the sphere. Drop the bias, or pass allow_normalized_bias=True."
        )
    bias = jnp.asarray(bias)
    if bias.shape != (num_classes,):
        raise ValueError(f"expected bias [{num_classes}], one a class, found shape {bias.shape}")
    return bias[None, :]
