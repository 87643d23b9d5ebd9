"""Runs the command `hyperface` by `python -m hyperface`."""

from hyperface.cli import main

if __name__ == "__main__":
    main()
