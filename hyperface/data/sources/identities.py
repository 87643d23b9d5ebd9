"""Finds which folders of a tree name the people, between the folders around and within them.

VGGFace2 has `train/ID/`, many archives `lfw/ID/`, CFP `ID/frontal/`. Level 1 is the first folder
below the source. Where the folders can be read in two ways, the user is asked.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from hyperface.errors import InputError

Folders = Mapping[tuple[str, ...], int]
"""Images that lie directly in each folder, by the parts of the folder's path; () is the source."""

SPLITS = re.compile(
    r"(train|training|trn|test|testing|val|valid|validation|dev|eval|evaluation|holdout|probes?"
    r"|gallery|query|((fold|split|part|set|subset|batch|chunk)[-_ ]?([0-9]{1,3}|[a-z])))"
    r"([-_ ]?(set|split|data|images?|imgs?|faces?|photos?|aligned|cropped|crops?|[0-9]{1,4}))*",
    re.IGNORECASE,
)
"""Names of folders that hold a part of the people each."""
SESSIONS = re.compile(
    r"((session|sess|video|clip|sequence|seq|camera|cam|visit|day|take|shot|album)s?[-_ ]?[0-9a-z]*"
    r"|frontal|profile|left|right|front|indoors?|outdoors?|[0-9]{4}[-_.][0-9]{2}([-_.][0-9]{2})?)",
    re.IGNORECASE,
)
"""Names of folders that hold a part of one person's images each."""
FEW = 10
"""Folders within a single one that may as well be the albums of one person."""
SHOWN = 3


class Choice(NamedTuple):
    """Which level names the people."""

    level: int
    doubt: str = ""
    """The reading that was not taken, as a sentence, where it is possible."""


class Reading(NamedTuple):
    """What the folders of one level would mean."""

    level: int
    people: list[str]
    images: int

    def __str__(self) -> str:
        shown = ", ".join(self.people[:SHOWN]) + (", ..." if len(self.people) > SHOWN else "")
        return (
            f"level {self.level} has {len(self.people):,} identities ({shown}) with "
            f"{self.images:,} images"
        )


def choose(folders: Folders, origin: str, level: int | None = None) -> Choice:
    """Returns the level of the folders that name the people.

    Args:
      folders: all folders that contain images.
      origin: name of the source without its suffix. A single top folder of that name, as archives
        have it, is not a person.
      level: the level that the user chose; None finds it.

    Raises:
      InputError: there is no such level, or two levels are equally likely.
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
            f"expected a folder a person, found {loose:,} images that lie in none beside "
            f"{_readings(folders, 1)}. Move those of each person into a folder, or say by "
            "--identity-level which folders are people: then the others are left out."
        )
    doubtful = None
    for here in range(1, deepest):
        found = _judged(folders, here, origin.casefold())
        if found.reading is None:
            raise InputError(
                f"expected folders of which it is plain which are the people, found several "
                f"readings: {_readings(folders, here)}. Say which by --identity-level."
            )
        if found.reading == _PEOPLE:
            doubtful = doubtful if found.certain else here + 1
            break
        if not found.certain and doubtful is None:
            doubtful = here
    else:
        here = deepest  # None of the levels above has the people.
    return Choice(here, _doubt(folders, here, doubtful) if doubtful else "")


def reading(folders: Folders, level: int) -> Reading:
    """Returns what the folders of a level would mean."""
    below = {path: count for path, count in folders.items() if len(path) >= level}
    return Reading(level, sorted({path[level - 1] for path in below}), sum(below.values()))


_AROUND, _PEOPLE = "around", "people"


class _Judgement(NamedTuple):
    reading: str | None
    """What the folders of the level are; None where nothing speaks for either."""
    certain: bool = True


def _judged(folders: Folders, level: int, origin: str) -> _Judgement:
    """Returns what the folders of a level are, which has folders with images below it."""
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
    # People with images of their own may have folders too; one who has folders alone is no proof.
    unlike = sum(path[:level] not in direct for path in inner)
    if 2 * len(direct) >= len(groups) and flat >= len(inner) and unlike <= len(direct):
        return _Judgement(_PEOPLE, certain=not unlike)
    # Sessions have the same few names with each of many people.
    if len(groups) > len(names) and len(inner) >= 2 * len(names):
        return _Judgement(_PEOPLE, certain=False)
    return _Judgement(None)


def _single(folders: Folders, path: tuple[str, ...], direct: int, origin: str) -> _Judgement:
    """Returns what a folder is that holds all images but a few above it."""
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
    return (
        f"the people are taken from the folders' names: {reading(folders, taken)}; "
        f"{reading(folders, other)}. --identity-level {other} takes the other"
    )


def _readings(folders: Folders, first: int) -> str:
    levels = range(first, max(map(len, folders)) + 1)
    return "; ".join(str(reading(folders, level)) for level in levels)
