"""Commands: `python -m launch.train`, `launch.evaluate`, `launch.prepare`; each has --help."""
