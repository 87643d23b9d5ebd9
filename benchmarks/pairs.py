"""Measures the scoring of LFW's ten folds, each with a PCA of its own, against scikit-learn's PCA.

    python benchmarks/pairs.py [--dims 512 1024] [--rounds 3]

There are 6,000 pairs of 7,700 images, whose features have a falling spectrum. Both candidates keep
99.5 % of the variance and score in the same way. scikit-learn fits a new PCA for each fold. "ratio"
is the median time, divided by that of scikit-learn. The candidates take turns, so that a drift of
the machine affects both. Features are float32, like those of a network; scikit-learn fits in
float32, and this library in float64. The accuracies must be equal.
"""

import argparse
import time

import numpy as np
import sklearn
from sklearn.decomposition import PCA

from hyperface.metrics.verification import Pairs, cosine_scores, held_out_accuracy
from hyperface.protocols.pair_rules import PairRules
from hyperface.protocols.pair_verification import verify_pairs

KEPT = 0.995


def problem(dim: int, people: int = 3850, pairs: int = 6000, folds: int = 10):
    """Makes random pairs like those of LFW. No person is in two folds, and each has two images.

    Args:
      dim: number of dimensions of a feature.
      people: number of people.
      pairs: number of pairs.
      folds: number of folds.

    Returns:
      Five arrays: the features [2 * people, dim] float32, and for each pair [pairs] the row of its
      first image, the row of its second image, whether both are of one person, and its fold.
    """
    rng = np.random.default_rng(0)
    fold_of_person = np.arange(people) * folds // people
    # As in features of networks, few directions have most of the variance, so that PCA drops some.
    spectrum = np.exp(-4.0 * np.arange(dim) / dim)
    centers = rng.standard_normal((people, 1, dim))
    features = (centers + 1.5 * rng.standard_normal((people, 2, dim))) * spectrum
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) * 2 * folds // pairs % 2 == 0
    person = np.array([rng.choice(np.flatnonzero(fold_of_person == i), 2, False) for i in fold])
    # The images of person i are in rows 2 i and 2 i + 1. A pair has the first image of one person
    # and the second image of the same or of another person.
    second = np.where(same, person[:, 0], person[:, 1])
    rows = 2 * person[:, 0], 2 * second + 1
    return features.reshape(-1, dim).astype(np.float32), *rows, same, fold


def refitted(features, first, second, same, fold):
    """Returns the accuracy per fold, with scikit-learn's PCA fitted on the pairs of other folds."""
    accuracy = []
    for i in np.unique(fold):
        test = fold == i
        rows = np.concatenate([first[~test], second[~test]])
        projected = PCA(KEPT).fit(features[rows]).transform(features)
        scores = cosine_scores(projected, Pairs(first, second, same))
        accuracy.append(held_out_accuracy(scores, same, test)[0])
    return np.array(accuracy)


def subtracted(*data):
    """Returns the accuracy per fold, by this library."""
    # It sums all images once, and subtracts the sums of a fold to get those of the other folds.
    return verify_pairs(*data, PairRules(pca=KEPT)).folds.accuracy


CANDIDATES = {"scikit-learn": refitted, "hyperface": subtracted}


def measure(dim: int, rounds: int) -> None:
    """Measures both candidates for one number of dimensions and prints their table."""
    data = problem(dim)
    times, found = {name: [] for name in CANDIDATES}, {}
    for round_ in range(rounds + 1):
        for name, candidate in CANDIDATES.items():
            began = time.perf_counter()
            found[name] = candidate(*data)
            if round_:  # The first round warms up.
                times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    base = median["scikit-learn"]
    print(f"\n6,000 pairs, dim {dim}, 10 folds, {rounds} rounds")
    print(f"{'':24}{'s':>8}{'ratio':>8}{'accuracy':>11}{'largest difference of a fold':>32}")
    for name, seconds in median.items():
        difference = np.abs(found[name] - found["hyperface"]).max()
        print(
            f"{name:24}{seconds:8.2f}{seconds / base:8.2f}{100 * found[name].mean():9.3f} %"
            f"{difference:32.1e}"
        )


def main() -> None:
    """Parses the options and prints one table per number of dimensions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    for dim in options.dims:
        measure(dim, options.rounds)


if __name__ == "__main__":
    main()
