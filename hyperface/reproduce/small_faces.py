"""Makes the folder of which the papers' tables have their figures at small scale.

    python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people \\
        --pairs DATA/protocols/frontal_profile.csv
    hyperface prepare people --out faces --held-out 60

DATA is the folder of prepared data sets. Both archives hold aligned 112 x 96 faces, a folder a
person (CFP's with frontal/ and profile/ in it). The table names the people of CFP who are in LFW,
by its columns `dataset` and `id`. Who else is in LFW, or in both archives, was found by mean
features of a published network (dlib's), the nearest looked at as pictures, and is listed here.
"""

import csv
import dataclasses
import io
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import tyro

from hyperface import owned
from hyperface.errors import expect
from hyperface.files import replace_text
from hyperface.runs import program

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
    for path in (options.celeba, options.cfp, options.overlap):
        expect(path.is_file(), str(path), "a file", "none")
    expect(not options.out.exists(), str(options.out), "a folder that is not there yet", "one")
    with options.overlap.open(encoding="utf-8", newline="") as file:
        in_lfw = {row["id"] for row in csv.DictReader(file) if row["dataset"] == "cfp"}
    archives = {
        "celeba": (options.celeba, LEFT_OUT["celeba"]),
        "cfp": (options.cfp, LEFT_OUT["cfp"] | in_lfw),
    }
    with (
        owned.writing(options.out),
        # In the same folder, so that a rename is enough, and of a name that nothing has.
        tempfile.TemporaryDirectory(dir=options.out.parent, prefix=options.out.name) as scratch,
    ):
        people = Path(scratch) / "people"
        _extract(people, archives)
        if options.pairs is not None:
            there = options.pairs.parent.is_dir()
            expect(there, "--pairs", "a file in a folder that is there", "none")
            replace_text(options.pairs, "".join(_frontal_profile(people)))
        people.rename(options.out)


def _extract(folder: Path, archives: dict[str, tuple[Path, frozenset[str]]]) -> None:
    """Writes a folder per person; names begin with the archive's."""
    for name, (archive, left_out) in archives.items():
        people = set()
        for person, image, content in _images(archive, left_out):
            path = folder / f"{name}_{person}" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            people.add(person)
        print(f"{archive}: {len(people)} people; {len(left_out)} are to be left out")


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


def _images(archive: Path, left_out: frozenset[str]) -> Iterator[tuple[str, str, bytes]]:
    """(person, name of the image, its bytes) of all but some people."""
    with ZipFile(io.BytesIO(archive.read_bytes())) as opened:
        for name in opened.namelist():
            person, *rest = PurePosixPath(name).parts
            if rest and rest[-1].endswith(".jpg") and person not in left_out:
                safe = ".." not in rest and person != ".."
                expect(safe, f"{archive}", "names that stay in the folder", name)
                yield person, "_".join(rest), opened.read(name)


if __name__ == "__main__":
    program.run(main)
