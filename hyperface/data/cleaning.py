"""Finds the images of a training set to keep; outliers are dropped as in the paper on Ring loss.

The features of the images may come from any network. They are read twice, in blocks: first for the
class means, then for the squared distance of each image to the mean of its class. First whole
classes with a large mean distance are dropped, then single images of the classes that stay.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface import owned
from hyperface.errors import InputError

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""The features of a set, as pairs (features [block, dim], labels [block]) in a fixed order."""


class Distances(NamedTuple):
    """Squared Euclidean distances of features to the mean feature of their class.

    A large distance suggests a wrong label. `clean` chooses the images to drop.
    """

    images: np.ndarray
    """[images] squared distance of each image's feature, in the order in which they were given."""
    labels: np.ndarray
    """[images] class of each image."""
    classes: np.ndarray
    """[classes] mean squared distance over the images of each class; NaN for a class without
    images."""
    counts: np.ndarray
    """[classes] number of images of each class."""


class Cleaning(NamedTuple):
    """The result of `clean`: the images to keep, and the thresholds that were applied."""

    keep: np.ndarray
    """[images] bool, True for each image that is kept."""
    dropped_classes: np.ndarray
    """[classes] bool, True for each class that is dropped with all of its images, because its mean
    distance is above `class_threshold`."""
    class_threshold: float
    """Largest mean squared distance of a class that is kept; inf if `clean` was called with neither
    `class_threshold` nor `class_quantile`."""
    image_threshold: float
    """Largest squared distance of an image that is kept; inf if `clean` was called with neither
    `image_threshold` nor `image_quantile`."""


def unit(features: np.ndarray) -> np.ndarray:
    """Returns features [n, dim] scaled to unit length.

    Raises:
      ValueError: a feature is zero or not finite, and so has no direction.
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(
            f"expected finite features above zero, found norm {norms[bad[0], 0]} at row {bad[0]} "
            f"({bad.size} rows in all)"
        )
    return features / norms


def squared_distances(
    blocks: Callable[[], Blocks], num_classes: int, *, normalize: bool = True
) -> Distances:
    """Computes the squared distance of each feature to the mean feature of its class.

    The mean of these distances over the images of each class is computed too. Only one block, the
    means [classes, dim] and a few numbers per image are in memory. The fewer images a class has,
    the closer they are to their mean. A class of one image has distance 0.

    Args:
      blocks: function without arguments that returns an iterator over blocks (features [rows, dim],
        labels [rows]). It is called twice, and must return the same blocks both times.
      num_classes: number of classes; labels are in [0, num_classes).
      normalize: whether features are scaled to unit length first. Distances are then in [0, 4) and
        depend only on the directions.

    Raises:
      ValueError: a label is out of range, a feature is zero or not finite, there is no image, or
        the second pass differs from the first.
    """
    prepared = unit if normalize else _finite
    means, counts = _class_means(blocks(), num_classes, prepared)
    images, labels = [], []
    for features, block_labels in blocks():
        difference = prepared(features) - means[_checked(block_labels, features, num_classes)]
        images.append(np.einsum("nd,nd->n", difference, difference))
        labels.append(block_labels)
    images, labels = np.concatenate(images), np.concatenate(labels)
    # A stream that differs the second time would be compared with the means of other images.
    if not np.array_equal(np.bincount(labels, minlength=num_classes), counts):
        raise ValueError(
            f"expected the same {counts.sum()} images from both passes, found {labels.size} or "
            "other labels in the second"
        )
    sums = np.bincount(labels, images, num_classes)
    classes = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return Distances(images, labels, classes, counts)


def clean(
    distances: Distances,
    *,
    class_threshold: float | None = None,
    class_quantile: float | None = None,
    image_threshold: float | None = None,
    image_quantile: float | None = None,
) -> Cleaning:
    """Chooses the images to keep in a data set with wrong labels, by their distances.

    First, classes with a large mean distance are dropped with all of their images. Then, images
    with a large distance are dropped from the other classes. Each step has a threshold, given as a
    number or as the share to keep (a quantile). If neither is given, the step drops nothing.

    Args:
      distances: result of `squared_distances`.
      class_threshold: largest mean squared distance of a class that is kept.
      class_quantile: share of the classes to keep, in (0, 1], in place of `class_threshold`.
      image_threshold: largest squared distance of an image that is kept.
      image_quantile: share of the images of the remaining classes to keep, in (0, 1], in place of
        `image_threshold`.

    Raises:
      ValueError: a threshold and its quantile are both given, or a value is out of range.

    References:
      Ring loss, section 3, implementation details: "classes that had variance in the MSE ... above
      a certain threshold were discarded"; then images.
    """
    filled = distances.classes[distances.counts > 0]
    class_limit = _threshold("class", class_threshold, class_quantile, filled)
    dropped = distances.classes > class_limit  # A class without images is NaN, and is not dropped.
    in_kept = ~dropped[distances.labels]
    image_limit = _threshold("image", image_threshold, image_quantile, distances.images[in_kept])
    keep = in_kept & (distances.images <= image_limit)
    return Cleaning(keep, dropped, class_limit, image_limit)


def write_keep_list(path: Path, names: Iterable[str]) -> None:
    """Writes the names of the images to keep to a file in UTF-8, sorted, one per line.

    `hyperface prepare --keep` takes such a file; `hyperface.files.read_names` reads it.

    Raises:
      InputError: there is no name, a name occurs twice, or a name is blank or has a line break.
    """
    names = sorted(names)
    if not names:
        raise InputError(f"{path}: expected at least one image name, found none.")
    for name, following in zip(names, [*names[1:], None], strict=True):
        if not name.strip() or set(name) & set("\r\n"):
            raise InputError(f"{path}: expected an image name of one line, found {name!r}.")
        if name == following:
            raise InputError(f"{path}: expected each image once, found {name!r} twice.")
    owned.write_text(path, "\n".join(names) + "\n")


def _class_means(
    blocks: Blocks, num_classes: int, prepared: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (means, counts) of the classes: [classes, dim] features, [classes] image numbers.

    Args:
      blocks: the features and labels.
      num_classes: number of classes.
      prepared: function that is applied to the features of each block first.
    """
    sums, counts = None, np.zeros(num_classes, np.int64)
    for features, labels in blocks:
        if sums is None:
            sums = np.zeros((num_classes, features.shape[1]))
        # Sorted by class, because reduceat adds neighbouring rows.
        order = np.argsort(_checked(labels, features, num_classes), kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        # In float64, because in float32 the sum over a large class loses digits.
        sums[found] += np.add.reduceat(prepared(features)[order], starts, axis=0, dtype=np.float64)
        counts += np.bincount(labels, minlength=num_classes)
    if sums is None:
        raise ValueError("expected blocks of features, found none")
    # At least 1: the mean of a class without images is then zero, and is compared with no image.
    return sums / np.maximum(counts, 1)[:, None], counts


def _checked(labels: np.ndarray, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the labels, after a check that there is one valid label per feature; else ValueError.

    Args:
      labels: [images] class of each image.
      features: [images, dim].
      num_classes: number of classes.
    """
    outside = (labels < 0) | (labels >= num_classes)
    if labels.shape != features.shape[:1] or outside.any():
        found = labels[outside][0] if outside.any() else f"shapes {features.shape}, {labels.shape}"
        raise ValueError(f"expected one label in [0, {num_classes}) per feature, found {found}")
    return labels


def _finite(features: np.ndarray) -> np.ndarray:
    """Returns the features as they are; ValueError if one is not finite."""
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    return features


def _threshold(
    name: str, threshold: float | None, quantile: float | None, values: np.ndarray
) -> float:
    """Returns the threshold, or the one that the quantile gives, or infinity without either.

    Args:
      name: "class" or "image", for messages.
      threshold: the threshold, or None.
      quantile: the quantile of `values` that gives the threshold, or None.
      values: the distances.
    """
    if threshold is not None and quantile is not None:
        raise ValueError(f"expected a {name} threshold or quantile, found both")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"expected a {name} threshold of at least 0, found {threshold}")
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(f"expected a {name} quantile in (0, 1], found {quantile}")
    if quantile is not None and values.size:
        # Without interpolation: the threshold is a distance that occurs, so that at least this
        # share is kept.
        return float(np.quantile(values, quantile, method="inverted_cdf"))
    return float("inf") if threshold is None else float(threshold)
