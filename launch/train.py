"""`python -m launch.train` from a checkout is `hyperface train`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("train", sys.argv[1:])
