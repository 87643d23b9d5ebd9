"""Celebrities in Frontal-Profile: frontal-frontal and frontal-profile pairs."""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperface.archives import open_zip, read_member
from hyperface.errors import InputError
from hyperface.protocols._lines import Line, expect_count, read_lines, split_lines
from hyperface.protocols._pairlist import Pair, PairList, collect

LARGEST_FILE = 4 * 2**20
"""Bytes; the longest file of the protocol has 200 kB."""

_FRONTAL = "Pair_list_F.txt"
_IMAGE = re.compile(r"(?:\.\./)*Data/Images/(\d+/(frontal|profile)/\d+\.jpg)")
_Read = Callable[[str], list[Line]]


def cfp(path: Path | str, *, folds: int = 10, size: int = 350) -> dict[str, PairList]:
    """Reads the protocol from its folder, or from a zip file in place.

    `Pair_list_F.txt` and `Pair_list_P.txt` number the frontal and the profile images from 1;
    `Split/FF/01/same.txt` and the like pair them by number: "7,448".

    Args:
      path: the folder `Protocol`, the folder above it, or a zip file with either.
      folds: how many folds it has.
      size: same pairs a fold, and different pairs.

    Returns:
      "FF" and "FP"; images are named `001/frontal/01.jpg`, and each fold has its same pairs first.
      In FF some pairs come once in each order, and stay.

    Raises:
      InputError: naming the file and line that breaks these rules or repeats a pair.

    References:
      Sengupta, Chen, Castillo, Patel, Chellappa, Jacobs: Frontal to profile face verification in
      the wild, WACV 2016.
    """
    with _opened(Path(path)) as read:
        images = {"F": _images(read, "F", "frontal"), "P": _images(read, "P", "profile")}
        return {
            kind: collect(_pairs(read, kind, images, folds, size), either_order=False)
            for kind in ("FF", "FP")
        }


def _images(read: _Read, letter: str, pose: str) -> list[str]:
    images = []
    for index, line in enumerate(read(f"Pair_list_{letter}.txt"), 1):
        number, *rest = line.fields()
        match = _IMAGE.fullmatch(" ".join(rest))
        if number != str(index) or not match or match[2] != pose:
            raise line.fault(f"{index} and the path of a {pose} image below ../Data/Images")
        images.append(match[1])
    return images


def _pairs(
    read: _Read, kind: str, images: dict[str, list[str]], folds: int, size: int
) -> Iterator[Pair]:
    sides = [images[letter] for letter in kind]
    for fold in range(folds):
        for name in ("same", "diff"):
            lines = read(f"Split/{kind}/{fold + 1:02}/{name}.txt")
            expect_count(lines, 0, size, "pairs")
            for line in lines:
                yield _pair(line, sides, name == "same", fold)


def _pair(line: Line, sides: list[list[str]], same: bool, fold: int) -> Pair:
    fields = line.fields(",")
    if len(fields) != 2:
        raise line.fault("two numbers with a comma between")
    numbers = (
        line.whole(field, "the number of an image", least=1, most=len(side))
        for field, side in zip(fields, sides, strict=True)
    )
    first, second = (side[number - 1] for number, side in zip(numbers, sides, strict=True))
    if same != (first.split("/")[0] == second.split("/")[0]):
        people = "one person" if same else "two people"
        raise line.fault(f"a pair of {people}", f"{first} and {second}")
    return Pair(line, first, second, same, fold)


@contextmanager
def _opened(path: Path) -> Iterator[_Read]:
    """A reader of the protocol's files by name, from a folder or a zip file."""
    if path.is_dir():
        root = path / "Protocol" if (path / "Protocol").is_dir() else path
        yield lambda name: read_lines(root / name)
        return
    with open_zip(path) as archive:
        prefix = _prefix(archive, path)

        def read(name: str) -> list[Line]:
            place = f"{path}/{prefix}{name}"
            return split_lines(_member(archive, prefix + name, place), place)

        yield read


def _prefix(archive: zipfile.ZipFile, path: Path) -> str:
    """What stands before the names of the protocol's files."""
    lists = [name for name in archive.namelist() if Path(name).name == _FRONTAL]
    if len(lists) != 1:
        raise InputError(f"{path}: expected one {_FRONTAL} in the zip file, found {len(lists)}.")
    return lists[0].removesuffix(_FRONTAL)


def _member(archive: zipfile.ZipFile, name: str, place: str) -> bytes:
    try:
        return read_member(archive, archive.getinfo(name), LARGEST_FILE)
    except KeyError:
        raise InputError(f"{place}: expected this file in the zip file, found none.") from None
    except ValueError as error:
        raise InputError(f"{place}: {error}.") from None
