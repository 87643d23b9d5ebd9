"""Members of a tar archive, plain or compressed, whose headers are of a size that can be true."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hyperface.archives import open_unpacked
from hyperface.data.sources.members import HEAD, Member, Reader, has_image_suffix
from hyperface.errors import InputError

CUT = (
    EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError,
    ValueError, RecursionError, OverflowError,
)  # fmt: skip
"""What reading a truncated or damaged archive raises."""
LONGEST_HEADER = 2**16
"""Bytes of a tar member's long name or further attributes; a path has at most 4,096."""


_NO_FILE = "a link or a device: it holds no image"


def tar_members(path: Path) -> list[Member]:
    """Returns the files, links and devices of a tar archive, in the order of their content.

    A compressed archive is listed in a first pass; its images are read in a second pass.

    Raises:
      InputError: there is no such archive, or it is damaged.
    """
    try:
        members = list(_members(path))
    except InputError:
        raise
    except CUT as error:
        raise InputError(
            f"expected a whole tar archive at {path}, found: {error}. Get the file again."
        ) from None
    # A hard link is read beside its file: going back unpacks a compressed archive from its start.
    return [member for _, member in sorted(members, key=lambda found: found[0])]


class _Entry(tarfile.TarInfo):
    """A member whose headers are of a size that can be true.

    tarfile reads a long name into memory however long it says it is.
    """

    def _proc_member(self, archive: "_Tar") -> tarfile.TarInfo:
        # The format can hold a negative size, by which tarfile would seek backwards.
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
        # A private method, which typeshed leaves out.
        return super()._proc_member(archive)  # pyright: ignore[reportAttributeAccessIssue]

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
    members: list[tarfile.TarInfo]
    """Those read so far, which TarFile keeps."""
    global_header = 0
    """Bytes of headers that hold for all members; each member copies them."""

    def __del__(self) -> None:
        self.fileobj.close()


class _Content:
    """Reads the content of members. The last one is kept: a hard link may ask for it again."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive, self._start, self._data = archive, -1, b""

    def of(self, start: int, size: int, limit: int = -1) -> bytes:
        """Returns the bytes of a member; ValueError says why they cannot be read."""
        size = size if limit < 0 else min(size, limit)
        # A file and its hard links come one after the other, and are unpacked once.
        if start == self._start and size == len(self._data):
            return self._data
        try:
            self._archive.fileobj.seek(start)
            data = self._archive.fileobj.read(size)
        except CUT as error:
            raise ValueError(f"expected a whole member, found: {error}") from None
        if len(data) != size:
            raise ValueError(f"expected a whole member, found {len(data)} of {size} bytes")
        self._start, self._data = start, data
        return data


def _members(path: Path) -> Iterator[tuple[int, Member]]:
    """Yields the byte where the content of each member starts, and the member."""
    if not path.is_file():
        raise InputError(f"expected a tar archive at {path}, found no file.")
    archive = _Tar(fileobj=open_unpacked(path))
    content = _Content(archive)
    before = -1
    files: dict[str, tuple[int, Member]] = {}
    for info in iter(archive.next, None):
        # A damaged size can lead back, and the loop would never end.
        if archive.offset <= before:
            raise tarfile.ReadError(f"a member at byte {before} that ends before it starts")
        # tarfile keeps every member; of millions that would take gigabytes.
        before, archive.members = archive.offset, []
        if info.isdir():
            continue
        name = info.name.replace("\\", "/")
        start, found = info.offset_data, Member(name, 0, partial(content.of, 0, 0), _NO_FILE)
        if info.isfile():
            start, found = files[info.name] = start, _member(name, content, start, info.size)
        elif info.islnk() and info.linkname in files:
            start, target = files[info.linkname]
            files[info.name] = start, target
            found = target._replace(name=name)
        elif info.islnk():
            found = found._replace(
                problem=f"a hard link to {info.linkname}, which is not before it"
            )
        yield start, found
    # tarfile takes a damaged header, or a cut between two members, for the end.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(
            f"expected a whole tar archive at {path}, found no end, or a damaged header, at byte "
            f"{archive.offset}. Get the file again."
        )


def _member(name: str, content: _Content, start: int, size: int) -> Member:
    whole = partial(content.of, start, size)
    if has_image_suffix(name):
        return Member(name, size, whole)
    # Read now, in the order of the archive.
    return Member(name, size, partial(_known, whole(HEAD), whole))


def _known(head: bytes, whole: Reader, limit: int = -1) -> bytes:
    return head[:limit] if 0 <= limit <= HEAD else whole(limit)
