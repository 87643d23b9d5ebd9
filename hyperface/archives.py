"""Reads untrusted archives and compressed files in pieces, up to a limit.

A few bytes can unpack to gigabytes, and a header can announce any size. Therefore each reader sets
a limit on the unpacked bytes, and no memory is allocated on the word of a header.
"""

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

from hyperface.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RATIO, FLOOR = 10, 32 * 2**20
"""A compressed file may unpack to at most FLOOR bytes plus RATIO times its size. Photographs and
features hardly shrink when they are compressed, so sound files stay far below this limit."""
DICTIONARY = 128 * 2**20
"""Largest memory in bytes that an xz stream may ask for; `xz -9` asks for 65 MiB."""
_PIECE = 2**16
"""Number of compressed bytes that are read at once."""
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""The compression methods that are read. Python's zipfile does not bound the steps in which it
unpacks the others."""
_OTHER_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}


def unpacked_limit(size: int) -> int:
    """Returns the largest number of bytes to which a compressed file of this size may unpack.

    The limit is 32 MiB plus ten times the size, and protects the memory against a small file that
    unpacks to a huge one. Functions that read a file raise an error if it unpacks to more.

    Args:
      size: size of the compressed file in bytes.
    """
    return FLOOR + RATIO * size


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip archive and checks that its members do not overlap.

    Members that share bytes would let a small archive unpack to any size. Read the members with
    `read_member`, which limits the size of each one.

    Raises:
      InputError: there is no such file, it is damaged, or its members overlap.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a zip archive at {path}, found no file.")
    try:
        archive = zipfile.ZipFile(path)
    # A damaged directory raises many kinds of errors in zipfile, struct and the text codecs.
    except Exception as error:
        raise InputError(
            f"expected a whole zip archive at {path}, found: {error}. Get the file again."
        ) from None
    packed, size = sum(info.compress_size for info in archive.infolist()), path.stat().st_size
    # If members share bytes, a small file can unpack to any size without a large ratio.
    if packed > size:
        archive.close()
        raise InputError(
            f"expected a zip archive at {path} whose members fit into its {size:,} bytes, found "
            f"{packed:,} bytes of members that overlap. Get the file again."
        )
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Returns the content of a member of an archive.

    Args:
      archive: the archive.
      info: the member, as `archive.infolist()` returns it.
      limit: largest number of bytes to which the member may unpack. A larger member raises an error
        and is not unpacked.

    Raises:
      ValueError: the member is damaged or encrypted, is larger than the limit, has another size
        than it announces, or is compressed by any method but deflate.
    """
    # The announced size is compared first, so that nothing is unpacked if it is too large.
    if info.file_size > limit:
        raise ValueError(f"expected at most {limit:,} bytes, found {info.file_size:,}")
    with open_member(archive, info) as file:
        try:
            # At most the announced size, even if the compressed data unpacks to more.
            data = file.read(info.file_size)
        except Exception as error:  # Many kinds, as in `open_zip`.
            raise damaged_member(error) from None
    if len(data) != info.file_size:
        raise damaged_member(f"{len(data):,} of {info.file_size:,} bytes")
    return data


def read_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, count: int) -> bytes:
    """Returns the first `count` bytes of a member, or all bytes of a shorter member.

    The checksum of the member is not verified, because that needs all of its bytes.

    Raises:
      ValueError: the member is damaged or encrypted, or is compressed by another method than
        deflate.
    """
    with open_member(archive, info) as file:
        try:
            return file.read(count)
        except Exception as error:  # Many kinds, as in `open_zip`.
            raise damaged_member(error) from None


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Opens a member as a file. Its size is not limited, so read it in pieces.

    Damage inside of the compressed data raises an error only when it is read.

    Raises:
      ValueError: the member is encrypted, its header is damaged, or it is compressed by another
        method than deflate.
    """
    if info.compress_type not in _METHODS:
        name = _OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise ValueError(f"expected a member that is stored or deflated, found {name}")
    try:
        return archive.open(info)
    except Exception as error:
        raise damaged_member(error) from None


def damaged_member(found: object) -> ValueError:
    """Returns a ValueError about a zip member that cannot be read. The caller raises it.

    Args:
      found: the exception that occurred, or a description of the damage. The message quotes it.
    """
    return ValueError(f"expected a whole member of the archive, found: {found}")


class _Decompressor(Protocol):
    """The interface of the decompressors of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """Adapts zlib's decompressor for gzip to the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        # zlib's code for a gzip header (16) with the largest window (15).
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        # zlib returns the input that did not fit into `max_length` bytes. The decompressors of bz2
        # and lzma keep it.
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _xz() -> lzma.LZMADecompressor:
    # The header of the file sets the size of the dictionary, which is allocated at once.
    return lzma.LZMADecompressor(memlimit=DICTIONARY)


_KINDS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": _xz,
    b"\x5d\x00\x00": _xz,  # The older format .lzma, which the same decompressor reads.
}


def open_unpacked(path: Path, limit: int | None = None) -> BinaryIO:
    """Opens a file for reading, and unpacks it if it is compressed by gzip, bzip2 or xz.

    The first bytes of the file decide whether it is compressed; its name has no effect. It is
    unpacked while it is read, in memory.

    Args:
      path: a regular file.
      limit: largest number of bytes to which a compressed file may unpack; by default 32 MiB plus
        ten times its size, as `unpacked_limit` returns. A file that is not compressed has no limit.

    Returns:
      The open file, which supports seeking. Reading raises EOFError, OSError, zlib.error or
      lzma.LZMAError if the file is damaged or exceeds the limit.

    Raises:
      OSError: the file cannot be opened.
    """
    file = path.open("rb")
    # The first bytes decide, because a name may have any ending.
    start = file.read(6)
    file.seek(0)
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind is None:
        return file
    limit = unpacked_limit(path.stat().st_size) if limit is None else limit
    return io.BufferedReader(_Unpacked(file, kind, limit), _PIECE)


class _Unpacked(io.RawIOBase):
    """The unpacked content of a compressed file. Seeking back unpacks it again from the start.

    Args:
      file: the compressed file.
      kind: builds the decompressor of a stream.
      limit: largest number of bytes to which the file may unpack.
    """

    def __init__(self, file: BinaryIO, kind: Callable[[], _Decompressor], limit: int) -> None:
        self._file, self._kind, self._limit = file, kind, limit
        self._restart()

    def _restart(self) -> None:
        self._file.seek(0)
        self._stream: _Decompressor | None = self._kind()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END or target < 0:
            raise OSError("the end of a compressed file is not known before it is read")
        if target < self._at:
            self._restart()
        # In pieces, so that the skipped bytes need no memory.
        while self._at < target and self._next(min(target - self._at, 2**20)):
            pass
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        data = self._next(len(target))
        target[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        """Returns 1 to `most` bytes, or no byte at the end."""
        while self._stream is not None:
            packed = self._file.read(_PIECE) if self._stream.needs_input else b""
            # True if the file has ended although the stream needs more input.
            ends = self._stream.needs_input and not packed
            data = self._stream.decompress(packed, most)
            self._at += len(data)
            # The unpacked bytes are counted, since no header can be trusted.
            if self._at > self._limit:
                raise OSError(
                    f"that it unpacks to more than {self._limit:,} bytes; if that is right, "
                    "unpack it and give the unpacked file"
                )
            if self._stream.eof:
                self._stream = self._following(self._stream.unused_data)
            elif ends and not data:
                raise EOFError("it ends inside the compressed data")
            if data:
                return data
        return b""

    def _following(self, rest: bytes) -> _Decompressor | None:
        """Returns the decompressor of the next stream, or None at the end of the file.

        A file may contain several streams one after the other, with zeros between them.
        """
        while not rest.lstrip(b"\0"):
            rest = self._file.read(_PIECE)
            if not rest:
                return None
        rest = rest.lstrip(b"\0")
        # The next stream begins within the bytes that were read, so the file is set back.
        self._file.seek(-len(rest), io.SEEK_CUR)
        return self._kind()

    def close(self) -> None:
        self._file.close()
        super().close()
