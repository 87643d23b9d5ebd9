"""The command `hyperface`: prints its help page, or runs a subcommand with its own options.

A subcommand's module is imported only when it is called, so that the help page appears quickly and
needs no optional dependency.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from typing import NamedTuple

from hyperface.errors import InputError, MissingExtra, unknown_name


class Subcommand(NamedTuple):
    """The module and the help text of a subcommand of `hyperface`, such as "train"."""

    module: str
    """Name of the module, whose `main(args)` takes the words that follow the subcommand."""
    help: str
    """One line that says what the subcommand does."""


SUBCOMMANDS = {
    "prepare": Subcommand("hyperface.runs.prepare", "builds a data set from face images"),
    "train": Subcommand("hyperface.runs.train", "trains an experiment and reports its scores"),
    "sweep": Subcommand("hyperface.runs.sweep", "trains several settings with several seeds"),
    "evaluate": Subcommand(
        "hyperface.runs.evaluate", "scores a network on your people or by published protocols"
    ),
    "verify": Subcommand("hyperface.runs.verify", "says whether photos show the same person"),
    "embed": Subcommand("hyperface.runs.embed", "writes the features of photos to a file"),
    "export": Subcommand("hyperface.runs.export", "writes a trained network for other programs"),
    "clean": Subcommand("hyperface.runs.clean", "finds outliers and test people in a data set"),
    "reproduce": Subcommand("hyperface.reproduce.command", "repeats a paper's measurements"),
    "cluster": Subcommand("hyperface.cli", "prints a launch script for several machines"),
}
CLUSTERS = {"slurm": "slurm.sbatch", "kubernetes": "kubernetes.yaml", "tpu": "tpu_pod.sh"}
"""Kind of cluster -> its launch script in `hyperface/devices/clusters`."""


def main() -> None:
    """Runs `hyperface SUBCOMMAND ARGUMENTS`, or prints the help page."""
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        _print(usage() + "\n")
        return
    run(sys.argv[1], sys.argv[2:])


def run(name: str, args: Sequence[str]) -> None:
    """Runs a subcommand and ends the program with its exit status.

    A mistake of the user, such as an unknown subcommand, is printed as one line without a
    traceback, and the status is 2. After a success the function returns.

    Args:
      name: the subcommand, a key of `SUBCOMMANDS`.
      args: the words that follow it on the command line.
    """
    # Before the imports below, so that it works without the optional dependencies.
    if name == "cluster":
        _print_cluster(args)
        return
    try:
        if name not in SUBCOMMANDS:
            raise unknown_name("subcommand", name, SUBCOMMANDS)
        program = import_module("hyperface.runs.program")
        command = import_module(SUBCOMMANDS[name].module)
    except (InputError, MissingExtra) as error:
        sys.exit(_mistake(error))
    program.run(command.main, args, name=name)


def usage() -> str:
    """Returns the page that `hyperface --help` prints."""
    width = max(map(len, SUBCOMMANDS)) + 2
    lines = [f"  {name:<{width}}{about.help}" for name, about in SUBCOMMANDS.items()]
    return "\n".join(
        (
            "usage: hyperface SUBCOMMAND ...",
            "",
            "Face verification with NormFace and Ring loss: data, training, evaluation, reports.",
            "",
            *lines,
            "",
            "`hyperface SUBCOMMAND --help` explains its options. A first run takes four minutes:",
            "",
            "  hyperface train",
            "",
            "With your own photos, one folder per person:",
            "",
            "  hyperface prepare photos/ --detect --out mine",
            "  hyperface train mine",
            "  hyperface evaluate runs/mine --protocol folder --dataset mine",
            "  hyperface verify one.jpg other.jpg --run runs/mine",
        )
    )


def _print_cluster(args: Sequence[str]) -> None:
    """Prints the launch script for a kind of cluster, which the user saves and edits."""
    if len(args) != 1 or args[0] not in CLUSTERS:
        names = ", ".join(CLUSTERS)
        asked = list(args) == ["--help"]
        found = "" if asked else f" found {' '.join(args) or 'none'}."
        print(f"usage: hyperface cluster KIND > FILE, where KIND is one of {names}.{found}")
        sys.exit(0 if asked else 2)
    path = files("hyperface.devices").joinpath("clusters", CLUSTERS[args[0]])
    _print(path.read_text("utf-8"))


def _print(text: str) -> None:
    """Prints a text on stdout. A reader that has ended, such as `head`, is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # Python would flush the output at exit and report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mistake(error: Exception) -> int:
    """Prints a mistake of the user on stderr, and returns the exit status for it."""
    # The status is `program.EXIT_INPUT`, but perhaps it was the import of `program` that failed.
    print(f"error: {error}", file=sys.stderr)
    return 2
