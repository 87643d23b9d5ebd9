"""The options of `hyperface prepare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

AUTOMATIC = {"orl_faces": "orl"}
"""Data sets that are prepared without the user's help -> their sources."""
OWN_NAMES = {"orl": "orl_faces", "mnist": "mnist"}
"""Sources that need no --out -> the names of their data sets."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Options of `hyperface prepare`.

    Example:
      >>> Prepare("photos/", out="mine", held_out=10).channels is None
      True
    """

    source: tyro.conf.Positional[str]
    """A folder, an archive, a file, or one of orl, mnist and tfds:NAME. With --inspect, the name of
    a prepared data set."""
    inspect: bool = False
    """Show a prepared data set: its counts, the images per identity, and a sheet of faces."""
    out: str | None = None
    """Name of the data set to write. It is needed except for orl and mnist, which have names of
    their own."""
    held_out: int | Literal["all"] | None = None
    """Number of people at the end of the sorted list who become the test split; "all" puts all
    people into it. By default 10 for orl, a tenth of the people (at least 10) for a source of 30
    people or more, and nobody for a smaller source."""
    test_people: Path | None = None
    """A text file with the names of the test people, one per line. It replaces --held-out."""
    keep: Path | None = None
    """A text file with the names of the images to use, one per line. All others are left out."""
    channels: Literal[1, 3] | None = None
    """1 stores grey images, and 3 colour images. By default 1 for orl and mnist and for faces that
    are aligned to 144x144 or 128x128, and 3 for all others."""
    detect: bool = False
    """Find the faces in raw photos by MTCNN, and align them. The landmarks are written into the
    data set's folder. You can edit them and pass them to --landmarks."""
    faces: Literal["largest", "central", "all"] | None = None
    """Which faces are used if a photo has several. largest (the default): the largest one, with a
    preference for the centre. central: the one nearest to the centre. all: all of them, each with
    the identity of its photo."""
    landmarks: Path | None = None
    """CSV file of five points per image, by which the faces are aligned. Its first line is
    file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy: the image's name, then x and y of the left and right
    eye, the nose, and the left and right corner of the mouth."""
    size: Literal["112x96", "112x112", "144x144", "128x128"] | None = None
    """Height x width of the aligned faces. 112x96 (the default) and 112x112 are the papers'
    templates. 144x144 and 128x128 are those of LightCNN, by eyes and mouth."""
    strict: bool = False
    """Stop with an error if an image cannot be used, or if the folders can be read in two ways.
    Without it such images are left out and listed."""
    replace: bool = False
    """Write the data set again, and replace the old one when the new one is complete."""
    kind: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """Format of the source: folder, zip, tar, list, recordio, verification, parquet or digits. By
    default it is detected."""
    root: Path | None = None
    """Folder to which the paths in a list are relative; by default the list's folder."""
    image: str | None = None
    """Column of a parquet file with the images."""
    label: str | None = None
    """Column of a parquet file with the identities."""
    follow_links: bool = False
    """Follow links that lead out of the source folder."""
    distinct_case: bool = False
    """Treat identities whose names differ only in upper and lower case as different people."""
    identity_level: int | None = None
    """Level of the folder that names the person, where 1 is the first folder below the source. By
    default it is detected."""
    data_dir: Path | None = None
    """Folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache."""


MAIN_OPTIONS = (
    "source",
    "inspect",
    "out",
    "held_out",
    "test_people",
    "detect",
    "faces",
    "landmarks",
    "size",
    "channels",
    "replace",
    "root",
    "data_dir",
)
"""Names of the options that --help shows; --help-all shows all."""
