"""`python -m launch.embed` from a checkout is `hyperface embed`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("embed", sys.argv[1:])
