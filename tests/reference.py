"""The papers' formulas, written down plainly: the truth that the library is compared with.

The jax functions are for autodiff; the NumPy ones are the papers' printed gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np


def l2_norm(x, eps=1e-12):
    """NormFace, 3.2."""
    return jnp.sqrt(jnp.sum(x**2, axis=-1) + eps)


def l2_normalize(x, eps=1e-12):
    """NormFace, Eq. 3."""
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + eps)


def softmax(features, agents, labels, normalize="both", scale=1.0, bias=None):
    """NormFace, Eq. 1 and 6."""
    if normalize in ("both", "features"):
        features = l2_normalize(features)
    if normalize in ("both", "agents"):
        agents = l2_normalize(agents)
    logits = scale * features @ agents.T
    if bias is not None:
        logits = logits + jnp.broadcast_to(bias, logits.shape)
    return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]


def ring(features, radius):
    """Ring loss, Eq. 4 for one example and lambda = 1."""
    return 0.5 * (l2_norm(features) - radius) ** 2


def squared_distances(features, agents):
    """[batch, classes] squared distance on the unit sphere."""
    return 2 - 2 * l2_normalize(features) @ l2_normalize(agents).T


def c_contrastive(features, agents, labels, margin=1.0):
    """NormFace, Eq. 10, summed over the wrong classes."""
    d = squared_distances(features, agents)
    own = labels[:, None] == jnp.arange(len(agents))[None]
    return jnp.sum(jnp.where(own, d, jnp.maximum(0.0, margin - d)), axis=1)


def forced(agents):
    """Rows overwritten by their normalised values before the loss sees them."""
    return jax.lax.stop_gradient(l2_normalize(agents)) + agents - jax.lax.stop_gradient(agents)


def forced_softmax(features, agents, labels, scale=1.0):
    """NormFace's released softmax: inner products with forced rows."""
    return softmax(features, forced(agents), labels, "features", scale)


def forced_c_contrastive(features, agents, labels, margin=1.0):
    """NormFace's released C-contrastive: squared distances to forced rows."""
    agents = forced(agents)
    d = 1 + jnp.sum(agents**2, axis=1)[None] - 2 * l2_normalize(features) @ agents.T
    own = labels[:, None] == jnp.arange(len(agents))[None]
    return jnp.sum(jnp.where(own, d, jnp.maximum(0.0, margin - d)), axis=1)


def c_triplet(features, agents, labels, margin=0.8, negatives="all", always_pull=False):
    """NormFace, Eq. 11."""
    d = squared_distances(features, agents)
    own = labels[:, None] == jnp.arange(len(agents))[None]
    d_own = jnp.sum(jnp.where(own, d, 0.0), axis=1)
    violations = jnp.where(own, 0.0, jnp.maximum(0.0, margin + d_own[:, None] - d))
    reduce = jnp.sum if negatives == "all" else jnp.max
    return reduce(violations, axis=1) + (d_own if always_pull else 0.0)


def psi(cosine, margin):
    """SphereFace's piecewise cos(m theta), by arccos."""
    theta = jnp.arccos(cosine)
    k = jnp.floor(margin * theta / jnp.pi)
    return (-1.0) ** k * jnp.cos(margin * theta) - 2 * k


def replaced_target(logits, labels, target):
    """Cross-entropy of logits whose target is another."""
    own = labels[:, None] == jnp.arange(logits.shape[1])[None]
    logits = jnp.where(own, target[:, None], logits)
    return jax.nn.logsumexp(logits, axis=1) - target


def a_softmax(features, agents, labels, margin=4, blend=0.0):
    """SphereFace, Eq. 7, with the released code's blend."""
    logits = features @ l2_normalize(agents).T
    own = logits[jnp.arange(len(labels)), labels]
    length = l2_norm(features)
    target = (blend * own + length * psi(own / length, margin)) / (1 + blend)
    return replaced_target(logits, labels, target)


def l_softmax(features, agents, labels, margin=4, blend=0.0):
    """Large-margin softmax, Eq. 4."""
    logits = features @ agents.T
    own = logits[jnp.arange(len(labels)), labels]
    length = l2_norm(features) * l2_norm(agents)[labels]
    target = (blend * own + length * psi(own / length, margin)) / (1 + blend)
    return replaced_target(logits, labels, target)


def margin_softmax(features, agents, labels, scale, m1=1.0, m2=0.0, m3=0.0):
    """ArcFace, Eq. 4."""
    cosines = l2_normalize(features) @ l2_normalize(agents).T
    own = cosines[jnp.arange(len(labels)), labels]
    target = scale * (jnp.cos(m1 * jnp.arccos(own) + m2) - m3)
    return replaced_target(scale * cosines, labels, target)


def contrastive(a, b, same, margin=1.0):
    """NormFace, Eq. 7."""
    d = jnp.sum((l2_normalize(a) - l2_normalize(b)) ** 2, axis=1)
    return jnp.where(same, d, jnp.maximum(0.0, margin - d))


def triplet(a, p, n, margin=0.8):
    """NormFace, Eq. 8."""
    a, p, n = l2_normalize(a), l2_normalize(p), l2_normalize(n)
    return jnp.maximum(0.0, margin + jnp.sum((a - p) ** 2, 1) - jnp.sum((a - n) ** 2, 1))


def l2_normalize_gradient(x, cotangent, eps=1e-12):
    """NormFace, Eq. 4, in NumPy: (g - x~ <g, x~>) / ||x||."""
    norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + eps)
    unit = x / norm
    return (cotangent - unit * np.sum(cotangent * unit, axis=-1, keepdims=True)) / norm


def ring_gradients(features, radius, cotangent):
    """Ring loss, Eq. 5 and 6, in NumPy, for a cotangent an example."""
    norm = np.sqrt(np.sum(features**2, axis=-1) + 1e-12)
    to_features = (cotangent * (1 - radius / norm))[:, None] * features
    return to_features, -np.sum(cotangent * (norm - radius))


def softmax_gradients(features, agents, labels, scale):
    """Gradients of the sum of Eq. 6 over the batch, in float64 NumPy, without cancellation.

    The target's 1 - p is summed from the other classes.
    """
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    agent_norm = np.linalg.norm(agents, axis=1, keepdims=True)
    unit, unit_agents = features / norm, agents / agent_norm
    logits = scale * unit @ unit_agents.T
    rows = np.arange(len(labels))
    weights = np.exp(logits - logits[rows, labels][:, None])
    weights[rows, labels] = 0.0
    others = weights.sum(axis=1)
    slope = weights / (1 + others)[:, None]
    slope[rows, labels] = -others / (1 + others)
    slope *= scale
    to_unit, to_unit_agents = slope @ unit_agents, slope.T @ unit

    def tangent(gradient, unit, norm):
        return (gradient - unit * np.sum(gradient * unit, axis=1, keepdims=True)) / norm

    return tangent(to_unit, unit, norm), tangent(to_unit_agents, unit_agents, agent_norm)
