"""Writes CSV lists and image sheets of the images that a cleaned copy of a data set leaves out."""

import csv
import io
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface import owned
from hyperface.data.cleaning import Cleaning, Distances
from hyperface.data.overlap import SimilarPeople
from hyperface.protocols.features import person_of
from hyperface.report.canvas import write_picture
from hyperface.report.data_figures import distance_histogram
from hyperface.report.sheets import pair_sheet

SHOWN = 40
"""Largest number of pairs of images on a sheet."""


class NamedImages(NamedTuple):
    """The names, labels and pixels of a data set, in stored order."""

    names: Sequence[str]
    """[images] name of each image in the form person/file."""
    labels: np.ndarray
    """[images] label of each image's person, a whole number."""
    pixels: Callable[[int], np.ndarray]
    """Function that takes the position of one image, from 0, and returns its pixels [height, width,
    1 or 3] uint8."""

    def people(self) -> dict[int, str]:
        """Returns a dict from each label to the person's name.

        The name is the part of the person's image names before the first "/".
        """
        labels, firsts = np.unique(self.labels, return_index=True)
        return {
            int(label): person_of(self.names[int(i)])
            for label, i in zip(labels, firsts, strict=True)
        }


def write_distances(
    folder: Path, images: NamedImages, distances: Distances, cleaning: Cleaning
) -> None:
    """Draws how far the images of a data set lie from the mean feature of their person.

    Two files are written:

    - `distances.png` has histograms of the squared distances of people (mean over their images) and
      of images, with the thresholds above which people or images are dropped (left out of the
      cleaned data set). The histogram of images leaves out the images of dropped people.
    - `farthest.png` shows the 40 images that lie farthest from the mean of their person, the
      farthest first. To the left of each is the image of the same person that lies nearest.

    Args:
      folder: folder that receives both files.
      images: the images of the data set.
      distances: squared distances per image, in the order of `images`, and per person.
      cleaning: the thresholds, and the people (classes) that are dropped.
    """
    # Images of dropped classes are gone, whatever their own distances are.
    in_kept = ~cleaning.dropped_classes[distances.labels]
    thresholds = cleaning.class_threshold, cleaning.image_threshold
    figure = distance_histogram(distances.classes, distances.images[in_kept], thresholds)
    write_picture(folder / "distances.png", figure)
    order = np.argsort(distances.images, kind="stable")
    # unique gives the first of equal labels, which is here the image of the smallest distance.
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
    """Writes a CSV file with one line per image that is left out of the data set.

    A line has the image's name, the reason, the distance and the threshold. Distances are squared
    distances of features to the mean of their person. The reason is the first of these that
    applies:

    - "overlap": the person is in another data set too; distance and threshold are then empty.
    - "class": the mean distance of the person's images is above the threshold of classes (people).
    - "image": the distance of the image is above the threshold of images.

    Args:
      path: path of the CSV file.
      images: the images of the data set.
      distances: squared distances per image, in the order of `images`, and per class (person).
      cleaning: the images to keep, the dropped classes, and the thresholds.
      overlap: labels of the people who are in another data set too.
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
    """Writes the pairs of people who seem to be in a training set and in an evaluation set.

    `overlap.csv` has one line per pair of people, with the most similar pair of their images.
    `overlap.png` shows these images for the first 40 pairs of people, and is not written if there
    are no pairs.

    Args:
      folder: folder that receives both files.
      images: the training set, shown on the left.
      others: the evaluation set.
      pairs: pairs of a training person and an evaluation person who have equal names or similar
        features, with their most similar images.
      named: pairs (label in the training set, label in the evaluation set) of people with equal
        names. Both files mark these pairs "name", and all other pairs "features", since these were
        found by their features.
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
    # The csv module ends lines as Windows does by default.
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    owned.write_text(path, text.getvalue())
