"""Makes the folder of which the papers' tables have their figures at small scale.

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --pairs DATA/protocols/frontal_profile.csv
    hyperface prepare people --out faces --held-out 60

With an archive of more of CelebA's people at half of that size, the folder has thousands of
people, all at that size, of whom each has some images:

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --half-size celeba_56x48.zip --least 5
    hyperface prepare people --out faces56 --held-out 60

DATA is the folder of prepared data sets. Both archives hold aligned 112 x 96 faces, a folder a
person (CFP's with frontal/ and profile/ in it). The table names the people of CFP who are in LFW,
by its columns `dataset` and `id`. Who else is in LFW, or in both archives, was found by mean
features of a published network (dlib's), the nearest looked at as pictures, and is listed here.
The archive of half size must come without people who are in LFW or CFP: it was made by mean
features of a released network too, at a similarity that 10 % of two halves of one person's own
images fall below, so that of the people who are in both perhaps one in eight is still there.
"""

import collections
import csv
import dataclasses
import io
import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import ZipFile

import tyro
from PIL import Image

from hyperface import owned
from hyperface.data.images import decode
from hyperface.errors import expect
from hyperface.files import replace_text
from hyperface.runs import program

log = logging.getLogger("hyperface")

# Their names are spelt otherwise in LFW, or not in the table.
_CFP_IN_LFW = (
    *(13, 14, 57, 66, 91, 112, 120, 131, 135, 160, 168, 171, 213, 218, 219),
    *(229, 233, 301, 326, 356, 364, 403, 407, 408, 412, 418, 483, 493, 499),
)
# Daniel Zelman, Nicole Hiltz, Noel Niell, Oxana Fedorova, and four hard to tell from one of LFW's.
_CELEBA_IN_LFW = (7218, 7261, 7355, 7398, 7202, 7291, 7371, 7407)
# 363, 365, 370 and 372 of CFP, and perhaps 406.
_CELEBA_IN_CFP = (7249, 7270, 7380, 7458, 7345)
LEFT_OUT = {
    "celeba": frozenset(f"{person:05}" for person in (*_CELEBA_IN_LFW, *_CELEBA_IN_CFP)),
    "cfp": frozenset(f"{person:03}" for person in _CFP_IN_LFW),
}
"""People of each archive who are not in the folder, beside those of the table."""
HELD_OUT, FOLDS = 60, 10


@dataclasses.dataclass(frozen=True)
class SmallFaces:
    """Options of the command that builds the small training set of faces."""

    celeba: tyro.conf.Positional[Path]
    """Archive of CelebA's people, PERSON/IMAGE.jpg."""
    cfp: tyro.conf.Positional[Path]
    """Archive of CFP, PERSON/KIND/IMAGE.jpg."""
    overlap: tyro.conf.Positional[Path]
    """Table of who is in LFW too."""
    out: Path
    """Folder to write, with one folder per person; CFP's people come last by name."""
    half_size: Path | None = None
    """Archive of more of CelebA's people, PERSON/IMAGE.jpg at half the size; all other images are
    brought to that size. An image that both archives have is taken once."""
    least: int = 1
    """Smallest number of images of a person who is taken."""
    pairs: Path | None = None
    """List to make of frontal-profile pairs of the people held out, a tenth of them a fold: within
    it every frontal image with every profile, as CFP's own lists have some."""


def main(args: Sequence[str]) -> None:
    """Parses the options and writes the folder."""
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
    expect(not options.out.exists(), str(options.out), "a folder that is not there yet", "one")
    with options.overlap.open(encoding="utf-8", newline="") as file:
        in_lfw = {row["id"] for row in csv.DictReader(file) if row["dataset"] == "cfp"}
    celeba, cfp = LEFT_OUT["celeba"], LEFT_OUT["cfp"] | in_lfw
    archives = [
        Archive("celeba", options.celeba, celeba, 1 if options.half_size is None else 2),
        Archive("cfp", options.cfp, cfp, 1 if options.half_size is None else 2),
    ]
    if options.half_size is not None:
        archives.append(Archive("celeba", options.half_size, celeba, 1))
    with (
        owned.writing(options.out),
        # In the same folder, so that a rename is enough, and of a name that nothing has.
        tempfile.TemporaryDirectory(dir=options.out.parent, prefix=options.out.name) as scratch,
    ):
        people = Path(scratch) / "people"
        _extract(people, archives, options.least)
        if options.pairs is not None:
            there = options.pairs.parent.is_dir()
            expect(there, "--pairs", "a file in a folder that is there", "none")
            replace_text(options.pairs, "".join(_frontal_profile(people)))
        people.rename(options.out)


class Archive(NamedTuple):
    """One archive of people, and what is taken of it."""

    name: str
    """What the names of its people begin with."""
    path: Path
    left_out: frozenset[str]
    """Its people who are not taken."""
    shrink: int
    """Factor by which its images are made smaller per side."""


def _extract(folder: Path, archives: Sequence[Archive], least: int) -> None:
    """Writes a folder per person who has at least that many images."""
    counts: collections.Counter[str] = collections.Counter()
    for archive in archives:
        before = len(counts)
        for person, image, content in _images(archive):
            target = folder / f"{archive.name}_{person}" / image
            if archive.shrink > 1:
                target = target.with_suffix(".png")
            # The number of an image is the same in both archives of CelebA.
            if any(target.with_suffix(kind).exists() for kind in (".png", ".jpg")):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_smaller(content, archive.shrink))
            counts[target.parent.name] += 1
        log.info(f"{archive.path}: {len(counts) - before} people not seen before")
    for person in [person for person, count in counts.items() if count < least]:
        shutil.rmtree(folder / person)


def _smaller(content: bytes, shrink: int) -> bytes:
    """Returns the encoded image with each pixel the mean of a block of shrink x shrink."""
    if shrink == 1:
        return content
    out = io.BytesIO()
    # Without loss, since the image was compressed once already.
    Image.fromarray(decode(content)).reduce(shrink).save(out, "PNG")
    return out.getvalue()


def _frontal_profile(people: Path) -> Iterator[str]:
    """Lines of the list of pairs, with a header."""
    yield "first,second,same,fold\n"
    held_out = sorted(path.name for path in people.iterdir())[-HELD_OUT:]
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
    """(person, name of the image, its bytes) of all but some people."""
    with ZipFile(archive.path) as opened:
        for name in opened.namelist():
            person, *rest = PurePosixPath(name).parts
            if rest and rest[-1].endswith(".jpg") and person not in archive.left_out:
                safe = ".." not in rest and person != ".."
                expect(safe, str(archive.path), "names that stay in the folder", name)
                yield person, "_".join(rest), opened.read(name)


if __name__ == "__main__":
    program.run(main)
