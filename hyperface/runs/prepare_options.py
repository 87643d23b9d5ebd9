"""Options of the command that prepares data sets."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

AUTOMATIC = {"orl_faces": "orl"}
"""Data sets that need nothing from the user, and the sources they are made from."""
OWN_NAMES = {"orl": "orl_faces", "mnist": "mnist"}
"""Sources that need no --out, and the names of their data sets."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Options of `hyperface prepare`.

    Example:
      >>> Prepare("photos/", out="mine", held_out=10).channels is None
      True
    """

    source: tyro.conf.Positional[str]
    """A folder, an archive, a file, or one of orl, mnist and tfds:NAME; with --inspect, a prepared
    data set."""
    inspect: bool = False
    """Show the content of a prepared data set: counts, images by identity, and a sheet of faces."""
    out: str | None = None
    """Name of the data set."""
    held_out: int | Literal["all"] | None = None
    """People at the end of the sorted list who become the test split: by default 10 of orl's, and
    of a source of 30 people or more a tenth, at least 10."""
    test_people: Path | None = None
    """A file of names, one per line, of the people who become the test split instead."""
    keep: Path | None = None
    """A list of images to take, one name per line; the others are left out."""
    channels: Literal[1, 3] | None = None
    """1 stores grey images, 3 colour: 3 by default, 1 for orl and mnist."""
    detect: bool = False
    """Find the faces of raw photos by MTCNN and align them. The landmarks are written beside the
    data set; they can be edited and given back by --landmarks."""
    faces: Literal["largest", "central", "all"] | None = None
    """Which of several faces of a photo are taken: the largest by default, where one in the centre
    counts more; the nearest to the centre; or all, each with its photo's identity."""
    landmarks: Path | None = None
    """CSV of five points per image (file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy), to align by."""
    size: Literal["112x96", "112x112", "144x144", "128x128"] | None = None
    """Height x width to align to: the papers' templates (112x96 by default), or LightCNN's by eyes
    and mouth."""
    strict: bool = False
    """Refuse a source with an image that cannot be used, instead of listing it, and folders that
    can be read in two ways."""
    replace: bool = False
    """Write the data set again, and replace the old one once the new one is complete."""
    kind: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """folder, zip, tar, list, recordio, verification, parquet or digits; found out by default."""
    root: Path | None = None
    """Folder that the paths of a list start from; the list's folder by default."""
    image: str | None = None
    """Column of a parquet file that holds the images."""
    label: str | None = None
    """Column that holds the identities."""
    follow_links: bool = False
    """Follow links that lead out of a folder."""
    distinct_case: bool = False
    """Take identities that differ in case only for two people."""
    identity_level: int | None = None
    """Which folder on the way to an image names the person: 1 for the first one in the source.
    Found out by default."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""


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
"""What --help shows."""
