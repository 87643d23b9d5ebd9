"""Decides pairs by their similarities as published codes do: by an SVM or a grid of thresholds.

The SVM is libsvm, through scikit-learn. The published codes are those of NormFace and insightface.
"""

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.svm import SVC

from hyperface.metrics._checks import checked_same
from hyperface.metrics.shapes import (
    Decisions,
    Histograms,
    Intersections,
    Kernel,
    OtherHistograms,
    Same,
    Scores,
    Tested,
)
from hyperface.metrics.verification import best_threshold, mean_best_threshold


def svm_threshold(scores: Scores, same: Same) -> float:
    """Returns the threshold that a linear SVM chooses, as NormFace's published code does.

    The SVM separates same pairs from different pairs by their score alone. The SVM is libsvm's
    C-SVC with C = 1 and without libsvm's shrinking heuristic, on the unscaled scores. The threshold
    is the score at which the value of its decision function is 0. If same pairs do not score higher
    than different pairs, the threshold is -inf, which accepts every pair.

    Args:
      scores: [pairs] similarities of the pairs on which the threshold is chosen.
      same: [pairs] bool, True for a same pair (both images show one person), False for a different
        pair (they show two people).

    Returns:
      The threshold. A pair is decided to be the same if its score is at least the threshold.

    Example:
      >>> scores, same = np.array([4.0, 3.0, 1.0, 0.0]), np.array([True, True, False, False])
      >>> print(f"{svm_threshold(scores, same):.3f}")
      2.000
    """
    machine = SVC(kernel="linear", C=1.0, shrinking=False)
    machine.fit(scores[:, None], checked_same(same))
    slope, offset = machine.coef_.item(), machine.intercept_.item()
    # A negative slope would accept the pairs below a threshold, which no threshold here expresses.
    return -offset / slope if slope > 0 else -np.inf


def grid_threshold(scores: Scores, same: Same) -> float:
    """Returns the threshold that insightface's verification code would choose.

    That code tries the squared distances 0, 0.01, ..., 3.99 as thresholds, where a pair is decided
    to be the same if its squared distance is below the threshold. The result is the threshold with
    the highest accuracy; of several equally good ones, the smallest squared distance. Accuracy is
    the share of all pairs that are decided correctly.

    Args:
      scores: [pairs] negative squared Euclidean distances of unit features.
      same: [pairs] bool, True where both images show one person.

    Returns:
      The threshold of the scores, a negative squared distance. A pair is decided to be the same if
      its score is at least the threshold.

    Example:
      >>> scores, same = np.array([-0.5, -0.8, -1.2]), np.array([True, True, False])
      >>> print(f"{grid_threshold(scores, same):.2f}")
      -0.81
    """
    same = checked_same(same)
    distances = -np.asarray(scores, np.float64)
    below = [np.searchsorted(np.sort(distances[kind]), GRID, side="left") for kind in (same, ~same)]
    # Correct decisions are the same pairs below, and the different pairs not below. Their number
    # less a constant is this difference. argmax returns the first of equally good thresholds.
    best = int(np.argmax(below[0] - below[1]))
    # The next number above: insightface refuses a distance equal to the threshold, and a score
    # equal to the returned threshold is accepted.
    return float(np.nextafter(-GRID[best], np.inf))


GRID = np.arange(0, 4, 0.01)
"""Thresholds of squared distances in insightface's verification code."""

THRESHOLDS = {
    "accuracy": best_threshold,
    "accuracy-mean": mean_best_threshold,
    "svm": svm_threshold,
    "grid": grid_threshold,
}
"""Functions (scores, same) -> threshold by the name of their rule.

"accuracy" and "accuracy-mean" maximise the balanced accuracy. "svm" is NormFace's rule. "grid" is
insightface's rule, and its scores have to be negative squared distances."""

THRESHOLD_STEPS = {
    "accuracy": "threshold of highest accuracy on the other folds, median of equally good ones",
    "accuracy-mean": "mean of all thresholds of highest accuracy on the other folds",
    "svm": "threshold of a linear SVM, C = 1, fitted on the other folds' similarities",
    "grid": "insightface's grid: the squared distance among 0, 0.01, ..., 3.99 below which the "
    "other folds' pairs are decided best, the smallest of equally good ones; all pairs weigh "
    "equally in that choice",
}
"""One sentence per rule of `THRESHOLDS`, for the text that describes the computation."""


def histogram_intersection(a: Histograms, b: OtherHistograms) -> Intersections:
    """Returns the histogram intersection kernel (NormFace, section 5.3).

        K(a, b) = sum_i min(a_i, b_i) = (sum_i a_i + sum_i b_i - sum_i |a_i - b_i|) / 2

    NormFace decides pairs of videos by an SVM with this kernel. A histogram describes one pair: the
    cosines of all frames of one video with all frames of the other.

    Args:
      a: [n, bins] histograms with shares that are not negative.
      b: [m, bins] histograms of the same kind.

    Returns:
      [n, m] float64. For histograms that sum to 1 it is in [0, 1], and is 1 for equal histograms.

    Raises:
      ValueError: the numbers of bins differ, or a share is negative or not finite.

    Example:
      >>> print(histogram_intersection(np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]])))
      [[0.5]]
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected two [rows, bins] arrays, found {a.shape} and {b.shape}")
    if not all(np.all(np.isfinite(x) & (x >= 0)) for x in (a, b)):
        raise ValueError("expected finite shares of at least 0, found others")
    # The second form of the equation, because SciPy sums |a_i - b_i| without an [n, m, bins] array.
    return 0.5 * (a.sum(axis=1)[:, None] + b.sum(axis=1) - cdist(a, b, "cityblock"))


def kernel_decisions(kernel: Kernel, same: Same, test: Tested) -> Decisions:
    """Fits an SVM on some pairs, and returns its decision values for the held-out pairs.

    The SVM is libsvm's C-SVC on a precomputed kernel, with C = 1 and without libsvm's shrinking
    heuristic, as in NormFace's published code.

    Args:
      kernel: [pairs, pairs] kernel value of each pair with each pair, such as the
        `histogram_intersection` of their histograms.
      same: [pairs] bool, True where both sides of the pair (such as two videos) show one person.
      test: [pairs] bool, True for the held-out pairs.

    Returns:
      [held-out pairs] values of the SVM's decision function. A value above zero means "same
      person".
    """
    same = checked_same(same)
    machine = SVC(kernel="precomputed", C=1.0, shrinking=False)
    machine.fit(kernel[np.ix_(~test, ~test)], same[~test])
    return machine.decision_function(kernel[np.ix_(test, ~test)])
