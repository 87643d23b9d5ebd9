"""Both papers item by item: what they print, and the same measured here."""

from hyperface.extras import require

require("train", "tyro", "rich")
