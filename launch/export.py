"""`python -m launch.export` from a checkout is `hyperface export`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("export", sys.argv[1:])
