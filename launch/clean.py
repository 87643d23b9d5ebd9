"""`python -m launch.clean` from a checkout is `hyperface clean`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("clean", sys.argv[1:])
