"""LFW's ten folds with a PCA each, beside scikit-learn's PCA fitted anew for each fold.

    python benchmarks/pairs.py [--dims 512 1024] [--rounds 3]

6,000 pairs of 7,700 images whose features have a falling spectrum; both keep 99.5 % of the variance
and score in the same way. "ratio" is to scikit-learn, from medians within one run: candidates take
turns, so that a drift of the machine meets all of them. Features are float32, as of a network;
scikit-learn fits in that precision, this library in float64. The accuracies must be equal.
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
    """(features, first, second, same, fold): two images a person, people apart by folds."""
    rng = np.random.default_rng(0)
    fold_of_person = np.arange(people) * folds // people
    spectrum = np.exp(-4.0 * np.arange(dim) / dim)
    centers = rng.standard_normal((people, 1, dim))
    features = (centers + 1.5 * rng.standard_normal((people, 2, dim))) * spectrum
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) * 2 * folds // pairs % 2 == 0
    person = np.array([rng.choice(np.flatnonzero(fold_of_person == i), 2, False) for i in fold])
    second = np.where(same, person[:, 0], person[:, 1])
    rows = 2 * person[:, 0], 2 * second + 1
    return features.reshape(-1, dim).astype(np.float32), *rows, same, fold


def refitted(features, first, second, same, fold):
    """Accuracy a fold with scikit-learn's PCA fitted on both images of all other folds' pairs."""
    accuracy = []
    for i in np.unique(fold):
        test = fold == i
        rows = np.concatenate([first[~test], second[~test]])
        projected = PCA(KEPT).fit(features[rows]).transform(features)
        scores = cosine_scores(projected, Pairs(first, second, same))
        accuracy.append(held_out_accuracy(scores, same, test)[0])
    return np.array(accuracy)


def subtracted(*data):
    """The same by this library."""
    return verify_pairs(*data, PairRules(pca=KEPT)).folds.accuracy


CANDIDATES = {"scikit-learn": refitted, "hyperface": subtracted}


def measure(dim: int, rounds: int) -> None:
    """Prints one table."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    for dim in options.dims:
        measure(dim, options.rounds)


if __name__ == "__main__":
    main()
