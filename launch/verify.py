"""`python -m launch.verify` from a checkout is `hyperface verify`."""

import sys

from hyperface.cli import run

if __name__ == "__main__":
    run("verify", sys.argv[1:])
