"""Knows the names of Orbax's own files, and the array names that one kind of them contains.

Orbax documents neither, and has no public API for them. We need the names of files because only
known files in a run's folder are deleted or accepted. We need the array names because Orbax
restores an array without an error if its name was damaged. All other modules use Orbax's public
API. `tests/test_orbax_layout.py` fails if a version of Orbax differs.
"""

import json
import re
from pathlib import Path

CHECKED_ON = "0.12.8"
"""Version of orbax-checkpoint whose files this module describes."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""Suffix of a folder that Orbax is still filling; Orbax renames it at the end."""

_FOLDER = re.compile(
    rf"(state|meta)({re.escape(UNFINISHED)})?|d|array_metadatas|ocdbt\.process_\d+"
)
# TensorStore adds a file ".__lock" while it writes a file, and a kill can leave it.
_FILE = re.compile(
    r"(_CHECKPOINT_METADATA|commit_success\.txt|_METADATA|_sharding|metadata|manifest\.ocdbt"
    r"|process_\d+|[0-9a-f]{32})"
    r"(\.__lock)?"
)


def is_of_orbax(path: Path) -> bool:
    """Returns whether a file has a name that Orbax, JAX's checkpoint library, uses for its files.

    This program deletes only such files of a checkpoint, so that files that a user put there stay.
    The name alone is compared; nothing is read.

    Args:
      path: path relative to the checkpoint's folder.

    Example:
      >>> is_of_orbax(Path("state/_METADATA")), is_of_orbax(Path("state/notes.txt"))
      (True, False)
    """
    *folders, name = path.parts
    return bool(all(map(_FOLDER.fullmatch, folders)) and _FILE.fullmatch(name))


def recorded_arrays(state: Path) -> set[str | None]:
    """Returns the names of the arrays in a checkpoint, such as "a.b.c".

    Orbax, JAX's checkpoint library, writes them into one file per process. It does not notice if a
    name in these files is damaged, so the caller must compare the result with the expected names.

    Args:
      state: folder "state" of a checkpoint.

    Returns:
      The set of names. It is empty if the folder has no such files. It contains None if an entry of
      a file lacks its name.

    Raises:
      OSError: a file cannot be read.
      ValueError: a file is damaged.
    """
    names: set[str | None] = set()
    for path in sorted((state / "array_metadatas").glob("process_*")):
        try:
            entries = json.loads(path.read_text())["array_metadatas"]
            names |= {entry.get("array_metadata", {}).get("param_name") for entry in entries}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not as Orbax writes it") from error
    return names
