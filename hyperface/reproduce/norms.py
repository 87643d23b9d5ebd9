"""Measures what each loss does to the feature norm as the quality of an image."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.data.resolution import degrade
from hyperface.metrics.quality import MOST_LEFT_OUT, ORDERS, NormQuality, norm_quality, spearman
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
FACTORS = (1.0, 4.0, 16.0, 36.0)
"""Factors by which images are made smaller in area, a quarter of the images each."""
FAR = 0.01


class Measurement(NamedTuple):
    """What the norms of one network tell."""

    quality: NormQuality
    by_factor: dict[float, float]
    """Factor of area -> mean norm of all images made smaller by it."""
    resolution: float
    """Rank correlation of an image's norm with its number of pixels."""


def quality(context: Context) -> Measured:
    """Measures the norms of each loss on images of four resolutions, once per seed."""
    entries, figures, sizes, missing = [], {}, [], {}
    for name, method in LOSSES.items():
        seeds = commands.seeds(context.runs, method)
        runs = [commands.folder(context.runs, method, seed) for seed in seeds]
        found = [measure(run, context) for run in runs]
        if not found:
            missing[name] = f"no run of {method} in {context.runs}"
            continue
        entries += _entries(name, found)
        figures[f"{name}, the first seed"] = drawn.discard_curves(found[0].quality)
        sizes.append(f"{method}, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}")
    scale = (
        f"{'; '.join(sizes)}; all pairs of the images of 10 people who were not trained on, no "
        f"mirror images; refused at the threshold of FAR {100 * FAR:g} %, mean over the shares "
        f"left out from 0 to {100 * MOST_LEFT_OUT:g} %, divided by that of a random order"
    )
    return Outcome(entries, scale, missing=missing), figures


def measure(run: Path, context: Context) -> Measurement:
    """Embeds the test images of a run at every resolution, and measures a mixture of them.

    Args:
      run: folder of the run.
      context: gives the folder of the data.
    """
    network = open_network(run, mirror="none")
    split = network.open_split(DATASET, "test", context.data_dir)
    changes = [None if factor == 1 else partial(degrade, factor=factor) for factor in FACTORS]
    every = [feature_cache.embed(split, network.apply, context, change) for change in changes]
    labels = every[0][1]
    # The images of a person in turn, so that each resolution has images of everybody.
    chosen = np.arange(labels.size) % len(FACTORS)
    return mixture(np.stack([features.astype(np.float64) for features, _ in every]), labels, chosen)


def mixture(features: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Measurement:
    """Measures images each of which is taken at one resolution.

    Args:
      features: [factors, images, dim].
      labels: [images] people.
      chosen: [images] place of the image's factor.
    """
    norms = np.linalg.norm(features, axis=2)
    images = np.arange(labels.size)
    pairs = all_pairs(labels)
    mixed, own = features[chosen, images], norms[chosen, images]
    return Measurement(
        quality=norm_quality(own, pairs, cosine_scores(mixed, pairs), far=FAR),
        by_factor=dict(zip(FACTORS, norms.mean(axis=1).tolist(), strict=True)),
        resolution=spearman(own, -np.array(FACTORS)[chosen]),
    )


def _entries(name: str, found: list[Measurement]) -> list[Entry]:
    """Returns the entries of one loss, one value per seed."""
    lowest, _, random, oracle = (
        np.array([one.quality.curves[order].mean() for one in found]) for order in ORDERS
    )
    columns = {
        "refused, random order": (100 * random, "%", 2),
        "mean refused, lowest norm first": (_shares(lowest, random), "", 2),
        "mean refused, oracle": (_shares(oracle, random), "", 2),
        "correlation with genuine score": ([one.quality.genuine for one in found], "", 2),
        "correlation with impostor score": ([one.quality.impostor for one in found], "", 2),
        "correlation with resolution": ([one.resolution for one in found], "", 2),
        "deviation / mean of norms": (
            [one.quality.deviation / one.quality.mean for one in found],
            "",
            3,
        ),
        **{
            f"norm, area / {factor:g}, to that of whole images": (
                [one.by_factor[factor] / one.by_factor[1.0] for one in found],
                "",
                2,
            )
            for factor in FACTORS[1:]
        },
    }
    return [
        Entry.of(name, list(values), unit, digits, column)
        for column, (values, unit, digits) in columns.items()
        if np.isfinite(values).all()
    ]


def _shares(refused: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Returns refused over that of a random order; NaN if no pair is refused at all."""
    return np.divide(refused, random, out=np.full(refused.shape, np.nan), where=random > 0)
