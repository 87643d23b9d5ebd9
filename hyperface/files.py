"""Files that are either the old one or the whole new one, and their digests."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Literal


def replace_text(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that a kill or a full disk leaves no half of it.

    It is for a file that the user names. Files in folders of ours go through `owned.write_text`.
    """
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """As `replace_text`, for bytes."""
    # A new name each time, since whatever has a fixed one may be somebody's.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    sync_to(partial, data, "xb")
    try:
        partial.replace(path)
    except OSError:
        partial.unlink()
        raise


def sync_to(path: Path, data: bytes, mode: Literal["wb", "xb"] = "wb") -> None:
    """Writes a file and waits until it is on the disk; a failure leaves no file."""
    with path.open(mode) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # Or a power cut could leave a name without its contents.
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def digest(path: Path) -> str:
    """The first twelve hexadecimal digits of a file's SHA-256; "" where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
