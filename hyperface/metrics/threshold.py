"""Computes the threshold for a false accept rate (FAR).

Everywhere in this package a pair is accepted if its score is at least the threshold.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.shapes import Impostors, OfRates

Rule = Literal["strict", "blufr"]
"""The name of a rule that turns a false accept rate into a threshold: see `impostor_threshold`."""

RULE_STEPS = {
    "strict": "threshold at a FAR: just above the (k + 1)-th highest of N impostor scores, "
    "k = FAR N rounded down; ties with it are refused, so the measured FAR is never higher",
    "blufr": "threshold at a FAR: the k-th highest of N impostor scores, k = FAR N rounded; ties "
    "with it are accepted; just above the highest where k = 0 (BLUFR's released code)",
}
"""One sentence per rule, for the text that describes the computation."""
TOO_FEW = " (too few pairs: at no false accept)"
"""Text that is printed beside a rate at a FAR that is not `supported`."""


def checked_scores(scores: ArrayLike, name: str) -> np.ndarray:
    """Returns the scores as a one-dimensional array of floats, which keep their floating type.

    Args:
      scores: [pairs] real numbers; whole numbers become floats.
      name: the kind of scores, for error messages, such as "impostor".

    Raises:
      ValueError: the scores are not one-dimensional, there is none, or a score is not finite.
    """
    scores = np.asarray(scores)
    # The common type with float16: whole numbers become floats, and float32 and float64 stay.
    scores = scores.astype(np.result_type(scores, np.float16), copy=False)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"expected [pairs] {name} scores, found {scores.shape}")
    # Minimum and maximum suffice, without an array of bools; with a NaN both of them are NaN.
    if not (np.isfinite(scores.min()) and np.isfinite(scores.max())):
        raise ValueError(
            f"expected finite scores, found {np.sum(~np.isfinite(scores))} {name} scores that "
            "are not"
        )
    return scores


def allowed_impostors(far: ArrayLike, num_impostors: int, rule: Rule = "strict") -> np.ndarray:
    """Returns how many of N impostor pairs (of two people) may be accepted at a false accept rate.

    Args:
      far: one false accept rate in [0, 1], or an array of them.
      num_impostors: N, the number of impostor pairs.
      rule: "strict" rounds far * N down. "blufr" rounds it to the nearest whole number; a half is
        rounded up.

    Returns:
      int64, in the shape of `far`.

    Raises:
      ValueError: a rate is outside [0, 1], or the rule is unknown.
    """
    far = np.asarray(far, np.float64)
    if not np.all((far >= 0.0) & (far <= 1.0)):
        raise ValueError(f"expected far in [0, 1], found {far}")
    if rule not in get_args(Rule):
        raise ValueError(f"expected rule to be one of {get_args(Rule)}, found {rule!r}")
    # 1e-12, so that a rate such as 3/N, whose product with N may round to just below 3, gives 3.
    exact = far * num_impostors * (1 + 1e-12)
    return np.floor(exact if rule == "strict" else exact + 0.5).astype(np.int64)


def impostor_threshold(
    impostors: Impostors,
    far: ArrayLike,
    *,
    rule: Rule = "strict",
    num_impostors: int | None = None,
) -> OfRates:
    """Returns the threshold at a false accept rate; all rates of this library use this function.

    Of N impostor scores, k may be accepted: far * N, rounded by `allowed_impostors`. The two rules
    differ in the rounding and in ties:

    - "strict" rounds down. The threshold is the next number above the (k + 1)-th highest score.
      This score and all equal scores are refused. So the measured FAR never exceeds the requested
      FAR.
    - "blufr", the rule of BLUFR's published code, rounds to the nearest number. The threshold is
      the k-th highest score. All scores equal to it are accepted too, so the measured FAR may
      exceed the requested FAR. At k = 0 the threshold is the next number above the highest score.
      (The published code uses the midpoint between the highest score and the lowest genuine score
      above it, which accepts the same pairs.)

    Both rules accept every pair at k = N.

    Args:
      impostors: [N] scores, or at least the k + 1 highest of them.
      far: one false accept rate in [0, 1], or an array of them.
      rule: "strict" or "blufr"; the two rules are described above.
      num_impostors: N; None uses the number of `impostors`. Give it if `impostors` does not contain
        all N scores.

    Returns:
      One threshold per rate, in the type of the scores. A pair is accepted if its score is at least
      the threshold.

    Raises:
      ValueError: there is no score, a score is not finite, a rate is outside [0, 1], the rule is
        unknown, more than `num_impostors` scores are given, or fewer of the highest scores than the
        rates need.

    Example:
      >>> impostors = np.array([0.8, 0.4, 0.4, 0.1])
      >>> int(sum(impostors >= impostor_threshold(impostors, 0.5)))
      1
      >>> int(sum(impostors >= impostor_threshold(impostors, 0.5, rule="blufr")))
      3
    """
    impostors = checked_scores(impostors, "impostor")
    total = impostors.size if num_impostors is None else num_impostors
    if impostors.size > total:
        raise ValueError(f"expected at most {total} impostor scores, found {impostors.size}")
    allowed = allowed_impostors(far, total, rule)
    above = (allowed == 0) | (rule == "strict")
    # The rank counts from the highest score, 0 first. If all are accepted, any rank will do,
    # because the last line does not use it.
    rank = np.where(allowed >= total, 0, np.where(above, allowed, allowed - 1))
    if rank.max(initial=0) >= impostors.size:
        raise ValueError(
            f"expected the {rank.max() + 1} highest of {total} impostor scores for FAR "
            f"{np.max(far):g}, found {impostors.size}"
        )
    position = impostors.size - 1 - rank
    # A partition finds a single score in linear time; several scores are worth a sort.
    if position.size == 1:
        at_rank = np.partition(impostors, position.item())[position]
    else:
        at_rank = np.sort(impostors)[position]
    # nextafter in the type of the scores: the next float64 above a float32 score would become the
    # score itself again in float32.
    lowest = np.where(above, np.nextafter(at_rank, np.array(np.inf, impostors.dtype)), at_rank)
    # If all impostors are accepted, there is no refused score, and every pair is accepted.
    return np.where(allowed >= total, np.array(-np.inf, impostors.dtype), lowest)[()]


def accepted_share(scores: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
    """Returns the share of the scores at or above each threshold, in the shape of `thresholds`.

    Args:
      scores: [pairs] similarities, at least one.
      thresholds: one threshold, or an array of them.
    """
    # Sorted once, so that each of many thresholds costs one binary search.
    ranked = np.sort(scores)
    return (ranked.size - np.searchsorted(ranked, thresholds, side="left")) / ranked.size


def smallest_far(num_impostors: int) -> float:
    """Returns the lowest false accept rate above zero that N impostor pairs can measure: 1/N."""
    return 1.0 / num_impostors


def supported(far: ArrayLike, num_impostors: int) -> np.ndarray:
    """Returns whether a false accept rate is at least 1/N, so that N impostor pairs can measure it.

    Args:
      far: one false accept rate in [0, 1], or an array of them.
      num_impostors: N, the number of impostor pairs.

    Returns:
      bool, in the shape of `far`. Where it is False, the threshold of the rule "strict" accepts no
      impostor pair (a pair of two people).
    """
    return allowed_impostors(far, num_impostors) >= 1
