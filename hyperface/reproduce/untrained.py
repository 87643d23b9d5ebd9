"""Measures how well untrained features verify faces, by the protocols of trained features."""

from collections.abc import Mapping
from pathlib import Path

from sklearn.decomposition import PCA

from hyperface.data.datasets import Split, find, open_split
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.pair_rules import PRESETS
from hyperface.protocols.protocol import Settings
from hyperface.protocols.result import Figure
from hyperface.reproduce import feature_cache
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.runs.embedding import open_network

FITTED_TO = "faces"
"""The data set whose training images the eigenfaces are fitted to."""
RUN = "faces-softmax"
LISTS = {
    "lfw": "LFW, 6,000 pairs",
    "cfp-ff": "CFP, frontal and frontal",
    "cfp-fp": "CFP, frontal and profile",
}
FIGURES = ("accuracy", "EER", "AUC", "TAR at FAR 0.1 %")
COMPONENTS = 200


def _dataset(protocol: str) -> str:
    """Returns the data set of a published list, which names one."""
    return registry.PROTOCOLS[protocol].dataset or ""


def features(context: Context) -> Measured:
    """Scores raw pixels and eigenfaces beside a softmax network, all without mirror images."""
    protocols = context.data_dir / "protocols"
    there = [
        name
        for name in LISTS
        if find(_dataset(name), context.data_dir)
        and all((protocols / file).exists() for file in registry.PROTOCOLS[name].file_names)
    ]
    training = open_split(FITTED_TO, "train", context.data_dir)
    eigenfaces = PCA(COMPONENTS, svd_solver="randomized", random_state=0)
    eigenfaces.fit(_pixels(training, context).features)
    settings, entries = Settings(PRESETS["plain"]), []
    for dataset in dict.fromkeys(map(_dataset, there)):
        split = open_split(dataset, "test", context.data_dir)
        pixels = _pixels(split, context)
        compared = {
            "raw pixels": pixels,
            "eigenfaces": pixels._replace(features=eigenfaces.transform(pixels.features)),
            RUN: feature_cache.named_features(context.runs / RUN, dataset, pixels.names, context),
        }
        for name in there:
            if _dataset(name) != dataset:
                continue
            for what, named in compared.items():
                scored = registry.score(name, named, protocols, settings).figures
                entries += _entries(f"{LISTS[name]}: {what}", scored)
    reason = "the data set or its protocol file is not there"
    missing = {LISTS[name]: reason for name in LISTS if name not in there}
    scale = (
        f"eigenfaces are {COMPONENTS} components of {len(training.records):,} training images; "
        "cosine, nothing fitted but the threshold, no mirror images; ± is the standard error over "
        "LFW's folds, and the deviation over CFP's"
    )
    return Outcome(entries, scale, missing=missing), {}


def _entries(row: str, scored: Mapping[str, Figure]) -> list[Entry]:
    """Returns one entry per score; of CFP's two TARs, the last, over the pairs of all splits."""
    entries = []
    for column in FIGURES:
        found = [figure for name, figure in scored.items() if name.startswith(column)][-1]
        spread = None if found.spread is None else 100 * found.spread
        entries.append(Entry(row, (100 * found.value,), column, "%", 2, spread))
    return entries


def _pixels(split: Split, context: Context) -> NamedFeatures:
    """Returns pixels [images, height * width * channels] float32 in [-1, 1), with image names."""
    pixels, _ = feature_cache.embed(split, open_network(Path("pixels")).apply, context)
    return NamedFeatures([record["name"].decode() for record in split.records], pixels)
