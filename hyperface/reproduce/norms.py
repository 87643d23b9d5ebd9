"""Measures for each loss how well the feature norm indicates the quality of an image."""

from functools import partial
from pathlib import Path

import numpy as np

from hyperface.data.resolution import degrade
from hyperface.metrics.quality import MOST_LEFT_OUT, ORDERS, NormQuality, norm_quality
from hyperface.metrics.verification import all_pairs, cosine_scores
from hyperface.report import quality as drawn
from hyperface.reproduce import commands, feature_cache
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.runs.embedding import open_network

LOSSES = {
    "softmax": "orl-softmax",
    "NormFace": "orl-normface",
    "softmax + Ring loss": "orl-ring-0.01",
    "AdaFace": "orl-adaface",
    "MagFace": "orl-magface",
}
"""Name of the loss -> its method."""
DATASET = "orl_faces"
FACTORS = (1.0, 16.0, 64.0)
"""Factors by which all images are made smaller in area; 1 leaves them as they are."""
FAR = 0.01
"""The false accept rate at whose threshold genuine pairs are refused."""


def quality(context: Context) -> Measured:
    """Measures how well each loss' feature norms indicate image quality, once per seed.

    A genuine pair has two images of one person. It is rejected if its similarity is below the
    threshold at which 1 % of the pairs of different people are accepted. If norms indicate quality,
    the share of rejected genuine pairs falls when the images of lowest norm are left out. The runs
    are trained on ORL faces.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    entries, figures, sizes, missing = [], {}, [], {}
    for name, method in LOSSES.items():
        seeds = commands.seeds(context.runs, method)
        runs = [commands.folder(context.runs, method, seed) for seed in seeds]
        found = [measure(run, context) for run in runs]
        if not found:
            missing[name] = f"no run of {method} in {context.runs}"
            continue
        entries += _entries(name, found)
        figures[f"{name}, the first seed"] = drawn.discard_curves(found[0][1.0])
        sizes.append(f"{method}, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}")
    scale = (
        f"{'; '.join(sizes)}; all pairs of the images of 10 people who were not trained on, no "
        f"mirror images; refused: genuine pairs at the threshold of FAR {100 * FAR:g} %; mean "
        f"refused: over the shares left out from 0 to {100 * MOST_LEFT_OUT:g} %, divided by that "
        "of a random order"
    )
    return Outcome(entries, scale, missing=missing), figures


def measure(run: Path, context: Context) -> dict[float, NormQuality]:
    """Measures at several resolutions how well a run's feature norms indicate image quality.

    The images are the test images of ORL faces.

    Args:
      run: folder of the run.
      context: contains the folder of the data.

    Returns:
      Factor by which the images are smaller in area (1, 16 or 64) -> `NormQuality`, whose fields
      say how many genuine pairs are rejected when images of low norm are left out.
    """
    # Without mirror images: the norm of the sum of two features says less about one image.
    network = open_network(run, mirror="none")
    split = network.open_split(DATASET, "test", context.data_dir)
    found = {}
    for factor in FACTORS:
        change = None if factor == 1 else partial(degrade, factor=factor)
        features, labels = feature_cache.embed(split, network.apply, change)
        found[factor] = of_all_pairs(features, labels)
    return found


def of_all_pairs(features: np.ndarray, labels: np.ndarray) -> NormQuality:
    """Measures how well feature norms indicate image quality, over all pairs of the given images.

    A genuine pair (two images of one person) is refused if its similarity is below the threshold at
    which 1 % of the pairs of two people are accepted. The norm of a pair is the smaller norm of its
    two images. If norms indicate quality, the share of refused genuine pairs falls when the pairs
    of lowest norm are left out.

    Args:
      features: [images, dim], not normalised.
      labels: [images] the person of each image.
    """
    # In float64, as the cosines are.
    pairs, norms = all_pairs(labels), np.linalg.norm(features.astype(np.float64), axis=1)
    return norm_quality(norms, pairs, cosine_scores(features, pairs), far=FAR)


def _entries(name: str, found: list[dict[float, NormQuality]]) -> list[Entry]:
    """Returns the entries of one loss, one value per seed."""
    whole = [one[1.0] for one in found]
    lowest, _, random, oracle = (
        np.array([one.curves[order].mean() for one in whole]) for order in ORDERS
    )
    columns = {
        "refused": (100 * random, "%", 2),
        "mean refused, lowest norm first": (_shares(lowest, random), "", 2),
        "mean refused, oracle": (_shares(oracle, random), "", 2),
        "correlation, genuine": ([one.genuine for one in whole], "", 2),
        "correlation, impostor": ([one.impostor for one in whole], "", 2),
        "deviation / mean of norms": ([one.deviation / one.mean for one in whole], "", 3),
    }
    for factor in FACTORS[1:]:
        smaller = [one[factor] for one in found]
        refused = [100 * one.curves["random order"].at(0.0) for one in smaller]
        lengths = [one.mean / full.mean for one, full in zip(smaller, whole, strict=True)]
        columns[f"refused, area / {factor:g}"] = (refused, "%", 2)
        columns[f"mean norm, area / {factor:g}, to that before"] = (lengths, "", 3)
    return [
        Entry.of(name, list(values), unit, digits, column)
        for column, (values, unit, digits) in columns.items()
        # A share of pairs is NaN if no pair is refused. A mean over some seeds would mislead.
        if np.isfinite(values).all()
    ]


def _shares(refused: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Returns the refused share, divided by that of a random order; NaN where the latter is 0.

    Args:
      refused: [seeds] mean share of genuine pairs that are refused, with some images left out.
      random: [seeds] the same if the images to leave out are chosen at random.
    """
    return np.divide(refused, random, out=np.full(refused.shape, np.nan), where=random > 0)
