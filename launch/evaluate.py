"""Runs from a checkout what `hyperface evaluate` does."""

from hyperface.runs import evaluate, program

if __name__ == "__main__":
    program.run(evaluate.main)
