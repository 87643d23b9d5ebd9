"""Measures how well features verify faces that no network was trained to compute.

Raw pixels and eigenfaces (principal components of pixels) are scored by the same protocols as a
trained network. A trained network has learned something only if its scores are above those of
pixels and eigenfaces.
"""

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
"""The data set on whose training images the eigenfaces are computed."""
RUN = "faces-softmax"
"""The run whose network is scored beside raw pixels and eigenfaces."""
LISTS = {
    "lfw": "LFW, 6,000 pairs",
    "cfp-ff": "CFP, frontal and frontal",
    "cfp-fp": "CFP, frontal and profile",
}
"""Protocol with a published list of pairs -> its name in the table."""
FIGURES = ("accuracy", "EER", "AUC", "TAR at FAR 0.1 %")
"""Names of the scores that are shown."""
COMPONENTS = 200
"""Number of eigenfaces."""


def _dataset(protocol: str) -> str:
    """Returns the name of the data set to which the images of a protocol's list belong."""
    return registry.PROTOCOLS[protocol].dataset or ""


def features(context: Context) -> Measured:
    """Measures raw pixels, eigenfaces and a softmax network on the lists of pairs of LFW and CFP.

    Eigenfaces are principal components of pixels. No mirror images are used. A trained network has
    learned something only if its scores are above those of pixels and eigenfaces.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    protocols = context.data_dir / "protocols"
    there = [
        name
        for name in LISTS
        if find(_dataset(name), context.data_dir)
        and all((protocols / file).exists() for file in registry.PROTOCOLS[name].file_names)
    ]
    training = open_split(FITTED_TO, "train", context.data_dir)
    # The randomised solver computes only the needed few of tens of thousands of components. It is
    # seeded, so that the scores are the same each time.
    eigenfaces = PCA(COMPONENTS, svd_solver="randomized", random_state=0)
    eigenfaces.fit(_pixels(training, context).features)
    settings, entries = Settings(PRESETS["plain"]), []
    # By data set: LFW or CFP is embedded once for all of its lists.
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
    """Returns one entry per name in FIGURES, with the score of that name."""
    entries = []
    for column in FIGURES:
        # CFP has two TARs: the mean over the splits and, last, that over the pairs of all splits.
        found = [figure for name, figure in scored.items() if name.startswith(column)][-1]
        spread = None if found.spread is None else 100 * found.spread
        entries.append(Entry(row, (100 * found.value,), column, "%", 2, spread))
    return entries


def _pixels(split: Split, context: Context) -> NamedFeatures:
    """Returns pixels [images, height * width * channels] float32 in [-1, 1), with image names."""
    # As the features of the network "pixels", so that they are read and scaled as for any network.
    pixels, _ = feature_cache.embed(split, open_network(Path("pixels")).apply)
    return NamedFeatures([record["name"].decode() for record in split.records], pixels)
