"""Scores networks, independently of training.

A jitted function computes the features of images. The protocols then score the features in NumPy.
"""

from hyperface.extras import require

require("train", "flax")
