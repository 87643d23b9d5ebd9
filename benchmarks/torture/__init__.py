"""Tests that training runs survive kills and other faults, on real processes."""
