"""Writes and reads `embedder.json`, the record of an export.

The record contains a digest of each exported file and of itself. A damaged or exchanged file
therefore raises an error before anything in it is parsed or run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from hyperface.errors import InputError
from hyperface.files import read_bytes

NAME = "embedder.json"
LARGEST_RECORD, LARGEST_FILE = 2**20, 2**33
"""Largest size in bytes of the record, and of each exported file."""
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "model": str, "step": (int, type(None)), "input": list, "pixels": str,
    "crop": (list, type(None)), "shrink": int, "mirror": str, "normalize": bool, "files": dict,
}  # fmt: skip


def seal(record: dict[str, Any]) -> str:
    """Returns a record as JSON text, with a field "digest" over all other fields added.

    A record is the content of `embedder.json`, which describes the files of an export.
    """
    return json.dumps(record | {"digest": digest(record)}, indent=2) + "\n"


def digest(record: dict[str, Any], *more: bytes | memoryview) -> str:
    """Returns the SHA-256, in hexadecimal digits, over a record and further bytes.

    Args:
      record: fields that JSON can represent. The field "digest" is left out, and the order of the
        fields does not matter.
      *more: bytes that are covered too, such as the arrays of a file.
    """
    fields = {name: value for name, value in record.items() if name != "digest"}
    # Sorted, because another program may write the same fields in another order.
    total = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for data in more:
        total.update(data)
    return total.hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """Returns the fields of an `embedder.json`, the record of an export, after all checks.

    Raises:
      InputError: the file is missing, larger than `LARGEST_RECORD`, damaged or changed, or an
        earlier version wrote it.
    """
    data = read_bytes(path, LARGEST_RECORD)
    try:
        record = json.loads(data.decode("utf-8"))
        fits = isinstance(record, dict) and record.get("digest") == digest(record)
        wrong = [n for n, kind in _FIELDS.items() if not fits or not isinstance(record[n], kind)]
        sides = [*record["input"][1:], *(record["crop"] or ())] if not wrong else []
    except (ValueError, KeyError, RecursionError) as error:
        raise _changed(path, f"{type(error).__name__} {str(error)[:80]}") from None
    if wrong or not all(isinstance(side, int) for side in sides) or len(sides) not in (3, 5):
        raise _changed(path, "another digest or other fields")
    return record


def read_file(folder: Path, record: dict[str, Any], name: str) -> bytes:
    """Returns the bytes of an exported file, after comparing its digest with the record's.

    Args:
      folder: the folder of the export.
      record: the fields of its `embedder.json`, as `read_record` returns them.
      name: name of the file, a key of the record's "files".

    Raises:
      InputError: the file is missing, is larger than `LARGEST_FILE`, or its digest differs from the
        record's.
    """
    data = read_bytes(folder / name, LARGEST_FILE)
    entry = record["files"].get(name)
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    if hashlib.sha256(data).hexdigest() != expected:
        raise InputError(
            f"{folder / name}: expected the file that {folder / NAME} was written with, found "
            "another or a damaged one. Export the run again by hyperface export."
        )
    return data


def _changed(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: expected a record of `hyperface export`, unchanged, found {found}. Export the "
        "run again."
    )
