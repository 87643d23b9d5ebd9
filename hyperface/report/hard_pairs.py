"""Builds the section of a page with the pairs of images that a network gets most wrong."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hyperface.protocols.result import HardPair
from hyperface.report.drafts import Draft
from hyperface.report.html import FacePair

Pixels = Callable[[str], np.ndarray]
"""A function from the name of an image to its pixels [height, width, 1 or 3] uint8."""
TITLE = "Hardest pairs"
SHOWN = 12
"""Largest number of pairs of each kind on a page."""


def hardest_section(
    title: str,
    false_accepts: Sequence[HardPair],
    false_rejects: Sequence[HardPair],
    pixels: Pixels,
) -> Draft:
    """Returns a section that shows the pairs of faces with the largest errors of a network.

    Args:
      title: title of the section.
      false_accepts: pairs of different people, the most similar first; the first 12 are shown.
      false_rejects: pairs of one person, the least similar first; the first 12 are shown.
      pixels: function that takes an image's name and returns its pixels [height, width, 1 or 3]
        uint8.
    """
    kinds: Mapping[str, Sequence[HardPair]] = {
        "Different people, the most similar first": false_accepts,
        "One person, the least similar first": false_rejects,
    }
    pairs = {
        caption: [
            FacePair(
                (pixels(pair.first), pixels(pair.second)),
                (f"{pair.score:.3f}", pair.first, pair.second),
            )
            # The result keeps more pairs than a page shows.
            for pair in found[:SHOWN]
        ]
        for caption, found in kinds.items()
    }
    return Draft(title, pairs=pairs)
