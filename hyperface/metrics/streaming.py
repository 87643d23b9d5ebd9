"""Computes verification rates from blocks of scores, without keeping all impostor scores."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.cosine import Place, one_ahead, product
from hyperface.metrics.roc import Roc
from hyperface.metrics.shapes import Features, Labels, OfRates
from hyperface.metrics.threshold import (
    Rule,
    accepted_share,
    allowed_impostors,
    checked_scores,
    impostor_threshold,
)
from hyperface.metrics.topk import Tail

BINS = 2**16
"""Number of bins of the histogram of cosines, over [-1, 1]; a power of two, see `_bins`."""
RESOLUTION = 2.0 / BINS
"""Width of a bin, in cosine."""
CHUNK = 2**18
"""Number of scores that are counted at a time, so few that they stay in the processor's cache."""
TILE = 512
"""`stream_all_pairs` scores TILE x TILE pairs of images at a time."""
SLACK = 1e-5
"""A cosine may lie this far outside [-1, 1], because of rounding."""


class ScoreStream:
    """Computes verification rates over any number of pairs, from blocks of scores.

    All genuine scores (of pairs of one person) and the highest impostor scores (of pairs of two
    people) are kept in memory. So results for false accept rates up to `exact_far` are exact: they
    equal those of `roc.true_accept_rate`. The other impostor scores are only counted in a
    histogram. For higher false accept rates, the threshold is therefore an edge of a histogram bin,
    less than 2^-15 in cosine (the width of a bin) from the exact threshold.

    Which edge it is depends on the argument `rule` of the methods. With "strict" (the default), it
    is the next edge above the exact threshold, so that the true accept rate is never too high. With
    "blufr", it is the next edge below, so that the true accept rate is never too low.

    Args:
      tail: number of the highest impostor scores that are kept. With N impostor scores, rates up to
        (tail - 1) / N are exact.
      dtype: type of the scores. A block of another type raises an error, because rounding to
        another type would create ties.

    Example:
      >>> stream = ScoreStream(tail=2)
      >>> stream.add(genuine=np.float32([0.9, 0.7]), impostors=np.float32([0.8, 0.4]))
      >>> stream.add(genuine=np.float32([0.4]), impostors=np.float32([0.1]))
      >>> stream.true_accept_rate([0.0, 1 / 3]).round(2)
      array([0.33, 0.67])
    """

    def __init__(self, *, tail: int = 2**20, dtype: np.dtype | type = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self.histogram = np.zeros(BINS, np.int64)
        """Number of impostor scores per bin; the last bin also contains 1.0."""
        self.tail = Tail(tail, dtype)
        self._genuine: list[np.ndarray] = []

    @property
    def num_genuine(self) -> int:
        """The number of genuine scores that were added so far."""
        return sum(part.size for part in self._genuine)

    @property
    def num_impostors(self) -> int:
        """The number of impostor scores that were added so far."""
        return int(self.histogram.sum())

    @property
    def exact_far(self) -> float:
        """The highest false accept rate whose threshold is exact, with the scores added so far."""
        return min(1.0, (self.tail.size - 1) / max(1, self.num_impostors))

    def add(
        self, *, genuine: np.ndarray | None = None, impostors: np.ndarray | None = None
    ) -> None:
        """Adds a block of scores.

        Args:
          genuine: cosines of pairs of one person, in an array of any shape; None adds none.
          impostors: cosines of pairs of two people, in an array of any shape; None adds none.

        Raises:
          ValueError: a score has another type, is not finite or lies outside [-1, 1].
        """
        if genuine is not None:
            # Copies, since a chunk is a view that would keep the caller's whole block in memory.
            self._genuine.extend(chunk.copy() for chunk in self._chunks(genuine, "genuine"))
        if impostors is not None:
            for chunk in self._chunks(impostors, "impostor"):
                # int64 counts: the pairs of a large gallery pass int32.
                self.histogram += np.bincount(_bins(chunk), minlength=BINS)
                self.tail.add(chunk)

    def merge(self, other: "ScoreStream") -> None:
        """Adds all scores of another stream to this one; the other stream does not change.

        Args:
          other: the stream, created with the same `tail` and `dtype`.

        Raises:
          ValueError: the other stream has another `tail` or `dtype`.
        """
        if other.dtype != self.dtype:
            raise ValueError(f"expected a stream of {self.dtype} scores, found {other.dtype}")
        self.tail.merge(other.tail)
        self.histogram += other.histogram
        self._genuine.extend(other._genuine)

    def threshold(self, far: ArrayLike, *, rule: Rule = "strict") -> OfRates:
        """Returns the threshold for each false accept rate, in the shape of `far`.

        The threshold is exact for rates up to `exact_far`. For higher rates it is an edge of a
        histogram bin near the exact threshold.

        Args:
          far: one false accept rate in [0, 1], or an array of them.
          rule: how the threshold is computed from `far`. "strict": the lowest threshold whose
            measured FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the
            k-th highest of the N scores of the impostor pairs, where k is `far` * N rounded to the
            nearest number. Its measured FAR may exceed `far`. At k = 0 no such score is accepted.

        Raises:
          ValueError: no genuine or no impostor score was added, or a rate is outside [0, 1].
        """
        self._check_both_kinds()
        # float64, since float32 cannot represent each count of more than 16 million impostors.
        far = np.asarray(far, np.float64)
        allowed = allowed_impostors(far, self.num_impostors, rule)
        # The tail answers if it contains the score at place k (counted from 0). It also answers if
        # all impostors are accepted, because no score is read then.
        exact = (allowed < self.tail.size) | (allowed >= self.num_impostors)
        from_tail = impostor_threshold(
            self.tail.scores(),
            # FAR 0, which the tail can always answer, stands in where the tail cannot answer; the
            # last line discards these results.
            np.where(exact, far, 0.0),
            rule=rule,
            num_impostors=self.num_impostors,
        )
        at_least = np.cumsum(self.histogram[::-1])  # Impostors in the highest 1, 2, ... bins.
        if rule == "strict":
            # As many of the highest bins as hold at most k impostors together: at the edge below
            # them at most k are accepted.
            bins = np.searchsorted(at_least, allowed, side="right")
        else:
            # The bin of the k-th impostor is included, and with it all scores equal to that one.
            bins = np.searchsorted(at_least, allowed, side="left") + 1
        return np.where(exact, from_tail, (1.0 - bins * RESOLUTION).astype(self.dtype))[()]

    def true_accept_rate(self, far: ArrayLike, *, rule: Rule = "strict") -> OfRates:
        """Returns the share of genuine scores at or above the threshold for each rate.

        Rates above `exact_far` have approximate thresholds; see `threshold`.

        Args:
          far: one false accept rate in [0, 1], or an array of them.
          rule: how the threshold is computed from `far`. "strict": the lowest threshold whose
            measured FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the
            k-th highest of the N scores of the impostor pairs, where k is `far` * N rounded to the
            nearest number. Its measured FAR may exceed `far`. At k = 0 no such score is accepted.

        Returns:
          The true accept rates, in the shape of `far`.

        Raises:
          ValueError: no genuine or no impostor score was added, or a rate is outside [0, 1].
        """
        return accepted_share(self.genuine(), self.threshold(far, rule=rule))

    def genuine(self) -> np.ndarray:
        """Returns all genuine scores [pairs] that were added so far, in the order of adding."""
        return np.concatenate(self._genuine) if self._genuine else np.empty(0, self.dtype)

    def roc(self) -> Roc:
        """Returns the ROC curve, with one point per histogram bin that is not empty.

        A bin is 2^-15 wide in cosine, so that all scores in one bin count as equal.

        Raises:
          ValueError: no genuine or no impostor score was added.
        """
        self._check_both_kinds()
        genuine = np.bincount(_bins(self.genuine()), minlength=BINS)
        used = np.flatnonzero((genuine + self.histogram)[::-1])
        counts = (np.cumsum(kind[::-1])[used] for kind in (self.histogram, genuine))
        far, tar = (np.concatenate([[0.0], count / count[-1]]) for count in counts)
        return Roc(far, tar, np.concatenate([[np.inf], 1.0 - (used + 1) * RESOLUTION]))

    def _check_both_kinds(self) -> None:
        if not (self.num_genuine and self.num_impostors):
            raise ValueError(
                f"expected same and different pairs, found {self.num_genuine} and "
                f"{self.num_impostors}"
            )

    def _chunks(self, scores: np.ndarray, name: str) -> Iterator[np.ndarray]:
        """Yields the scores, checked as `add` says, in flat parts of at most CHUNK scores."""
        scores = np.asarray(scores).ravel()
        if scores.dtype != self.dtype:
            raise ValueError(f"expected {self.dtype} {name} scores, found {scores.dtype}")
        for start in range(0, scores.size, CHUNK):
            chunk = checked_scores(scores[start : start + CHUNK], name)
            # Minimum and maximum suffice, and cost no array of bools as large as the chunk.
            low, high = chunk.min(), chunk.max()
            if low < -1 - SLACK or high > 1 + SLACK:
                raise ValueError(
                    f"expected {name} scores in [-1, 1], found {low:g} to {high:g}: "
                    "cosines need unit features"
                )
            yield chunk


def stream_all_pairs(
    unit: Features,
    labels: Labels,
    *,
    exact_far: float = 0.01,
    place: Place = jnp.asarray,
) -> ScoreStream:
    """Scores each pair of two distinct images by cosine, and returns a stream with all scores.

    The matrix of scores is computed in tiles, and never exists as a whole.

    Args:
      unit: [images, dim] features of unit length; the scores have the same dtype as the features.
      labels: [images] person of each image. Two images with equal labels are a genuine pair, and
        other pairs are impostor pairs.
      exact_far: the stream keeps so many impostor scores that its thresholds are exact for all
        false accept rates up to this one.
      place: function that puts the rows of a tile on devices. The default uses JAX's default
        device; another function may split the rows over several devices.
    """
    # Sorted by person, so that few tiles contain same pairs. Stable, so that the order of the
    # genuine scores does not depend on NumPy's sorting algorithm.
    order = np.argsort(labels, kind="stable")
    labels, images = labels[order], len(unit)
    # Every tile has one shape, so that the product is compiled once.
    padded = np.zeros((-(-images // TILE) * TILE, unit.shape[1]), unit.dtype)
    padded[:images] = unit[order]
    # One more than the rate allows: "strict" reads the first score that is refused.
    stream = ScoreStream(tail=int(exact_far * images * (images - 1) / 2) + 1, dtype=unit.dtype)
    starts = range(0, images, TILE)
    tiles = ((i, j) for i in starts for j in starts if i <= j)
    products = (
        (i, j, product(padded[i : i + TILE], padded[j : j + TILE], place)) for i, j in tiles
    )
    for i, j, scores in one_ahead(products):
        # Without the padding, whose scores would count as impostor scores of zero.
        scores = np.asarray(scores)[: images - i, : images - j]
        rows, columns = labels[i : i + TILE, None], labels[None, j : j + TILE]
        # Labels rise. If the last row's label is below the first column's, the tile contains no
        # same pair, and the slow masks below are not needed.
        if rows[-1, 0] < columns[0, 0]:
            stream.add(impostors=scores)
        else:
            same = rows == columns
            # A tile on the diagonal is used only below the diagonal, so that each pair occurs once
            # and no image is paired with itself.
            once = np.tri(*scores.shape, k=-1, dtype=bool) if i == j else True
            stream.add(genuine=scores[same & once], impostors=scores[~same & once])
    return stream


def _bins(scores: np.ndarray) -> np.ndarray:
    """Returns the histogram bin, from 0 to BINS - 1, of each cosine."""
    # BINS / 2 is a power of two: multiplying by it does not round, so that bin edges are exact.
    place = np.floor(scores * scores.dtype.type(BINS // 2))
    place += BINS // 2
    # Clipped, because 1.0 belongs to the last bin, and rounding may put a cosine outside [-1, 1].
    return np.clip(place, 0, BINS - 1, out=place).astype(np.intp)
