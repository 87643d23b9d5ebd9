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
    """Returns the section of a run's report that shows the hardest pairs of test images.

    The hardest pairs are the most similar pairs of two people, and the least similar pairs of one
    person. If the experiment's field `evaluation.people_folds` is above 1, the people are divided
    into groups, and for each group one network is trained on the people of all other groups. The
    section then shows the hardest pairs over all groups. If the field is 1, there is one group: the
    people of the test split.

    Args:
      splits: for each group, its test images.
      results: for each group, the scores of its network on these images, in the order of `splits`.

    Returns:
      The section; None if the test images are classified and not compared in pairs, or if the
      images have no names.
    """
    images: dict[str, np.ndarray] = {}
    accepts, rejects = [], []
    for split, result in zip(splits, results, strict=True):
        if result.verification is None or "name" not in split.records[0]:
            return None
        scores, pairs = result.verification.scores, result.verification.pairs
        for kind, rows in zip((accepts, rejects), hardest_rows(scores, pairs.same), strict=True):
            for row in rows:
                # Only the images of these pairs are decoded, because a test split may be large.
                shown = [split.records[int(side[row])] for side in (pairs.first, pairs.second)]
                names = [record["name"].decode() for record in shown]
                images |= {n: decode(r["image"]) for n, r in zip(names, shown, strict=True)}
                kind.append(HardPair(names[0], names[1], float(scores[row])))
    # The hardest pairs of all groups are among the hardest of each group. Sorting merges them; it
    # is stable, so that equal scores keep the order of the groups.
    accepts.sort(key=lambda pair: -pair.score)
    rejects.sort(key=lambda pair: pair.score)
    return hardest_section(TITLE, accepts[:HARDEST], rejects[:HARDEST], images.__getitem__)
