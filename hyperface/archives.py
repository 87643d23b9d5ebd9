"""Archives and compressed files of strangers, read in pieces against a limit.

A few bytes can unpack to gigabytes, and a header can announce any size. So nothing is unpacked
beyond what its reader allows, and nothing is allocated because a header says so.
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
"""A compressed file may unpack to FLOOR + RATIO times its size: photographs and features hardly
shrink when they are compressed."""
DICTIONARY = 128 * 2**20
"""Bytes of memory that an xz stream may ask for; `xz -9` asks for 65 MiB."""
_PIECE = 2**16
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Others are rare, and Python's zipfile unpacks them in steps of any size."""
_OTHER_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}


def unpacked_limit(size: int) -> int:
    """Returns the largest number of bytes that a compressed file of that size may unpack to."""
    return FLOOR + RATIO * size


def open_zip(path: Path) -> zipfile.ZipFile:
    """Returns a zip archive whose members do not share bytes; read them by `read_member`.

    Raises:
      InputError: there is no such file, it is damaged, or its members overlap.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a zip archive at {path}, found no file.")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # A damaged directory fails in zipfile, struct or a text codec.
        raise InputError(
            f"expected a whole zip archive at {path}, found: {error}. Get the file again."
        ) from None
    packed, size = sum(info.compress_size for info in archive.infolist()), path.stat().st_size
    # Members that share bytes let a small file unpack to any size.
    if packed > size:
        archive.close()
        raise InputError(
            f"expected a zip archive at {path} whose members fit into its {size:,} bytes, found "
            f"{packed:,} bytes of members that overlap. Get the file again."
        )
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Returns the content of a member.

    Raises:
      ValueError: it is damaged, encrypted, larger than the limit, not as large as it says, or
        packed by another method than deflate.
    """
    # The announced size is compared first, so that nothing is unpacked in vain.
    if info.file_size > limit:
        raise ValueError(f"expected at most {limit:,} bytes, found {info.file_size:,}")
    with open_member(archive, info) as file:
        try:
            # Never more than announced, whatever the compressed data holds.
            data = file.read(info.file_size)
        except Exception as error:  # As in `open_zip`.
            raise damaged_member(error) from None
    if len(data) != info.file_size:
        raise damaged_member(f"{len(data):,} of {info.file_size:,} bytes")
    return data


def read_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, count: int) -> bytes:
    """Returns the first bytes of a member without a check of its checksum.

    Raises:
      ValueError: as `read_member`.
    """
    with open_member(archive, info) as file:
        try:
            return file.read(count)
        except Exception as error:  # As in `open_zip`.
            raise damaged_member(error) from None


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Returns a member as a file; read it in pieces, and never all of it at once.

    Raises:
      ValueError: as `read_member`.
    """
    if info.compress_type not in _METHODS:
        name = _OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise ValueError(f"expected a member that is stored or deflated, found {name}")
    try:
        return archive.open(info)
    except Exception as error:
        raise damaged_member(error) from None


def damaged_member(found: object) -> ValueError:
    """Returns the error of a member that cannot be read."""
    return ValueError(f"expected a whole member of the archive, found: {found}")


class _Decompressor(Protocol):
    """What bz2 and lzma offer."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor for gzip, in the manner of those of bz2 and lzma."""

    def __init__(self) -> None:
        # 16 + 15: a gzip header, and the largest window.
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
        # zlib hands back what did not fit; bz2 and lzma keep it themselves.
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _xz() -> lzma.LZMADecompressor:
    # The header sets the size of the dictionary, which would be allocated at once.
    return lzma.LZMADecompressor(memlimit=DICTIONARY)


_KINDS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": _xz,
    b"\x5d\x00\x00": _xz,  # .lzma, the format before xz.
}


def open_unpacked(path: Path, limit: int | None = None) -> BinaryIO:
    """Returns a file as it is, or what it unpacks to where it is compressed by gzip, bzip2 or xz.

    Args:
      path: a regular file.
      limit: bytes that it may unpack to; by default as its size allows.

    Returns:
      The open file, which seeks. Reading it raises EOFError, OSError, zlib.error or
      lzma.LZMAError where it is damaged or unpacks to more.

    Raises:
      OSError: it cannot be opened.
    """
    file = path.open("rb")
    # By the content and not by the name, which says nothing certain.
    start = file.read(6)
    file.seek(0)
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind is None:
        return file
    limit = unpacked_limit(path.stat().st_size) if limit is None else limit
    return io.BufferedReader(_Unpacked(file, kind, limit), _PIECE)


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to; going back unpacks it again from the start."""

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
        # In pieces: skipping must not hold what it skips.
        while self._at < target and self._next(min(target - self._at, 2**20)):
            pass
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        data = self._next(len(target))
        target[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        """At least one byte, unless it is the end."""
        while self._stream is not None:
            packed = self._file.read(_PIECE) if self._stream.needs_input else b""
            # The file has ended while the stream wants more.
            ends = self._stream.needs_input and not packed
            data = self._stream.decompress(packed, most)
            self._at += len(data)
            # Counted as it comes out, since no header can be trusted.
            if self._at > self._limit:
                raise OSError(
                    f"that it unpacks to more than {self._limit:,} bytes; where that is right, "
                    "unpack it and give what was in it"
                )
            if self._stream.eof:
                self._stream = self._following(self._stream.unused_data)
            elif ends and not data:
                raise EOFError("it ends inside the compressed data")
            if data:
                return data
        return b""

    def _following(self, rest: bytes) -> _Decompressor | None:
        """Returns the next of several joined streams, as pigz makes them; zeros may pad them."""
        while not rest.lstrip(b"\0"):
            rest = self._file.read(_PIECE)
            if not rest:
                return None
        rest = rest.lstrip(b"\0")
        # The next stream starts in the middle of what was read.
        self._file.seek(-len(rest), io.SEEK_CUR)
        return self._kind()

    def close(self) -> None:
        self._file.close()
        super().close()
