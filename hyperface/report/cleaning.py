"""What a cleaning did: lists to read and pictures to look at."""

import csv
import io
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface import owned
from hyperface.data.cleaning import Cleaning, Distances
from hyperface.data.overlap import SimilarPeople
from hyperface.report import figures
from hyperface.report.sheets import pair_sheet

SHOWN = 40
"""Pairs of images on a sheet."""


class NamedImages(NamedTuple):
    """A data set as far as a report needs it, in stored order."""

    names: Sequence[str]
    """"person/file" of each image."""
    labels: np.ndarray
    pixels: Callable[[int], np.ndarray]
    """The image in a place, [height, width, 1 or 3] uint8."""

    def people(self) -> dict[int, str]:
        """The person's name of each label: what stands before the first "/" of its images."""
        firsts = np.unique(self.labels, return_index=True)
        return {
            int(label): self.names[i].partition("/")[0] for label, i in zip(*firsts, strict=True)
        }


def write_distances(
    folder: Path, images: NamedImages, distances: Distances, cleaning: Cleaning
) -> None:
    """Writes `distances.png`, both histograms, and `farthest.png`.

    The latter shows the images farthest from the mean of their person, each to the right of the
    image of that person that lies nearest to it.
    """
    in_kept = ~cleaning.dropped_classes[distances.labels]
    thresholds = cleaning.class_threshold, cleaning.image_threshold
    figure = figures.distance_histogram(distances.classes, distances.images[in_kept], thresholds)
    figures.save({"distances": figure}, folder)
    order = np.argsort(distances.images, kind="stable")
    _, firsts = np.unique(distances.labels[order], return_index=True)
    nearest = dict(zip(distances.labels[order[firsts]], order[firsts], strict=True))
    shown = [(nearest[distances.labels[i]], i) for i in order[::-1][:SHOWN]]
    captions = [f"{distances.images[far]:.3f}\n{images.names[far]}" for _, far in shown]
    _write_sheet(folder / "farthest.png", images, images, shown, captions)


def write_dropped(
    path: Path,
    images: NamedImages,
    distances: Distances,
    cleaning: Cleaning,
    overlap: Container[int],
) -> None:
    """Writes a CSV line for each image that is left out: name, reason, distance and threshold.

    Reasons are "overlap", the person is in another data set too; "class", with the mean squared
    distance of the person; and "image", with that of the image. The first that applies is given.
    """
    rows = []
    for i, (name, label) in enumerate(zip(images.names, images.labels, strict=True)):
        if int(label) in overlap:
            rows.append((name, "overlap", "", ""))
        elif cleaning.dropped_classes[label]:
            limit = cleaning.class_threshold
            rows.append((name, "class", f"{distances.classes[label]:.6g}", f"{limit:.6g}"))
        elif not cleaning.keep[i]:
            limit = cleaning.image_threshold
            rows.append((name, "image", f"{distances.images[i]:.6g}", f"{limit:.6g}"))
    _write_csv(path, ("name", "reason", "distance", "threshold"), sorted(rows))


def write_overlap(
    folder: Path,
    images: NamedImages,
    others: NamedImages,
    pairs: Sequence[SimilarPeople],
    named: Container[tuple[int, int]],
) -> None:
    """Writes `overlap.csv`, a line a pair of people, and `overlap.png` with their closest images.

    The picture is left out where there is no pair.

    Args:
      folder: for both files.
      images: the training set, on the left.
      others: the evaluation set.
      pairs: as `similar_people` finds them.
      named: pairs of labels whose names are equal.
    """
    people, other_people = images.people(), others.people()
    rows = []
    for pair in pairs:
        rows.append(
            (
                people[pair.train_person],
                other_people[pair.test_person],
                "name" if (pair.train_person, pair.test_person) in named else "features",
                f"{pair.similarity:.4f}",
                images.names[pair.train_image],
                others.names[pair.test_image],
            )
        )
    header = ("person", "other_person", "found_by", "similarity", "image", "other_image")
    _write_csv(folder / "overlap.csv", header, rows)
    captions = [f"{row[3]}, by {row[2]}\n{row[4]}\n{row[5]}" for row in rows[:SHOWN]]
    places = [(pair.train_image, pair.test_image) for pair in pairs[:SHOWN]]
    if places:
        _write_sheet(folder / "overlap.png", images, others, places, captions)


def _write_sheet(
    path: Path,
    left: NamedImages,
    right: NamedImages,
    places: Sequence[tuple[int, int]],
    captions: Sequence[str],
) -> None:
    pairs = [(left.pixels(int(i)), right.pixels(int(j))) for i, j in places]
    data = io.BytesIO()
    pair_sheet(pairs, captions).save(data, "PNG")
    owned.write_bytes(path, data.getvalue())


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    owned.write_text(path, text.getvalue())
