"""Measures NormFace's statements about features of faces, on the trained runs at small scale.

These are Table 1 (normalisation at test time), section 5.1 (mirror images), and the bound of its
Proposition 3 during training.
"""

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
from hyperface.report import training_figures
from hyperface.reproduce import commands, comparisons, feature_cache
from hyperface.reproduce.comparisons import Decisions
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.train.logs import read_metrics

RUN = "faces-softmax-continued"
"""The method whose features are compared: softmax without normalisation, as Table 1 has it."""
DISTORTED = {
    "C-contrastive, normalised": "faces-c-contrastive",
    "softmax, normalised": "faces-normface",
}
"""Loss -> the run that shows the bound of NormFace's Proposition 3 during training."""
SIMILARITIES = ("Inner-Product", "Euclidean")
"""The two similarities of Table 1, by their names there."""


def decide_all_pairs(
    features: np.ndarray, labels: np.ndarray, similarity: str, *, normalized: bool
) -> Decisions:
    """Classifies each pair of images as one class or two, and returns which results are correct.

    Every two images form a pair. The threshold of the similarity is the one with the highest
    accuracy: the mean of the accuracies on pairs of one class and on pairs of two classes.

    Args:
      features: [images, dim].
      labels: [images] class ids, such as people.
      similarity: "Inner-Product" or "Euclidean" (minus the distance).
      normalized: whether features are scaled to unit length first.
    """
    if normalized:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores = features @ features.T
    if similarity == "Euclidean":
        # -||a - b||^2 = 2 a b - ||a||^2 - ||b||^2, so that nearer pairs score higher. The square
        # keeps the order of distances, and a threshold needs no more.
        squared = np.sum(features**2, axis=1)
        scores = 2 * scores - squared[:, None] - squared
    # The upper triangle has each pair once, and no image with itself.
    upper = np.triu_indices(labels.size, 1)
    first, second = labels[upper[0]], labels[upper[1]]
    same, scores = first == second, scores[upper]
    far, tar, thresholds = roc_curve(same, scores)
    # The mean of TAR and 1 - FAR: both kinds of pairs weigh the same, however many there are.
    accepted = scores >= thresholds[np.argmax(1 + tar - far)]
    return Decisions(accepted == same, first, second)


def decide_list(
    named: NamedFeatures, pairs: PairList, similarity: str, *, normalized: bool
) -> Decisions:
    """Classifies the pairs of a list as one person or two, and returns which results are correct.

    The list is divided into folds (parts). The threshold for the pairs of a fold is the one with
    the highest accuracy on the other folds.

    Args:
      named: features of the list's images, with the name of each image, "person/file".
      pairs: the list, such as LFW's, with the names of both images and the fold of each pair.
      similarity: "Inner-Product" or "Euclidean" (minus the distance).
      normalized: whether features are scaled to unit length first.
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
    thresholds = fold_accuracy(scores, pairs.same, pairs.fold).thresholds
    # Thresholds are in the order of the sorted folds, whose numbers may have gaps.
    folds = np.unique(pairs.fold, return_inverse=True)[1]
    people = [np.array([name.rpartition("/")[0] for name in side]) for side in pairs[:2]]
    return Decisions((scores >= thresholds[folds]) == pairs.same, *people)


def normalization(context: Context) -> Measured:
    """Measures NormFace, Table 1, on faces: accuracy before and after features are normalised.

    The pairs are all pairs of the test people's images and, if the data set LFW was prepared, the
    pairs of its list. Features are those of the images alone, without mirror images.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    runs = _runs(context)
    every = [feature_cache.features(run, context, ("test",))["test"] for run in runs]
    entries = _before_and_after(
        "",
        lambda name, normalized: [
            # [:, 0] is the image itself, and [:, 1] its mirror image.
            decide_all_pairs(kept.features[:, 0], kept.labels, name, normalized=normalized)
            for kept in every
        ],
    )
    scale, missing = _pairs(every, "no mirror images"), {}
    path = context.data_dir / "protocols" / PROTOCOLS["lfw"].file_names[0]
    if find("lfw", context.data_dir) and path.exists():
        pairs = read_lfw_pairs(path)
        names = [*pairs.first, *pairs.second]
        of_list = [feature_cache.named_features(run, "lfw", names, context) for run in runs]
        entries += _before_and_after(
            "LFW, ",
            lambda name, normalized: [
                decide_list(named, pairs, name, normalized=normalized) for named in of_list
            ],
        )
        scale += f"; LFW: {pairs.same.size:,} pairs in {np.unique(pairs.fold).size} folds"
    else:
        reason = f"the data set lfw, or {path}, is not there"
        missing = {f"LFW, {name}": reason for name in SIMILARITIES}
    return Outcome(entries, scale, missing=missing), {}


def _before_and_after(
    prefix: str, decisions: Callable[[str, bool], list[Decisions]]
) -> list[Entry]:
    """Returns the entries of both similarities, before and after normalisation.

    Args:
      prefix: beginning of each row, such as "LFW, ".
      decisions: (similarity, whether features are normalised) -> decisions, one per seed.
    """
    entries, compared, gains = [], [], {}
    for name in SIMILARITIES:
        before, after = (decisions(name, normalized) for normalized in (False, True))
        values = [np.array([one.accuracy() for one in side]) for side in (before, after)]
        gains[name] = values[1] - values[0]
        for column, found in zip(("before", "after", "gain"), (*values, gains[name]), strict=True):
            entries.append(Entry.of(f"{prefix}{name}", list(found), "%", 2, column))
        compared.append(
            comparisons.of_decisions(
                f"{prefix}{name}: normalisation helps", after, before, starts=_starts()
            )
        )
    # The paper rounds to one digit: 0.6 and 0.7 are the range from 0.55 up to 0.75.
    bounds = [side for gain in gains.values() for side in (gain - 0.55, 0.75 - gain)]
    row = f"{prefix}normalisation adds 0.6 to 0.7 points"
    parts = [dict(enumerate(map(float, side))) for side in bounds]
    return [*entries, *compared, *comparisons.entry(row, parts, starts=_starts())]


def mirror(context: Context) -> Measured:
    """Measures NormFace, 5.1: whether the mirror image of a face helps to verify it.

    Three features of an image are compared: its own, its own plus that of its mirror image, and
    both concatenated.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    every = [feature_cache.features(run, context, ("test",))["test"] for run in _runs(context)]
    merged = {
        "the image alone": lambda both: both[:, 0],
        "image and mirror image, concatenated": lambda both: both.reshape(len(both), -1),
        "image and mirror image, summed": lambda both: both.sum(axis=1),
    }
    found = {
        name: [
            decide_all_pairs(merge(kept.features), kept.labels, "Inner-Product", normalized=True)
            for kept in every
        ]
        for name, merge in merged.items()
    }
    alone, concatenated, summed = found.values()
    entries = [
        Entry.of(name, [one.accuracy() for one in decided], "%") for name, decided in found.items()
    ]
    entries += [
        comparisons.of_decisions(
            f"the sum verifies better than the {name}", summed, other, starts=_starts()
        )
        for name, other in (("image alone", alone), ("concatenation", concatenated))
    ]
    return Outcome(entries, _pairs(every, "cosine")), {}


def _starts() -> int | None:
    """Returns 1 if the networks of all seeds were fine-tuned from a single one, else None."""
    return 1 if commands.is_of_one_start(RUN) else None


def _runs(context: Context) -> list[Path]:
    """Returns the folders of all finished seeds of RUN."""
    return [commands.folder(context.runs, RUN, seed) for seed in commands.seeds(context.runs, RUN)]


def _pairs(every: Sequence[feature_cache.MirroredFeatures], how: str) -> str:
    """Describes in words the features and the pairs that are compared."""
    labels, count = every[0].labels, len(every)
    return (
        f"features of {RUN}, {count} {'seed' if count == 1 else 'seeds'}; all pairs of "
        f"{labels.size} images of {np.unique(labels).size} people it was not trained on, {how}, "
        "best threshold, both kinds of pairs weigh equally"
    )


def distortion(context: Context) -> Measured:
    """Measures the bound of NormFace's Proposition 3 after training on faces, once per seed.

    The bound is the mean squared distance between normalised features and the normalised agents
    (class weights) of their classes.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    entries, curves, sizes = [], {}, []
    for name, method in DISTORTED.items():
        seeds = commands.seeds(context.runs, method)
        folders = [commands.folder(context.runs, method, seed) for seed in seeds]
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
    return Outcome(entries, scale), {
        "The bound in training on faces": training_figures.distortion(curves)
    }
