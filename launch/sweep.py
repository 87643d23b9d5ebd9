"""Runs from a checkout what `hyperface sweep` does."""

from hyperface.runs import program, sweep

if __name__ == "__main__":
    program.run(sweep.main)
