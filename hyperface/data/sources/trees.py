"""One folder an identity: on disk, or in a zip or tar archive that is read in place.

LFW's layout, ImageFolder's, and CFP's with folders below the identity. A single folder around all
identities, as most archives have, is stripped. Nothing is ever extracted.
"""

import lzma
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hyperface.archives import open_unpacked, open_zip, read_member
from hyperface.data.sources.source import IMAGE_SUFFIXES, Reject, Source, by_identity, check_size
from hyperface.errors import InputError

CUT = (
    EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError,
    ValueError, RecursionError, OverflowError,
)  # fmt: skip
"""What reading a truncated or damaged archive raises."""
LONGEST_HEADER = 2**16
"""Bytes of a tar member's long name or further attributes; a path has at most 4,096."""


class Member(NamedTuple):
    """A file of the tree."""

    name: str
    """Path below the root, with slashes; one at the end of a folder that cannot be used."""
    size: int
    read: Callable[[], bytes]
    problem: str | None = None
    """Why it cannot be used, where that is known without reading it."""


def folder(root: Path, *, follow_links: bool = False, distinct_case: bool = False) -> Source:
    """Images below a folder.

    Args:
      root: one folder a person.
      follow_links: also read what links point to outside of root.
      distinct_case: two identities whose names differ in case only are two people.

    Raises:
      InputError: root is not a folder, holds no image below an identity's folder, or holds
        identities that differ in case only.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder with one folder a person, found none at {root}.")
    return _tree("folder", _walk(root, follow_links), root, distinct_case)


def zipped(path: Path, *, distinct_case: bool = False) -> Source:
    """Images in a zip archive.

    Raises:
      InputError: as `folder`, or the archive is damaged.
    """
    archive = open_zip(path)
    members = (
        Member(
            info.filename,
            info.file_size,
            lambda info=info: read_member(archive, info, info.file_size),
        )
        for info in archive.infolist()
        if not info.filename.endswith("/")
    )
    return _tree("zip", members, path, distinct_case)


def tarred(path: Path, *, distinct_case: bool = False) -> Source:
    """Images in a tar archive, plain or compressed.

    A compressed one is listed in a first pass and read in a second.

    Raises:
      InputError: as `folder`, or the archive is damaged.
    """
    try:
        members = list(_tar_members(path))
    except InputError:
        raise
    except CUT as error:
        raise InputError(
            f"expected a whole tar archive at {path}, found: {error}. Get the file again."
        ) from None
    return _tree("tar", members, path, distinct_case)


def _tree(kind: str, members: Iterable[Member], root: Path, distinct_case: bool) -> Source:
    rejected: list[Reject] = []
    kept: dict[str, Member] = {}
    for member in members:
        path = PurePosixPath(member.name)
        image = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")
        if not (image or member.name.endswith("/")):
            continue
        problem = member.problem or _name_problem(member.name)
        if problem is None and member.name in kept:
            problem = "the archive holds this name twice"
        if problem is None:
            kept[member.name] = member
        else:
            shown = member.name.encode(errors="backslashreplace").decode()
            rejected.append(Reject(shown, problem))
    names = _stripped(list(kept))
    below = {name: short for name, short in names.items() if "/" in short}
    rejected += [Reject(name, "not below an identity's folder") for name in names.keys() - below]
    if not below:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected[:3])
        raise InputError(
            f"expected folders of images below {root}, one a person "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}), found none. {reasons}".rstrip()
        )
    files = [kept[name] for name in below]
    found = [(s.split("/")[0], s, f.size) for s, f in zip(below.values(), files, strict=True)]
    if not distinct_case:
        _check_case({identity for identity, _, _ in found})

    def read(index: int) -> bytes:
        check_size(files[index].size)
        return files[index].read()

    return by_identity(kind, found, read, sorted(rejected))


def _stripped(names: list[str]) -> dict[str, str]:
    """Names without the one folder that is around all identities, where there is one.

    It is one where several folders with images lie in it. A single folder with images, or with a
    single folder, is an identity itself.
    """
    parts = [name.split("/") for name in names]
    inner = {p[1] for p in parts if len(p) > 2}
    if len({p[0] for p in parts}) == 1 and len(inner) > 1:
        return {name: "/".join(p[1:]) for name, p in zip(names, parts, strict=True)}
    return {name: name for name in names}


def _name_problem(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match("[A-Za-z]:/", name):
        return "its name leads out of the archive"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _check_case(identities: set[str]) -> None:
    folded: dict[str, str] = {}
    for identity in sorted(identities):
        other = folded.setdefault(identity.casefold(), identity)
        if other != identity:
            raise InputError(
                f"expected identities that differ in more than case, found {other!r} and "
                f"{identity!r}: merge them, or pass --distinct-case if they are two people."
            )


def _walk(root: Path, follow_links: bool) -> Iterator[Member]:
    inside = root.resolve()
    closed: list[OSError] = []
    walked: set[Path] = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
        folders.sort()
        here = Path(parent)
        walked.add(here.resolve())
        # A link back to a folder that was read, its own parent perhaps, would never end.
        for name in [f for f in folders if (here / f).is_symlink()]:
            target = (here / name).resolve()
            again = target in walked
            if again or not (follow_links or target.is_relative_to(inside)):
                folders.remove(name)
                shown = (here / name).relative_to(root).as_posix()
                reason = "a link to a folder that was read already" if again else _OUTSIDE
                yield Member(f"{shown}/", 0, bytes, reason)
        for name in sorted(files):
            yield _file(here / name, root, inside, follow_links)
    for error in closed:
        raise InputError(f"expected readable folders below {root}, found: {error}.")


_OUTSIDE = "a link out of the folder; pass --follow-links to read it"


def _file(path: Path, root: Path, inside: Path, follow_links: bool) -> Member:
    name = path.relative_to(root).as_posix()

    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"expected a readable file, found: {error.strerror}") from None

    if path.is_symlink() and not (follow_links or path.resolve().is_relative_to(inside)):
        return Member(name, 0, read, _OUTSIDE)
    try:
        status = path.stat()
    except OSError as error:
        return Member(name, 0, read, f"expected a readable file, found: {error.strerror}")
    problem = None if stat.S_ISREG(status.st_mode) else "not a regular file"
    return Member(name, status.st_size, read, problem)


class _Entry(tarfile.TarInfo):
    """A member whose headers are of a size that can be true.

    tarfile reads a long name into memory however long it says it is.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a member of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse member: pack the archive without --sparse")
        if self.type in _HEADERS:
            archive.global_header += self.size * (self.type == tarfile.XGLTYPE)
            if max(self.size, archive.global_header) > LONGEST_HEADER:
                raise tarfile.ReadError(
                    f"a header of {max(self.size, archive.global_header):,} bytes, above "
                    f"{LONGEST_HEADER:,}"
                )
        return super()._proc_member(archive)

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse member: pack the archive without --sparse")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10


_HEADERS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}


class _Tar(tarfile.TarFile):
    """Is read from as long as its source lives, and closes itself then, as ZipFile does."""

    tarinfo = _Entry
    global_header = 0
    """Bytes of headers that hold for all members; each member copies them."""

    def __del__(self):
        self.fileobj.close()


def _tar_members(path: Path) -> Iterator[Member]:
    if not path.is_file():
        raise InputError(f"expected a tar archive at {path}, found no file.")
    archive = _Tar(fileobj=open_unpacked(path))
    before = -1
    for info in iter(archive.next, None):
        if archive.offset <= before:
            raise tarfile.ReadError(f"a member at byte {before} that ends before it starts")
        before, archive.members = archive.offset, []

        def read(start: int = info.offset_data, size: int = info.size) -> bytes:
            try:
                archive.fileobj.seek(start)
                data = archive.fileobj.read(size)
            except CUT as error:
                raise ValueError(f"expected a whole member, found: {error}") from None
            if len(data) != size:
                raise ValueError(f"expected a whole member, found {len(data)} of {size} bytes")
            return data

        if info.isfile():
            yield Member(info.name, info.size, read)
        elif not info.isdir():
            yield Member(info.name, 0, read, "a link or a device: it holds no image")
    # tarfile takes a damaged header, or a cut between two members, for the end.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(
            f"expected a whole tar archive at {path}, found no end, or a damaged header, at byte "
            f"{archive.offset}. Get the file again."
        )
