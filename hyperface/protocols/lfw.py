"""Scores Labeled Faces in the Wild (LFW): 6,000 pairs in ten folds, and the development view."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._lines import Line, expect_count, read_lines, shown
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.pair_list import Pair, PairList, collect
from hyperface.protocols.pair_verification import score_pairs
from hyperface.protocols.protocol import PAIR_OPTIONS, Protocol, Settings
from hyperface.protocols.result import Result

IMAGE_NAME = "{name}/{name}_{number:04}.jpg"
"""Format of LFW's image names; the numbers of a person's images start at 1."""


def read_lfw_pairs(path: Path | str, template: str = IMAGE_NAME) -> PairList:
    """Reads LFW's pairs: `pairs.txt`, `pairsDevTrain.txt` or `pairsDevTest.txt`.

    `pairs.txt` is View 2, on which results are reported. The other two files are View 1, for
    development. A same pair has two images of one person, and a different pair has images of two
    people. The header of View 2 has two numbers: the number of folds (groups of pairs), and the
    number of same pairs per fold. The header of View 1 has the number of same pairs. A fold has its
    same pairs first, then as many different pairs. The line of a same pair is "name number number",
    and the line of a different pair is "name number name number".

    Args:
      path: the file.
      template: `str.format` text for the image names that are returned, with the fields `name` (the
        person's name) and `number` (number of the person's image, from 1). With the default, a name
        is such as `Ann_Lee/Ann_Lee_0001.jpg`.

    Returns:
      The pairs in the file's order. All pairs of View 1 are in fold 0.

    Raises:
      InputError: a line does not have this form, repeats a pair, has one image twice, or lists
        images of one person as a different pair, and the message names the line; or the template is
        invalid.

    References:
      Huang, Ramesh, Berg, Learned-Miller: Labeled Faces in the Wild, 2007.
    """
    check_template(template)
    header, *rows = lines = read_lines(path)
    sizes = header.fields()
    if len(sizes) > 2:
        raise header.fault("the numbers of folds and of same pairs a fold")
    size = header.whole(sizes[-1], "the number of same pairs a fold", least=1)
    folds = header.whole(sizes[0], "the number of folds", least=1) if len(sizes) == 2 else 1
    expect_count(lines, 1, 2 * folds * size, f"pairs ({folds} x ({size} same + {size} different))")
    return collect(
        # Same and different pairs are told apart by their place: each fold has `size` of both.
        _pair(line, same=row % (2 * size) < size, fold=row // (2 * size), template=template)
        for row, line in enumerate(rows)
    )


def image_name(line: Line, name: str, number: str, template: str) -> str:
    """Returns the name of a person's image, built from the template.

    Args:
      line: the line that names the image, for error messages.
      name: the person's name.
      number: the number of the person's image, from 1, as text.
      template: `str.format` text with the fields `name` and `number`, for example
        `{name}/{name}_{number:04}.jpg`.

    Raises:
      InputError: the person's name has a slash, the number is not a whole number from 1, or the
        result is not a path below the data set's folder.
    """
    if "/" in name:
        raise line.fault("a person's name", shown(name))
    index = line.whole(number, "the number of an image", least=1)
    return line.image(template.format(name=name, number=index))


def check_template(template: str) -> None:
    """Checks that a `str.format` text builds an image's name from the fields `name` and `number`.

    Args:
      template: the text, for example `{name}/{name}_{number:04}.jpg`.

    Raises:
      InputError: the template is not a valid format, or does not use both fields.
    """
    try:
        # Tried out: a template without one of the fields would give several images one name.
        names = {template.format(name=name, number=n) for name in ("A", "B") for n in (1, 2)}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        names = set()
    if len(names) < 4:
        raise InputError(f"template: expected one like {IMAGE_NAME!r}, found {template!r}.")


def _pair(line: Line, *, same: bool, fold: int, template: str) -> Pair:
    fields = line.fields()
    if same and len(fields) == 3:
        person, other, numbers = fields[0], fields[0], fields[1:]
    elif not same and len(fields) == 4:
        person, other, numbers = fields[0], fields[2], fields[1::2]
        # Such a pair would count as a different pair, although it shows one person.
        if person == other:
            raise line.fault("a different pair to name two people", f"{shown(person)} twice")
    else:
        form = "name number number" if same else "name number name number"
        raise line.fault(f"a {'same' if same else 'different'} pair, {form}")
    first = image_name(line, person, numbers[0], template)
    return Pair(line, first, image_name(line, other, numbers[1], template), same, fold)


def _score_view_2(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    return score_pairs(name, named, read_lfw_pairs(files[0]), settings)


def _score_view_1(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Scores View 1: everything is fitted on the training list and tested on the test list."""
    fitted, tested = map(read_lfw_pairs, files)
    pairs = PairList(
        fitted.first + tested.first,
        fitted.second + tested.second,
        np.concatenate([fitted.same, tested.same]),
        np.repeat([0, 1], [fitted.same.size, tested.same.size]),
    )
    # Fold 0 is the training list, and is never held out.
    return score_pairs(name, named, pairs, settings, tested=[1])


PROTOCOLS = (
    Protocol(
        name="lfw",
        title="LFW, 6,000 pairs",
        dataset="lfw",
        file_names=("lfw/pairs.txt",),
        options=PAIR_OPTIONS,
        scorer=_score_view_2,
    ),
    Protocol(
        name="lfw-view1",
        title="LFW, View 1",
        dataset="lfw",
        file_names=("lfw/pairsDevTrain.txt", "lfw/pairsDevTest.txt"),
        options=PAIR_OPTIONS,
        scorer=_score_view_1,
    ),
)
