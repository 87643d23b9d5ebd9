"""What the commands do, for Python too."""

from hyperface.extras import require

require("train", "tyro", "rich")
