"""The losses of NormFace and Ring loss: pure functions that return one float32 value per example.

`features` [batch, dim] are the backbone's un-normalised output. `agents` [classes, dim] are the
class weights, one row per class. `labels` [batch] are integer class ids. Hyper-parameters are
keyword-only. No function here jits, averages or weights: the caller does that.

The class-wise losses, which compare features with agents, share one engine (`classwise`). With
`block_size` no [batch, classes] array exists at any time. With `axis_name` the agents are split by
rows over devices. `joint` computes several of these losses in one pass.
"""

from hyperface.losses._adaface import AdaFace, NormStatistics, adaface, updated_norm_statistics
from hyperface.losses._center import center, center_direction, updated_centers
from hyperface.losses._contrastive import CContrastive, c_contrastive, contrastive
from hyperface.losses._folds import HingeSum, LogSumExp, Maximum
from hyperface.losses._magface import MagFace, magface, magface_regularizer
from hyperface.losses._margin import MarginSoftmax, margin_softmax
from hyperface.losses._mining import Mining, batch_contrastive, batch_triplet
from hyperface.losses._ring import ring
from hyperface.losses._sampling import Sample, sample_classes
from hyperface.losses._softmax import Softmax, softmax
from hyperface.losses._sphereface import SphereFace, a_softmax, annealed_blend, l_softmax
from hyperface.losses._triplet import CTriplet, c_triplet, triplet
from hyperface.losses.classwise import (
    Engine,
    Gradient,
    Normalize,
    RowUpdate,
    joint,
    weighted_sum,
    weighted_sum_with_update,
)

__all__ = [
    "AdaFace",
    "CContrastive",
    "CTriplet",
    "Engine",
    "Gradient",
    "HingeSum",
    "LogSumExp",
    "MagFace",
    "MarginSoftmax",
    "Maximum",
    "Mining",
    "NormStatistics",
    "Normalize",
    "RowUpdate",
    "Sample",
    "Softmax",
    "SphereFace",
    "a_softmax",
    "adaface",
    "annealed_blend",
    "batch_contrastive",
    "batch_triplet",
    "c_contrastive",
    "c_triplet",
    "center",
    "center_direction",
    "contrastive",
    "joint",
    "l_softmax",
    "magface",
    "magface_regularizer",
    "margin_softmax",
    "ring",
    "sample_classes",
    "softmax",
    "triplet",
    "updated_centers",
    "updated_norm_statistics",
    "weighted_sum",
    "weighted_sum_with_update",
]
