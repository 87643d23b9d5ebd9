"""Runs from a checkout what `hyperface clean` does."""

from hyperface.runs import clean, program

if __name__ == "__main__":
    program.run(clean.main)
