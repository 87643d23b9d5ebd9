"""Reads AgeDB's own lists of image pairs, which show one or two people some years apart in age."""

from pathlib import Path
from typing import Any

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._lines import Line
from hyperface.protocols._matfile import read_mat
from hyperface.protocols.pair_list import Pair, PairList, collect


def read_agedb(path: Path | str, *, repeats: bool = False) -> PairList:
    """Reads a MATLAB file of AgeDB's own protocol, such as `04_FINAL_protocol_30_years.mat`.

    The number of years is the age gap between the two images of a pair. The variable `splits` of
    the file has one cell per fold (group of pairs). This cell is a struct of two fields:

    - The first field is an array of [2, pairs] cells, one cell per image. Each of these cells has a
      struct whose first field is the image's name.
    - The second field has one label per pair: 1 for one person, and -1 for two people.

    AgeDB's text lists have another form, which `read_pairs` reads.

    Args:
      path: the file.
      repeats: True allows a pair to be listed more than once; all of its copies are returned. False
        raises an error for a repeated pair.

    Returns:
      The pairs, fold by fold; images are named as in the folder `03_Protocol_Images`, with `.jpg`.

    Raises:
      InputError: the file is damaged or has no `splits`; or a pair does not have this form, has one
        image twice, is listed both as one person and as two people, or is repeated although
        `repeats` is False. The message names fold and pair, counted from 1, as "file:splits{1}:7".

    References:
      Moschoglou et al.: AgeDB: the first manually collected, in-the-wild age database, CVPRW 2017.
    """
    splits = read_mat(path).get("splits")
    if not isinstance(splits, np.ndarray) or splits.dtype != object or not splits.size:
        raise InputError(f"{path}: expected the variable splits, a cell a fold, found none.")
    return collect(
        (
            pair
            for fold, split in enumerate(splits.ravel())
            for pair in _pairs(split, fold, f"{path}:splits{{{fold + 1}}}")
        ),
        repeats=repeats,
    )


def _pairs(split: Any, fold: int, place: str) -> list[Pair]:
    # None stands for a field that is missing.
    images, labels = [*(split.values() if isinstance(split, dict) else ()), None, None][:2]
    arrays = isinstance(images, np.ndarray) and isinstance(labels, np.ndarray)
    if not arrays or images.shape != (2, labels.size) or labels.dtype.kind not in "iuf":
        raise InputError(f"{place}: expected 2 x pairs images and a label a pair, found others.")
    return [
        # The error names the number of the pair in place of a line.
        _pair(Line(place, number, ""), columns, label, fold)
        for number, (columns, label) in enumerate(zip(images.T, labels.ravel(), strict=True), 1)
    ]


def _pair(line: Line, images: np.ndarray, label: float, fold: int) -> Pair:
    if label not in (1, -1):
        raise line.fault("the label 1 or -1", str(label))
    # By position: the name is the first field of the struct, whatever the field is called.
    names = [next(iter(image.values()), None) for image in images if isinstance(image, dict)]
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise line.fault("two structs that start with an image's name", "others")
    first, second = (line.image(f"{name}.jpg") for name in names)
    return Pair(line, first, second, label == 1, fold)
