"""`python -m launch.prepare` from a checkout is `hyperface prepare`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("prepare", sys.argv[1:])
