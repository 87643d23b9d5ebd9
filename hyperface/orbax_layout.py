"""Names of Orbax's own files, and what one of them holds: the one thing used here without an API.

Orbax documents neither. They are needed because a run's folder deletes and accepts only files that
it knows, and because Orbax restores an array without an error if its name was damaged. All other
files use Orbax's public API. `tests/test_orbax_layout.py` fails if a version of Orbax differs.
"""

import json
import re
from pathlib import Path

CHECKED_ON = "0.12.8"
"""Version of orbax-checkpoint whose files were looked at."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""Suffix of a folder that Orbax fills and then renames."""

_FOLDER = re.compile(
    rf"(state|meta)({re.escape(UNFINISHED)})?|d|array_metadatas|ocdbt\.process_\d+"
)
# TensorStore locks a file while it writes it.
_FILE = re.compile(
    r"(_CHECKPOINT_METADATA|commit_success\.txt|_METADATA|_sharding|metadata|manifest\.ocdbt"
    r"|process_\d+|[0-9a-f]{32})"
    r"(\.__lock)?"
)


def is_of_orbax(path: Path) -> bool:
    """Returns whether Orbax gives a file in a checkpoint's folder this path.

    Args:
      path: relative to the checkpoint's folder.

    Example:
      >>> is_of_orbax(Path("state/_METADATA")), is_of_orbax(Path("state/notes.txt"))
      (True, False)
    """
    *folders, name = path.parts
    return bool(all(map(_FOLDER.fullmatch, folders)) and _FILE.fullmatch(name))


def recorded_arrays(state: Path) -> set[str | None]:
    """Returns the names of arrays in the files that Orbax writes per process, "a.b.c".

    Args:
      state: folder of the state in a checkpoint. One without such files gives the empty set.

    Raises:
      OSError: a file cannot be read.
      ValueError: a file was damaged.
    """
    names: set[str | None] = set()
    for path in sorted((state / "array_metadatas").glob("process_*")):
        try:
            entries = json.loads(path.read_text())["array_metadatas"]
            names |= {entry.get("array_metadata", {}).get("param_name") for entry in entries}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not as Orbax writes it") from error
    return names
