"""Computes the classification accuracy of features by the class weights ("agents")."""

import numpy as np

from hyperface.losses import Normalize


def nearest_agent_accuracy(
    features: np.ndarray,
    agents: np.ndarray,
    labels: np.ndarray,
    *,
    normalize: Normalize = "none",
    scale: float = 1.0,
    bias: np.ndarray | None = None,
) -> float:
    """Returns the share of examples for which the logit of their own class is the highest.

    The logit of a class is scale * (feature . class weight) + bias (NormFace, Eq. 2), as in
    `losses.softmax`. `normalize` tells which of the two vectors are scaled to unit length first.
    Without a bias, `scale` and the normalisation of features do not change which class has the
    highest logit.

    Args:
      features: [examples, dim].
      agents: [classes, dim] class weights, the rows of the classification matrix.
      labels: [examples] class of each example, as the number of its row in `agents`, from 0.
      normalize: which vectors are scaled to unit length: "features", "agents", "both" or "none".
      scale: factor of the inner products.
      bias: [classes], added to the logits; None adds nothing.
    """
    if normalize in ("both", "features"):
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    if normalize in ("both", "agents"):
        agents = agents / np.linalg.norm(agents, axis=1, keepdims=True)
    logits = scale * (features @ agents.T) + (0.0 if bias is None else bias)
    # Of equal logits argmax takes that of the lowest class.
    return float(np.mean(np.argmax(logits, axis=1) == labels))
