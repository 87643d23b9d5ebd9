"""Reads list files of images: one `path label` per line, as Caffe uses, or MXNet's .lst files."""

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
    """Opens the images that a text file lists, one per line, as a source.

    A line has one of three forms: `path label`, where the path may contain spaces (Caffe);
    tab-separated `index label path` (MXNet's im2rec); or tab-separated `aligned path label ...`
    (insightface). The columns `index` and `aligned` are ignored; the label is the identity of the
    image. If a path occurs twice, its second line is listed in `Source.rejected`.

    Args:
      path: the list file, in UTF-8.
      root: the folder to which the paths are relative; None takes the folder of the list.
      distinct_case: True treats two labels that differ only in case as two people; False raises an
        error for them.

    Raises:
      InputError: the list cannot be read, a line has none of these forms, or no line names an
        image. Also if two labels differ only in Unicode form, or, unless `distinct_case` is True,
        only in case.
    """
    root = path.parent if root is None else root
    members, rejected, seen = [], [], {}
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        parsed = _parsed(line)
        if parsed is None:
            raise InputError(f"{path}:{number}: expected 'path label', found {line[:80]!r}.")
        # Normalised, so that "./a.png" and "a.png" count as one image.
        name, identity = os.path.normpath(parsed[0]), parsed[1]
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
    """Refuses labels that spell one number in two ways, such as "7" and "007"."""
    # As text they would become two people, although they most likely mean one.
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
    """Returns the size of a regular file in bytes; -1 if there is none."""
    try:
        return file.stat().st_size if file.is_file() else -1
    except (OSError, ValueError):  # As above; a name can also be too long for any path.
        return -1


def _parsed(line: str) -> tuple[str, str] | None:
    """Returns (path, label) of a line; None if the line has none of the accepted forms."""
    columns = line.rstrip("\n").split("\t")
    if len(columns) >= 3:
        # Two numbers in front are im2rec's index and label; insightface has a path second.
        index_label_path = _number(columns[0]) is not None and _number(columns[1]) is not None
        name, label = (columns[2], columns[1]) if index_label_path else (columns[1], columns[2])
        value = _number(label)
        if value is None or not value.is_integer() or not name:
            return None
        return name, str(int(value))
    name, _, label = line.strip().replace("\t", " ").rpartition(" ")
    return (name.strip(), label) if name.strip() else None


def _number(text: str) -> float | None:
    """Returns the finite number that a text spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
