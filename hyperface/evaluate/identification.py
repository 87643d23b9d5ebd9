"""MegaFace: identification and verification of probes among up to a million distractors.

I. Kemelmacher-Shlizerman, S. M. Seitz, D. Miller, E. Brossard. The MegaFace Benchmark: 1 Million
Faces for Recognition at Scale. CVPR 2016.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface.evaluate.cosine import one_ahead, unit_features
from hyperface.evaluate.ranks import cmc
from hyperface.evaluate.search import GROUP, MateRanks, Probes, Scored, exact_cosines
from hyperface.evaluate.streaming import Tail
from hyperface.evaluate.threshold import (
    Rule,
    accepted_share,
    allowed_impostors,
    impostor_threshold,
    supported,
)

BLOCK_BYTES = 28 * 2**20
"""Scores of this many bytes are made at once; two blocks are held."""


class MegaFace(NamedTuple):
    """Figures of one probe set among one set of distractors."""

    cmc: np.ndarray
    """[max_rank] share of searches whose mate is among the r best; the first is rank-1."""
    ranks: np.ndarray
    """[searches] rank of the mate; max_rank + 1 stands for all beyond."""
    probes: np.ndarray
    """[searches] row of the probe."""
    mates: np.ndarray
    """[searches] row of the mate."""
    fars: np.ndarray
    true_accept_rates: np.ndarray
    """[fars] of same pairs of probes, at thresholds from all scores against distractors."""
    thresholds: np.ndarray
    """[fars]."""
    supported: np.ndarray
    """[fars] bool: there are 1 / FAR scores against distractors at least."""
    num_probes: int
    """Probes that were kept."""
    num_distractors: int
    """Distractors that were kept."""


def megaface(
    probes: np.ndarray,
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
    progress: Callable[[int, int], None] | None = None,
) -> MegaFace:
    """Searches every probe once for each of its mates, put alone among the distractors.

    Every ordered pair of two probes of one person is a search. The rank of the mate is one more
    than the distractors that score at least as high: ties count against it. Verification takes the
    same pairs as genuine and all scores of probes against distractors as impostors.

    Scores are cosines in float64, rounded to float32; most are never computed, because products in
    low precision prove them too low to matter (`search`). The distractors are read once, in blocks,
    on jax's default device; beside a block some 100 MiB are held for 3,530 probes. The cost grows
    with `max_rank` where mates score low, and with the highest FAR.

    Args:
      probes: [probes, dim] features of any length.
      labels: [probes] person of each.
      distractors: [distractors, dim], a memory-mapped array for one, or a sequence of such blocks.
      fars: in [0, 1].
      max_rank: the last rank that is told apart.
      keep_probes: [probes] bool, False for those of a noise list; None keeps all.
      keep_distractors: [distractors] bool, over all blocks.
      rule: that of `impostor_threshold`.
      dtype: of the products; figures are the same, speed is not.
      block_size: distractors a block, a multiple of 64; None lets the library choose.
      progress: called with distractors done and all distractors.

    Raises:
      ValueError: a feature without direction, features that are all alike, shapes or masks that do
        not fit, no two probes of one person, no distractors.
    """
    probes, labels = np.asarray(probes), np.asarray(labels)
    _check_mask(keep_probes, len(probes), "probes")
    kept = np.arange(len(probes)) if keep_probes is None else np.flatnonzero(keep_probes)
    if labels.shape != probes.shape[:1]:
        raise ValueError(f"expected {len(probes)} labels, one a probe, found {labels.shape}")
    probes, labels = probes[kept], labels[kept]
    unit = unit_features(probes)
    of_probe, of_mate = _same_pairs(labels)
    mate_scores = exact_cosines(probes, probes, of_probe, of_mate)
    blocks = [distractors] if getattr(distractors, "ndim", None) == 2 else distractors
    total = _count(blocks, keep_distractors, unit.shape[1])

    num_impostors = len(probes) * total
    ranks = MateRanks(of_probe, mate_scores, len(probes), max_rank)
    tail = Tail(int(np.max(allowed_impostors(fars, num_impostors, rule))) + 1)
    search = Probes(unit, dtype)
    rows = block_size or max(GROUP, BLOCK_BYTES // (4 * len(probes) * GROUP) * GROUP)
    rows = min(rows, -(-total // GROUP) * GROUP)
    done = 0
    read = _read(blocks, keep_distractors, rows)
    for where, block, scored in one_ahead((w, b, search.score(_padded(b, rows))) for w, b in read):
        _check_norms(np.asarray(scored.norms)[: len(block)], where)
        enough = np.minimum(ranks.wanted, _tail_floor(tail, search, scored, len(block)))
        found = search.candidates(scored, enough, len(block))
        scores = exact_cosines(probes, block, found.probes, found.rows)
        ranks.add(found.probes, scores)
        tail.add(scores)
        done += len(block)
        if progress:
            progress(done, total)

    found = ranks.ranks()
    thresholds = impostor_threshold(tail.scores(), fars, rule=rule, num_impostors=num_impostors)
    return MegaFace(
        cmc=cmc(found, max_rank),
        ranks=found,
        probes=kept[of_probe],
        mates=kept[of_mate],
        fars=np.asarray(fars),
        true_accept_rates=accepted_share(mate_scores, thresholds),
        thresholds=thresholds,
        supported=supported(fars, num_impostors),
        num_probes=len(probes),
        num_distractors=total,
    )


def _same_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(labels, kind="stable")
    people = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    grids = [np.meshgrid(person, person, indexing="ij") for person in people]
    first, second = (np.concatenate([grid[side].ravel() for grid in grids]) for side in (0, 1))
    if not np.any(first != second):
        raise ValueError(f"expected two probes of one person, found {len(people)} people, one each")
    return first[first != second], second[first != second]


def _tail_floor(tail: Tail, search: Probes, scored: Scored, rows: int) -> float:
    """Pairs below it are not among the highest, whatever is still to come."""
    scores = np.asarray(scored.scores)[:, :rows]
    if np.isfinite(tail.cut) or scores.size < tail.size:
        return tail.cut
    # As many pairs as the tail keeps score at least this in low precision.
    least = np.partition(scores, scores.size - tail.size, axis=None)[scores.size - tail.size]
    return least - search.bound(scored).max()


def _read(
    blocks: Sequence[np.ndarray], keep: np.ndarray | None, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(Their rows among all distractors, features) of those that are kept."""
    offset = 0
    for part in blocks:
        for start in range(0, len(part), rows):
            block = np.asarray(part[start : start + rows], np.float32)
            where = np.arange(offset + start, offset + start + len(block))
            if keep is not None:
                block, where = block[keep[where]], where[keep[where]]
            if len(block):
                yield where, block
        offset += len(part)


def _padded(block: np.ndarray, rows: int) -> np.ndarray:
    if len(block) == rows:
        return block
    padded = np.zeros((rows, block.shape[1]), block.dtype)
    padded[: len(block)] = block
    return padded


def _count(blocks: Sequence[np.ndarray], keep: np.ndarray | None, dim: int) -> int:
    shapes = [block.shape for block in blocks]
    wrong = [shape for shape in shapes if len(shape) != 2 or shape[1] != dim]
    if wrong:
        raise ValueError(f"expected distractors of shape [distractors, {dim}], found {wrong[0]}")
    total = sum(shape[0] for shape in shapes)
    _check_mask(keep, total, "distractors")
    kept = total if keep is None else int(np.sum(keep))
    if not kept:
        raise ValueError(f"expected distractors, found none kept of {total}")
    return kept


def _check_mask(keep: np.ndarray | None, size: int, name: str) -> None:
    if keep is not None and (np.shape(keep) != (size,) or np.asarray(keep).dtype != bool):
        raise ValueError(
            f"expected keep_{name} to be {size} bools, found {np.asarray(keep).dtype}"
            f"{np.shape(keep)}"
        )


def _check_norms(norms: np.ndarray, where: np.ndarray) -> None:
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(
            f"expected finite features above zero, found norm {norms[bad[0]]} at distractor "
            f"{where[bad[0]]}"
        )
