"""Finds the people of an evaluation set who are also in a training set, by name and by features."""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hyperface.data.cleaning import unit

BLOCK = 4096
"""Number of training people whose similarities are in memory at the same time."""


class SimilarPeople(NamedTuple):
    """A training person and a test person who may be the same person, by their features."""

    train_person: int
    """Label of the training person."""
    test_person: int
    """Label of the test person."""
    similarity: float
    """Cosine of the two people's mean features."""
    train_image: int
    """Row in the training features. Of all pairs of an image of the training person and an image
    of the test person, the most similar pair is reported; this is its training image."""
    test_image: int
    """Row in the test features: the test image of that most similar pair."""


def same_names(train_people: Iterable[str], test_people: Iterable[str]) -> list[tuple[str, str]]:
    """Finds people who are probably in both the training set and the test set, by their names.

    Two names match if they differ at most in case, accents, and the characters between words. Names
    without a letter are left out, since the same number is mostly the name of different people in
    different data sets.

    Args:
      train_people: names of the people in the training set.
      test_people: names of the people in the test set.

    Returns:
      (training name, test name) of each pair, sorted.

    Example:
      >>> same_names(["Beyoncé_Knowles", "0001"], ["beyonce knowles", "0001"])
      [('Beyoncé_Knowles', 'beyonce knowles')]
    """
    # By plain name, so that not every name has to be compared with every other.
    named: dict[str, list[str]] = {}
    for name in sorted(set(test_people)):
        named.setdefault(_plain(name), []).append(name)
    return [
        (name, other)
        for name in sorted(set(train_people))
        if any(map(str.isalpha, name))
        for other in named.get(_plain(name), [])
    ]


def similar_people(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    threshold: float,
    named: Iterable[tuple[int, int]] = (),
) -> list[SimilarPeople]:
    """Finds pairs of people, one from each set, whose mean features are similar.

    The feature of a person is the mean of the normalised features of the person's images.

    Args:
      train_features: [images, dim], not necessarily normalised; may be a memory map.
      train_labels: [images] the person of each image.
      test_features: [images, dim], not necessarily normalised.
      test_labels: [images] the person of each image.
      threshold: cosine in [-1, 1]; pairs of people at least this similar are reported.
      named: (training label, test label) of pairs that are reported even if they are less similar,
        such as people of the same name. Both labels must occur in the given labels.

    Returns:
      One record per pair of people whose similarity is at least `threshold`, and per named pair:
      both labels, the similarity, and the rows of the two most similar images. The most similar
      pair of people comes first.

    Raises:
      ValueError: a feature is zero or not finite, or the threshold is not in [-1, 1].
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"expected a cosine in [-1, 1] as threshold, found {threshold}")
    train, test = _People(train_features, train_labels), _People(test_features, test_labels)
    known = np.array([*named], np.int64).reshape(-1, 2)
    rows, columns = np.searchsorted(train.ids, known[:, 0]), np.searchsorted(test.ids, known[:, 1])
    found = []
    # Block by block, since the [train people, test people] array may not fit into memory.
    for start in range(0, len(train.ids), BLOCK):
        cosines = train.means[start : start + BLOCK] @ test.means.T
        reported = cosines >= threshold
        here = (start <= rows) & (rows < start + BLOCK)
        reported[rows[here] - start, columns[here]] = True
        for row, column in np.argwhere(reported):
            images = _closest(train, start + row, test, column)
            people = int(train.ids[start + row]), int(test.ids[column])
            found.append(SimilarPeople(*people, float(cosines[row, column]), *images))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.train_person, pair.test_person))


class _People:
    """The people of a set, with the rows of their images and their mean features."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features = features
        # Stable, so that the rows of each person stay in the order of the file.
        order = np.argsort(labels, kind="stable")
        self.ids, starts = np.unique(np.asarray(labels)[order], return_index=True)
        self.rows = np.split(order, starts[1:])
        # Normalised before the mean, so that a long feature does not outweigh the others.
        self.means = unit(
            np.array([self.unit_features(person).mean(axis=0) for person in range(len(starts))])
        )

    def unit_features(self, person: int) -> np.ndarray:
        """Returns the normalised features of a person, [images of the person, dim]."""
        return unit(self.features[self.rows[person]])


def _closest(train: _People, one: int, test: _People, other: int) -> tuple[int, int]:
    """Returns (training row, test row) of the two most similar images of two people.

    Args:
      train: the people of the training set.
      one: number of the training person among them.
      test: the people of the test set.
      other: number of the test person among them.
    """
    cosines = train.unit_features(one) @ test.unit_features(other).T
    row, column = np.unravel_index(np.argmax(cosines), cosines.shape)
    return int(train.rows[one][row]), int(test.rows[other][column])


def _plain(name: str) -> str:
    """Returns a name in lower case, without accents, and with single spaces between words."""
    # NFKD splits an accented letter into the letter and its accent, which is then dropped.
    letters = unicodedata.normalize("NFKD", name.casefold())
    kept = (c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join("".join(kept).split())
