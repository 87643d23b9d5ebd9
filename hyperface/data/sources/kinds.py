"""Which kind of source something is."""

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
"""Sources that are a path."""
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
    """Opens what a user names.

    Args:
      source: "orl", "mnist", "tfds:NAME", or a path of one of `KINDS`.
      data_dir: where TFDS data sets are.
      kind: one of `KINDS`; found out from the path by default.
      options: of that kind, such as `root` of a list.

    Raises:
      InputError: the kind of the path is unclear, an option is of another kind, or the source
        cannot be used.
    """
    options = {name: value for name, value in options.items() if value not in (None, False)}
    if source in ("orl", "mnist") or source.startswith("tfds:"):
        if kind or options:
            found = next(iter(options), "kind").replace("_", "-")
            raise InputError(f"{source}: expected no option of a path, found --{found}.")
        if source.startswith("tfds:"):
            return tfds_dataset(source.removeprefix("tfds:"), data_dir)
        return orl() if source == "orl" else downloaded_digits()
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path's refuses the name of no user.
    kind = kind or _guessed(path)
    if kind not in KINDS:
        raise unknown_name("kind of source", kind, KINDS)
    unused = options.keys() - inspect.signature(KINDS[kind]).parameters.keys()
    if unused:
        raise InputError(f"a {kind} source has no option --{min(unused).replace('_', '-')}.")
    return KINDS[kind](path, **options)


def _guessed(path: Path) -> str:
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
    if "tar" in suffixes[-2:]:
        return "tar"
    kind = _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: expected a known kind of file; say which by --kind.")
    return kind
