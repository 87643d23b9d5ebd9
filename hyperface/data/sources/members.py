"""Files of a tree, on disk or in an archive: the images, and what is left out for which reason."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from hyperface.data.sources.source import IMAGE_SUFFIXES, Reject

HEAD = 32
"""Bytes that tell what a file is."""
SERVICE_FOLDERS = {
    "@eadir", "@__thumb", "@recycle", "@recently-snapshot", "@tmp", "__macosx", "__pycache__",
    "#recycle", "#snapshot", "$recycle.bin", "lost+found", "system volume information",
}  # fmt: skip
"""Folders that systems make beside the images, some with small copies of them."""
SERVICE_FILES = {"desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r"}
RAW_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2",
    ".srw",
}  # fmt: skip
"""Of cameras' raw files, which look like a TIFF file of their thumbnail."""


class Reader(Protocol):
    """Reads a file; ValueError says why it cannot be read."""

    def __call__(self, limit: int = -1) -> bytes:
        """Returns all its bytes, or the first ones up to a limit."""
        ...


class Member(NamedTuple):
    """A file of the tree."""

    name: str
    """Path below the root, with slashes; one at the end of a folder that cannot be used."""
    size: int
    read: Reader
    problem: str | None = None
    """Why it cannot be used, where that is known without reading it."""


class Selected(NamedTuple):
    """The files of a tree, by what becomes of them."""

    images: dict[str, Member]
    """By path below the root."""
    rejected: list[Reject]
    """Images that cannot be used."""
    ignored: list[Reject]
    """Files that are no images, and hidden folders with the number of their files."""


def select(members: Iterable[Member]) -> Selected:
    """Tells images from other files: by suffix, and by content where the suffix tells nothing."""
    images: dict[str, Member] = {}
    rejected, ignored, hidden = [], [], Counter()
    for member in members:
        name = _plain(member.name)
        if service := _service_part(name):
            hidden[service] += 1
            continue
        leads_out, other = _name_problem(member.name), None
        shown = _shown(member.name if leads_out else name)
        problem = member.problem or leads_out
        if problem is None and not has_image_suffix(name):
            problem, other = _content(name, member)
        if problem is None and other is None and name in images:
            problem = "the archive holds this name twice"
        if other is not None:
            ignored.append(Reject(shown, other))
        elif problem is not None:
            rejected.append(Reject(shown, problem))
        else:
            images[name] = member
    ignored += [
        Reject(
            _shown(name),
            f"a hidden or service folder with {count} files" if name.endswith("/") else "hidden",
        )
        for name, count in hidden.items()
    ]
    return Selected(images, rejected, ignored)


def is_service(name: str) -> bool:
    """Returns whether a folder of that name is hidden, or made by a system."""
    return name.startswith(".") or name.casefold() in SERVICE_FOLDERS


def has_image_suffix(name: str) -> bool:
    """Returns whether a name ends as an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  Ten times faster.


def picture_kind(head: bytes) -> str | None:
    """Returns the format of a picture by its first bytes; None if it is unknown."""
    for name, pattern in _PICTURES.items():
        if pattern.match(head):
            return name
    return None


_PICTURES = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "JPEG": rb"\xff\xd8\xff",
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "GIF": rb"GIF8[79]a",
        "TIFF": rb"II\*\0|MM\0\*",
        "WebP": rb"RIFF....WEBP",
        "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
        "PNM": rb"P[1-6][ \t\r\n]+[0-9#]",
        "AVIF": rb"....ftyp(avif|avis)",
        "HEIC": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
        "Canon's raw": rb"....ftypcrx ",
        "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
        "Photoshop's": rb"8BPS",
    }.items()
}
_READABLE = {"JPEG", "PNG", "GIF", "TIFF", "WebP", "BMP", "PNM", "AVIF"}


def _content(name: str, member: Member) -> tuple[str | None, str | None]:
    """(why it cannot be used, why it is no image) of a file whose suffix does not tell."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    try:
        head = member.read(HEAD)
    except ValueError as error:
        return str(error), None
    kind = picture_kind(head)
    if kind is None:
        return None, f"not an image, bytes starting {head[:8]!r}" if head else "an empty file"
    if suffix in RAW_SUFFIXES:
        kind = "a camera's raw"
    if kind not in _READABLE:
        return f"an image of {kind} format: convert it to PNG or JPEG", None
    return None, None


def _plain(name: str) -> str:
    """Returns a path without parts that mean nothing: './a//b' is 'a/b'."""
    if name[:1] not in "./" and "//" not in name and "/./" not in name:
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(parts) + ("/" if name.endswith("/") else "")


def _service_part(name: str) -> str | None:
    """Returns the path up to its first hidden part, with a slash where that is a folder."""
    parts = name.split("/")
    for place, part in enumerate(parts[:-1], 1):
        if is_service(part) and part != "..":
            return "/".join(parts[:place]) + "/"
    last = parts[-1]
    hidden = last.startswith(".") and last != ".."
    return name if hidden or last.casefold() in SERVICE_FILES else None


def _name_problem(name: str) -> str | None:
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:/", name):
        return "its name leads out of the archive"
    try:
        # Such a name could be written into no list of ours.
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _shown(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
