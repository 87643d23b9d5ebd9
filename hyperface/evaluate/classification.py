"""Classification accuracy of features against the class agents."""

import numpy as np


def nearest_agent_accuracy(
    features: np.ndarray,
    agents: np.ndarray,
    labels: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    normalize_agents: bool = False,
) -> float:
    """Share of examples whose class has the highest similarity: NormFace, Eq. 2.

    Normalising features would change nothing here, since all similarities of an example are scaled
    alike (but see `bias`).

    Args:
      features: [examples, dim].
      agents: [classes, dim].
      labels: [examples].
      bias: [classes] added to the inner products, or None.
      normalize_agents: compare by cosine.
    """
    if normalize_agents:
        agents = agents / np.linalg.norm(agents, axis=1, keepdims=True)
    similarities = features @ agents.T + (0.0 if bias is None else bias)
    return float(np.mean(np.argmax(similarities, axis=1) == labels))
