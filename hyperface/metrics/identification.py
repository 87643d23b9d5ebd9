"""MegaFace: identification and verification of probes among up to a million distractors.

A probe is an image that is searched for. A distractor is an image of a person whom no probe shows.

I. Kemelmacher-Shlizerman, S. M. Seitz, D. Miller, E. Brossard. The MegaFace Benchmark: 1 Million
Faces for Recognition at Scale. CVPR 2016.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import check_norms
from hyperface.metrics.blocks import Gallery, checked_mask
from hyperface.metrics.cosine import Place, one_ahead, unit_features
from hyperface.metrics.ranks import cmc
from hyperface.metrics.search import GROUP, MateRanks, Probes, ScoredBlock, exact_cosines
from hyperface.metrics.shapes import AtRanks, FarFlags, PerFar, ProbeFeatures, Searches
from hyperface.metrics.threshold import (
    Rule,
    accepted_share,
    allowed_impostors,
    impostor_threshold,
    supported,
)
from hyperface.metrics.topk import Tail

BLOCK_BYTES = 28 * 2**20
"""Size of a block of float32 scores [probes, block], in bytes; two such blocks are in memory."""


class MegaFace(NamedTuple):
    """Search and verification results of MegaFace's protocol.

    Probes are images of people of whom there are several images. Distractors are images of people
    whom no probe shows. A search looks for another image of the probe's person (the mate) among all
    distractors.
    """

    cmc: AtRanks
    """[max_rank] share of searches in which the rank of the mate is at most r, for r = 1 to
    max_rank. The first is the rank-1 identification rate."""
    ranks: Searches
    """[searches] rank of the mate, from 1; all ranks above max_rank are given as max_rank + 1."""
    probes: Searches
    """[searches] row of the probe in the features that `megaface` was given."""
    mates: Searches
    """[searches] row of the mate in the same features."""
    fars: PerFar
    """[fars] the requested false accept rates."""
    true_accept_rates: PerFar
    """[fars] share of the genuine pairs that are accepted at the threshold. A genuine pair is two
    probes of one person."""
    thresholds: PerFar
    """[fars] threshold for each rate, from the scores of all pairs of a probe and a distractor."""
    supported: FarFlags
    """[fars] bool, True where there are at least 1 / FAR pairs of a probe and a distractor. With
    fewer pairs, the threshold of the rule "strict" accepts none of them."""
    num_probes: int
    """Number of probes that `keep_probes` keeps."""
    num_distractors: int
    """Number of distractors that `keep_distractors` keeps."""


def megaface(
    probes: ProbeFeatures,
    labels: ArrayLike,
    distractors: np.ndarray | Sequence[np.ndarray],
    *,
    fars: ArrayLike = (1e-6,),
    max_rank: int = 100,
    keep_probes: np.ndarray | None = None,
    keep_distractors: np.ndarray | None = None,
    rule: Rule = "strict",
    dtype: jnp.dtype | type = jnp.bfloat16,
    block_size: int | None = None,
    place: Place = jnp.asarray,
    progress: Callable[[int, int], None] | None = None,
) -> MegaFace:
    """Searches every probe in galleries of one mate and all distractors, as MegaFace does.

    A probe is an image that is searched for. Its mate is another probe that shows its person. A
    distractor is an image of a person whom no probe shows. Every ordered pair of two probes of one
    person is a search for the second (the mate) with the first. The rank of the mate is one more
    than the number of distractors that score at least as high: ties count against the mate. For
    verification, the genuine pairs are the pairs of two probes of one person, and the impostor
    pairs are all pairs of a probe and a distractor.

    Scores are cosines in float64, rounded to float32. Most of them are never computed: products in
    low precision, whose error is bounded, show that they are too low to change a result. The
    distractors are read once, in blocks. 3,530 probes need some 350 MiB in addition to a block. The
    cost grows with the highest FAR, and with `max_rank` if mates score low.

    Args:
      probes: [probes, dim] features of any norm above zero.
      labels: [probes] person of each probe.
      distractors: [distractors, dim], for example a memory-mapped array, or a sequence of such
        blocks.
      fars: false accept rates in [0, 1].
      max_rank: the last exact rank; all higher ranks are reported as max_rank + 1.
      keep_probes: [probes] bool, False for probes that are left out, such as those of a list of
        wrong labels; None keeps all.
      keep_distractors: [distractors] bool over all blocks, False for distractors that are left out;
        None keeps all.
      rule: how the threshold is computed from a requested FAR. "strict": the lowest threshold whose
        measured FAR does not exceed the requested FAR. "blufr", the rule of BLUFR's published code:
        the k-th highest of the N scores of the impostor pairs, where k is FAR * N rounded to the
        nearest number. Its measured FAR may exceed the requested FAR. At k = 0 no impostor pair is
        accepted.
      dtype: type of the fast products in low precision; the results do not depend on it.
        jnp.float32 may be faster on a processor without bfloat16 units.
      block_size: distractors per block, a multiple of 64; None chooses it so that a block of scores
        has about 28 MiB.
      place: function that puts a block [rows, dim] on devices. The default uses JAX's default
        device; another function may split the rows over several devices.
      progress: called with (number of finished distractors, number of all distractors).

    Raises:
      ValueError: a feature is zero or not finite, all probes have the same direction, shapes or
        masks do not fit, no two probes show one person, or there are no distractors.
    """
    probes, labels = np.asarray(probes), np.asarray(labels)
    if labels.shape != probes.shape[:1]:
        raise ValueError(f"expected {len(probes)} labels, one a probe, found {labels.shape}")
    kept = np.flatnonzero(checked_mask(keep_probes, len(probes), "probes"))
    probes, unit = probes[kept], unit_features(probes[kept])
    gallery = Gallery(distractors, unit.shape[1], keep_distractors)
    first, second = _same_pairs(labels[kept])
    # Exact like the distractors' scores: mates and distractors are compared for equality too.
    genuine = exact_cosines(probes, probes, first, second)
    of_probe, of_mate = np.concatenate([first, second]), np.concatenate([second, first])

    num_impostors = kept.size * gallery.size
    # Each pair is searched from both sides with one score.
    ranks = MateRanks(of_probe, np.tile(genuine, 2), kept.size, max_rank)
    # One more than is allowed, as "strict" reads the first refused score.
    tail = Tail(int(np.max(allowed_impostors(fars, num_impostors, rule))) + 1)
    # Whole groups only, since the product reports one maximum per group.
    rows = block_size or max(GROUP, BLOCK_BYTES // (4 * kept.size * GROUP) * GROUP)
    # A small gallery would otherwise be padded to a whole block.
    rows = min(rows, -(-gallery.size // GROUP) * GROUP)
    _search_all(probes, Probes(unit, dtype, place), gallery, rows, ranks, tail, progress)

    found = ranks.ranks()
    thresholds = impostor_threshold(tail.scores(), fars, rule=rule, num_impostors=num_impostors)
    return MegaFace(
        cmc=cmc(found, max_rank),
        ranks=found,
        probes=kept[of_probe],
        mates=kept[of_mate],
        fars=np.asarray(fars),
        true_accept_rates=accepted_share(genuine, thresholds),
        thresholds=thresholds,
        supported=supported(fars, num_impostors),
        num_probes=kept.size,
        num_distractors=gallery.size,
    )


def _search_all(
    features: np.ndarray,
    probes: Probes,
    gallery: Gallery,
    rows: int,
    ranks: MateRanks,
    tail: Tail,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Scores the gallery, and adds every score that may change a result to `ranks` or `tail`.

    Args:
      features: [probes, dim] features of the probes, of any norm above zero.
      probes: the same probes, ready for products in low precision.
      gallery: the distractors.
      rows: number of distractors per block.
      ranks: counts the scores that are at least as high as a mate's score.
      tail: keeps the highest scores, from which thresholds follow.
      progress: called with (number of finished distractors, number of all distractors).
    """
    done = 0
    # A generator: `one_ahead` starts the products of a block before the last block is evaluated.
    started = ((block, probes.score(block.features, rows)) for block in gallery.blocks(rows))
    for block, scored in one_ahead(started):
        size = len(block.features)
        # Without the padding, whose norms are zero. Norms come with the scores, so that bad
        # features are found without a second pass over the gallery.
        norms = np.asarray(scored.norms)[:size]
        check_norms(norms, numbers=block.where, unit="distractor")
        # A score counts for the ranks or for the tail, so the lower of both decides.
        enough = np.minimum(ranks.wanted, _tail_floor(tail, probes, scored, size))
        found = probes.candidates(scored, enough, size)
        scores = exact_cosines(features, block.features, found.probes, found.rows)
        ranks.add(found.probes, scores)
        tail.add(scores)
        done += size
        if progress:
            progress(done, gallery.size)


def _same_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first, second): [pairs] rows of both images, for every pair of one person's images.

    Each pair occurs in one order only.

    Args:
      labels: [images] person of each image.

    Raises:
      ValueError: no two images show one person.
    """
    # Stable, so that the order of the searches is that of the probes in every NumPy.
    order = np.argsort(labels, kind="stable")
    people = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    corners = [np.triu_indices(person.size, k=1) for person in people]
    first, second = (
        np.concatenate([person[at[side]] for person, at in zip(people, corners, strict=True)])
        for side in (0, 1)
    )
    if not first.size:
        raise ValueError(f"expected two probes of one person, found {len(people)} people, one each")
    return first, second


def _tail_floor(tail: Tail, probes: Probes, scored: ScoredBlock, rows: int) -> float:
    """Returns a number below which no score can be among the `tail.size` highest of all.

    Args:
      tail: the highest scores so far.
      probes: the probes that were scored.
      scored: the scores of the next block, in low precision.
      rows: number of distractors in the block, without padding.
    """
    scores = np.asarray(scored.scores)[:, :rows]
    if np.isfinite(tail.cut) or scores.size < tail.size:
        return float(tail.cut)
    # As many pairs as the tail keeps score at least this in low precision.
    least = np.partition(scores, scores.size - tail.size, axis=None)[scores.size - tail.size]
    # Less the error bound: whatever rounding did, `tail.size` pairs have at least this cosine.
    return float(least - probes.bound(scored).max())
