"""Files that are either the old one or the whole new one."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that a kill leaves nothing half-written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def replace_bytes(path: Path, data: bytes) -> None:
    """As `replace_text`, for bytes."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
