"""What an evaluation was made with, for its JSON file."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyperface.devices import mesh
from hyperface.files import digest

VERSIONS = ("hyperface", "jax", "flax", "numpy", "scipy", "scikit-learn", "pillow")


def environment() -> dict[str, Any]:
    """Versions, and how many devices of which kind."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        "devices": mesh.counted(mesh.describe_devices()),
    }


def digests(paths: Iterable[Path], folder: Path) -> dict[str, str]:
    """The digest of each file; that of a folder is of the names and digests of its files.

    Args:
      paths: of files and folders.
      folder: of protocol files. What is in it goes by its path there, others by the last two parts
        of theirs.
    """
    found = {}
    for path in dict.fromkeys(map(Path.absolute, paths)):
        inside = path.is_relative_to(folder.absolute())
        name = path.relative_to(folder.absolute()) if inside else Path(*path.parts[-2:])
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            lines = [f"{file.relative_to(path).as_posix()} {digest(file)}" for file in files]
            found[name.as_posix()] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        else:
            found[name.as_posix()] = digest(path)
    return found
