"""The command `hyperface`: one page of help, and each subcommand's own options.

A subcommand is loaded when it is called, so that the help needs no framework.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from typing import NamedTuple

from hyperface.errors import InputError, MissingExtra, unknown_name


class Subcommand(NamedTuple):
    """A subcommand of `hyperface`."""

    module: str
    """Module whose `main` takes the arguments."""
    help: str
    """What it does, in one line."""


SUBCOMMANDS = {
    "prepare": Subcommand("hyperface.runs.prepare", "makes a data set of face images"),
    "train": Subcommand("hyperface.runs.train", "trains an experiment and reports its scores"),
    "sweep": Subcommand("hyperface.runs.sweep", "trains every setting with every seed"),
    "evaluate": Subcommand(
        "hyperface.runs.evaluate", "scores a network on your people or by published protocols"
    ),
    "verify": Subcommand("hyperface.runs.verify", "says whether photos show the same person"),
    "embed": Subcommand("hyperface.runs.embed", "writes the features of photos to a file"),
    "export": Subcommand("hyperface.runs.export", "writes a trained network for other programs"),
    "clean": Subcommand("hyperface.runs.clean", "finds outliers and test people in a data set"),
    "reproduce": Subcommand("hyperface.reproduce.command", "measures a paper item by item"),
    "cluster": Subcommand("hyperface.cli", "prints a launcher for several machines"),
}
CLUSTERS = {"slurm": "slurm.sbatch", "kubernetes": "kubernetes.yaml", "tpu": "tpu_pod.sh"}
"""Launchers for several machines, and their files in `hyperface/devices/clusters`."""


def main() -> None:
    """Runs `hyperface SUBCOMMAND ARGUMENTS` and ends the program."""
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        print(usage())
        return
    run(sys.argv[1], sys.argv[2:])


def run(name: str, args: Sequence[str]) -> None:
    """Runs a subcommand and ends the program with its status; a user's mistake is one line."""
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
            "`hyperface SUBCOMMAND --help` explains one of them. A first run, in four minutes:",
            "",
            "  hyperface train",
            "",
            "Photos of your own, one folder per person:",
            "",
            "  hyperface prepare photos/ --detect --out mine",
            "  hyperface train mine",
            "  hyperface evaluate runs/mine --protocol folder --dataset mine",
            "  hyperface verify one.jpg other.jpg --run runs/mine",
        )
    )


def _print_cluster(args: Sequence[str]) -> None:
    """Prints the launcher of a kind of cluster, to be saved and changed."""
    if len(args) != 1 or args[0] not in CLUSTERS:
        names = ", ".join(CLUSTERS)
        asked = list(args) == ["--help"]
        found = "" if asked else f" found {' '.join(args) or 'none'}."
        print(f"usage: hyperface cluster KIND > FILE, where KIND is one of {names}.{found}")
        sys.exit(0 if asked else 2)
    path = files("hyperface.devices").joinpath("clusters", CLUSTERS[args[0]])
    print(path.read_text("utf-8"), end="")


def _mistake(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
