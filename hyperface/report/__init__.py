"""Tables and figures of measured results; draws on NumPy and matplotlib only."""
