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
    """Returns whether a path is one that Orbax, JAX's checkpoint library, gives to its own files.

    Only such files of a checkpoint are deleted. The name alone is compared; nothing is read.

    Args:
      path: path relative to the checkpoint's folder.

    Example:
      >>> is_of_orbax(Path("state/_METADATA")), is_of_orbax(Path("state/notes.txt"))
      (True, False)
    """
    *folders, name = path.parts
    return bool(all(map(_FOLDER.fullmatch, folders)) and _FILE.fullmatch(name))


def recorded_arrays(state: Path) -> set[str | None]:
    """Returns the array names, such as "a.b.c", that Orbax recorded in a checkpoint.

    Orbax writes one file of names per process. Comparing them with the expected names shows whether
    a name was damaged, which Orbax does not notice. A record without a name gives None.

    Args:
      state: folder "state" of a checkpoint. Without such files the result is empty.

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
