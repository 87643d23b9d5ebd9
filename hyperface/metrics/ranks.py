"""Identification of probes in a gallery: ranks of mates, CMC, and the open-set DIR at a FAR.

A probe is an image that is searched for, and the gallery is the set of images that are searched. A
mate is a gallery image of the probe's person.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.shapes import AtRanks, ImpostorScores, MatedRanks, MateScores, ProbeScores
from hyperface.metrics.threshold import Rule, checked_scores, impostor_threshold


class OpenSet(NamedTuple):
    """The outcome of searching probes in a gallery that contains only some of their people.

    Probes are the images that are searched for. A mate is a gallery image of the probe's person.
    """

    mate_scores: MateScores
    """[probes with a mate] score of the mate; if there are several mates, the highest of their
    scores."""
    ranks: MatedRanks
    """[probes with a mate] rank of the mate that has this score, from 1 (the best), among the
    gallery images of people other than the probe's person."""
    impostor_scores: ImpostorScores
    """[probes without a mate] highest score of all gallery images."""


def open_set(scores: ProbeScores, gallery_labels: ArrayLike, probe_labels: ArrayLike) -> OpenSet:
    """Searches each probe in a gallery that contains only some of the probes' people.

    `dir_at_far` computes rates from the result. The rank of a mate (a gallery image of the probe's
    person) is one more than the number of gallery images that show another person than the probe
    and score at least as high as the mate: ties count against the probe. (BLUFR's published code
    ranks equal scores by their order in the gallery.)

    Args:
      scores: [probes, gallery] similarities.
      gallery_labels: [gallery] person of each image.
      probe_labels: [probes] person of each image.

    Raises:
      ValueError: `scores` has another shape or is empty, or a score is not finite.

    Example:
      >>> open_set(np.array([[0.9, 0.3], [0.4, 0.2], [0.1, 0.5]]), [0, 1], [0, 1, 2])
      OpenSet(mate_scores=array([0.9, 0.2]), ranks=array([1, 2]), impostor_scores=array([0.5]))
    """
    scores, gallery_labels = np.asarray(scores), np.asarray(gallery_labels)
    probe_labels = np.asarray(probe_labels)
    expected = (*probe_labels.shape, *gallery_labels.shape)
    if scores.ndim != 2 or scores.shape != expected or not scores.size:
        raise ValueError(f"expected scores of shape {expected} and not empty, found {scores.shape}")
    checked_scores(scores.ravel(), "gallery")
    has_mate = np.isin(probe_labels, gallery_labels)
    mated = scores[has_mate]
    mates = probe_labels[has_mate, None] == gallery_labels
    # np.where with the float64 -inf widens float32 scores; the cast takes them back.
    best = np.where(mates, mated, -np.inf).max(axis=1, initial=-np.inf).astype(scores.dtype)
    # >=, so that a tie counts against the mate.
    as_high = (mated >= best[:, None]) & ~mates
    return OpenSet(best, 1 + np.count_nonzero(as_high, axis=1), scores[~has_mate].max(axis=1))


def cmc(ranks: ArrayLike, max_rank: int) -> AtRanks:
    """Returns the cumulative match characteristic (CMC): the share of searches with rank <= r.

    Args:
      ranks: [searches] rank, from 1, of the image of the right person.
      max_rank: the last rank of the curve.

    Returns:
      [max_rank] rising shares for r = 1, 2, ...; the first is the rank-1 identification rate.

    Raises:
      ValueError: there is no rank, or a rank is below 1.

    Example:
      >>> cmc([1, 3, 1, 7], max_rank=4)
      array([0.5 , 0.5 , 0.75, 0.75])
    """
    ranks = np.asarray(ranks)
    if not ranks.size or ranks.min() < 1:
        raise ValueError(f"expected ranks from 1, found {ranks.min() if ranks.size else 'none'}")
    # All ranks beyond the curve share one bin, so that one huge rank allocates no huge array.
    counts = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)
    return np.cumsum(counts)[1 : max_rank + 1] / ranks.size


def dir_at_far(
    searches: OpenSet, far: ArrayLike, *, rank: ArrayLike = 1, rule: Rule = "strict"
) -> np.ndarray:
    """Returns the detection and identification rate (DIR) at false accept rates.

    A mate is a gallery image of the probe's person. DIR is computed over the probes that have a
    mate: it is the share of them for which the rank of the mate is at most `rank` and the score of
    the mate is at least the threshold. The false accept rate is computed over the other probes,
    which have no mate: it is the share of them whose highest score is at least the threshold.

    Args:
      searches: the result of `open_set`.
      far: one false accept rate in [0, 1], or an array of them.
      rank: one rank from 1, or an array of them.
      rule: how the threshold is computed from `far`. "strict": the lowest threshold whose measured
        FAR does not exceed `far`. "blufr", the rule of BLUFR's published code: the k-th highest of
        the N scores in `searches.impostor_scores`, where k is `far` * N rounded to the nearest
        number. Its measured FAR may exceed `far`. At k = 0 no such score is accepted.

    Returns:
      The DIRs, in [0, 1]. The shape is that of `rank` followed by that of `far`.

    Raises:
      ValueError: there are no probes with a mate, or no probes without a mate, or a false accept
        rate is outside [0, 1].

    Example:
      >>> searches = OpenSet(np.array([0.9, 0.2]), np.array([1, 2]), np.array([0.5, 0.1]))
      >>> print(dir_at_far(searches, [0.0, 0.5], rank=[1, 2]))
      [[0.5 0.5]
       [0.5 1. ]]
    """
    if not searches.mate_scores.size:
        raise ValueError("expected probes whose person is in the gallery, found none")
    thresholds = impostor_threshold(searches.impostor_scores, far, rule=rule)
    # As floats, so that one matrix product counts, for all ranks and thresholds, the searches that
    # satisfy both conditions.
    detected = (searches.mate_scores[:, None] >= np.ravel(thresholds)).astype(np.float64)
    identified = (np.ravel(rank)[:, None] >= searches.ranks).astype(np.float64)
    rates = identified @ detected / searches.ranks.size
    return rates.reshape(np.shape(rank) + np.shape(far))[()]
