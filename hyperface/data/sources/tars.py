"""Lists the members of a tar archive, plain or compressed, and refuses hostile headers.

Python's `tarfile` trusts the sizes in an archive: it may allocate gigabytes, or never end.
"""

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
"""The errors that reading a truncated or damaged archive can raise."""
LONGEST_HEADER = 2**16
"""Largest size in bytes of a member's long name or further attributes; a path has at most 4,096."""


_NO_FILE = "a link or a device: it contains no image"


def tar_members(path: Path) -> list[Member]:
    """Lists the files in a tar archive, in the order in which their content is stored.

    Symbolic links and devices are listed too, as members that cannot be used. A hard link is read
    as the file that it points to. A compressed archive is unpacked once to list it, and a second
    time to read its images.

    Args:
      path: the archive, plain or compressed, which may be hostile.

    Raises:
      InputError: there is no such archive, it is damaged or cut off, or it announces a size that
        cannot be true.
    """
    try:
        members = list(_members(path))
    except InputError:
        raise
    except CUT as error:
        raise InputError(
            f"expected a whole tar archive at {path}, found: {error}. Get the file again."
        ) from None
    # Sorted by place, so that a hard link is read right after its file: going back in a compressed
    # archive means unpacking it again from the start.
    return [member for _, member in sorted(members, key=lambda found: found[0])]


class _Entry(tarfile.TarInfo):
    """A tar header that is refused if a size in it cannot be true.

    tarfile would read a long name into memory, whatever length the archive announces.
    """

    def _proc_member(self, archive: "_Tar") -> tarfile.TarInfo:
        # tarfile calls this for every header, before it acts on the size in it. The format allows a
        # negative size, with which tarfile would seek backwards.
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
        # A private method of tarfile, unknown to type checkers; no public one sees headers first.
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
    """A tar archive that closes its file when it is no longer used, as ZipFile does.

    A source reads from it as long as the source exists.
    """

    tarinfo = _Entry
    members: list[tarfile.TarInfo]
    """The headers read so far, which TarFile keeps."""
    global_header = 0
    """Bytes of the global headers read so far. Every later member gets a copy of them."""

    def __del__(self) -> None:
        self.fileobj.close()


class _Content:
    """Reads the content of members, and keeps the last one: a hard link to it may come next."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive, self._start, self._data = archive, -1, b""

    def read(self, start: int, size: int, limit: int = -1) -> bytes:
        """Returns the bytes of a member.

        Args:
          start: byte of the unpacked archive at which the content of the member starts.
          size: size of the content in bytes.
          limit: largest number of bytes to return; -1 returns all.

        Raises:
          ValueError: the archive is damaged, or ends before the content.
        """
        size = size if limit < 0 else min(size, limit)
        # A file and its hard links are read one after the other, and unpacked once.
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
    """Yields each member, together with the byte at which its content starts."""
    if not path.is_file():
        raise InputError(f"expected a tar archive at {path}, found no file.")
    archive = _Tar(fileobj=open_unpacked(path))
    content = _Content(archive)
    before = -1
    files: dict[str, tuple[int, Member]] = {}
    for info in iter(archive.next, None):
        # A damaged size can lead back to a member that was read, and the loop would never end.
        if archive.offset <= before:
            raise tarfile.ReadError(f"a member at byte {before} that ends before it starts")
        # tarfile keeps every header, which takes gigabytes for millions of members.
        before, archive.members = archive.offset, []
        if info.isdir():
            continue
        name = info.name.replace("\\", "/")
        start, found = info.offset_data, Member(name, 0, partial(content.read, 0, 0), _NO_FILE)
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
    # tarfile takes a damaged header, or a cut between two members, for the end of the archive. A
    # real end is marked by a block of zeros.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(
            f"expected a whole tar archive at {path}, found no end, or a damaged header, at byte "
            f"{archive.offset}. Get the file again."
        )


def _member(name: str, content: _Content, start: int, size: int) -> Member:
    """Returns the member for a regular file.

    Args:
      name: path of the file in the archive.
      content: reads from the archive.
      start: byte of the unpacked archive at which the file's content starts.
      size: size of the file in bytes.
    """
    whole = partial(content.read, start, size)
    if has_image_suffix(name):
        return Member(name, size, whole)
    # The first bytes of other files are needed to recognise images. They are read now, because
    # coming back later would unpack a compressed archive again.
    return Member(name, size, partial(_known, whole(HEAD), whole))


def _known(head: bytes, whole: Reader, limit: int = -1) -> bytes:
    """Returns the bytes of a file whose first HEAD bytes are in memory already.

    Args:
      head: the first HEAD bytes.
      whole: reads the file from the archive.
      limit: number of bytes to return; -1 returns all.
    """
    return head[:limit] if 0 <= limit <= HEAD else whole(limit)
