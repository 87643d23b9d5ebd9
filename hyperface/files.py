"""Files that are either the old one or the whole new one."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that a kill leaves nothing half-written."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """As `replace_text`, for bytes."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # Or a power cut could leave the new name without its contents.
    partial.replace(path)
