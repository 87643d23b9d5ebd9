"""Defines a source: the encoded images of a collection in a fixed order, each with its person."""

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
"""Suffixes of images. A file with another suffix is an image if its first bytes show it."""
MAX_BYTES = 50_000_000
"""Largest size of an image in bytes. A larger file is no face image, and is not read."""


class Reject(NamedTuple):
    """A file that is left out, because it is no image or an image that cannot be used."""

    name: str
    """Name of the file, or of the pair or folder."""
    reason: str
    """Why it is left out."""


class Pairs(NamedTuple):
    """The pairs of images that come with a source."""

    first: np.ndarray
    """[pairs] index of the first image of each pair."""
    second: np.ndarray
    """[pairs] index of the second image."""
    same: np.ndarray
    """[pairs] bool, whether both images show one person."""
    fold: np.ndarray
    """[pairs] int64 number of the fold, counted from 0. It includes pairs whose images turn out to
    be unreadable later."""


@dataclass(frozen=True)
class Source:
    """A collection of encoded images in a fixed order, each with its person; read one at a time."""

    kind: str
    """The kind of the source, such as "folder"."""
    identities: Sequence[str]
    """Names of the people, in the order of their labels."""
    people: np.ndarray
    """[images] int32, the index of each image's person in `identities`."""
    names: Sequence[str]
    """[images] a unique name for each image; for faces mostly the path below the root."""
    read: Callable[[int], bytes]
    """Returns the encoded image with this index; rising order is fastest. It raises ValueError with
    the reason if the image cannot be read."""
    fingerprint: str
    """A digest of the names and sizes of all images; equal sources have equal fingerprints."""
    rejected: Sequence[Reject] = ()
    """Images found unusable when the source was listed; others turn out to be unreadable later."""
    ignored: Sequence[Reject] = ()
    """Files that are no images, and hidden folders."""
    doubt: str = ""
    """A sentence about another possible way to tell which folders are people; "" if there is none.
    The option `strict` refuses a source with such a doubt."""
    splits: np.ndarray | None = None
    """[images] name of the split of each image, if the source has splits of its own. Its labels are
    then shared by all splits. In other sources people are divided among the splits."""
    pairs: Pairs | None = None
    """The pairs of images for verification, if the source has some."""
    held_out: int | None = None
    """Default number of people, from the end of `identities`, who form the test split. If it is
    None, the default depends on the number of people."""
    channels: Literal[1, 3] = 3
    """Default number of channels of the stored images."""


def _as_number(name: str) -> tuple[int, str]:
    # The name is the second part of the key, so that "7" and "07" always sort in the same order.
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
    """Builds a source from its images, with sorted identities.

    Args:
      kind: the kind of the source.
      members: (identity, name, size) of each image. The size, or anything else that changes with
        the content, goes into the fingerprint.
      read: as in `Source`.
      rejected: as in `Source`.
      key: order of the identities. By default they are sorted as numbers if all are whole numbers,
        and otherwise as text.
      distinct_case: whether two identities that differ only in case are two people. If not, they
        are refused.
      **fields: other fields of the source.

    Raises:
      InputError: there are no images, or two identities are spellings of one name.
    """
    # Most sources pass a generator, and the members are needed several times.
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
    """Refuses two spellings of one name, because one person would become two."""
    spelt: dict[str, str] = {}
    for identity in sorted(identities):
        # Some file systems of macOS decompose the letters of file names, so that one name can come
        # in two Unicode forms.
        composed = unicodedata.normalize("NFC", identity)
        folded = composed if distinct_case else composed.casefold()
        other = spelt.setdefault(folded, identity)
        if other == identity:
            continue
        if unicodedata.normalize("NFC", other) == composed:
            # Both look the same on a screen, so the message shows their code points.
            raise InputError(
                f"expected one spelling of {composed!r}, found two that differ only in their "
                f"Unicode form, {other!a} and {identity!a}: give them one name."
            )
        raise InputError(
            f"expected identities that differ in more than case, found {other!r} and "
            f"{identity!r}: merge them, or pass --distinct-case if they are two people."
        )


def fingerprint(parts: Iterable[object]) -> str:
    """Returns the first sixteen hexadecimal digits of the SHA-256 of the parts as text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part};".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Returns the files of a folder with this suffix, in upper or lower case, sorted by name.

    Hidden files are left out.
    """
    found = (path for path in folder.iterdir() if path.suffix.lower() == suffix)
    return sorted(path for path in found if not path.name.startswith("."))


def check_size(size: int) -> None:
    """Raises ValueError if a file of this size is too large to be a face image."""
    if size > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes, found {size:,}")
