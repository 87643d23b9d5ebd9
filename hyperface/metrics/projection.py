"""Mean removal and PCA, fitted on all folds of a pair list but one, for each fold in turn."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics.shapes import Features, Projected, Spanned, UseFolds, Uses

LARGEST_PCA = 4096
"""Images or dimensions, whichever are fewer, up to which PCA is fitted per fold."""


class Projection(NamedTuple):
    """A projection of features: x becomes (x - mean) basis."""

    mean: np.ndarray
    """[dim]."""
    basis: np.ndarray | None
    """[dim, kept dim] with orthonormal columns, or None to keep all."""

    def __call__(self, features: Features) -> Projected:
        """Features [images, dim] to [images, kept dim], in the features' own precision."""
        centered = features - self.mean.astype(features.dtype)
        return centered if self.basis is None else centered @ self.basis.astype(features.dtype)


class Moments(NamedTuple):
    """The moments from which a projection is fitted, relative to a common centre."""

    uses: float
    """Number of features."""
    total: np.ndarray
    """[dim] sum of the features."""
    scatter: np.ndarray | float
    """[dim, dim] sum of their outer products; zero where no PCA is fitted."""


class FoldMoments(NamedTuple):
    """Moments of each fold and of all folds together.

    Their difference gives the moments of all folds but one, so each feature is summed only once.
    """

    middle: np.ndarray
    """[dim], subtracted before: moments about it lose no digits when subtracted."""
    whole: Moments
    folds: dict[int, Moments]

    def projection(self, held_out: int, pca: float | int | None) -> Projection:
        """Returns the projection fitted on all folds but one.

        Args:
          held_out: fold id.
          pca: share of the variance to keep, number of dimensions, or None to remove the mean only.
        """
        own = self.folds[held_out]
        # All less the held-out fold: the features are read once for all folds.
        count, total, scatter = (a - b for a, b in zip(self.whole, own, strict=True))
        mean = total / count
        if pca is None:
            return Projection(mean + self.middle, None)
        basis = _leading(scatter / count - np.outer(mean, mean), pca)
        return Projection(mean + self.middle, basis)


def fold_moments(features: Features, rows: Uses, fold: UseFolds, *, scatter: bool) -> FoldMoments:
    """Computes the moments of each fold; each row is summed once, not once per other fold.

    Args:
      features: [images, dim]; the moments are computed in float64.
      rows: [uses] row numbers into features; a row that is given twice counts twice.
      fold: [uses] fold id of each use.
      scatter: whether PCA will be fitted.
    """
    features = np.asarray(features, np.float64)
    # Taken off first: the covariance is a difference of large numbers otherwise.
    middle = features.mean(axis=0)
    centered = features - middle
    folds = {i: _moments(centered, rows[fold == i], scatter) for i in np.unique(fold)}
    first, *others = folds.values()
    whole = first
    for other in others:
        whole = Moments(
            whole.uses + other.uses, whole.total + other.total, whole.scatter + other.scatter
        )
    return FoldMoments(middle, whole, folds)


def spanned(features: Features) -> Spanned:
    """Returns features in coordinates of their own span, [images, at most images].

    Their inner products stay the same. This saves work if there are more dimensions than images, as
    with raw pixels.
    """
    if features.shape[1] <= features.shape[0]:
        return features
    triangle = np.linalg.qr(np.asarray(features, np.float64).T, mode="r")
    return np.asarray(triangle).T


def check_pca(pca: float | int | None, images: int, dim: int) -> None:
    """Checks that a PCA has a valid size, and is not too large to compute.

    Raises:
      ValueError: pca is neither a share in (0, 1) nor a whole number from 1 to the smaller of
        images and dim, or both images and dim exceed LARGEST_PCA.
    """
    if pca is None:
        return
    most = min(images, dim)
    whole = isinstance(pca, int | np.integer) and not isinstance(pca, bool)
    if not (1 <= pca <= most if whole else 0.0 < pca < 1.0):
        raise ValueError(
            f"expected pca to be a share of variance in (0, 1) or 1 to {most} dimensions, "
            f"found {pca}"
        )
    if most > LARGEST_PCA:
        raise ValueError(
            f"expected at most {LARGEST_PCA} dimensions or images for PCA per fold, found {dim} "
            f"dimensions of {images} images: reduce them first, or leave PCA out"
        )


def _moments(features: np.ndarray, rows: np.ndarray, scatter: bool) -> Moments:
    used, counts = np.unique(rows, return_counts=True)
    # The root on both sides of the product weighs each row by its count.
    roots = np.sqrt(counts.astype(np.float64))
    part = features[used] * roots[:, None]
    return Moments(float(rows.size), roots @ part, part.T @ part if scatter else 0.0)


def _leading(covariance: np.ndarray, pca: float | int) -> np.ndarray:
    """Returns the kept eigenvectors as columns; a share is exceeded, as in scikit-learn."""
    values, vectors = np.linalg.eigh(covariance)
    kept = pca
    if pca < 1:
        # Rounding makes eigenvalues near zero negative. They rise, and the largest come first here.
        share = np.cumsum(np.maximum(values[::-1], 0.0))
        kept = np.searchsorted(share, pca * share[-1], side="right") + 1
    return vectors[:, -min(int(kept), values.size) :]
