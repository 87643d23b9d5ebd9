"""`python -m launch.reproduce` from a checkout is `hyperface reproduce`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("reproduce", sys.argv[1:])
