"""Runs from a checkout what `hyperface prepare` does."""

from hyperface.runs import prepare, program

if __name__ == "__main__":
    program.run(prepare.main)
