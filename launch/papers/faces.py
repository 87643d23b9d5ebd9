"""NormFace's statements about faces, measured on trained runs at small scale."""

import numpy as np
from sklearn.metrics import roc_curve

from hyperface.report import figures
from hyperface.train.metrics import read_metrics
from launch.papers import cached, methods
from launch.papers.item import Context, Entry, Outcome

RUN = "faces-softmax"
DISTORTED = {
    "C-contrastive, normalised": "faces-c-contrastive",
    "softmax, normalised": "faces-normface",
}
"""Runs that show Proposition 3's bound in training, by what they are."""
SIMILARITIES = ("Inner-Product", "Euclidean")


def pair_accuracy(
    features: np.ndarray, labels: np.ndarray, similarity: str, *, normalized: bool
) -> float:
    """Accuracy in percent over all pairs at the best threshold, both kinds of pairs weighing alike.

    Args:
      features: [images, dim].
      labels: [images] class ids.
      similarity: one of SIMILARITIES.
      normalized: whether features are brought to unit length.
    """
    if normalized:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores = features @ features.T
    if similarity == "Euclidean":
        squared = np.sum(features**2, axis=1)
        scores = 2 * scores - squared[:, None] - squared
    upper = np.triu_indices(labels.size, 1)
    far, tar, _ = roc_curve((labels[:, None] == labels)[upper], scores[upper])
    return float(50 * np.max(1 + tar - far))


def normalization(context: Context):
    """Table 1 on faces: pairs compared before and after normalisation, without mirror images."""
    kept = cached.features(context.runs / RUN, context)["test"]
    entries, gains = [], {}
    for name in SIMILARITIES:
        before, after = (
            pair_accuracy(kept.features[:, 0], kept.labels, name, normalized=normalized)
            for normalized in (False, True)
        )
        gains[name] = after - before
        for column, found in (("before", before), ("after", after), ("gain", gains[name])):
            entries.append(Entry.of(name, found, "%", 2, column))
    entries += [Entry.above(f"{name}: normalisation helps", [gain]) for name, gain in gains.items()]
    # As the paper rounds them.
    as_much = all(0.55 <= gain < 0.75 for gain in gains.values())
    entries.append(Entry.claim("normalisation adds 0.6 to 0.7 points", as_much))
    return Outcome(entries, _pairs(kept, "no mirror images")), {}


def mirror(context: Context):
    """Section 5.1: an image and its mirror image, their features summed or side by side."""
    kept = cached.features(context.runs / RUN, context)["test"]
    merged = {
        "the image alone": kept.features[:, 0],
        "image and mirror image, concatenated": kept.features.reshape(len(kept.labels), -1),
        "image and mirror image, summed": kept.features.sum(axis=1),
    }
    found = {
        name: pair_accuracy(features, kept.labels, "Inner-Product", normalized=True)
        for name, features in merged.items()
    }
    alone, side_by_side, summed = found.values()
    entries = [Entry.of(name, accuracy, "%") for name, accuracy in found.items()]
    entries += [
        Entry.above("the sum verifies better than the image alone", [summed - alone]),
        Entry.above("the sum verifies better than the concatenation", [summed - side_by_side]),
    ]
    return Outcome(entries, _pairs(kept, "cosine")), {}


def _pairs(kept: cached.Cached, how: str) -> str:
    people = np.unique(kept.labels).size
    return (
        f"features of {RUN}; all pairs of {kept.labels.size} images of {people} people it was not "
        f"trained on, {how}, best threshold, both kinds of pairs weigh equally"
    )


def distortion(context: Context):
    """Proposition 3's bound at the end of training on faces, one figure a seed."""
    entries, curves, sizes = [], {}, []
    for name, method in DISTORTED.items():
        seeds = methods.seeds(context.runs, method)
        folders = [methods.folder(context.runs, method, seed) for seed in seeds]
        metrics = [read_metrics(folder / "metrics.jsonl") for folder in folders]
        last = [lines[-1]["distortion"] for lines in metrics]
        entries.append(Entry.of(f"{name}: mean squared distance to the own agent", last, "", 3))
        curves[method] = metrics[0]
        count = len(seeds)
        steps = f"{metrics[0][-1]['step']:,.0f} steps"
        sizes.append(f"{method}: {steps}, {count} {'seed' if count == 1 else 'seeds'}")
    scale = f"{'; '.join(sizes)}; fine-tuned from {RUN}, the mean over classes as logged last"
    return Outcome(entries, scale), {"The bound in training on faces": figures.distortion(curves)}
