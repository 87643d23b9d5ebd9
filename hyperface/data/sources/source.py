"""What every kind of source gives: encoded images by identity, in a fixed order."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from hyperface.errors import InputError

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
"""Files with another suffix are images if their first bytes say so."""
MAX_BYTES = 50_000_000
"""A larger file is not a face image, and is not read."""


class Reject(NamedTuple):
    """Something that is left out: an image that cannot be used, or a file that is no image."""

    name: str
    reason: str


class Pairs(NamedTuple):
    """Image pairs that a source brings with it, by index of its images."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    """[pairs] bool."""
    fold: np.ndarray
    """[pairs] int64, from 0; of all pairs, whichever images prove unreadable."""


@dataclass(frozen=True)
class Source:
    """Encoded images by identity, in a fixed order, read one at a time."""

    kind: str
    identities: Sequence[str]
    """In the order of the labels."""
    people: np.ndarray
    """[images] int32, each an index into `identities`."""
    names: Sequence[str]
    """[images] unique; for faces mostly the path below the root."""
    read: Callable[[int], bytes]
    """Bytes of the image of that index. Cheapest in rising order. ValueError says why not."""
    fingerprint: str
    """Equal for equal sources: of the names and sizes of all images."""
    rejected: Sequence[Reject] = ()
    """Found while listing; what proves unreadable comes later."""
    ignored: Sequence[Reject] = ()
    """Files that are no images, and hidden folders."""
    doubt: str = ""
    """Another way to read which images are of one person, where there is one; `strict` refuses."""
    splits: np.ndarray | None = None
    """[images] name of the split of each, where the source has its own; labels are then shared by
    all splits. Where it has none, people are split."""
    pairs: Pairs | None = None
    held_out: int | None = None
    """People at the end who form the test split, unless the user says otherwise; None leaves it to
    the number of people."""
    channels: Literal[1, 3] = 3
    """Of the stored images, unless the user says otherwise."""


def _as_number(name: str) -> tuple[int, str]:
    return int(name), name


def by_identity(
    kind: str,
    members: Iterable[tuple[str, str, object]],
    read: Callable[[int], bytes],
    rejected: Sequence[Reject] = (),
    *,
    key: Callable[[str], Any] | None = None,
    distinct_case: bool = True,
    **fields: Any,
) -> Source:
    """Returns a source of (identity, name, size of the content), with sorted identities.

    Identities that are all whole numbers are sorted as numbers, unless `key` says otherwise. Other
    fields of the source are passed on.

    Raises:
      InputError: there are no images, or two identities are spellings of one name; those that
        differ in case are two people where `distinct_case` says so.
    """
    members = list(members)
    if not members:
        reasons = f", all {len(rejected)} rejected, first {rejected[0]}" if rejected else ""
        raise InputError(f"expected images in the {kind} source, found none{reasons}.")
    found = {identity for identity, _, _ in members}
    _check_spelling(found, distinct_case)
    if key is None and all(name.isdecimal() for name in found):
        key = _as_number
    identities = sorted(found, key=key)
    order = {identity: place for place, identity in enumerate(identities)}
    return Source(
        kind=kind,
        identities=identities,
        people=np.array([order[identity] for identity, _, _ in members], np.int32),
        names=[name for _, name, _ in members],
        read=read,
        fingerprint=fingerprint(f"{i}/{name}:{size}" for i, name, size in members),
        rejected=tuple(rejected),
        **fields,
    )


def _check_spelling(identities: set[str], distinct_case: bool) -> None:
    """Refuses two spellings of one name, which would make two people of one."""
    spelt: dict[str, str] = {}
    for identity in sorted(identities):
        composed = unicodedata.normalize("NFC", identity)
        folded = composed if distinct_case else composed.casefold()
        other = spelt.setdefault(folded, identity)
        if other == identity:
            continue
        if unicodedata.normalize("NFC", other) == composed:
            # They look the same on a screen: their code points tell them apart.
            raise InputError(
                f"expected one spelling of {composed!r}, found two that differ in their Unicode "
                f"form only, {other!a} and {identity!a}: give them one name."
            )
        raise InputError(
            f"expected identities that differ in more than case, found {other!r} and "
            f"{identity!r}: merge them, or pass --distinct-case if they are two people."
        )


def fingerprint(parts: Iterable[object]) -> str:
    """Returns sixteen hexadecimal digits of SHA-256 over the parts' text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part};".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Returns the visible files of a folder with this suffix, in any case, sorted by name."""
    found = (path for path in folder.iterdir() if path.suffix.lower() == suffix)
    return sorted(path for path in found if not path.name.startswith("."))


def check_size(size: int) -> None:
    """ValueError for a file that is too large to be a face image."""
    if size > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes, found {size:,}")
