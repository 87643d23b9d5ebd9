"""Measures Ring loss' items on MNIST: planes of features, norms of classes, and class accuracy."""

import numpy as np

from hyperface.report import drawings, planes
from hyperface.reproduce import comparisons, digits
from hyperface.reproduce.digits import Trained
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

LONG, SHORT = (3, 6, 8), (1, 7, 9)
"""Digits of which Ring loss, section 2.1, says that their features have high or low norms."""


def ring_planes(context: Context) -> Measured:
    """Measures Ring loss, Figure 1: two-dimensional features with and without Ring loss.

    It also measures the test accuracy, and which digits have long features without Ring loss.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    entries, drawn, deviation, rights = [], {}, {}, {}
    plain = digits.softmax_runs(context)
    for name, runs in (("softmax", plain), ("softmax + Ring loss", digits.ring_runs(context))):
        deviation[name] = [float(run.norms().std() / run.norms().mean()) for run in runs]
        rights[name] = np.array([run.right() for run in runs])
        entries += [
            Entry.of(f"test accuracy, {name}", digits.per_run(runs, Trained.accuracy), "%"),
            Entry.of(f"standard deviation of norms / mean norm, {name}", deviation[name], "", 3),
        ]
        drawn[name] = planes.feature_plane(
            runs[0].features["train"], runs[0].labels["train"], f"{name}: training features"
        )
    # Softmax less softmax + Ring loss: above zero if Ring loss has the smaller deviation.
    entries += comparisons.per_seed(
        "Ring loss makes norms alike", np.subtract(*deviation.values()), unit=""
    )
    entries.append(
        digits.compared(
            "Ring loss raises the test accuracy", rights["softmax + Ring loss"], rights["softmax"]
        )
    )
    # A released code has 5 dimensions by default, and 2 to draw; the paper does not say which.
    for dim, runs in ((2, plain), (5, digits.softmax_runs(context, dim=5))):
        entries += _norm_order(dim, [run.class_norms() for run in runs])
    return Outcome(entries, digits.sizes_in_words(context, "mnist-plane-ring")), drawn


def _norm_order(dim: int, norms: list[np.ndarray]) -> list[Entry]:
    """Returns entries with the share of the seeds in which norms are ordered as the paper states.

    Args:
      dim: number of dimensions of a feature.
      norms: per seed, the mean norm of each class divided by that of all images, [classes].
    """
    # In the plane the norm of a class depends on where its agent happens to stand, so that a single
    # training says little: the share over many seeds is reported, without a verdict.
    orders = {
        "norms of 3, 6 and 8 above the mean": [min(n[[*LONG]]) > 1 for n in norms],
        "norms of 1, 7 and 9 below the mean": [max(n[[*SHORT]]) < 1 for n in norms],
        "digit 1 has the lowest norm": [np.argmin(n) == 1 for n in norms],
    }
    return [
        Entry(
            f"softmax, {dim} dimensions: {row}",
            (100 * float(np.mean(held)),),
            unit="% of seeds",
            digits=0,
            note=f"{sum(held)} of {len(held)}",
        )
        for row, held in orders.items()
    ]


def digit_eight(context: Context) -> Measured:
    """Measures Ring loss, Figure 4: how the angles of features vary, for low and for high norms.

    The network is trained on MNIST with softmax loss alone, and its features lie in the plane. The
    angle is that between a feature of digit 8 and the mean of digit 8's features. The quarter of
    the features with the lowest norms is compared with the quarter with the highest norms, and
    training images are compared with test images.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    runs = digits.softmax_runs(context)
    entries, angles = [], {}
    for split in ("train", "test"):
        for name, part in (("lowest", 0), ("highest", 3)):
            angles[split, name] = [_angular_spread(run, split, part) for run in runs]
            row = f"{split}: angular deviation of the {name} quarter of norms"
            entries.append(Entry.of(row, angles[split, name], "degrees"))
    entries += comparisons.per_seed(
        "test: low norms vary more in angle",
        np.subtract(angles["test", "lowest"], angles["test", "highest"]),
        unit="degrees",
    )
    # The quarters have equally many features, so that the mean of their squares is that of all.
    spread = {
        split: [
            np.sqrt(np.mean([_angular_spread(run, split, part) ** 2 for part in range(4)]))
            for run in runs
        ]
        for split in ("train", "test")
    }
    entries += [
        Entry.of(f"{split}: angular deviation of all norms", found, "degrees")
        for split, found in spread.items()
    ]
    entries += comparisons.per_seed(
        "features vary more in angle on test images",
        np.subtract(spread["test"], spread["train"]),
        unit="degrees",
    )
    for split in ("train", "test"):
        found = [_norm_spread(run, split) for run in runs]
        entries.append(Entry.of(f"{split}: standard deviation of norms / mean norm", found, "", 3))
    eight = {
        split: runs[0].features[split][runs[0].labels[split] == 8] for split in ("train", "test")
    }
    drawn = drawings.planes({s: [drawings.Points(points, "", 4)] for s, points in eight.items()})
    return Outcome(entries, digits.sizes_in_words(context, "mnist-plane-softmax")), {
        "Features of the digit 8": drawn
    }


def _angular_spread(run: Trained, split: str, quarter: int) -> float:
    """Returns how far the directions of some features of digit 8 spread, in degrees.

    It is the root mean square angle between these features and the mean of all features of digit 8.

    Args:
      run: gives the features.
      split: "train" or "test".
      quarter: 0 for the quarter of the features with the lowest norms, up to 3 for the highest.
    """
    features = run.features[split][run.labels[split] == 8]
    order = np.argsort(np.linalg.norm(features, axis=1))
    some = features[np.array_split(order, 4)[quarter]]
    # The sum has the direction of the mean, which is all that a cosine needs.
    mean = features.sum(axis=0)
    cosines = some @ mean / (np.linalg.norm(some, axis=1) * np.linalg.norm(mean))
    return float(np.degrees(np.sqrt(np.mean(np.arccos(np.clip(cosines, -1, 1)) ** 2))))


def _norm_spread(run: Trained, split: str) -> float:
    """Returns the standard deviation of the norms of digit 8's features, divided by their mean."""
    norms = run.norms(split)[run.labels[split] == 8]
    return float(norms.std() / norms.mean())


def class_norms(context: Context) -> Measured:
    """Measures Ring loss, Figure 5: norm ratio and accuracy of each digit of MNIST.

    The norm ratio of a digit is the mean norm of its features, divided by the mean norm of all
    features. A network with softmax loss alone is compared with one that has Ring loss too.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    found = {
        "softmax": digits.softmax_runs(context),
        "softmax + Ring loss": digits.ring_runs(context),
    }
    entries, variance = [], {}
    for name, runs in found.items():
        variance[name] = [float(run.class_norms().std()) for run in runs]
        row = f"standard deviation of the ten norm ratios, {name}"
        entries.append(Entry.of(row, variance[name], "", 3))
    shares = {
        name: np.array([[_class_accuracy(run, digit) for digit in range(10)] for run in runs])
        for name, runs in found.items()
    }
    for digit in range(10):
        for name, runs in found.items():
            ratio = [run.class_norms()[digit] for run in runs]
            row = f"digit {digit}, {name}"
            entries.append(Entry.of(row, ratio, "", 3, "norm ratio"))
            entries.append(Entry.of(row, list(shares[name][:, digit]), "%", 2, "test accuracy"))
    gained = shares["softmax + Ring loss"] > shares["softmax"]
    entries.append(
        Entry.of("classes whose accuracy Ring loss raises", list(gained.sum(axis=1)), "of 10", 1)
    )
    # One part per digit: the statement holds only if every part does.
    entries += comparisons.per_seed(
        "Ring loss raises the accuracy of all classes",
        *np.subtract(shares["softmax + Ring loss"], shares["softmax"]).T,
    )
    entries += comparisons.per_seed(
        "Ring loss reduces the variance of class norms", np.subtract(*variance.values()), unit=""
    )
    drawn = drawings.bars(
        {name: runs[0].class_norms() for name, runs in found.items()},
        title="Mean norm of a class over the mean norm",
        xlabel="digit",
        ylabel="norm ratio",
    )
    errors = drawings.bars(
        {name: 100 - share[0] for name, share in shares.items()},
        title="Test error of a class",
        xlabel="digit",
        ylabel="error, %",
    )
    return Outcome(entries, digits.sizes_in_words(context, "mnist-plane-ring")), {
        "Norm ratio of each class": drawn,
        "Test error of each class": errors,
    }


def _class_accuracy(run: Trained, digit: int) -> float:
    """Returns the share, in percent, of a digit's test images that are classified correctly."""
    chosen = run.labels["test"] == digit
    found = np.argmax(run.features["test"][chosen] @ run.agents.T, axis=1)
    return 100 * float(np.mean(found == digit))
