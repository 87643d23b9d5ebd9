"""Choices within the published protocols."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp

from hyperface.metrics.cosine import Place
from hyperface.metrics.threshold import Rule
from hyperface.protocols.pair_protocol import PROTOCOLS, PairProtocol

OVER_FOLDS = "standard error over folds"
OVER_TRIALS = "standard deviation over trials"
OVER_SPLITS = "standard deviation over splits"
"""What the figures' spread is."""


@dataclass(frozen=True)
class Settings:
    """Choices within the protocols."""

    pairs: PairProtocol | None = None
    """Steps of pair lists and videos; None as the protocol has them."""
    pca: float | int | None = None
    """Share of variance or dimensions that PCA keeps in pair lists, whatever their steps; 0 for no
    PCA, None as the steps have it."""
    rule: Rule = "blufr"
    """BLUFR's threshold rule."""
    gammas: int | None = None
    """K of the templates' fusion; None as the protocol has it."""
    pool_media: bool = False
    """Whether a template's images of one medium, such as a video, count as one."""
    draws: int = 0
    """Resamples of people, for intervals of a pair list's rates; 0 for none."""
    place: Place = jnp.asarray
    """Puts rows of features on one device, or split over several, which then share the products."""
    progress: Callable[[int, int], None] | None = None
    """Called by the long ones with the parts done and all parts."""

    def steps(self, default: str = "normface") -> PairProtocol:
        """Steps of pair lists and videos: those given, else the ones of this name."""
        return self.pairs or PROTOCOLS[default]

    def pair_steps(self) -> PairProtocol:
        """Steps of pair lists with the PCA that was chosen; videos have none."""
        if self.pca is None:
            return self.steps()
        return replace(self.steps(), pca=self.pca or None)
