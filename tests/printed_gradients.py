"""Gradients as the papers print them, in NumPy: what the hand-written rules are compared with.

The formulas of the losses themselves are in `hyperface.reference`.
"""

import numpy as np


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
