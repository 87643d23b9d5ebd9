"""Measures NormFace's Figures 2 and 3 and Table 1 on MNIST features in the plane."""

import numpy as np

from hyperface.report import planes
from hyperface.reproduce import comparisons, digits
from hyperface.reproduce.digits import Trained
from hyperface.reproduce.faces import SIMILARITIES, decide_all_pairs
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

COMPARED = 1_000
"""Number of test images whose pairs are all compared."""
NEAR = 0.5
"""A class counts as near the origin if its mean norm is below this share of the mean of all."""


def similarities(context: Context) -> Measured:
    """Measures NormFace, Table 1, on MNIST: whether normalised features verify better.

    To verify is to tell whether two images show the same digit. That is done by the inner product
    and by the Euclidean distance of two features, before and after these are normalised.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    runs = digits.softmax_runs(context)
    entries, found = [], {}
    for name in SIMILARITIES:
        for column, normalized in (("before", False), ("after", True)):
            found[name, column] = digits.per_run(
                runs, lambda run, n=name, d=normalized: _pair_accuracy(run, n, d)
            )
            row = f"{name}, 2-d MNIST features"
            entries.append(Entry.of(row, found[name, column], "%", 2, column))
    for name in SIMILARITIES:
        gains = np.subtract(found[name, "after"], found[name, "before"])
        entries += comparisons.per_seed(f"{name}: normalisation helps on MNIST", gains)
    reason = "Wen's model needs CASIA-WebFace; table-1-faces has smaller faces"
    missing: dict[str, str] = dict.fromkeys(SIMILARITIES, reason)
    scale = (
        f"{digits.sizes_in_words(context, 'mnist-plane-softmax')}; all pairs of {COMPARED:,} test "
        "digits, best threshold, both kinds of pairs weigh equally"
    )
    return Outcome(entries, scale, missing=missing), {}


def _pair_accuracy(run: Trained, similarity: str, normalized: bool) -> float:
    """Returns the accuracy, in percent, of deciding whether two images show the same digit.

    Args:
      run: gives the features.
      similarity: one of SIMILARITIES.
      normalized: whether features are scaled to unit length first.
    """
    # Evenly spaced: test images are sorted by class, and all pairs of 10,000 are 50 million.
    every = max(1, len(run.labels["test"]) // COMPARED)
    features, labels = run.features["test"][::every], run.labels["test"][::every]
    return decide_all_pairs(features, labels, similarity, normalized=normalized).accuracy()


def softmax_plane(context: Context) -> Measured:
    """Measures NormFace, Figure 2: the features of a softmax without bias, in the plane.

    Each class fills a sector that starts at the origin. So two features of one class can be farther
    apart than two of different classes, and angles tell classes better than distances.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    runs = digits.softmax_runs(context)
    before, after = (
        digits.per_run(runs, lambda r, n=n: r.accuracy(normalized=n)) for n in (False, True)
    )
    spread = [float(run.norms("train").std() / run.norms("train").mean()) for run in runs]
    entries = [
        Entry.of("test accuracy, inner product", before, "%"),
        Entry.of("test accuracy, cosine", after, "%"),
        Entry.of("standard deviation of norms / mean norm", spread, "", 3),
    ]
    nearer = {}
    for name, normalized in (("distance", False), ("angle", True)):
        nearer[name] = digits.per_run(runs, lambda run, n=normalized: _nearer(run, n))
        row = f"another class is nearer than the farthest of the own, by {name}"
        entries.append(Entry.of(row, nearer[name], "%"))
    # (similarity, whether features are normalised first): an angle is the cosine.
    pairs = {
        name: np.array(digits.per_run(runs, lambda run, s=similarity: _pair_accuracy(run, *s)))
        for name, similarity in (
            ("angle", ("Inner-Product", True)),
            ("Euclidean distance", ("Euclidean", False)),
            ("inner product", ("Inner-Product", False)),
        )
    }
    entries += [
        Entry.of(f"accuracy of pairs, {name}", list(found), "%") for name, found in pairs.items()
    ]
    entries.append(
        Entry.claim(
            "features of different classes can be nearer than features of one class",
            [share > 0 for share in nearer["distance"]],
        )
    )
    for name in ("Euclidean distance", "inner product"):
        row = f"angles are a better metric than the {name}"
        entries += comparisons.per_seed(row, pairs["angle"] - pairs[name])
    triple = marked(runs[0])
    drawn = planes.probability_plane(
        runs[0].features["train"],
        runs[0].labels["train"],
        runs[0].agents,
        marks=triple,
        title="softmax, no bias: training features",
    )
    caption = "Training features, and the softmax probability of class 0 on the plane"
    if triple:
        one, two, three = triple.values()
        apart, own = np.linalg.norm(one - two), np.linalg.norm(two - three)
        caption += (
            f"; f1 and f2 are of different classes and {apart:.3g} apart, f2 and f3 of one class "
            f"and {own:.3g} apart"
        )
    scale = (
        f"{digits.sizes_in_words(context, 'mnist-plane-softmax')}; {COMPARED:,} test digits are "
        "compared; which class is nearer is measured on the correctly classified ones"
    )
    return Outcome(entries, scale), {caption: drawn}


def _nearer(run: Trained, normalized: bool) -> float:
    """Returns the share, in percent, of test features that lie nearer to another class.

    Such a feature has a feature of another class nearer than the farthest feature of its own class.
    Only correctly classified features count, so that outliers do not decide.
    """
    every = max(1, len(run.labels["test"]) // COMPARED)
    features, labels = run.features["test"][::every], run.labels["test"][::every]
    right = np.argmax(features @ run.agents.T, axis=1) == labels
    if not right.any():
        return 0.0
    features, labels = features[right], labels[right]
    if normalized:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    # ||a - b||^2 = ||a||^2 + ||b||^2 - 2 a b, without an array of pairs x dimensions.
    squared = np.sum(features**2, axis=1)
    apart = squared[:, None] + squared - 2 * features @ features.T
    # A feature counts as one of its own class: at distance 0 it is never the farthest.
    own = labels[:, None] == labels
    nearest = np.where(own, np.inf, apart).min(axis=1)
    return 100 * float(np.mean(nearest < np.where(own, apart, -np.inf).max(axis=1)))


def marked(run: Trained) -> dict[str, np.ndarray]:
    """Finds three training features that show why distances mislead (NormFace, Figure 2's caption).

    f_2 and f_3 have the same class. f_1 has another class, but is nearer to f_2 than f_3 is. From
    each class, two correctly classified features are considered: those at the tenth and at the
    ninetieth percentile of the feature norms. Of these, the three with the largest ratio
    ||f_3 - f_2|| / ||f_1 - f_2|| are returned.

    Returns:
      {"f_1": [dim], "f_2": [dim], "f_3": [dim]}, or {} if the ratio never exceeds 1.
    """
    features, labels = run.features["train"], run.labels["train"]
    right = np.argmax(features @ run.agents.T, axis=1) == labels
    near, far = {}, {}
    for label in np.unique(labels[right]):
        some = features[right & (labels == label)]
        some = some[np.argsort(np.linalg.norm(some, axis=1))]
        # Percentiles and not the extremes, which may be outliers.
        near[label], far[label] = some[len(some) // 10], some[len(some) * 9 // 10]
    ratios = {
        (one, two): np.linalg.norm(far[two] - near[two]) / np.linalg.norm(near[one] - near[two])
        for one in near
        for two in near
        if one != two
    }
    if not ratios or max(ratios.values()) <= 1:
        return {}
    one, two = max(ratios, key=ratios.__getitem__)
    return {"f_1": near[one], "f_2": near[two], "f_3": far[two]}


def bias_plane(context: Context) -> Measured:
    """Measures NormFace, Figure 3: a bias lets the features of a class lie around the origin.

    Such a cluster has every direction, so after normalisation it is spread over the circle.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    free, biased = digits.softmax_runs(context), digits.softmax_runs(context, bias=True)
    both = {"no bias": free, "with a bias": biased}
    entries = [
        Entry.of(
            f"test accuracy, {kind}",
            digits.per_run(runs, lambda r, n=n: r.accuracy(normalized=n)),
            "%",
        )
        for name, runs in both.items()
        for kind, n in ((f"{name}, as trained", False), (f"{name}, cosine", True))
    ]
    norms = {name: [_class_norms(run) for run in runs] for name, runs in both.items()}
    counts = {name: [int(np.sum(n < NEAR)) for n in found] for name, found in norms.items()}
    for name, found in norms.items():
        row = f"least class norm / mean over classes, {name}"
        entries.append(Entry.of(row, [n.min() for n in found], "", 3))
        row = f"classes with a mean norm below {NEAR:g} of the mean over classes, {name}"
        entries.append(Entry.of(row, counts[name], "of 10", 1))
    # Per seed the digit whose cluster is nearest to the origin; another seed may have another one.
    centers = [int(np.argmin(n)) for n in norms["with a bias"]]
    spread = np.array([[_spread(run, digit) for digit in range(10)] for run in biased])
    lost = np.array([[_lost(run, digit) for digit in range(10)] for run in biased])
    parts = {
        "spread over the circle": (spread, "degrees"),
        "accuracy lost by the cosine": (lost, "%"),
    }
    seeds = np.arange(len(biased))
    central, others = {}, {}
    for what, (found, unit) in parts.items():
        central[what] = found[seeds, centers]
        # The mean of the nine other digits.
        others[what] = (found.sum(axis=1) - central[what]) / 9
        for name, of in (("class nearest the origin", central), ("mean of the others", others)):
            entries.append(Entry.of(f"with a bias, {what}: {name}", list(of[what]), unit))
    costs = [
        np.array([1.0 * run.right() - run.right(normalized=True) for run in runs])
        for runs in (biased, free)
    ]
    entries += [
        Entry.claim(
            "with a bias one or two clusters are near the origin",
            [1 <= count <= 2 for count in counts["with a bias"]],
        ),
        *(
            entry
            for what, row in (
                ("spread over the circle", "is spread wider than the others"),
                ("accuracy lost by the cosine", "is harder to tell than the others are"),
            )
            for entry in comparisons.per_seed(
                f"normalised, the cluster nearest the origin {row}",
                central[what] - others[what],
                unit=parts[what][1].replace("%", "points"),
            )
        ),
        digits.compared("with a bias normalisation costs more", *costs),
    ]
    drawn = {
        f"Training features{'' if seed == 0 else ', another seed'}": planes.feature_plane(
            run.features["train"], run.labels["train"], f"softmax with a bias, seed {seed}"
        )
        for seed, run in enumerate(biased[:2])
    }
    return Outcome(entries, digits.sizes_in_words(context, "mnist-plane-softmax")), drawn


def _class_norms(run: Trained) -> np.ndarray:
    """Returns each class' mean norm of training features, divided by the mean of all classes."""
    norms = run.class_norms("train")
    # `class_norms` divides by the mean over images instead, of which a class may have more.
    return norms / norms.mean()


def _spread(run: Trained, digit: int) -> float:
    """Returns the root mean square angle, in degrees, of a digit's features to their mean.

    Features that are spread evenly over the circle have 104 degrees.
    """
    features = run.features["train"][run.labels["train"] == digit]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    # Clipped, because rounding can bring a cosine above 1, where arccos is NaN.
    cosines = np.clip(unit @ mean / np.linalg.norm(mean), -1, 1)
    return float(np.degrees(np.sqrt(np.mean(np.arccos(cosines) ** 2))))


def _lost(run: Trained, digit: int) -> float:
    """Returns the accuracy, in points, that the cosine without bias loses on one digit.

    The accuracy is that of deciding whether a test image shows the digit. Images of the digit and
    all other images have the same weight.
    """
    features, own = run.features["test"], run.labels["test"] == digit
    logits = features @ run.agents.T
    found = []
    # The norm of the feature is left out of the cosine: it does not change which class wins.
    for scores in (logits + run.bias, logits / np.linalg.norm(run.agents, axis=1)):
        predicted = np.argmax(scores, axis=1) == digit
        found.append(50 * (np.mean(predicted[own]) + np.mean(~predicted[~own])))
    return float(found[0] - found[1])
