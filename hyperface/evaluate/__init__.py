"""Scoring, apart from training: embedding is jitted, the protocols are NumPy on features."""
