"""Computes rates, thresholds, ranks and confidence intervals from similarity scores."""

from hyperface.extras import require

require("train", "scipy", "sklearn")
