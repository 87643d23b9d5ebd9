"""Scores networks, independently of training.

Images are embedded by a jitted function. The protocols then score the features in NumPy.
"""

from hyperface.extras import require

require("train", "flax")
