"""Builds tables, figures, image sheets and pages from results, with matplotlib and pillow."""

from hyperface.extras import require

require("train", "matplotlib")
