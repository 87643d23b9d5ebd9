"""The ROC curve, exact from sorted scores, and TAR at a FAR with a stated tie rule."""

from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """One point a distinct score, from accepting nothing to accepting everything."""

    far: np.ndarray
    """False accept rate: share of different pairs accepted. Rising."""
    tar: np.ndarray
    """True accept rate: share of same pairs accepted. Rising."""
    thresholds: np.ndarray
    """A pair is accepted when its score is at least this; the first is inf."""


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """The ROC curve over all distinct scores.

    Args:
      scores: [pairs] similarities, higher for more alike.
      same: [pairs] bool, True where both images show one person.

    Raises:
      ValueError: shapes differ, a score is not finite, or one of the two kinds is missing.

    Example:
      >>> curve = roc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
      >>> print(curve.far, curve.tar)
      [0.  0.  0.5 0.5 1. ] [0.  0.5 0.5 1.  1. ]
    """
    scores, same = _checked(scores, same)
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(same[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    accepted_same = hits[last_of_ties]
    accepted = last_of_ties + 1
    return Roc(
        far=np.concatenate([[0.0], (accepted - accepted_same) / (same.size - hits[-1])]),
        tar=np.concatenate([[0.0], accepted_same / hits[-1]]),
        thresholds=np.concatenate([[np.inf], ranked[last_of_ties]]),
    )


def tar_at_far(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """The largest true accept rate whose measured false accept rate is at most `far`.

    Of N different pairs k = floor(far N) may be accepted. The threshold stands just above the
    (k + 1)-th highest of their scores, so that this one and all tied with it are refused; same
    pairs tied with it are refused too.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.
      far: in [0, 1]; below 1/N it is the rate at no false accept at all.

    Returns:
      Share of same pairs accepted.

    Raises:
      ValueError: as `roc`, or far is outside [0, 1].

    Example:
      >>> tar_at_far(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]), 0.5)
      1.0
    """
    scores, same = _checked(scores, same)
    if not 0.0 <= far <= 1.0:
        raise ValueError(f"expected far in [0, 1], found {far}")
    different = np.sort(scores[~same])[::-1]
    allowed = int(np.floor(far * different.size * (1 + 1e-12)))
    if allowed >= different.size:
        return 1.0
    return float(np.mean(scores[same] > different[allowed]))


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """The equal error rate: where the false accept rate meets the false reject rate.

    Between the two neighbouring points of the ROC where their order changes, both are straight
    lines, and the rate is where these cross.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.

    Raises:
      ValueError: as `roc`.

    Example:
      >>> eer(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
      0.5
    """
    curve = roc(scores, same)
    excess = curve.far + curve.tar - 1.0  # False accepts less false rejects: rises from -1 to 1.
    after = int(np.argmax(excess >= 0.0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return float(curve.far[before] + share * (curve.far[after] - curve.far[before]))


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC: how often a same pair scores above a different one, ties for a half.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool.

    Raises:
      ValueError: as `roc`.

    Example:
      >>> auc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
      0.75
    """
    curve = roc(scores, same)
    return float(np.trapezoid(curve.tar, curve.far))


def _checked(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, same = np.asarray(scores), np.asarray(same, bool)
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(
            f"expected scores and same of one length, found {scores.shape} and {same.shape}"
        )
    if not np.all(np.isfinite(scores)):
        raise ValueError(
            f"expected finite scores, found {np.sum(~np.isfinite(scores))} that are not"
        )
    if same.all() or not same.any():
        raise ValueError(
            f"expected same and different pairs, found {same.sum()} same of {same.size} pairs"
        )
    return scores, same
