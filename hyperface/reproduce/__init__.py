"""Reproduces both papers item by item: what a paper prints, and the same measured here.

An item is a proposition, equation, figure or table. `published.toml` lists the items and the
printed values, `papers` reads it, `command` measures, and `page` builds the report.
"""

from hyperface.extras import require

require("train", "tyro", "rich")
