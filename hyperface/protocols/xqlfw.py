"""Scores Cross-Quality LFW (XQLFW): LFW's people in pairs of a better and a much worse image.

M. Knoche, S. Hörmann, G. Rigoll. Cross-Quality LFW: A Database for Analyzing Cross-Resolution Image
Face Recognition in Unconstrained Environments. FG 2021.
"""

from collections.abc import Sequence
from pathlib import Path

from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.lfw import read_lfw_pairs
from hyperface.protocols.pair_verification import score_pairs
from hyperface.protocols.protocol import PAIR_OPTIONS, Protocol, Settings
from hyperface.protocols.result import Result


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    """Scores the list, which has the layout of LFW's `pairs.txt` and its rules."""
    return score_pairs(name, named, read_lfw_pairs(files[0]), settings)


PROTOCOLS = (
    Protocol(
        name="xqlfw",
        title="XQLFW, 6,000 pairs",
        dataset="xqlfw",
        file_names=("xqlfw/xqlfw_pairs.txt",),
        options=PAIR_OPTIONS,
        scorer=_score,
    ),
)
