"""Runs from a checkout what `hyperface train` does."""

from hyperface.runs import program, train

if __name__ == "__main__":
    program.run(train.main)
