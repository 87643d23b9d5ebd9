"""Mean removal and PCA, fitted for each fold of a pair list on all other folds."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics.shapes import Features, Projected, Spanned, UseFolds, Uses

LARGEST_PCA = 4096
"""PCA is refused if both the number of images and the number of dimensions exceed this."""


class Projection(NamedTuple):
    """Mean removal and PCA (principal component analysis), as a function of features.

    Call an object of this class with features [images, dim]. The call returns (features - mean) @
    basis, [images, kept dim]. If `basis` is None, it returns features - mean, [images, dim].
    """

    mean: np.ndarray
    """[dim] mean that is subtracted."""
    basis: np.ndarray | None
    """[dim, kept dim] principal components as orthonormal columns; None removes only the mean and
    keeps all dimensions."""

    def __call__(self, features: Features) -> Projected:
        """Projects features [images, dim] to [images, kept dim], in the type of the features."""
        centered = features - self.mean.astype(features.dtype)
        return centered if self.basis is None else centered @ self.basis.astype(features.dtype)


class Moments(NamedTuple):
    """Sums over some features, from which their mean and covariance follow.

    The mean feature of all images (`FoldMoments.middle`) was subtracted from the features first. A
    feature that is used in several pairs is added several times.
    """

    uses: float
    """Number of features that were added, where a feature in several pairs counts several times."""
    total: np.ndarray
    """[dim] sum of the features."""
    scatter: np.ndarray | float
    """[dim, dim] sum of the outer products of the features with themselves; 0.0 if no PCA is to be
    fitted."""


class FoldMoments(NamedTuple):
    """Sums over the features of each fold, from which `projection` fits mean removal and PCA.

    Folds are groups of pairs. For each fold, mean and PCA are fitted on the features of all other
    folds. The sums over all other folds are `whole` minus the sums over the fold itself, so that
    each feature is summed only once.
    """

    middle: np.ndarray
    """[dim] mean feature of all images, which is subtracted from the features before the sums.
    Otherwise the difference of two large sums would lose digits."""
    whole: Moments
    """The sums over all folds together."""
    folds: dict[int, Moments]
    """Fold id -> sums over the fold."""

    def projection(self, held_out: int, pca: float | int | None) -> Projection:
        """Returns the projection (mean removal and PCA) fitted on all folds but one.

        Args:
          held_out: id of the fold that is left out; a key of `folds`.
          pca: a number below 1 is the share of the variance to keep; a whole number is the number
            of dimensions to keep. None removes only the mean.

        Raises:
          ValueError: the fold does not exist, or there is no other fold.
        """
        if held_out not in self.folds or len(self.folds) < 2:
            raise ValueError(
                f"expected the id of one of at least 2 folds, found {held_out} and the folds "
                f"{[int(i) for i in self.folds]}"
            )
        own = self.folds[held_out]
        # Subtracting the held-out fold costs nothing; summing the other folds again would read all
        # features once per fold.
        count, total, scatter = (a - b for a, b in zip(self.whole, own, strict=True))
        mean = total / count
        if pca is None:
            return Projection(mean + self.middle, None)
        basis = _leading(scatter / count - np.outer(mean, mean), pca)
        return Projection(mean + self.middle, basis)


def fold_moments(features: Features, rows: Uses, fold: UseFolds, *, scatter: bool) -> FoldMoments:
    """Sums the features of each fold and of all folds together, in float64.

    Args:
      features: [images, dim].
      rows: [uses] row of `features` for each use of an image in a pair. An image in several pairs
        is given several times, and counts several times.
      fold: [uses] id of the fold of each use.
      scatter: True computes the [dim, dim] sums too, which PCA needs.
    """
    features = np.asarray(features, np.float64)
    # Subtracted first: without it the covariance would be a small difference of large numbers.
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
    """Reduces features of many dimensions, such as raw pixels, without any change of distances.

    If there are more dimensions than images, the features are expressed in an orthonormal basis of
    the space that they span. All their inner products stay the same, and later steps are cheaper.

    Args:
      features: [images, dim].

    Returns:
      [images, images] float64 if dim is greater than the number of images; otherwise `features`,
      unchanged.
    """
    if features.shape[1] <= features.shape[0]:
        return features
    # features^T = Q R with orthonormal Q, so that R holds the coordinates; Q is not computed.
    triangle = np.linalg.qr(np.asarray(features, np.float64).T, mode="r")
    return np.asarray(triangle).T


def check_pca(pca: float | int | None, images: int, dim: int) -> None:
    """Checks that a PCA has a valid size, and is not too large to compute.

    Args:
      pca: share of the variance to keep (a float below 1), number of dimensions to keep (an int),
        or None for no PCA, which is always valid.
      images: number of images that it is fitted on.
      dim: number of dimensions of the features.

    Raises:
      ValueError: pca is neither a share in (0, 1) nor a whole number from 1 to the smaller of
        images and dim, or both images and dim exceed LARGEST_PCA (4096).
    """
    if pca is None:
        return
    most = min(images, dim)
    # bool is a subclass of int: True must not mean one dimension.
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
    # In part.T @ part the root of the count appears twice, so that each row has its count as
    # weight.
    roots = np.sqrt(counts.astype(np.float64))
    part = features[used] * roots[:, None]
    return Moments(float(rows.size), roots @ part, part.T @ part if scatter else 0.0)


def _leading(covariance: np.ndarray, pca: float | int) -> np.ndarray:
    """Returns the eigenvectors of the largest eigenvalues, [dim, kept dim], as columns.

    A `pca` below 1 is a share of the variance. The fewest eigenvectors that exceed this share are
    kept, as in scikit-learn.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = pca
    if pca < 1:
        # eigh sorts eigenvalues in rising order, hence the reversal. Rounding may make eigenvalues
        # near zero negative, and the sum must not fall.
        share = np.cumsum(np.maximum(values[::-1], 0.0))
        kept = np.searchsorted(share, pca * share[-1], side="right") + 1
    return vectors[:, -min(int(kept), values.size) :]
