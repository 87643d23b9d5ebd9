"""Finds the level of a tree of folders at which each folder is one person.

There can be folders above that level and below it: VGGFace2 has `train/ID/`, many archives have
`lfw/ID/`, and CFP has `ID/frontal/`. Level 1 is that of the folders directly in the source. If two
levels are equally likely, an error asks the user.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from hyperface.errors import InputError

Folders = Mapping[tuple[str, ...], int]
"""Path of each folder, as a tuple of names -> number of images directly in it; () is the source."""

SPLITS = re.compile(
    r"(train|training|trn|test|testing|val|valid|validation|dev|eval|evaluation|holdout|probes?"
    r"|gallery|query|((fold|split|part|set|subset|batch|chunk)[-_ ]?([0-9]{1,3}|[a-z])))"
    r"([-_ ]?(set|split|data|images?|imgs?|faces?|photos?|aligned|cropped|crops?|[0-9]{1,4}))*",
    re.IGNORECASE,
)
"""Names of folders that contain some of the people each, such as "train"."""
SESSIONS = re.compile(
    r"((session|sess|video|clip|sequence|seq|camera|cam|visit|day|take|shot|album)s?[-_ ]?[0-9a-z]*"
    r"|frontal|profile|left|right|front|indoors?|outdoors?|[0-9]{4}[-_.][0-9]{2}([-_.][0-9]{2})?)",
    re.IGNORECASE,
)
"""Names of folders that contain some images of one person each, such as "frontal"."""
FEW = 10
"""Number of folders below which the folders in a single folder may be the albums of one person."""
SHOWN = 3
"""Number of people that a message names."""


class Choice(NamedTuple):
    """The result of `choose`: the depth in a tree of folders at which each folder is one person."""

    level: int
    """The depth of the folders that are people; 1 means the folders directly in the source."""
    doubt: str = ""
    """A sentence that names another depth at which the folders could be the people; "" if there is
    no other likely depth."""


class Reading(NamedTuple):
    """What a source would contain if each folder at a certain depth were one person.

    It is used in messages, where the user can compare several depths.
    """

    level: int
    """The depth; 1 means the folders directly in the source."""
    people: list[str]
    """Names of the folders at that depth, sorted, each once."""
    images: int
    """Number of images in or below these folders."""

    def __str__(self) -> str:
        shown = ", ".join(self.people[:SHOWN]) + (", ..." if len(self.people) > SHOWN else "")
        return (
            f"level {self.level} has {len(self.people):,} identities ({shown}) with "
            f"{self.images:,} images"
        )


def choose(folders: Folders, origin: str, level: int | None = None) -> Choice:
    """Finds the depth in a tree of folders at which each folder is one person.

    Level 1 means the folders directly in the source. In `train/ID/1.jpg` the people are at level 2,
    and in `ID/frontal/1.jpg` at level 1.

    Args:
      folders: path of each folder that contains images, as a tuple of names -> number of images
        directly in it. () is the source itself.
      origin: name of the source without its suffix. Archives often have a single top folder of that
        name, which is not a person.
      level: the level that the user chose; None finds it by the names and numbers of the folders.

    Raises:
      InputError: there is no such level, two levels are equally likely, or most images are outside
        of any folder.
    """
    deepest, loose = max(map(len, folders)), folders.get((), 0)
    if level is not None:
        if not 1 <= level <= deepest:
            raise InputError(
                f"--identity-level: expected 1 to {deepest}, as deep as the images lie, found "
                f"{level}: {_readings(folders, 1)}."
            )
        return Choice(level)
    if loose > sum(folders.values()) - loose:
        raise InputError(
            f"expected one folder per person, found {loose:,} images outside of any folder, and "
            f"{_readings(folders, 1)}. Move the images of each person into a folder, or choose by "
            "--identity-level which folders are people: then the other images are left out."
        )
    doubtful = None
    for here in range(1, deepest):
        found = _judged(folders, here, origin.casefold())
        if found.reading is None:
            raise InputError(
                f"expected one level of folders that can be the people, found several: "
                f"{_readings(folders, here)}. Choose one by --identity-level."
            )
        if found.reading == _PEOPLE:
            doubtful = doubtful if found.certain else here + 1
            break
        if not found.certain and doubtful is None:
            doubtful = here
    else:
        here = deepest  # At no level above are the folders people.
    return Choice(here, _doubt(folders, here, doubtful) if doubtful else "")


def reading(folders: Folders, level: int) -> Reading:
    """Returns the people and the number of images if each folder at a certain depth is one person.

    Args:
      folders: path of each folder that contains images, as a tuple of names -> number of images
        directly in it.
      level: the depth; 1 means the folders directly in the source.
    """
    below = {path: count for path, count in folders.items() if len(path) >= level}
    return Reading(level, sorted({path[level - 1] for path in below}), sum(below.values()))


_AROUND, _PEOPLE = "around", "people"


class _Judgement(NamedTuple):
    """Whether the folders of a level are people, or are around people."""

    reading: str | None
    """_PEOPLE, or _AROUND for folders that contain people; None if it cannot be told."""
    certain: bool = True
    """Whether no other reading is likely."""


def _judged(folders: Folders, level: int, origin: str) -> _Judgement:
    """Decides whether the folders of a level are people, or contain people.

    There must be folders with images below that level.
    """
    deep = [path for path in folders if len(path) > level]
    groups = {path[:level] for path in folders if len(path) >= level}
    inner = {path[: level + 1] for path in deep}
    names = {path[-1] for path in inner}
    direct = {path: count for path, count in folders.items() if len(path) == level}
    flat = sum(direct.values())
    if not inner:
        return _Judgement(_PEOPLE)
    if all(SPLITS.fullmatch(path[-1]) for path in groups):
        return _Judgement(_AROUND if flat <= sum(folders[path] for path in deep) else None)
    if all(map(SESSIONS.fullmatch, names)):
        return _Judgement(_PEOPLE)
    if len(groups) == 1:
        return _single(folders, next(iter(groups)), flat, origin)
    # Some people may have images of their own and subfolders too. A person who has only subfolders
    # is no evidence for either reading.
    unlike = sum(path[:level] not in direct for path in inner)
    if 2 * len(direct) >= len(groups) and flat >= len(inner) and unlike <= len(direct):
        return _Judgement(_PEOPLE, certain=not unlike)
    # Sessions have the same few names with each of many people.
    if len(groups) > len(names) and len(inner) >= 2 * len(names):
        return _Judgement(_PEOPLE, certain=False)
    return _Judgement(None)


def _single(folders: Folders, path: tuple[str, ...], direct: int, origin: str) -> _Judgement:
    """Decides whether the only folder of a level is a person, or contains people.

    Args:
      folders: all folders that contain images.
      path: path of the only folder.
      direct: number of images directly in it.
      origin: name of the source without its suffix.
    """
    level = len(path)
    above = path[-2] if level > 1 else origin
    doubled = path[-1].casefold() == above.casefold()
    widths = [
        len({deep[:below] for deep in folders if len(deep) >= below})
        for below in range(level + 1, max(map(len, folders)) + 1)
    ]
    width = next((width for width in widths if width > 1), 1)
    if width == 1:  # One person, however deep.
        return _Judgement(_AROUND if doubled and not direct else _PEOPLE, certain=not direct)
    if direct >= width:
        return _Judgement(None)
    return _Judgement(_AROUND, doubled or widths[0] == 1 or width >= FEW)


def _doubt(folders: Folders, taken: int, other: int) -> str:
    """Returns a sentence about the level that was taken and the other possible level."""
    return (
        f"the people are taken from the folders' names: {reading(folders, taken)}; "
        f"{reading(folders, other)}. --identity-level {other} takes the latter"
    )


def _readings(folders: Folders, first: int) -> str:
    """Describes the readings of all levels from `first` on, for a message."""
    levels = range(first, max(map(len, folders)) + 1)
    return "; ".join(str(reading(folders, level)) for level in levels)
