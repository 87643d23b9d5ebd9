"""Finds the pairs of test images that a trained method gets most wrong, for the run's page."""

from collections.abc import Sequence

import numpy as np

from hyperface.data.datasets import Split
from hyperface.data.images import decode
from hyperface.evaluate.evaluator import Result
from hyperface.protocols.result import HARDEST, HardPair, hardest_rows
from hyperface.report.drafts import Draft
from hyperface.report.hard_pairs import TITLE, hardest_section


def hardest_of_groups(splits: Sequence[Split], results: Sequence[Result]) -> Draft | None:
    """Returns the section of the hardest pairs over all groups of people; a run may have one group.

    Args:
      splits: the test images of each group.
      results: the scores of each group's network on these images.

    Returns:
      None if the run does not verify, or if its images have no names.
    """
    images: dict[str, np.ndarray] = {}
    accepts, rejects = [], []
    for split, result in zip(splits, results, strict=True):
        if result.verification is None or "name" not in split.records[0]:
            return None
        scores, pairs = result.verification.scores, result.verification.pairs
        for kind, rows in zip((accepts, rejects), hardest_rows(scores, pairs.same), strict=True):
            for row in rows:
                # Only the images that are shown are read: a test split may be large.
                shown = [split.records[int(side[row])] for side in (pairs.first, pairs.second)]
                names = [record["name"].decode() for record in shown]
                images |= {n: decode(r["image"]) for n, r in zip(names, shown, strict=True)}
                kind.append(HardPair(names[0], names[1], float(scores[row])))
    accepts.sort(key=lambda pair: -pair.score)
    rejects.sort(key=lambda pair: pair.score)
    return hardest_section(TITLE, accepts[:HARDEST], rejects[:HARDEST], images.__getitem__)
