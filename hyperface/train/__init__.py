"""Training: experiment, optimiser, state, step, its mapping onto devices, checkpoints, loop."""

from hyperface.extras import require

require("train", "flax", "optax", "orbax")
