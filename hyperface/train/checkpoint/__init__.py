"""Checkpoints: written, read and checked."""
