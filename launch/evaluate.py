"""`python -m launch.evaluate` from a checkout is `hyperface evaluate`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("evaluate", sys.argv[1:])
