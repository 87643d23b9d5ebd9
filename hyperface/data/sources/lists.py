"""Image list files: `path label` a line, as the papers' Caffe code used, and MXNet's .lst."""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

from hyperface.data.sources.source import Reject, Source, by_identity, check_size
from hyperface.errors import InputError
from hyperface.files import text_lines

_WHOLE = re.compile(r"([0-9]+)(\.0*)?")


def listed(path: Path, *, root: Path | None = None, distinct_case: bool = False) -> Source:
    """Returns the images that a list file names.

    A line is `path label` (the path may contain spaces), or tab-separated `index label path`
    (im2rec) or `aligned path label ...` (insightface). The label is the identity.

    Args:
      path: the list, UTF-8.
      root: the folder that the paths start from; the list's own folder by default.
      distinct_case: two labels that differ in case only are two people.

    Raises:
      InputError: the list cannot be read, a line has none of these forms, no line names an image,
        or a label is spelt in two ways.
    """
    root = path.parent if root is None else root
    members, rejected, seen = [], [], {}
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        parsed = _parsed(line)
        if parsed is None:
            raise InputError(f"{path}:{number}: expected 'path label', found {line[:80]!r}.")
        name, identity = os.path.normpath(parsed[0]), parsed[1]  # "./a.png" is "a.png".
        if name in seen:
            rejected.append(Reject(name, f"in line {number} again, first in line {seen[name]}"))
            continue
        seen[name] = number
        file = root / name
        members.append((identity, name, _size(file)))
    _check_numbers(path, (identity for identity, _, _ in members))

    def read(index: int) -> bytes:
        check_size(members[index][2])
        try:
            return (root / members[index][1]).read_bytes()
        except (OSError, ValueError) as error:  # A name can hold a byte that no path has.
            raise ValueError(f"expected a readable file, found: {error}") from None

    return by_identity("list", members, read, rejected, distinct_case=distinct_case)


def _check_numbers(path: Path, labels: Iterable[str]) -> None:
    """Refuses two spellings of one number, which would make two people of one."""
    spelt: dict[str, str] = {}
    for label in labels:
        if number := _WHOLE.fullmatch(label):
            value = number[1].lstrip("0")
            if spelt.setdefault(value, label) != label:
                raise InputError(
                    f"{path}: expected one spelling of each label, found {spelt[value]!r} and "
                    f"{label!r}. Give one person one label, and two people other numbers."
                )


def _size(file: Path) -> int:
    """Bytes of a regular file; -1 where there is none."""
    try:
        return file.stat().st_size if file.is_file() else -1
    except (OSError, ValueError):  # As above; a name can also be too long for any path.
        return -1


def _parsed(line: str) -> tuple[str, str] | None:
    """(path, label) of a line."""
    columns = line.rstrip("\n").split("\t")
    if len(columns) >= 3:
        index_label_path = _number(columns[0]) is not None and _number(columns[1]) is not None
        name, label = (columns[2], columns[1]) if index_label_path else (columns[1], columns[2])
        value = _number(label)
        if value is None or not value.is_integer() or not name:
            return None
        return name, str(int(value))
    name, _, label = line.strip().replace("\t", " ").rpartition(" ")
    return (name.strip(), label) if name.strip() else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
