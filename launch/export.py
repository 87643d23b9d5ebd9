"""Runs from a checkout what `hyperface export` does."""

from hyperface.runs import export, program

if __name__ == "__main__":
    program.run(export.main)
