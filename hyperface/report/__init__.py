"""Tables, figures and image sheets; draws on NumPy, matplotlib and pillow only."""

from hyperface.extras import require

require("train", "matplotlib")
