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
    """A file, a folder or a pair of images that is left out of a data set, with the reason."""

    name: str
    """Name of the file or folder below the root of the source, or "FIRST,SECOND" for a pair."""
    reason: str
    """Why it is left out, in words, such as "an empty file"."""


class Pairs(NamedTuple):
    """The pairs of images for verification that come with a source, such as LFW's list."""

    first: np.ndarray
    """[pairs] index of the first image of each pair."""
    second: np.ndarray
    """[pairs] index of the second image."""
    same: np.ndarray
    """[pairs] bool, True where both images show one person."""
    fold: np.ndarray
    """[pairs] int64, from 0: the fold (group of pairs for cross-validation) of each pair. Pairs
    with an image that turns out to be unreadable have a fold too, and are left out later."""


@dataclass(frozen=True)
class Source:
    """A collection of encoded images in a fixed order, each with its person.

    A source lists all images when it is opened, and reads them one at a time by their index.
    `hyperface prepare` stores a source as a data set.
    """

    kind: str
    """The format that the images came in, such as "folder", "zip" or "recordio"."""
    identities: Sequence[str]
    """Names of the people, in the order of their labels."""
    people: np.ndarray
    """[images] int32, the index of each image's person in `identities`."""
    names: Sequence[str]
    """[images] a unique name for each image; for files, the path below the root."""
    read: Callable[[int], bytes]
    """Function from the index of an image to its encoded bytes. Rising order is fastest. It raises
    ValueError or OSError with the reason if the image cannot be read."""
    fingerprint: str
    """A digest of the names and sizes of all images; equal sources have equal fingerprints."""
    rejected: Sequence[Reject] = ()
    """Images found unusable when the source was listed, which are not among `names`. Others may
    turn out to be unreadable later."""
    ignored: Sequence[Reject] = ()
    """Files that are no images, and hidden folders."""
    doubt: str = ""
    """A sentence that names other folders that could be the people; "" if there are none. If
    `planning.Options.strict` is True, such a doubt is an error."""
    splits: np.ndarray | None = None
    """[images] name of the split of each image, such as "train", for a source with splits of its
    own, such as MNIST. All splits of such a source have the same people and labels. None for other
    sources, whose people are divided into training people and test people."""
    pairs: Pairs | None = None
    """The pairs of images for verification; None if the source has none."""
    held_out: int | None = None
    """Default number of people, from the end of `identities`, who form the test split. None lets
    `planning.default_held_out` choose by the number of people."""
    channels: Literal[1, 3] = 3
    """Default number of channels of the stored images: 1 for grey, 3 for RGB."""


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
    """Builds a source from a list of images with their people; people are sorted by name.

    The place of a person's name (identity) in the sorted list becomes the person's label.

    Args:
      kind: the format that the images came in, such as "folder".
      members: (identity, name, size) of each image, in the order of the source. All three are
        hashed to the source's fingerprint. In place of the size, anything else can be given that
        changes with the content of the image, such as a digest.
      read: function from the index of an image in `members` to its encoded bytes; it raises
        ValueError if the image cannot be read.
      rejected: images that are known to be unusable, with reasons; they are not in `members`.
      key: sort key of the identities, a function of the name. By default they are sorted as numbers
        if all are whole numbers, and otherwise as text.
      distinct_case: True treats two identities that differ only in case as two people; False raises
        an error for them.
      **fields: other fields of `Source`, such as `splits`.

    Raises:
      InputError: there are no images, or two identities differ only in Unicode form or, if
        `distinct_case` is False, only in case.
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
    """Returns an id of a sequence of values: 16 hexadecimal digits of a SHA-256.

    Args:
      parts: the values, which are digested as text (by `str`), in their order.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part};".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Returns the files directly in a folder that have a suffix, sorted by name.

    Hidden files are left out.

    Args:
      folder: the folder.
      suffix: the suffix in lower case, such as ".rec"; files may have it in upper case.
    """
    found = (path for path in folder.iterdir() if path.suffix.lower() == suffix)
    return sorted(path for path in found if not path.name.startswith("."))


def check_size(size: int) -> None:
    """Raises ValueError if a file is too large to be a face image: above MAX_BYTES (50 MB).

    Args:
      size: size of the file in bytes.
    """
    if size > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes, found {size:,}")
