"""Readers of the field's protocol files: which images are compared, in which folds.

Every reader checks every line. What is wrong ends in one `InputError` with file, line, what was
expected and what was found. Windows line ends and blank lines at the end are accepted; other blank
lines, control characters, byte-order marks and text that is not UTF-8 are not.
"""

from hyperface.protocols._agedb import agedb
from hyperface.protocols._blufr import Blufr, Trial, blufr
from hyperface.protocols._cfp import cfp
from hyperface.protocols._ijb import Landmarks, Templates, ijb_faces, ijb_landmarks, ijb_templates
from hyperface.protocols._lfw import lfw_pairs, lfw_people
from hyperface.protocols._megaface import (
    ImageList,
    megaface_list,
    megaface_noises,
    read_features,
    write_features,
)
from hyperface.protocols._pairlist import PairList
from hyperface.protocols._pairs import read_pairs
from hyperface.protocols._templatepairs import TemplatePairs, ijb_pairs
from hyperface.protocols._ytf import ytf_splits

__all__ = [
    "Blufr",
    "ImageList",
    "Landmarks",
    "PairList",
    "TemplatePairs",
    "Templates",
    "Trial",
    "agedb",
    "blufr",
    "cfp",
    "ijb_faces",
    "ijb_landmarks",
    "ijb_pairs",
    "ijb_templates",
    "lfw_pairs",
    "lfw_people",
    "megaface_list",
    "megaface_noises",
    "read_features",
    "read_pairs",
    "write_features",
    "ytf_splits",
]
