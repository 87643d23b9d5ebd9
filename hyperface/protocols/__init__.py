"""The field's protocols: their files, their scoring and their names."""

from hyperface.extras import require

require("train", "scipy")
