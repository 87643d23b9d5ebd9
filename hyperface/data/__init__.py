"""Images in: sources, TFDS builders that need no TensorFlow, and the Grain pipeline."""

from hyperface.extras import require

require("train", "PIL")
