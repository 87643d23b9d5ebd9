"""What an evaluation was made with, for its JSON file."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyperface.files import digest
from hyperface.train import parallel

VERSIONS = ("hyperface", "jax", "flax", "numpy", "scipy", "scikit-learn", "pillow")


def environment() -> dict[str, Any]:
    """Versions, and how many devices of which kind."""
    kinds = Counter(name.partition("(")[2].rstrip(")") for name in parallel.describe_devices())
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        "devices": [f"{count} x {kind}" for kind, count in sorted(kinds.items())],
    }


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """The digest of each file; that of a folder is of the names and digests of its files."""
    found = {}
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            lines = [f"{file.relative_to(path).as_posix()} {digest(file)}" for file in files]
            found[path.name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        else:
            found[path.name] = digest(path)
    return found
