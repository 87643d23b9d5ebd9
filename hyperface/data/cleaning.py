"""Which images of a training set to keep: outliers dropped as in Ring loss, section 3.

Features come from any embedder, in blocks that are read twice: once for the class means, once for
each image's squared distance to the mean of its class. Classes of a large mean distance go first,
then single images of the classes that stay.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface import owned
from hyperface.errors import InputError
from hyperface.files import text_lines

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""(features [block, dim], labels [block]) in a fixed order."""


class Distances(NamedTuple):
    """Squared distances to the class means."""

    images: np.ndarray
    """[images], in the order of the blocks."""
    labels: np.ndarray
    """[images] class of each."""
    classes: np.ndarray
    """[classes] mean over the class; NaN where it has no image."""
    counts: np.ndarray
    """[classes] images of each."""


class Cleaning(NamedTuple):
    """What is kept, and why the rest is not."""

    keep: np.ndarray
    """[images] bool."""
    dropped_classes: np.ndarray
    """[classes] bool, True where the mean distance is above `class_threshold`."""
    class_threshold: float
    image_threshold: float


def unit(features: np.ndarray) -> np.ndarray:
    """Returns features [n, dim] scaled to length 1.

    Raises:
      ValueError: a feature is zero or not finite: it has no direction.
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
    """Returns each image's ||f - mean of its class||^2, and the means of that over the classes.

    The means [classes, dim], a few numbers per image, and one block are in memory. The mean of
    few images lies close to each of them: a class of one has distance 0.

    Args:
      blocks: starts the stream; called twice, and must give the same both times.
      num_classes: labels lie in [0, num_classes).
      normalize: scale features to length 1 first, so that distances lie in [0, 4) and the cosine is
        what counts; False takes them as they are.

    Raises:
      ValueError: a label lies outside, a feature is zero or not finite, there is no image, or the
        stream differs the second time.
    """
    prepared = unit if normalize else _finite
    means, counts = _class_means(blocks(), num_classes, prepared)
    images, labels = [], []
    for features, block_labels in blocks():
        difference = prepared(features) - means[_checked(block_labels, features, num_classes)]
        images.append(np.einsum("nd,nd->n", difference, difference))
        labels.append(block_labels)
    images, labels = np.concatenate(images), np.concatenate(labels)
    # The means would be those of other images.
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
    """Drops classes above a threshold, then images of the others above another.

    A quantile q sets its threshold at the smallest distance that at least the share q of classes,
    or of images in the classes kept, does not exceed. Without either nothing is dropped.

    Args:
      distances: as `squared_distances` makes them.
      class_threshold: largest mean squared distance of a class that is kept.
      class_quantile: in (0, 1], instead of it.
      image_threshold: largest squared distance of an image that is kept.
      image_quantile: in (0, 1], instead of it.

    Raises:
      ValueError: a threshold and its quantile are both given, or one of them is not possible.

    References:
      Ring loss, section 3, implementation details: "classes that had variance in the MSE ... above
      a certain threshold were discarded"; then images.
    """
    filled = distances.classes[distances.counts > 0]
    class_limit = _threshold("class", class_threshold, class_quantile, filled)
    dropped = distances.classes > class_limit  # NaN, a class without images, is not.
    in_kept = ~dropped[distances.labels]
    image_limit = _threshold("image", image_threshold, image_quantile, distances.images[in_kept])
    keep = in_kept & (distances.images <= image_limit)
    return Cleaning(keep, dropped, class_limit, image_limit)


def write_keep_list(path: Path, names: Iterable[str]) -> None:
    """Writes image names sorted, one per line, in UTF-8.

    Raises:
      InputError: there is no name, one twice, or one that a line cannot hold.
    """
    names = sorted(names)
    _check_names(path, names)
    owned.write_text(path, "\n".join(names) + "\n")


def read_keep_list(path: Path) -> list[str]:
    """Returns the names of a file as `write_keep_list` makes it, in the file's order.

    Raises:
      InputError: the file cannot be read, is empty, has an empty line, or a name twice.
    """
    names = list(text_lines(path))
    _check_names(path, names)
    return names


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise InputError(f"{path}: expected at least one image name, found none.")
    seen: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name.strip() or set(name) & set("\r\n"):
            raise InputError(f"{path}:{line}: expected an image name, found {name!r}.")
        if seen.setdefault(name, line) != line:
            raise InputError(
                f"{path}:{line}: expected each image once, found {name!r} as in line {seen[name]}."
            )


def _class_means(
    blocks: Blocks, num_classes: int, prepared: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = None, np.zeros(num_classes, np.int64)
    for features, labels in blocks:
        if sums is None:
            sums = np.zeros((num_classes, features.shape[1]))
        # Sorted by class, so that reduceat adds whole runs of rows.
        order = np.argsort(_checked(labels, features, num_classes), kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        # In float64: the sum of a large class loses digits in float32.
        sums[found] += np.add.reduceat(prepared(features)[order], starts, axis=0, dtype=np.float64)
        counts += np.bincount(labels, minlength=num_classes)
    if sums is None:
        raise ValueError("expected blocks of features, found none")
    return sums / np.maximum(counts, 1)[:, None], counts


def _checked(labels: np.ndarray, features: np.ndarray, num_classes: int) -> np.ndarray:
    outside = (labels < 0) | (labels >= num_classes)
    if labels.shape != features.shape[:1] or outside.any():
        found = labels[outside][0] if outside.any() else f"shapes {features.shape}, {labels.shape}"
        raise ValueError(f"expected a label in [0, {num_classes}) a feature, found {found}")
    return labels


def _finite(features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    return features


def _threshold(
    name: str, threshold: float | None, quantile: float | None, values: np.ndarray
) -> float:
    if threshold is not None and quantile is not None:
        raise ValueError(f"expected a {name} threshold or quantile, found both")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"expected a {name} threshold of at least 0, found {threshold}")
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(f"expected a {name} quantile in (0, 1], found {quantile}")
    if quantile is not None and values.size:
        # A distance that occurs, so that at least this share is kept.
        return float(np.quantile(values, quantile, method="inverted_cdf"))
    return float("inf") if threshold is None else float(threshold)
