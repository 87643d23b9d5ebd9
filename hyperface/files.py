"""Reads files up to a limit, replaces files in one step, and computes digests."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hyperface.errors import InputError

LARGEST_JSON = 2**30
"""Largest JSON file in bytes. The manifest of a data set is the largest one that we read: it names
each person, and each image that was left out."""
LONGEST_LINE = 2**16
"""Largest number of characters in a line of a text file, which describes one image or one pair."""


def replace_text(path: Path, text: str) -> None:
    """Replaces a file by a new text in one step, or creates the file.

    If the process is killed or the disk is full, the old file stays as it was. Use this function
    only for a file that the user named, because it overwrites any file. `owned.write_text`
    overwrites only files that this program wrote.

    Raises:
      OSError: the file cannot be written.
    """
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Replaces a file by new bytes in one step, or creates the file.

    If the process is killed or the disk is full, the old file stays as it was.

    Raises:
      OSError: the file cannot be written.
    """
    # The new content is written under another name first. The name is random, because a file with
    # a fixed name could belong to somebody else.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    sync_to(partial, data, "xb")
    try:
        partial.replace(path)
    # The path may be a folder, or on a file system that became read-only.
    except OSError:
        partial.unlink()
        raise


def sync_to(path: Path, data: bytes, mode: Literal["wb", "xb"] = "wb") -> None:
    """Writes a file and waits until it is on the disk.

    If writing fails, the incomplete file is removed, and the error is raised.

    Args:
      path: the file.
      data: its content.
      mode: "wb" overwrites an existing file. "xb" leaves an existing file as it is, and raises
        FileExistsError.
    """
    with path.open(mode) as file:
        try:
            file.write(data)
            file.flush()
            # Without it a power cut after a rename could leave an empty file under the new name.
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    A larger file raises an error before it is read, so it cannot fill the memory.

    Raises:
      InputError: the file is missing, is a folder or a device, cannot be read, or is larger.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "another thing" if path.exists() else "nothing"
        raise InputError(f"{path}: expected a file, found {kind}.")
    try:
        with path.open("rb") as file:
            # The size of the open file, since another file could take the path's name meanwhile.
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
      InputError: there is no such file, it is not UTF-8, or a line has LONGEST_LINE (65,536)
        characters or more. The lines before the error have been yielded already.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of text, found none.")
    try:
        # utf-8-sig skips the byte-order mark that some programs on Windows write.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            number = 0
            # Limited, because a file of another kind may be a single line of gigabytes.
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


def read_names(path: Path | str) -> list[str]:
    """Returns the names in a UTF-8 file of one name per line, in the order of the file.

    Lines that are empty or have only spaces are skipped. Spaces before or after a name are part of
    it, because names of files and folders can start or end with a space.

    Raises:
      InputError: the file cannot be read, has no name, or has a name twice.
    """
    lines: dict[str, int] = {}
    for number, name in enumerate(text_lines(path), start=1):
        if name.strip() and lines.setdefault(name, number) != number:
            raise InputError(
                f"{path}:{number}: expected each name once, found {name!r} as in line "
                f"{lines[name]}."
            )
    if not lines:
        raise InputError(f"{path}: expected names, one per line, found none.")
    return list(lines)


def read_json(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """Returns the object in a JSON file as a dictionary.

    Args:
      path: the file.
      limit: largest size in bytes; a larger file raises an error.

    Raises:
      InputError: the file cannot be read, is too large, or does not contain a JSON object.
    """
    data = read_bytes(path, limit)
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # The latter for very deeply nested lists.
        raise InputError(f"{path}: expected JSON, found a damaged file: {error}.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(record).__name__}.")
    return record


def digest(path: Path) -> str:
    """Returns the first 12 hexadecimal digits of a file's SHA-256, or "" if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def text_digest(text: str) -> str:
    """Returns the first 12 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
