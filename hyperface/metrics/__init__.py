"""Numbers from scores: rates, thresholds, identification, intervals."""

from hyperface.extras import require

require("train", "scipy", "sklearn")
