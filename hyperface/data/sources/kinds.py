"""Opens a source by what a user names: finds out its kind and calls the reader of that kind."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperface.data.sources.digits import digits, downloaded_digits
from hyperface.data.sources.lists import listed
from hyperface.data.sources.orl import orl
from hyperface.data.sources.recordio import recordio
from hyperface.data.sources.source import Source, files_ending
from hyperface.data.sources.tables import parquet, tfds_dataset
from hyperface.data.sources.trees import folder, tarred, zipped
from hyperface.data.sources.verification import verification
from hyperface.errors import InputError, unknown_name

KINDS: dict[str, Callable[..., Source]] = {
    "folder": folder,
    "zip": zipped,
    "tar": tarred,
    "list": listed,
    "recordio": recordio,
    "verification": verification,
    "parquet": parquet,
    "digits": digits,
}
"""Kind -> the function that opens a source of this kind from a path."""
_BY_SUFFIX = {
    ".zip": "zip",
    ".tar": "tar",
    ".tgz": "tar",
    ".tbz2": "tar",
    ".txz": "tar",
    ".txt": "list",
    ".lst": "list",
    ".rec": "recordio",
    ".bin": "verification",
    ".parquet": "parquet",
}


def open_source(source: str, data_dir: Path, *, kind: str | None = None, **options: Any) -> Source:
    """Opens a collection of images, whatever its format, as a `Source`.

    Args:
      source: "orl" (AT&T faces), "mnist" (downloaded), "tfds:NAME" (a TFDS data set), or the path
        of a file or folder.
      data_dir: the folder in which TFDS keeps its data sets; used only for "tfds:NAME".
      kind: format of the file or folder: "folder", "zip", "tar", "list", "recordio",
        "verification", "parquet" or "digits". None finds the format by the suffix of a file or by
        the files in a folder.
      **options: keyword arguments of the function in `KINDS` that opens this format, such as `root`
        for a list. Options that are None or False count as not given.

    Raises:
      InputError: the format of the path is not clear, the format does not have an option, or the
        source cannot be used.
    """
    # The command line passes all options; None and False mean that an option was not given.
    options = {name: value for name, value in options.items() if value not in (None, False)}
    if source in ("orl", "mnist") or source.startswith("tfds:"):
        if kind or options:
            found = next(iter(options), "kind").replace("_", "-")
            raise InputError(f"{source}: expected no option for paths, found --{found}.")
        if source.startswith("tfds:"):
            return tfds_dataset(source.removeprefix("tfds:"), data_dir)
        return orl() if source == "orl" else downloaded_digits()
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser fails on unknown users.
    kind = kind or _guessed(path)
    if kind not in KINDS:
        raise unknown_name("kind of source", kind, KINDS)
    unused = options.keys() - inspect.signature(KINDS[kind]).parameters.keys()
    if unused:
        raise InputError(f"a {kind} source has no option --{min(unused).replace('_', '-')}.")
    return KINDS[kind](path, **options)


def _guessed(path: Path) -> str:
    """Returns the kind of a path, by the files of a folder or the suffix of a file."""
    if path.is_dir():
        if any(path.glob("train-images-idx3-ubyte*")):
            return "digits"
        if files_ending(path, ".parquet"):
            return "parquet"
        if records := files_ending(path, ".rec"):
            raise InputError(f"{path}: expected one source, found RecordIO: give {records[0]}.")
        return "folder"
    if not path.exists():
        raise InputError(
            f"expected 'orl', 'mnist', 'tfds:NAME' or a path, found nothing at {path}."
        )
    suffixes = path.name.lower().split(".")[1:]
    # A compressed archive has a second suffix, as in "faces.tar.xz".
    if "tar" in suffixes[-2:]:
        return "tar"
    kind = _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: expected a known kind of file; name it by --kind.")
    return kind
