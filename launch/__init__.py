"""Commands: `python -m launch.prepare`, `.train`, `.evaluate`, `.export`; each has --help."""
