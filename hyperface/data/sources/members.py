"""Sorts the files of a folder or an archive into images, unusable images, and other files."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from hyperface.data.sources.source import IMAGE_SUFFIXES, Reject

HEAD = 32
"""Number of bytes at the start of a file that are enough to recognise its format."""
SERVICE_FOLDERS = {
    "@eadir", "@__thumb", "@recycle", "@recently-snapshot", "@tmp", "__macosx", "__pycache__",
    "#recycle", "#snapshot", "$recycle.bin", "lost+found", "system volume information",
}  # fmt: skip
"""Names of folders that operating systems and storage devices create; some contain small copies of
the images."""
SERVICE_FILES = {"desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r"}
"""Names of files that operating systems create."""
RAW_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2",
    ".srw",
}  # fmt: skip
"""Suffixes of cameras' raw files. Their content looks like a TIFF file with a small picture."""


class Reader(Protocol):
    """A function (limit) -> bytes that reads one file in a folder or an archive.

    `limit` is the largest number of bytes to return, from the start of the file; -1 returns all. If
    the file cannot be read, it raises ValueError with the reason.
    """

    def __call__(self, limit: int = -1) -> bytes:
        """Returns the bytes of the file, all or at most `limit` from the start."""
        ...


class Member(NamedTuple):
    """A file in a folder or an archive, before it is known whether it is an image."""

    name: str
    """Path below the root, with slashes. A slash at the end marks a folder whose files are not
    listed, such as a link that is not followed."""
    size: int
    """Size in bytes; 0 for a file that cannot be used."""
    read: Reader
    """Function (limit) -> the first `limit` bytes of the file, or all bytes for -1; raises
    ValueError if the file cannot be read."""
    problem: str | None = None
    """The reason why the file cannot be used, such as a link that leads nowhere; None if no such
    reason is known before reading it."""


class Selected(NamedTuple):
    """The files of a folder or an archive, divided into usable images, unusable images, and other
    files."""

    images: dict[str, Member]
    """Path below the root -> the file of an image. The content has not been decoded yet, so it may
    still turn out to be damaged."""
    rejected: list[Reject]
    """Images that cannot be used, with reasons; they are reported to the user."""
    ignored: list[Reject]
    """Files that are no images, with reasons, and hidden folders with the number of their files."""


def select(members: Iterable[Member]) -> Selected:
    """Divides files into images, images that cannot be used, and other files.

    A file with the suffix of an image counts as an image. Any other file counts as an image if its
    first bytes are those of an image format. Hidden files, and files that operating systems create,
    are ignored. A file is rejected if its name occurs a second time, or if the name leads out of
    the archive (by "..").

    Args:
      members: all files of a folder or an archive.
    """
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
            problem = "the archive contains this name twice"
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
    """Returns whether a folder of this name is a service folder, whose files are no data.

    Such a folder is hidden (its name starts with "."), or an operating system or a storage device
    creates it, such as "__MACOSX".
    """
    return name.startswith(".") or name.casefold() in SERVICE_FOLDERS


def has_image_suffix(name: str) -> bool:
    """Returns whether a file name ends in a suffix of an image format, such as ".jpg" or ".PNG"."""
    # Ten times faster than `Path`, for millions of names.
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def picture_kind(head: bytes) -> str | None:
    """Recognises the format of an image by the first bytes of its file.

    Args:
      head: the first bytes of the file, 32 are enough.

    Returns:
      The name of the format, such as "JPEG", which need not be a format that this library can
      decode; None if the bytes are those of no known image format.
    """
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
    """Looks at the first bytes of a file whose suffix is not that of an image.

    Returns:
      The reason why it is an image that cannot be used, or None; and the reason why it is no image,
      or None. Both are None for an image that can be used.
    """
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
    """Returns a path without empty parts and "." parts: './a//b' becomes 'a/b'."""
    # Nearly all names have none of these parts, and are returned without being split.
    if name[:1] not in "./" and "//" not in name and "/./" not in name:
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(parts) + ("/" if name.endswith("/") else "")


def _service_part(name: str) -> str | None:
    """Returns a path up to its first hidden part, or None if no part is hidden.

    The result ends with a slash if the hidden part is a folder.
    """
    parts = name.split("/")
    for place, part in enumerate(parts[:-1], 1):
        if is_service(part) and part != "..":
            return "/".join(parts[:place]) + "/"
    last = parts[-1]
    hidden = last.startswith(".") and last != ".."
    return name if hidden or last.casefold() in SERVICE_FILES else None


def _name_problem(name: str) -> str | None:
    """Returns why the name of a file cannot be used; None for a usable name."""
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:/", name):
        return "its name leads out of the archive"
    try:
        # A name with other bytes could not be written into the lists of a data set.
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _shown(name: str) -> str:
    """Returns a name for messages; bytes that are not UTF-8 are written as escapes."""
    return name.encode(errors="backslashreplace").decode()
