"""Runs from a checkout what `hyperface reproduce` does."""

from hyperface.reproduce import command
from hyperface.runs import program

if __name__ == "__main__":
    program.run(command.main)
