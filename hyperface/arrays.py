"""Reads untrusted NumPy files (.npy, .npz), whose announced sizes are compared with their bytes.

`numpy.load` does not do that: it allocates the size that a header announces, and unpacks archives
of any compression ratio.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from hyperface.archives import open_member, open_zip, unpacked_limit
from hyperface.errors import InputError

LONGEST_HEADER = 10_000
"""Largest header in bytes, which is NumPy's own limit. A usual array has a header of 128 bytes."""
_PIECE = 2**20
"""Number of bytes of a member that are read at once."""
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class _Header(NamedTuple):
    """The header of an .npy file."""

    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index varies fastest in the file, as in Fortran, and not the last one."""
    dtype: np.dtype
    start: int
    """Position in bytes of the first number."""

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: Path, *, mapped: bool) -> np.ndarray:
    """Returns the array of an .npy file.

    Args:
      path: the file.
      mapped: True maps the file into memory (read-only), so that only the numbers that are used
        are read. False reads all of them at once.

    Raises:
      InputError: the file is not an .npy file, is truncated, or contains anything but numbers and
        text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected an .npy file at {path}, found no file.")
    try:
        with path.open("rb") as file:
            header = _header(file.read(LONGEST_HEADER), path.stat().st_size)
        order = "F" if header.fortran else "C"
        if mapped and 0 not in header.shape:  # An empty file cannot be mapped.
            return np.memmap(path, header.dtype, "r", header.start, header.shape, order)
        array = np.fromfile(path, header.dtype, math.prod(header.shape), offset=header.start)
        return array.reshape(header.shape, order=order)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"expected a whole .npy file at {path}, found: {error}.") from None


def read_npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Reads the named arrays of an .npz archive; other arrays in it are not read.

    Args:
      path: the archive.
      names: names of the arrays, without the ending .npy. The arrays are returned in this order.

    Raises:
      InputError: one of these:

        - The file is not an .npz archive, is damaged, or lacks one of the arrays.
        - A named array contains anything but numbers and text.
        - The named arrays together need more memory than 32 MiB plus ten times the size of the
          file. This limit protects against a small file that unpacks to a huge one.
    """
    with open_zip(path) as archive:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        if set(names) - members.keys():
            wanted = " and ".join(map(repr, names))
            found = ", ".join(map(repr, sorted(members)))[:200] or "none"
            raise InputError(f"{path}: expected arrays {wanted}, found {found}.")
        total, limit = sum(members[n].file_size for n in names), _limit(path)
        if total > limit:
            raise InputError(
                f"{path}: expected arrays of at most {limit:,} bytes in so small an archive, found "
                f"{total:,}. Store them as .npy, or by numpy.savez without compression."
            )
        arrays = []
        for name in names:
            try:
                arrays.append(_read(archive, members[name]))
            # A damaged member raises many kinds of errors in zipfile, zlib and NumPy's parser.
            except Exception as error:
                raise InputError(
                    f"{path}: expected a whole array {name!r}, found: {error}."
                ) from None
        return arrays


def npz_names(path: Path) -> set[str]:
    """Returns the names of the arrays in an .npz archive, without the ending .npy.

    Raises:
      InputError: the file is not an .npz archive.
    """
    with open_zip(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _limit(path: Path) -> int:
    return unpacked_limit(path.stat().st_size)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns the array in a member of an .npz archive.

    Raises:
      ValueError: the member is damaged, or contains anything but numbers and text.
    """
    with open_member(archive, member) as file:
        start = file.read(LONGEST_HEADER)
        header = _header(start, member.file_size)
        # `_header` has compared this size with the member's, so no header can fill the memory.
        array = np.empty(math.prod(header.shape), header.dtype)
        _fill(array, start[header.start :], file)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


def _fill(array: np.ndarray, start: bytes, file: IO[bytes]) -> None:
    """Reads an unpacked member into an array's own memory, so that it is stored only once.

    Args:
      array: the array to fill.
      start: the first bytes of the numbers, which were read with the header.
      file: the member, at the byte after `start`.

    Raises:
      ValueError: the member has fewer bytes than the array.
    """
    if not array.nbytes:
        return
    target = array.view(np.uint8).data
    target[: len(start)] = start
    at = len(start)
    while at < len(target):
        # In pieces, since `file.read` of the whole member would store it a second time.
        piece = file.read(min(_PIECE, len(target) - at))
        if not piece:
            raise ValueError(f"{at:,} of {len(target):,} bytes")
        target[at : at + len(piece)] = piece
        at += len(piece)


def _header(start: bytes, size: int) -> _Header:
    """Reads the header of an .npy file.

    Args:
      start: the first bytes of the file.
      size: size of the file in bytes.

    Raises:
      ValueError: the header is damaged, or does not fit the file's size.
    """
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version} of the format, expected 1.0 or 2.0")
    try:
        shape, fortran, dtype = _READERS[version](file, LONGEST_HEADER)
    # NumPy parses the header as a Python literal, which raises many kinds of errors.
    except Exception as error:
        reason = str(error).partition("\n")[0][:100]
        raise ValueError(f"a damaged header ({reason})") from None
    # An array of objects would have to be unpickled, which can execute code.
    if dtype.kind not in "biufUS":
        raise ValueError(f"an array of {dtype}, expected numbers or text")
    header = _Header(shape, fortran, dtype, file.tell())
    # The announced size must equal that of the file, so that no header can make us allocate more.
    if min(shape, default=0) < 0 or len(shape) > 8 or not dtype.itemsize or header.end != size:
        raise ValueError(
            f"an array of shape {str(shape)[:60]} and type {dtype} in {size - header.start} bytes"
        )
    return header
