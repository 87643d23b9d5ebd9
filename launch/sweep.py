"""`python -m launch.sweep` from a checkout is `hyperface sweep`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("sweep", sys.argv[1:])
