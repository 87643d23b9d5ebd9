"""Scores Celebrities in Frontal-Profile (CFP): frontal-frontal and frontal-profile pairs."""

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from hyperface.archives import open_zip, read_member
from hyperface.errors import InputError
from hyperface.metrics.splits import pair_rates
from hyperface.protocols._lines import Line, expect_count, read_lines, split_lines
from hyperface.protocols.features import NamedFeatures, person_of
from hyperface.protocols.pair_list import Pair, PairList, collect
from hyperface.protocols.pair_verification import rate_labels, score_pairs
from hyperface.protocols.protocol import PAIR_OPTIONS, Protocol, Settings
from hyperface.protocols.result import OVER_SPLITS, Figure, Result

LARGEST_FILE = 4 * 2**20
"""Size limit in bytes; the longest file of the protocol has 200 kB."""

_FRONTAL = "Pair_list_F.txt"
_IMAGE = re.compile(r"(?:\.\./)*Data/Images/(\d+/(frontal|profile)/\d+\.jpg)")
_Read = Callable[[str], list[Line]]


def read_cfp(path: Path | str, *, folds: int = 10, size: int = 350) -> dict[str, PairList]:
    """Reads the pairs of the CFP protocol (frontal and profile faces) from a folder or a zip file.

    `Pair_list_F.txt` and `Pair_list_P.txt` number the frontal and the profile images from 1. Files
    such as `Split/FF/01/same.txt` list pairs by these numbers: "7,448".

    Args:
      path: the folder `Protocol`, the folder above it, or a zip file with either. A zip file is not
        unpacked.
      folds: number of folds (groups of pairs) that the protocol must have.
      size: number of pairs of one person that each fold must have, and of pairs of two people.

    Returns:
      A dict with two lists: "FF" has pairs of two frontal images, and "FP" has pairs of a frontal
      and a profile image. Images have names such as `001/frontal/01.jpg`. Each fold has its pairs
      of one person first. Some pairs of FF are in the files once in each order; both are kept.

    Raises:
      InputError: a file is missing or has another number of lines, or a line does not have this
        form or repeats a pair. The message names file and line.

    References:
      Sengupta, Chen, Castillo, Patel, Chellappa, Jacobs: Frontal to profile face verification in
      the wild, WACV 2016.
    """
    with _opened(Path(path)) as read:
        images = {"F": _images(read, "F", "frontal"), "P": _images(read, "P", "profile")}
        return {
            # Not `either_order`, since FF lists some pairs once in each order.
            kind: collect(_pairs(read, kind, images, folds, size), either_order=False)
            for kind in ("FF", "FP")
        }


def _images(read: _Read, letter: str, pose: str) -> list[str]:
    images = []
    for index, line in enumerate(read(f"Pair_list_{letter}.txt"), 1):
        number, *rest = line.fields()
        match = _IMAGE.fullmatch(" ".join(rest))
        # Pairs refer to this number: a line that is missing would shift all images after it.
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
    if same != (person_of(first) == person_of(second)):
        people = "one person" if same else "two people"
        raise line.fault(f"a pair of {people}", f"{first} and {second}")
    return Pair(line, first, second, same, fold)


@contextmanager
def _opened(path: Path) -> Iterator[_Read]:
    """Opens a folder or a zip file, and yields a function that reads the protocol's files.

    The function takes the name of a file, relative to the folder `Protocol`, and returns its lines.
    """
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
    """Returns the folder of the protocol's files inside the zip file, as a prefix."""
    lists = [name for name in archive.namelist() if Path(name).name == _FRONTAL]
    # With two copies in the file, nothing would tell which one is meant.
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


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    """Computes the scores of each of the ten splits separately, and returns their means.

    A split has 350 different pairs, which are too few for a FAR of 0.1 %. So the TAR at this FAR is
    also computed over the 3,500 different pairs of all splits together.
    """
    pairs = read_cfp(files[0])[name.removeprefix("cfp-").upper()]
    # Without `pca`, which `score_pairs` applies to the rules.
    rules = settings.video_rules("plain")
    result = score_pairs(name, named, pairs, replace(settings, rules=rules))
    assert result.scores is not None
    scores = result.scores[0]
    of_splits = pair_rates(scores, pairs.same, pairs.fold, (0.001,))
    # A FAR of 0.1 % needs at least 1,000 different pairs.
    together = pair_rates(scores, pairs.same, np.zeros(pairs.same.size, np.int64), (0.001,))
    labels = rate_labels(of_splits)
    rates = {labels[n]: Figure(rate.mean, rate.deviation) for n, rate in of_splits.spread().items()}
    pooled = rate_labels(together, ", all splits' pairs together")["tar_at_far_0.001"]
    # CFP reports the deviation over splits, in place of the standard error of the mean.
    accuracy = result.figures["accuracy"]._replace(
        spread=float(np.std(result.details["fold accuracies"], ddof=1))
    )
    return replace(
        result,
        figures={"accuracy": accuracy, **rates, pooled: Figure(float(together.tar[0, 0]))},
        spread=OVER_SPLITS,
        steps=(
            *result.steps,
            "accuracy, EER, AUC and TAR of each split by itself, then averaged, unless of all "
            f"splits' {np.sum(~pairs.same):,} different pairs together",
        ),
    )


PROTOCOLS = tuple(
    Protocol(
        name=f"cfp-{kind}",
        title=title,
        dataset="cfp",
        file_names=("cfp_protocol.zip",),
        # Resamples and groups would need all pairs together, but scores here are means of splits.
        options=PAIR_OPTIONS - {"bootstrap", "group_by"},
        scorer=_score,
    )
    for kind, title in (("ff", "CFP, frontal and frontal"), ("fp", "CFP, frontal and profile"))
)
