"""Kills and faults that a run must survive."""
