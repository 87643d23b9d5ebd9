"""Training: experiment, optimiser, state, step, its mapping onto devices, checkpoints, loop."""
