"""Exact search in a large gallery: products in low precision first, float64 where needed.

A block of the gallery is scored in bfloat16. The error of such a score is bounded by the rounding
errors of the features, which are measured. With u' and v' the rounded unit vectors,
|u'v' - uv| <= |u' - u| |v'| + |v' - v| |u|, plus the rounding of float32 sums. Only pairs whose
score plus this bound reaches a threshold are scored again, in float64, and rounded to float32. No
result depends on the low precision, on block sizes or on the order of the gallery.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.metrics.cosine import Place
from hyperface.metrics.shapes import Features, Others, PairRows, Scores

GROUP = 64
"""Number of neighbouring gallery images per group; a group is skipped if its highest score is too
low."""
PAIRS = 2**12
"""Number of pairs that are scored in float64 at a time, so that their features fit into memory."""
PENDING = 2**16
"""Number of scores that `MateRanks` collects before it counts them together."""


class ScoredBlock(NamedTuple):
    """Approximate scores of all probes against one block of gallery images.

    The scores are computed from features that are rounded to low precision, such as bfloat16. In
    the shapes below, `block` is the number of images in the block, including padding.
    """

    scores: jax.Array
    """[probes, block] float32 approximate cosines."""
    highest: jax.Array
    """[probes, block / GROUP] highest score in each group of GROUP (64) neighbouring images. Groups
    whose highest score is too low need not be examined."""
    norms: jax.Array
    """[block] length of each feature of the block; 0 for padding."""
    error: jax.Array
    """Scalar: largest rounding error of the block, the distance between a unit vector and its
    rounded form. The bound on the error of the scores is computed from it."""


class Candidates(NamedTuple):
    """Pairs of a probe and a gallery image whose exact score may reach the threshold of the
    probe."""

    probes: np.ndarray
    """[pairs] row of the probe among all probes."""
    rows: np.ndarray
    """[pairs] row of the gallery image in its block."""


class Probes:
    """Finds the gallery images whose scores may reach a threshold, for each probe.

    A probe is an image that is searched for. Scores are computed fast in low precision, with a
    bound on their error. The pairs that `candidates` returns are then scored exactly by the caller,
    so that results stay exact.

    Args:
      unit: [probes, dim] float32 unit features of the probes.
      dtype: type to which features are rounded for the fast products; it changes the speed and the
        number of candidates, but not the final results.
      place: function that puts a block [rows, dim] on the device that scores it, or splits it over
        several devices.
    """

    def __init__(
        self, unit: np.ndarray, dtype: jnp.dtype | type = jnp.bfloat16, place: Place = jnp.asarray
    ) -> None:
        self._place = place
        self._low = jnp.asarray(unit, dtype)
        # In float64, because a bound that is itself rounded down would be no bound.
        lost = np.linalg.norm(np.asarray(self._low, np.float64) - unit, axis=1)
        # Worst case of the norms, quotients and sums of `dim` terms in float32, with a margin;
        # 2^-24 is the unit roundoff of float32.
        self._rounding = 4.0 * (unit.shape[1] + 8) * 2.0**-24
        self._lost = lost

    def score(self, block: np.ndarray, rows: int) -> ScoredBlock:
        """Starts to compute the scores of a block on the device, and returns without waiting for
        them.

        The arrays in the returned `ScoredBlock` are JAX arrays. JAX waits for the scores when the
        caller reads them.

        Args:
          block: [at most `rows`, dim] float32 features of gallery images, of any norm.
          rows: number of rows to which the block is padded, a multiple of GROUP (64). Give the same
            number for all blocks, because each new number compiles again.
        """
        if len(block) < rows:
            # Zeros keep the one shape that is compiled; `candidates` leaves them out by their rows.
            block = np.concatenate([block, np.zeros((rows - len(block), block.shape[1]), "f4")])
        return _score(self._low, self._place(block))

    def bound(self, scored: ScoredBlock) -> np.ndarray:
        """Returns [probes] bounds on the error of the approximate scores, |score - cosine|.

        Each bound holds for all images of the block.

        Args:
          scored: the scores of the block.
        """
        # The error was measured in float32 and may be rounded down, hence the factor 1.001.
        error = 1.001 * float(scored.error)
        # The bound of the module's docstring, in which |v'| <= |v| + |v' - v| = 1 + error.
        return self._lost * (1.0 + error) + error + self._rounding

    def candidates(self, scored: ScoredBlock, thresholds: np.ndarray, rows: int) -> Candidates:
        """Returns the pairs of a block whose cosine may reach the threshold of their probe.

        All other pairs of the block are certainly below the threshold.

        Args:
          scored: the approximate scores of the block.
          thresholds: [probes] the threshold of each probe, a cosine; with inf, no pair of the probe
            is returned.
          rows: number of gallery images in the block, without the padding.
        """
        # Less the bound, so that no pair is lost because its approximate score is too low.
        lowest = thresholds - self.bound(scored)
        # Groups first, so that the host examines only a small part of all scores.
        probes, groups = np.nonzero(np.asarray(scored.highest) >= lowest[:, None])
        scores = np.asarray(scored.scores)
        scores = scores.reshape(len(scores), -1, GROUP)[probes, groups]
        group, place = np.nonzero(scores >= lowest[probes, None])
        found = Candidates(probes[group], groups[group] * GROUP + place)
        real = found.rows < rows
        return Candidates(found.probes[real], found.rows[real])


@jax.jit
def _score(probes: jax.Array, block: jax.Array) -> ScoredBlock:
    norms = jnp.sqrt(jnp.sum(jnp.square(block), axis=1))
    # Padding has norm zero, and 0 / 0 would be NaN. The caller refuses real features of norm zero.
    unit = block / jnp.where(norms > 0, norms, 1.0)[:, None]
    low = unit.astype(probes.dtype)
    error = jnp.sqrt(jnp.max(jnp.sum(jnp.square(low.astype(jnp.float32) - unit), axis=1)))
    scores = jax.lax.dot_general(
        probes,
        low,
        (((1,), (1,)), ((), ())),
        # "highest": by default an accelerator rounds float32 operands, which the bound leaves out.
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    highest = jnp.max(scores.reshape(scores.shape[0], -1, GROUP), axis=2)
    return ScoredBlock(scores, highest, norms, error)


def exact_cosines(
    first: Features, second: Others, of_first: PairRows, of_second: PairRows
) -> Scores:
    """Returns the cosines [pairs] of pairs of rows, computed in float64 and rounded to float32.

    Args:
      first: [images, dim] features of any norm above zero.
      second: [others, dim] features of any norm above zero.
      of_first: [pairs] row in `first` of each pair.
      of_second: [pairs] row in `second` of each pair.
    """
    cosines = np.empty(of_first.size, np.float32)
    for start in range(0, of_first.size, PAIRS):
        part = slice(start, start + PAIRS)
        # In float64, since ranks and thresholds compare these scores for equality.
        a = first[of_first[part]].astype(np.float64)
        b = second[of_second[part]].astype(np.float64)
        squares = np.einsum("pd,pd->p", a, a) * np.einsum("pd,pd->p", b, b)
        cosines[part] = np.einsum("pd,pd->p", a, b) / np.sqrt(squares)
    return cosines


class MateRanks:
    """Computes the ranks of mates from gallery scores, which may be added in any order.

    A mate is another image of the probe's person. Its rank is one more than the number of gallery
    scores of its probe that are at least the mate's score: ties count against the mate. Ranks above
    `max_rank` are not counted exactly. The attribute `wanted`, [probes], is the lowest score that
    can still change a rank of the probe, or inf if no score can.

    Args:
      probes: [pairs] row of the probe of each pair of a probe and its mate.
      scores: [pairs] float32 score of each pair.
      num_probes: number of probes.
      max_rank: the last exact rank; all higher ranks are reported as max_rank + 1.
    """

    def __init__(
        self, probes: np.ndarray, scores: np.ndarray, num_probes: int, max_rank: int
    ) -> None:
        # Sorted by probe, then by score: the pairs of a probe are neighbours, the lowest score
        # first.
        self._order = np.lexsort((scores, probes))
        self._scores = scores[self._order]
        self._keys = _keys(probes[self._order], self._scores)
        self._first = np.searchsorted(probes[self._order], np.arange(num_probes + 1))
        self._counts = np.zeros(scores.size, np.int64)
        self._pending: list[np.ndarray] = []
        self._max_rank = max_rank
        self.wanted = np.full(num_probes, np.inf, np.float32)
        """[probes] lowest score per probe that still has to be counted; inf if there is none."""
        self._update()

    def add(self, probes: np.ndarray, scores: np.ndarray) -> None:
        """Counts scores of gallery images; each score must be added once.

        Args:
          probes: [scores] row of the probe that each score belongs to.
          scores: [scores] float32 similarities. Scores below the probe's `wanted` may be left out,
            since they cannot change a rank.
        """
        # Lower scores cannot change a rank, or only one that exceeds max_rank already.
        reaching = scores >= self.wanted[probes]
        self._pending.append(_keys(probes[reaching], scores[reaching]))
        if sum(part.size for part in self._pending) > PENDING:
            self._update()

    def ranks(self) -> np.ndarray:
        """Returns the rank of the mate in each pair, [pairs] from 1, after all added scores.

        All ranks above `max_rank` are returned as `max_rank` + 1.
        """
        self._update()
        ranks = np.empty_like(self._counts)
        ranks[self._order] = np.minimum(self._counts, self._max_rank) + 1
        return ranks

    def _update(self) -> None:
        """Counts the pending scores, and raises `wanted` for pairs whose rank exceeds max_rank."""
        # The empty array is there because np.concatenate refuses an empty list.
        keys = np.concatenate([np.empty(0, np.int64), *self._pending])
        # A gallery score counts against each pair of its probe whose score is not higher. These are
        # the pairs between the probe's first pair and the score's place in the sorted pairs. So the
        # count of pair p is the number of places in (p, end of the probe].
        places = np.searchsorted(self._keys, keys, side="right")
        up_to = np.cumsum(np.bincount(places, minlength=self._keys.size + 1))
        begin, end = self._first[:-1], self._first[1:]
        self._counts += np.repeat(up_to[end], end - begin) - up_to[:-1]
        self._pending = []
        # Pairs beyond max_rank are the lowest of their probe, so that counting them is enough to
        # find the lowest pair that is not beyond.
        passed = np.concatenate([[0], np.cumsum(self._counts >= self._max_rank)])
        lowest = begin + passed[end] - passed[begin]
        self.wanted[:] = np.append(self._scores, np.inf)[np.where(lowest < end, lowest, -1)]


def _keys(probes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns int64 keys [scores] whose order is by probe, then by float32 score."""
    # Adding 0.0 turns -0.0 into 0.0: both are equal as scores, but their bits differ.
    bits = (np.float32(scores) + np.float32(0.0)).view(np.int32)
    # As integers, the bits of negative floats sort in reverse, so all bits but the sign are
    # flipped.
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    # One key of two parts, because searchsorted takes a single key. The lower part is signed, which
    # moves a negative score into the gap below the probe's zero: the order stays.
    return (probes.astype(np.int64) << 32) + ordered
