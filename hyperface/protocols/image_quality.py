"""Measures the feature norm as the quality of images, beside a protocol's own scores."""

import numpy as np

from hyperface.metrics.quality import NormQuality, norm_quality
from hyperface.metrics.threshold import supported
from hyperface.metrics.verification import Pairs
from hyperface.protocols.features import NamedFeatures

FARS = (0.001, 0.01, 0.1)
"""False accept rates: the threshold is that of the first rate with enough impostor pairs."""
LEAST_SPREAD = 1e-3
"""Smallest standard deviation of norms, relative to their mean. If it is smaller, the features are
taken to be scaled to one length."""


def norms_as_quality(
    named: NamedFeatures, pairs: Pairs, scores: np.ndarray
) -> tuple[NormQuality | None, tuple[str, ...]]:
    """Measures whether a small feature norm is a sign of a poor image.

    A genuine pair has two images of one person, and an impostor pair has images of two people. The
    threshold is chosen once, for the first FAR of 0.001, 0.01 and 0.1 for which there are at least
    1 / FAR impostor pairs. A genuine pair is refused if its score is below the threshold. The norm
    of a pair is the smaller norm of its two images. The measurement is the share of refused pairs
    among the genuine pairs that remain after those with the smallest norms are left out. If small
    norms mean poor images, the share falls when more pairs are left out.

    Args:
      named: features of the images, with their norms.
      pairs: the pairs, as positions of their images in `named`.
      scores: [pairs] similarities.

    Returns:
      (the measurement, sentences that describe it for `Result.steps`). The measurement is None if
      there are fewer than 10 impostor pairs, or if all features have one length. Then there is one
      sentence, which states the reason.
    """
    far = next((rate for rate in FARS if supported(rate, int(np.sum(~pairs.same)))), None)
    if far is None:
        return None, ("feature norm as quality: left out, since 10 different pairs are needed",)
    found = norm_quality(named.image_norms(), pairs, scores, far=far)
    # Stored unit features differ by rounding, and rounding predicts nothing.
    if found.deviation < LEAST_SPREAD * found.mean:
        return None, ("feature norm as quality: left out, since all features have one length",)
    own = "without mirror images" if named.norms is not None else "of the features as they are read"
    return found, (
        f"feature norm as quality: norms {own}; a pair has the smaller norm of its images; the "
        f"threshold is that of FAR {100 * far:g} % over all different pairs, and stays when "
        "genuine pairs are left out",
    )
