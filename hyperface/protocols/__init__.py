"""Reads and scores the published protocols of face verification and identification."""

from hyperface.extras import require

require("train", "scipy")
