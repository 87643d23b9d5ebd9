"""Files that are either the old one or the whole new one, and their digests."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hyperface.errors import InputError

LARGEST_JSON = 2**30
"""Bytes; the manifest of a data set names each person and each image that was left out."""
LONGEST_LINE = 2**16
"""Characters of a line of text: names and numbers of one image, or of a pair."""


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


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    Raises:
      InputError: it is missing, a folder or a device, unreadable, or larger.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "another thing" if path.exists() else "nothing"
        raise InputError(f"{path}: expected a file, found {kind}.")
    try:
        with path.open("rb") as file:
            # Of the open file, as another one may take its name in between.
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InputError(
                    f"{path}: expected a file of at most {limit:,} bytes, found {size:,}. Is it "
                    "another kind of file?"
                )
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found: {error}.") from error


def text_lines(path: Path | str) -> Iterator[str]:
    """Yields the lines of a UTF-8 file without their ends and without a byte-order mark.

    Raises:
      InputError: it is no regular file, not UTF-8, or has a line of more than LONGEST_LINE.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of text, found none.")
    try:
        # -sig skips the byte order mark that some programs on Windows write.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            number = 0
            # Bounded, since a file of another kind may be one line of gigabytes.
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    raise InputError(
                        f"{path}:{number}: expected a line of less than {LONGEST_LINE:,} "
                        "characters, found a longer one. Is it another kind of file?"
                    )
                yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found another encoding: {error}.") from None
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found: {error}.") from error


def read_json(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      InputError: as `read_bytes`, or it is no JSON object.
    """
    data = read_bytes(path, limit)
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # A deep one ends in the latter.
        raise InputError(f"{path}: expected JSON, found a damaged file: {error}.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(record).__name__}.")
    return record


def digest(path: Path) -> str:
    """Returns the first twelve hexadecimal digits of a file's SHA-256; "" without a file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def text_digest(text: str) -> str:
    """Returns the first twelve hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
