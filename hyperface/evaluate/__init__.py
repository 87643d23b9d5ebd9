"""Scoring, apart from training: embedding is jitted, the protocols are NumPy on features."""

from hyperface.extras import require

require("train", "flax")
