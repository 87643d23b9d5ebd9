"""Cleans a training set by the features of a trained network, and finds test people in it.

    hyperface clean faces --run runs/faces-softmax --out cleaned

As in Ring loss, section 3, people are dropped whose images are far from their mean feature. Then
single images of the other people are dropped that are far from their person's mean. The data set
itself is not changed: the results are lists and pictures. Without thresholds nothing is dropped;
`distances.png` and `farthest.png` help to choose thresholds. With --overlap-with, people are left
out who are also in another data set.

- `keep.txt` lists the images to keep, for hyperface prepare --keep.
- `dropped.csv` lists all other images with the reason.
- `overlap.csv` and `overlap.png` show the people who seem to be in both data sets.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tyro

from hyperface import owned
from hyperface.errors import expect
from hyperface.runs import program

if TYPE_CHECKING:  # jax and NumPy are loaded after the options are parsed.
    from hyperface.data.overlap import SimilarPeople
    from hyperface.runs.embedding import Embedded

log = logging.getLogger("hyperface")

RESULTS = ("keep.txt", "dropped.csv", "distances.png", "farthest.png", "overlap.csv", "overlap.png")


@dataclasses.dataclass(frozen=True)
class Clean:
    """Options of `hyperface clean`."""

    dataset: tyro.conf.Positional[str]
    """Name of the prepared data set, such as faces."""
    run: Path
    """The network that embeds the images: the folder of a run or of an export. "pixels" uses the
    pixels themselves as features, without a network."""
    out: Path
    """Folder for the lists and pictures."""
    split: str = "train"
    """Split of the data set that is cleaned."""
    class_threshold: float | None = None
    """A person is dropped if the mean squared distance of the person's features, at unit length, to
    the mean of these features exceeds this value. By default no person is dropped."""
    class_quantile: float | None = None
    """Share of people to keep, in (0, 1], instead of --class-threshold: those with the smallest
    distances."""
    image_threshold: float | None = None
    """An image is dropped if the squared distance of its feature, at unit length, to its person's
    mean exceeds this value. By default no image is dropped."""
    image_quantile: float | None = None
    """Share of images to keep, in (0, 1], among those of the people who are kept, instead of
    --image-threshold: those with the smallest distances."""
    overlap_with: str | None = None
    """Name of a prepared data set, such as the test set, whose people are left out. They are found
    by their names and by their features. It needs --similarity."""
    overlap_split: str = "test"
    """Split of the data set in --overlap-with."""
    similarity: float | None = None
    """Two people count as the same person if the cosine of their mean features is at least this
    value. --overlap-with needs it."""
    data_dir: Path | None = None
    """Folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX and lists the images to keep and to drop.

    The data set itself is not changed. `hyperface prepare --keep` writes a new one from `keep.txt`.
    """
    options = program.parse(Clean, args, prog="hyperface clean", description=__doc__ or "")
    _check(options)
    owned.check_free(*(options.out / name for name in RESULTS))
    from hyperface.data.datasets import data_directory
    from hyperface.runs.embedding import embed_into, open_network

    program.quiet_libraries()
    data_dir = data_directory(options.data_dir)
    network = open_network(options.run)
    splits = [network.open_split(options.dataset, options.split, data_dir)]
    if options.overlap_with is not None:
        splits.append(network.open_split(options.overlap_with, options.overlap_split, data_dir))
    # Features are written to a temporary folder and mapped: a large set may not fit into memory.
    with owned.writing(options.out), owned.scratch(options.out) as folder:
        files = [folder / str(i) for i in range(len(splits))]
        parts = [embed_into(file, s, network) for file, s in zip(files, splits, strict=True)]
        clean(options, *parts)


def _check(options: Clean) -> None:
    for name in ("class", "image"):
        # A quantile is turned into a threshold, so that both together would contradict each other.
        threshold = getattr(options, f"{name}_threshold")
        quantile = getattr(options, f"{name}_quantile")
        one = threshold is None or quantile is None
        expect(one, f"--{name}-threshold", f"no --{name}-quantile beside it", "both")
        expect(threshold is None or threshold >= 0, f"--{name}-threshold", "at least 0", threshold)
        share = quantile is None or 0 < quantile <= 1
        expect(share, f"--{name}-quantile", "a share in (0, 1]", quantile)
    both = (options.overlap_with is None) == (options.similarity is None)
    expect(both, "--overlap-with", "it and --similarity together", "only one of them")
    cosine = options.similarity is None or -1 <= options.similarity <= 1
    expect(cosine, "--similarity", "a cosine in [-1, 1]", options.similarity)
    folder = options.out.is_dir() or not options.out.exists()
    expect(folder, "--out", "a folder", f"the file {options.out}")


def clean(options: Clean, data: "Embedded", other: "Embedded | None" = None) -> None:
    """Lists the images of a data set to keep, and those to drop.

    Dropped are people and single images whose features are far from the person's mean feature, and
    people who are also in another data set. The data set itself is not changed. The lists and
    pictures are written into the folder `options.out`: `keep.txt` contains the names of the images
    to keep, and `dropped.csv` the names of all others with the reasons.

    Args:
      options: the options of the command.
      data: the images to clean, with their features [images, dim].
      other: the images of the data set in --overlap-with, with their features. The people of
        `other` are dropped from `data`. None without --overlap-with.

    Raises:
      InputError: no image is kept. The pictures of the distances are written anyway, to help to
        choose other thresholds.
    """
    import numpy as np

    from hyperface.data import cleaning
    from hyperface.report import cleaning as report

    images, folder = data.images, options.out
    distances = cleaning.squared_distances(data.blocks, int(images.labels.max()) + 1)
    cleaned = cleaning.clean(
        distances,
        class_threshold=options.class_threshold,
        class_quantile=options.class_quantile,
        image_threshold=options.image_threshold,
        image_quantile=options.image_quantile,
    )
    # The outliers are found before people are left out, so that quantiles are shares of the whole
    # data set, whatever the other data set is.
    overlap = None if other is None else _overlap(options, data, other)
    dropped = {pair.train_person for pair in overlap[0]} if overlap else set()
    keep = cleaned.keep & ~np.isin(images.labels, list(dropped))
    said = {
        "people far from their mean": cleaned.dropped_classes.sum(),
        "images of others": np.sum(~cleaned.keep & ~cleaned.dropped_classes[images.labels]),
        "people in both sets": len(dropped),
        "images kept": keep.sum(),
        "people kept": np.unique(images.labels[keep]).size,
    }
    # Logged before the lists are written, in case the disk is full.
    for what, count in said.items():
        log.info(f"{count:10,} {what}")
    # The files of an earlier cleaning are removed first, so that old and new ones cannot mix.
    for name in RESULTS:
        owned.remove(folder / name)
    if other is not None and overlap is not None:
        report.write_overlap(folder, images, other.images, *overlap)
    report.write_distances(folder, images, distances, cleaned)
    report.write_dropped(folder / "dropped.csv", images, distances, cleaned, dropped)
    # Only now, because the histograms of distances show which thresholds would keep images.
    expect(keep.any(), "thresholds", "images to keep", f"none: see {folder / 'distances.png'}")
    names = [images.names[i] for i in np.flatnonzero(keep).tolist()]
    # keep.txt is written last: if it exists, the other files are complete.
    cleaning.write_keep_list(folder / "keep.txt", names)
    log.info(f"Lists and pictures: {folder}")


def _overlap(
    options: Clean, data: "Embedded", other: "Embedded"
) -> tuple[list["SimilarPeople"], set[tuple[int, int]]]:
    """Finds the people who seem to be in both data sets, by their features and by their names.

    Returns:
      The pairs of similar or equally named people, and the (label, label in the other data set) of
      the people with equal names.
    """
    from hyperface.data.overlap import same_names, similar_people

    labels, other_labels = (
        {name: label for label, name in one.images.people().items()} for one in (data, other)
    )
    named = {(labels[one], other_labels[two]) for one, two in same_names(labels, other_labels)}
    pairs = similar_people(
        data.features,
        data.images.labels,
        other.features,
        other.images.labels,
        cast(float, options.similarity),  # `_check` requires it with --overlap-with.
        named,
    )
    return pairs, named
