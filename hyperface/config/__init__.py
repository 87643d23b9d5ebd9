"""Describes the settings of a run as plain data: the experiment and its loss."""
