"""Keeps the highest of any number of scores, which determine the thresholds at low FARs."""

import numpy as np


class Tail:
    """Collects scores block by block, and keeps only the highest scores.

    Thresholds for low false accept rates can be computed from the highest impostor scores alone.

    Args:
      size: number of scores to keep. Up to twice as many scores are in memory, plus one block.
      dtype: type of the scores.

    Raises:
      ValueError: `size` is below 1.

    Example:
      >>> tail = Tail(2)
      >>> tail.add(np.array([0.1, 0.4, 0.3], np.float32))
      >>> tail.add(np.array([0.2, 0.9], np.float32))
      >>> tail.scores()
      array([0.9, 0.4], dtype=float32)
    """

    def __init__(self, size: int, dtype: np.dtype | type = np.float32) -> None:
        if size < 1:
            raise ValueError(f"expected a tail of at least 1 score, found {size}")
        self.size = size
        self.cut = np.array(-np.inf, dtype)[()]
        """Lowest of the `size` highest scores so far. Only a score above it can change the tail."""
        self._kept = [np.empty(0, dtype)]
        self._held = 0

    def add(self, scores: np.ndarray) -> None:
        """Adds a block of scores, of which only the highest are kept.

        Args:
          scores: one-dimensional array, with the `dtype` that was given when this object was
            created.
        """
        # Scores equal to the cut may be dropped: `size` scores at least as high are kept already.
        high = scores[scores > self.cut]
        self._kept.append(high)
        self._held += high.size
        # Only at twice the size, so that one partition serves at least `size` new scores.
        if self._held >= 2 * self.size:
            self._shrink()

    def merge(self, other: "Tail") -> None:
        """Adds the scores that another `Tail` keeps; raises ValueError if its `size` differs."""
        if other.size != self.size:
            raise ValueError(f"expected a tail of size {self.size}, found {other.size}")
        self.add(np.concatenate(other._kept))

    def scores(self) -> np.ndarray:
        """Returns the `size` highest scores in falling order; all scores if fewer were added."""
        self._shrink()
        return np.sort(self._kept[0])[::-1]

    def _shrink(self) -> None:
        kept = np.concatenate(self._kept)
        if kept.size >= self.size:
            kept = np.partition(kept, kept.size - self.size)[kept.size - self.size :]
            self.cut = kept.min()
        self._kept, self._held = [kept], kept.size
