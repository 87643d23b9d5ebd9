"""Defines lists of image pairs with folds, the form that every file of pairs is read into."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._lines import Line, shown


class PairList(NamedTuple):
    """Pairs of images, or of videos, by the names that the data set gives them."""

    first: list[str]
    """[pairs] name of one image."""
    second: list[str]
    """[pairs] name of the other image."""
    same: np.ndarray
    """[pairs] bool, True where both show one person."""
    fold: np.ndarray
    """[pairs] int64 number of each pair's fold, from 0; all 0 where the protocol has no folds."""

    def names(self) -> list[str]:
        """Returns the distinct names of all images in the pairs, sorted.

        Example:
          >>> PairList(["b", "a"], ["c", "b"], np.array([True, False]), np.zeros(2, int)).names()
          ['a', 'b', 'c']
        """
        return sorted({*self.first, *self.second})


class Pair(NamedTuple):
    """One pair and the line of the file that names it."""

    line: Line
    """The line, for error messages."""
    first: str
    """Name of one image."""
    second: str
    """Name of the other image."""
    same: bool
    """Whether both images show one person."""
    fold: int = 0
    """Number of the pair's fold, from 0."""


def collect(pairs: Iterable[Pair], *, either_order: bool = True, repeats: bool = False) -> PairList:
    """Checks pairs, and returns them as one `PairList` in the same order.

    Args:
      pairs: the pairs in the order of the file.
      either_order: whether (b, a) counts as a repetition of (a, b).
      repeats: whether a pair may be listed more than once. If not, a repeated pair is an error.

    Raises:
      InputError: a pair has one image twice, or is repeated. The message names the line.
    """
    pairs, seen = list(pairs), {}
    for pair in pairs:
        if pair.first == pair.second:
            raise pair.line.fault("two images", f"{shown(pair.first)} twice")
        key = tuple(sorted(pair[1:3])) if either_order else pair[1:3]
        # `setdefault` returns this very line if no earlier line has the pair.
        earlier = seen.setdefault(key, pair.line)
        if earlier is not pair.line and not repeats:
            place = f"line {earlier.number}"
            # The lists of CFP are spread over one file per fold and kind.
            place += f" of {earlier.file}" if earlier.file != pair.line.file else ""
            raise pair.line.fault("a new pair", f"the pair of {place} again")
    return PairList(
        first=[pair.first for pair in pairs],
        second=[pair.second for pair in pairs],
        same=np.array([pair.same for pair in pairs], bool),
        fold=np.array([pair.fold for pair in pairs], np.int64),
    )


def block_folds(same: np.ndarray, folds: int, file: str, *, equal: bool = True) -> np.ndarray:
    """Assigns pairs to folds by their order, for a list that does not name the fold of each pair.

    Fold k has the k-th part of the same pairs, and the k-th part of the different pairs. If a list
    is written fold by fold, these are its own folds. If it has all same pairs first, each fold
    still gets same and different pairs.

    Args:
      same: [pairs] bool, True where both images show one person.
      folds: number of folds.
      file: name of the file, for the error message.
      equal: whether the numbers of same and of different pairs must be multiples of the number of
        folds, as in published lists. Otherwise folds may differ by one pair.

    Returns:
      [pairs] int64, the fold of each pair, from 0.

    Raises:
      InputError: there are fewer same or different pairs than folds, or the folds would not have
        equally many pairs although `equal` is set.

    Example:
      >>> print(block_folds(np.array([True, True, False, False, True, False, True, False]), 2, ""))
      [0 0 0 0 1 1 1 1]
    """
    fold, parts = np.zeros(same.size, np.int64), "equal folds" if equal else "folds"
    for kind, name in ((same, "same"), (~same, "different")):
        count = int(kind.sum())
        # The number of folds is checked first, since there is no remainder by 0.
        if folds < 1 or (count % folds if equal else count < folds):
            raise InputError(
                f"{file}: expected {name} pairs in {folds} {parts}, found {count} pairs. Say which "
                "pair is in which fold: a CSV file with the first line first,second,same,fold and "
                "folds from 0."
            )
        # Multiplied first: folds then differ by one pair at most where the count is no multiple.
        fold[kind] = np.arange(count) * folds // max(1, count)
    return fold
