"""The feature norm as the quality of images, measured beside a protocol's own figures."""

import numpy as np

from hyperface.metrics.quality import NormQuality, norm_quality
from hyperface.metrics.threshold import supported
from hyperface.metrics.verification import Pairs
from hyperface.protocols.features import NamedFeatures

FARS = (0.001, 0.01, 0.1)
"""The threshold is that of the first of these rates that the different pairs support."""
LEAST_SPREAD = 1e-3
"""Standard deviation over mean, below which norms are those of features scaled to one length."""


def norms_as_quality(
    named: NamedFeatures, pairs: Pairs, scores: np.ndarray
) -> tuple[NormQuality | None, tuple[str, ...]]:
    """Measures how well the norms predict the quality of the images of some pairs.

    Args:
      named: features of the images, with their norms.
      pairs: rows of both images of each pair.
      scores: [pairs] similarities.

    Returns:
      The measurement, or None if norms or pairs do not allow it; and sentences for the procedure.
    """
    far = next((rate for rate in FARS if supported(rate, int(np.sum(~pairs.same)))), None)
    if far is None:
        return None, ("feature norm as quality: left out, since 10 different pairs are needed",)
    found = norm_quality(named.image_norms(), pairs, scores, far=far)
    if found.deviation < LEAST_SPREAD * found.mean:
        return None, ("feature norm as quality: left out, since all features have one length",)
    own = "without mirror images" if named.norms is not None else "of the features as they are read"
    return found, (
        f"feature norm as quality: norms {own}; a pair has the smaller norm of its images; the "
        f"threshold is that of FAR {100 * far:g} % over all different pairs, and stays when "
        "genuine pairs are left out",
    )
