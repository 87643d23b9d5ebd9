"""Measures NormFace's statements about faces on trained runs at small scale."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from hyperface.data.datasets import find
from hyperface.metrics.verification import fold_accuracy
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.lfw import read_lfw_pairs
from hyperface.protocols.pair_list import PairList
from hyperface.protocols.registry import PROTOCOLS
from hyperface.report import figures
from hyperface.reproduce import cached, methods
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.train.logs import read_metrics

RUN = "faces-softmax-continued"
DISTORTED = {
    "C-contrastive, normalised": "faces-c-contrastive",
    "softmax, normalised": "faces-normface",
}
"""Loss -> the run that shows Proposition 3's bound during training."""
SIMILARITIES = ("Inner-Product", "Euclidean")


def pair_accuracy(
    features: np.ndarray, labels: np.ndarray, similarity: str, *, normalized: bool
) -> float:
    """Returns the accuracy in percent over all pairs at the best threshold.

    Same and different pairs have equal weight.

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


def list_accuracy(
    named: NamedFeatures, pairs: PairList, similarity: str, *, normalized: bool
) -> float:
    """Returns the mean accuracy in percent over a list's folds.

    The threshold of a fold is the best one of the other folds.

    Args:
      named: features of the list's images.
      pairs: the list.
      similarity: one of SIMILARITIES.
      normalized: whether features are brought to unit length.
    """
    first, second = (
        np.asarray(named.features[named.rows(side, "the list")], np.float64) for side in pairs[:2]
    )
    if normalized:
        first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    if similarity == "Euclidean":
        scores = -np.linalg.norm(first - second, axis=1)
    else:
        scores = np.sum(first * second, axis=1)
    return 100 * fold_accuracy(scores, pairs.same, pairs.fold).mean


def normalization(context: Context) -> Measured:
    """Measures Table 1 on faces: accuracy before and after normalisation, without mirror images.

    It uses all pairs of the test people, and LFW's list if that is there.
    """
    runs = _runs(context)
    every = [cached.features(run, context, ("test",))["test"] for run in runs]
    entries = _before_and_after(
        "",
        lambda name, normalized: [
            pair_accuracy(kept.features[:, 0], kept.labels, name, normalized=normalized)
            for kept in every
        ],
    )
    scale, missing = _pairs(every, "no mirror images"), {}
    path = context.data_dir / "protocols" / PROTOCOLS["lfw"].file_names[0]
    if find("lfw", context.data_dir) and path.exists():
        pairs = read_lfw_pairs(path)
        names = [*pairs.first, *pairs.second]
        of_list = [cached.listed(run, "lfw", names, context) for run in runs]
        entries += _before_and_after(
            "LFW, ",
            lambda name, normalized: [
                list_accuracy(named, pairs, name, normalized=normalized) for named in of_list
            ],
        )
        scale += f"; LFW: {pairs.same.size:,} pairs in {np.unique(pairs.fold).size} folds"
    else:
        reason = f"the data set lfw, or {path}, is not there"
        missing = {f"LFW, {name}": reason for name in SIMILARITIES}
    return Outcome(entries, scale, missing=missing), {}


def _before_and_after(prefix: str, accuracies: Callable[[str, bool], list[float]]) -> list[Entry]:
    """Returns the entries of both similarities from `accuracies`, which returns one per seed."""
    entries, gains = [], {}
    for name in SIMILARITIES:
        before, after = (np.array(accuracies(name, normalized)) for normalized in (False, True))
        gains[name] = after - before
        for column, found in (("before", before), ("after", after), ("gain", gains[name])):
            entries.append(Entry.of(f"{prefix}{name}", list(found), "%", 2, column))
    entries += [
        Entry.above(f"{prefix}{name}: normalisation helps", gain) for name, gain in gains.items()
    ]
    # The paper rounds to one digit: 0.6 and 0.7 are the range from 0.55 up to 0.75.
    as_much = [
        all(0.55 <= gain < 0.75 for gain in both) for both in zip(*gains.values(), strict=True)
    ]
    row = f"{prefix}normalisation adds 0.6 to 0.7 points"
    return [*entries, Entry.claim(row, as_much, compares=True)]


def mirror(context: Context) -> Measured:
    """Measures section 5.1: features of an image and its mirror image, summed or concatenated."""
    every = [cached.features(run, context, ("test",))["test"] for run in _runs(context)]
    merged = {
        "the image alone": lambda both: both[:, 0],
        "image and mirror image, concatenated": lambda both: both.reshape(len(both), -1),
        "image and mirror image, summed": lambda both: both.sum(axis=1),
    }
    found = {
        name: np.array(
            [
                pair_accuracy(merge(kept.features), kept.labels, "Inner-Product", normalized=True)
                for kept in every
            ]
        )
        for name, merge in merged.items()
    }
    alone, side_by_side, summed = found.values()
    entries = [Entry.of(name, list(accuracy), "%") for name, accuracy in found.items()]
    entries += [
        Entry.above("the sum verifies better than the image alone", summed - alone),
        Entry.above("the sum verifies better than the concatenation", summed - side_by_side),
    ]
    return Outcome(entries, _pairs(every, "cosine")), {}


def _runs(context: Context) -> list[Path]:
    """Returns the folders of all finished seeds of RUN."""
    return [methods.folder(context.runs, RUN, seed) for seed in methods.seeds(context.runs, RUN)]


def _pairs(every: Sequence[cached.Cached], how: str) -> str:
    labels, count = every[0].labels, len(every)
    return (
        f"features of {RUN}, {count} {'seed' if count == 1 else 'seeds'}; all pairs of "
        f"{labels.size} images of {np.unique(labels).size} people it was not trained on, {how}, "
        "best threshold, both kinds of pairs weigh equally"
    )


def distortion(context: Context) -> Measured:
    """Measures Proposition 3's bound at the end of training on faces, once per seed."""
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
    scale = (
        f"{'; '.join(sizes)}; fine-tuned from faces-softmax, the mean over classes as logged last"
    )
    return Outcome(entries, scale), {"The bound in training on faces": figures.distortion(curves)}
