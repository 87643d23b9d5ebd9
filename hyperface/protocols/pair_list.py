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
    """[pairs] int64 number of each pair's fold (group of pairs that is tested together), from 0;
    all 0 where the protocol has no folds."""

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
      either_order: True counts the pair (b, a) as a repetition of the pair (a, b). False counts
        only another (a, b) as a repetition.
      repeats: True allows a pair to be listed more than once; all of its copies are returned. False
        raises an error for a repeated pair.

    Raises:
      InputError: a pair has one image twice, is listed both as one person and as two people, or
        is repeated although `repeats` is False. The message names the line.
    """
    pairs = list(pairs)
    seen: dict[tuple[str, ...], dict[str, Pair]] = {}
    for pair in pairs:
        if pair.first == pair.second:
            raise pair.line.fault("two images", f"{shown(pair.first)} twice")
        # Two images show one person or two, whatever their order and however often they are listed.
        listed = seen.setdefault(tuple(sorted(pair[1:3])), {})
        for earlier in listed.values():
            if earlier.same != pair.same:
                kinds = [f"a {'same' if x.same else 'different'} pair" for x in (earlier, pair)]
                raise pair.line.fault(f"{kinds[0]}, as in {_place(earlier, pair)}", kinds[1])
        # `setdefault` returns this very pair if no earlier line has it.
        earlier = listed.setdefault("" if either_order else pair.first, pair)
        if earlier is not pair and not repeats:
            raise pair.line.fault("a new pair", f"the pair of {_place(earlier, pair)} again")
    return PairList(
        first=[pair.first for pair in pairs],
        second=[pair.second for pair in pairs],
        same=np.array([pair.same for pair in pairs], bool),
        fold=np.array([pair.fold for pair in pairs], np.int64),
    )


def _place(earlier: Pair, pair: Pair) -> str:
    """Returns the place of an earlier pair, for the message about a later one."""
    place = f"line {earlier.line.number}"
    # The lists of CFP are spread over one file per fold and kind.
    return place if earlier.line.file == pair.line.file else f"{place} of {earlier.line.file}"


def block_folds(same: np.ndarray, folds: int, file: str, *, equal: bool = True) -> np.ndarray:
    """Assigns pairs to folds by their order, for a list that does not name the fold of each pair.

    A fold is a group of pairs that is tested together. The pairs of one person are cut into `folds`
    parts of consecutive pairs, and so are the pairs of two people. Fold k has part k of both kinds.
    For a list that was written fold by fold, the result is the list's original folds. If a list has
    all pairs of one person first, each fold still gets pairs of both kinds.

    Args:
      same: [pairs] bool, True where both images show one person.
      folds: number of folds.
      file: name of the file, for the error message.
      equal: whether the number of pairs of each kind must be a multiple of the number of folds, as
        in published lists. If False, parts may differ in size by one pair.

    Returns:
      [pairs] int64, the fold of each pair, from 0.

    Raises:
      InputError: `folds` is below 1; a kind has fewer pairs than folds; or `equal` is True and the
        number of pairs of a kind is not a multiple of `folds`.

    Example:
      >>> print(block_folds(np.array([True, True, False, False, True, False, True, False]), 2, ""))
      [0 0 0 0 1 1 1 1]
    """
    fold, parts = np.zeros(same.size, np.int64), "equal folds" if equal else "folds"
    for kind, name in ((same, "same"), (~same, "different")):
        count = int(kind.sum())
        # The number of folds is checked first, since there is no remainder by 0.
        if folds < 1 or count < folds or (equal and count % folds):
            raise InputError(
                f"{file}: expected {name} pairs in {folds} {parts}, found {count} pairs. Say which "
                "pair is in which fold: a CSV file with the first line first,second,same,fold and "
                "folds from 0."
            )
        # Multiplied first: folds then differ by one pair at most where the count is no multiple.
        fold[kind] = np.arange(count) * folds // max(1, count)
    return fold
