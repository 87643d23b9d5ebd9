"""The losses of NormFace and Ring loss: pure functions that return one float32 value an example.

Shapes: `features` [batch, dim] are the backbone's un-normalised output, `agents` [classes, dim] the
class weights, `labels` [batch] integer class ids. Hyper-parameters are keyword-only. Nothing here
is jitted, averaged or weighted: the caller does that.
"""

from hyperface.losses._ring import ring
from hyperface.losses._softmax import Softmax, softmax
from hyperface.losses.classwise import Normalize, joint

__all__ = ["Normalize", "Softmax", "joint", "ring", "softmax"]
