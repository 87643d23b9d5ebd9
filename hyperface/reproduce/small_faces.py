"""Builds the folder of faces from which the data set of the small-scale runs is prepared.

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --pairs DATA/protocols/frontal_profile.csv
    hyperface prepare people --out faces --held-out 60

With an archive of more CelebA people at half that size, the folder contains thousands of people,
all at half size, each with at least five images:

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --half-size celeba_56x48.zip --least 5
    hyperface prepare people --out faces56 --held-out 60

For networks that take 112 x 112 pixels, such as a released MobileFaceNet, `--square` writes all
images at that size:

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --half-size celeba_56x48.zip --least 5 --square
    hyperface prepare people --out faces112 --held-out 60

DATA is the folder of prepared data sets. The first two archives contain aligned faces of 112 x 96
pixels, one folder per person; a CFP folder contains the folders frontal/ and profile/. The table
names the CFP people who are also in LFW, by its columns `dataset` and `id`.

Nobody in the folder may be in LFW, and nobody may be in it twice. The other people to leave out
are listed in this module. They were found by comparing the mean features of people, from dlib's
published network, and by looking at the pictures of the most similar ones.

The half-size archive must not contain people of LFW or CFP. They were removed from it by mean
features of a released network. Perhaps one in eight of them was missed: for one person in ten, two
halves of the person's own images are less similar than the threshold that was used.
"""

import collections
import csv
import dataclasses
import io
import itertools
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import tyro
from PIL import Image

from hyperface import owned
from hyperface.data.images import decode
from hyperface.errors import expect
from hyperface.files import replace_text
from hyperface.runs import program

log = logging.getLogger("hyperface")

# The ids of CFP people who are in LFW but whom the table lacks: LFW spells their names differently.
_CFP_IN_LFW = (
    *(13, 14, 57, 66, 91, 112, 120, 131, 135, 160, 168, 171, 213, 218, 219),
    *(229, 233, 301, 326, 356, 364, 403, 407, 408, 412, 418, 483, 493, 499),
)
# Daniel Zelman, Nicole Hiltz, Noel Niell, Oxana Fedorova, and four people who look so much like a
# person of LFW that they may be the same.
_CELEBA_IN_LFW = (7218, 7261, 7355, 7398, 7202, 7291, 7371, 7407)
# They are 363, 365, 370 and 372 of CFP, and perhaps 406.
_CELEBA_IN_CFP = (7249, 7270, 7380, 7458, 7345)
LEFT_OUT = {
    "celeba": frozenset(f"{person:05}" for person in (*_CELEBA_IN_LFW, *_CELEBA_IN_CFP)),
    "cfp": frozenset(f"{person:03}" for person in _CFP_IN_LFW),
}
"""Archive -> ids of the people who are left out, in addition to those of the table."""
HELD_OUT, FOLDS = 60, 10
"""Number of people held out, whose images form the pairs, and number of folds of pairs."""


@dataclasses.dataclass(frozen=True)
class SmallFaces:
    """The options of `python -m hyperface.reproduce.small_faces`.

    The program builds the data of the small-scale runs: a folder of people from CelebA and CFP,
    without those who are also in LFW.
    """

    celeba: tyro.conf.Positional[Path]
    """Zip archive of CelebA people, with files PERSON/IMAGE.jpg."""
    cfp: tyro.conf.Positional[Path]
    """Zip archive of CFP, with files PERSON/KIND/IMAGE.jpg, where KIND is frontal or profile."""
    overlap: tyro.conf.Positional[Path]
    """CSV table of the people of CFP who are also in LFW, with the columns dataset ("cfp") and
    id."""
    out: Path
    """Folder to write, with one folder per person. Sorted by name, CFP people come last."""
    half_size: Path | None = None
    """Zip archive of more CelebA people, with files PERSON/IMAGE.jpg at half the size. All other
    images are reduced to that size, unless --square is given. An image that is in both CelebA
    archives is written once."""
    square: bool = False
    """Write all images as squares of 112 x 112 pixels. Images of the half-size archive are then
    enlarged, and the others keep their size. Columns are added at both sides by repeating the edge,
    because networks for 112 x 112 images expect the face at that place."""
    least: int = 1
    """Smallest number of images per person. People with fewer images are left out."""
    pairs: Path | None = None
    """File to write with pairs of images, for a verification protocol. The images show the last 60
    people of CFP, who are not to be trained on. The pairs form ten folds (parts), each with a tenth
    of these people. Within a fold, every frontal image is paired with every profile image. By
    default no file is written."""


def main(args: Sequence[str]) -> None:
    """Parses the options and writes the folder, which must not exist yet.

    A killed program leaves no half-written folder.
    """
    options = program.with_home(
        tyro.cli(
            SmallFaces,
            args=args,
            prog="python -m hyperface.reproduce.small_faces",
            description=__doc__,
        )
    )
    for path in (options.celeba, options.cfp, options.overlap, options.half_size):
        expect(path is None or path.is_file(), str(path), "a file", "none")
    expect(not options.out.exists(), str(options.out), "a folder that does not exist yet", "one")
    with options.overlap.open(encoding="utf-8", newline="") as file:
        in_lfw = {row["id"] for row in csv.DictReader(file) if row["dataset"] == "cfp"}
    celeba, cfp = LEFT_OUT["celeba"], LEFT_OUT["cfp"] | in_lfw
    change = _squared if options.square else _unchanged if options.half_size is None else _halved
    archives = [
        Archive("celeba", options.celeba, celeba, change),
        Archive("cfp", options.cfp, cfp, change),
    ]
    if options.half_size is not None:
        change = _squared if options.square else _unchanged
        archives.append(Archive("celeba", options.half_size, celeba, change))
    with (
        owned.writing(options.out),
        # Beside the result, so that the last step is a rename on one file system: a killed command
        # leaves no half-written folder of the final name.
        tempfile.TemporaryDirectory(dir=options.out.parent, prefix=options.out.name) as scratch,
    ):
        people = Path(scratch) / "people"
        _extract(people, archives, options.least)
        if options.pairs is not None:
            has_parent = options.pairs.parent.is_dir()
            expect(has_parent, "--pairs", "a file in a folder that exists", "none")
            replace_text(options.pairs, "".join(_frontal_profile(people)))
        people.rename(options.out)


class Archive(NamedTuple):
    """An archive of people, and how its images are used."""

    name: str
    """Prefix of the names of its people in the new folder, "celeba" or "cfp"."""
    path: Path
    left_out: frozenset[str]
    """Names of its people who are left out, because they are also in another data set."""
    change: Callable[[bytes], tuple[bytes, str]]
    """Function from an encoded JPEG to (the encoded image to write, its suffix)."""


def _extract(folder: Path, archives: Sequence[Archive], least: int) -> None:
    """Writes one folder per person, without the people who have fewer images than `least`."""
    counts: collections.Counter[str] = collections.Counter()
    for archive in archives:
        before = len(counts)
        for person, image, content in _images(archive):
            target = folder / f"{archive.name}_{person}" / image
            # The number of an image is the same in both archives of CelebA.
            if any(target.with_suffix(kind).exists() for kind in (".png", ".jpg")):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            content, suffix = archive.change(content)
            target.with_suffix(suffix).write_bytes(content)
            counts[target.parent.name] += 1
        log.info(f"{archive.path}: {len(counts) - before} people not seen before")
    for person in [person for person, count in counts.items() if count < least]:
        shutil.rmtree(folder / person)


def _unchanged(content: bytes) -> tuple[bytes, str]:
    return content, ".jpg"


def _halved(content: bytes) -> tuple[bytes, str]:
    """Returns an image with half the sides. Each pixel is the mean of 2 x 2 pixels."""
    return _encoded(Image.fromarray(decode(content)).reduce(2)), ".png"


def _squared(content: bytes) -> tuple[bytes, str]:
    """Returns an image of 112 x 112 pixels; see `SmallFaces.square`."""
    image = Image.fromarray(decode(content)).resize((96, 112), Image.Resampling.BICUBIC)
    padded = np.pad(np.asarray(image), ((0, 0), (8, 8), (0, 0)), mode="edge")
    return _encoded(Image.fromarray(padded)), ".png"


def _encoded(image: Image.Image) -> bytes:
    """Returns the image as PNG, because a second JPEG compression would add artefacts."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _frontal_profile(people: Path) -> Iterator[str]:
    """Yields the lines of the list of pairs, with a header."""
    yield "first,second,same,fold\n"
    held_out = sorted(path.name for path in people.iterdir())[-HELD_OUT:]
    # Folds share no person, so that a fold's threshold never comes from its own people.
    for fold in range(FOLDS):
        some = held_out[fold * len(held_out) // FOLDS : (fold + 1) * len(held_out) // FOLDS]
        images = [
            f"{person}/{path.name}"
            for person in some
            for path in sorted((people / person).iterdir())
        ]
        frontal, profile = (
            [name for name in images if f"/{kind}_" in name] for kind in ("frontal", "profile")
        )
        for first, second in itertools.product(frontal, profile):
            same = first.partition("/")[0] == second.partition("/")[0]
            yield f"{first},{second},{int(same)},{fold}\n"


def _images(archive: Archive) -> Iterator[tuple[str, str, bytes]]:
    """Yields (person, name of the image, encoded image) for the people who are not left out."""
    with ZipFile(archive.path) as opened:
        for name in opened.namelist():
            person, *rest = PurePosixPath(name).parts
            if rest and rest[-1].endswith(".jpg") and person not in archive.left_out:
                # A name with ".." would write outside of the folder.
                safe = ".." not in rest and person != ".."
                expect(safe, str(archive.path), "names that stay in the folder", name)
                yield person, "_".join(rest), opened.read(name)


if __name__ == "__main__":
    program.run(main)
