"""Runs the command `python -m benchmarks.torture`."""

from benchmarks.torture.command import main
from hyperface.runs import program

if __name__ == "__main__":
    program.run(main)
