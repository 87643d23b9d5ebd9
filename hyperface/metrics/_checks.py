"""Checks features and lists before they are scored."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.shapes import Features, Norms, Same, Scores
from hyperface.metrics.threshold import checked_scores

BLOCK = 8192
"""Number of rows that are compared at a time, so that a memory-mapped file is never loaded
whole."""
LEAST_SPREAD = 1e-6
"""Two unit features count as equal if each coordinate differs by less than this."""


def checked_features(features: np.ndarray, unit: str = "images") -> np.ndarray:
    """Returns features as float32 or float64, after a check that they can be compared by cosine.

    Args:
      features: [rows, dim] real numbers.
      unit: the name of the rows in error messages, such as "images".

    Raises:
      ValueError: the array is empty or does not have two axes, a row is zero or not finite, or all
        rows point in one direction.
    """
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(
            f"expected features [{unit}, dim] of real numbers, found {features.dtype} "
            f"{features.shape}"
        )
    if features.dtype not in (np.float32, np.float64):
        # float16 and whole numbers become float32; other types stay, so that nothing is rounded.
        features = features.astype(np.float32)
    check_directions(features, checked_norms(features))
    return features


def check_directions(features: np.ndarray, norms: np.ndarray) -> None:
    """Raises ValueError if all rows have the same direction (their norms may differ).

    Such features cannot tell two people apart: all cosines are 1, and only rounding errors would
    order the pairs.

    Args:
      features: [rows, dim].
      norms: [rows, 1] Euclidean norm of each row, above zero.
    """
    first = features[0] / norms[0]
    for start in range(0, len(features), BLOCK):
        unit = features[start : start + BLOCK] / norms[start : start + BLOCK]
        # Block by block: usually the first one shows that the features differ.
        if len(features) == 1 or np.abs(unit - first).max() >= LEAST_SPREAD:
            return
    raise ValueError(
        f"expected features that differ, found {len(features)} that all point one way (within "
        f"{LEAST_SPREAD:.1g})"
    )


def checked_norms(features: Features) -> Norms:
    """Returns the Euclidean norm [rows, 1] of each row, after a check that no norm is zero.

    Args:
      features: [rows, dim].

    Raises:
      ValueError: a row is zero or not finite.
    """
    # einsum, because np.square would allocate a second array as large as the features.
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))
    check_norms(norms)
    return norms[:, None]


def check_norms(norms: np.ndarray, *, numbers: np.ndarray | None = None, unit: str = "row") -> None:
    """Raises ValueError if the norm of a row is zero or not finite, so that it has no direction.

    Args:
      norms: [rows] Euclidean norm of each row.
      numbers: [rows] number of each row in error messages; None counts from 0.
      unit: the name of a row in error messages.
    """
    # Written so that NaN, which compares as false, is bad too.
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        number = bad[0] if numbers is None else numbers[bad[0]]
        raise ValueError(
            f"expected finite features above zero, found norm {norms[bad[0]]} at {unit} {number} "
            f"({bad.size} {unit}s in all)"
        )


def unit_rows(features: Features) -> Features:
    """Returns features [rows, dim] with each row scaled to unit length.

    Args:
      features: [rows, dim].

    Raises:
      ValueError: a row is zero or not finite.
    """
    return features / checked_norms(features)


def checked_columns(**columns: np.ndarray) -> list[np.ndarray]:
    """Returns a list of the given columns as NumPy arrays, after a check that they fit together.

    Args:
      columns: arrays [rows] of whole numbers or bools. The keyword of an array is its name in error
        messages.

    Raises:
      ValueError: lengths differ, an array is empty or not one-dimensional, or an array has other
        values than whole numbers or bools.
    """
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    (first, *others) = shapes.values()
    if len(first) != 1 or not first[0] or any(shape != first for shape in others):
        raise ValueError(f"expected columns of one length, found shapes {shapes}")
    for name, array in arrays.items():
        if array.dtype.kind not in "iub":
            raise ValueError(f"expected whole numbers in {name}, found {array.dtype}")
    return list(arrays.values())


def checked_same(same: ArrayLike) -> Same:
    """Returns `same` as an array of bool, in the same shape.

    Args:
      same: whether both images of each pair show one person: bools, or the numbers 0 and 1.

    Raises:
      ValueError: the values are neither bools nor the numbers 0 and 1. Text is not accepted, since
        "0" would count as true.
    """
    same = np.asarray(same)
    if same.dtype.kind not in "biuf":
        found = same.ravel()[:3].tolist()
        raise ValueError(f"expected same to be bool, or 0 and 1, found {same.dtype} {found}")
    bad = (same != 0) & (same != 1)
    if bad.any():
        raise ValueError(f"expected same to be 0 or 1, found {np.unique(same[bad])[:5].tolist()}")
    return same.astype(bool, copy=False)


def checked_pairs(
    scores: ArrayLike, same: ArrayLike, dtype: type | None = np.float64
) -> tuple[Scores, Same]:
    """Returns (scores, same): both as arrays [pairs], checked for the computation of error rates.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, or 0 and 1: True or 1 for a same pair (both images show one person), False
        or 0 for a different pair (they show two people).
      dtype: type of the returned scores. None keeps their floating type, without a copy.

    Raises:
      ValueError: a score is not finite, lengths differ, or there are no same or no different pairs.
    """
    scores, same = checked_scores(scores, "pair"), checked_same(same)
    if scores.shape != same.shape:
        raise ValueError(
            f"expected scores and same of one length, found {scores.shape} and {same.shape}"
        )
    check_both_kinds(same, "the pairs")
    return scores if dtype is None else scores.astype(dtype, copy=False), same


def checked_rows(index: np.ndarray, rows: int, name: str) -> None:
    """Raises ValueError if a row number is outside [0, rows).

    Args:
      index: [pairs] row numbers.
      rows: number of rows.
      name: the name of `index` in the error message.
    """
    # A negative number is refused too: NumPy would silently count it from the end.
    bad = np.flatnonzero((index < 0) | (index >= rows))
    if bad.size:
        raise ValueError(
            f"expected {name} from 0 to {rows - 1}, found {index[bad[0]]} at pair {bad[0]} "
            f"({bad.size} pairs in all)"
        )


def positions(ids: np.ndarray, wanted: np.ndarray, name: str) -> np.ndarray:
    """Returns the position of each wanted id in a sorted array of ids, in the shape of `wanted`.

    It finds, for example, the rows of the features of listed images.

    Args:
      ids: [ids] distinct ids in rising order; row i of the features belongs to ids[i].
      wanted: ids to look up, of any shape.
      name: the word for an id in the error message, such as "image".

    Raises:
      ValueError: a wanted id is not among `ids`.
    """
    found = np.searchsorted(ids, wanted)
    # For an id above all others searchsorted returns ids.size, which is no valid position.
    missing = np.flatnonzero(ids[np.minimum(found, ids.size - 1)] != wanted)
    if missing.size:
        raise ValueError(
            f"expected every {name} to have features, found none for {wanted[missing[0]]} "
            f"({np.unique(wanted[missing]).size} without)"
        )
    return found


def checked_folds(
    same: np.ndarray, fold: np.ndarray, tested: Sequence[int] | None = None
) -> np.ndarray:
    """Returns the ids of the folds that are tested, in rising order, after checks.

    A fold is a group of pairs. It is tested with a threshold that is chosen on all other folds.

    Args:
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).
      fold: [pairs] id of the fold of each pair.
      tested: ids of the folds to test; None tests all folds.

    Raises:
      ValueError: there are fewer than two folds, or a tested fold does not exist. Also if a tested
        fold, or all other folds together, have no same pairs or no different pairs.
    """
    ids = np.unique(fold)
    if ids.size < 2:
        raise ValueError(f"expected at least 2 folds, found {ids.size}")
    chosen = ids if tested is None else np.unique(np.asarray(tested))
    missing = np.setdiff1d(chosen, ids)
    if missing.size or not chosen.size:
        raise ValueError(f"expected tested folds among {ids.tolist()}, found {chosen.tolist()}")
    for i in chosen:
        for where, part in ((f"fold {i}", fold == i), (f"the folds other than {i}", fold != i)):
            check_both_kinds(same[part], where)
    return chosen


def check_both_kinds(same: np.ndarray, where: str) -> None:
    """Raises ValueError if all pairs show one person each, or all show two people each.

    Rates of errors need pairs of both kinds.

    Args:
      same: [pairs] bool, True where both images show one person.
      where: the name of the set of pairs in the error message, such as "fold 3".
    """
    if same.all() or not same.any():
        raise ValueError(
            f"expected same and different pairs in {where}, found {np.sum(same)} same of "
            f"{same.size} pairs"
        )
