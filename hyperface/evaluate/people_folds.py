"""Scores of networks that were each trained without one group of people, put together.

A data set of forty people has too few for a test split: the impostor pairs of ten people that set a
false-accept rate are those of one or two couples who look alike. With groups every person is scored
once, by a network that never saw them, and intervals are over all people.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hyperface.evaluate.evaluator import Result
from hyperface.metrics.bootstrap import Difference, difference_of_accuracies
from hyperface.metrics.roc import Roc, eer, roc
from hyperface.metrics.verification import best_threshold


class PeopleFolds(NamedTuple):
    """What one method scores on all people, group by group."""

    groups: list[Result]
    """The result of each group's network on its group."""
    right: np.ndarray
    """[pairs] bool, whether each pair is decided rightly, at the best threshold of the other
    groups."""
    same: np.ndarray
    """[pairs] bool, True where both images show one person."""
    first: np.ndarray
    """[pairs] person on one side; people of all groups are counted through."""
    second: np.ndarray
    """[pairs] person on the other side."""
    curves: list[Roc]
    """The ROC of each group."""

    @property
    def accuracy(self) -> Difference:
        """The accuracy in percent, with its error and interval over people.

        Pairs of one person and of two people weigh equally, so that a guess scores 50.
        """
        nothing = np.zeros_like(self.right)[None]
        return difference_of_accuracies(self.right[None], nothing, self.first, self.second)

    @property
    def equal_error_rate(self) -> float:
        """The share at which a group rejects as many pairs of one person as it accepts others.

        It is the mean over the groups.
        """
        return float(np.mean([eer(curve) for curve in self.curves]))

    def above(self, other: "PeopleFolds") -> Difference:
        """Returns by how many points the accuracy is above another method's, over people."""
        return difference_of_accuracies(
            self.right[None], other.right[None], self.first, self.second
        )

    def figures(self) -> dict[str, float]:
        """Returns the scores of a results table, by name, as shares in [0, 1]."""
        accuracy = self.accuracy
        return {
            "accuracy": accuracy.value / 100,
            "accuracy_standard_error": accuracy.error / 100,
            "equal_error_rate": self.equal_error_rate,
        }


def put_together(groups: Sequence[Result]) -> PeopleFolds:
    """Returns the scores of all groups of people as those of one method.

    Args:
      groups: the verification of each group's network on its group; two groups or more.
    """
    verified = [v for result in groups if (v := result.verification) is not None]
    scores, same = [v.scores for v in verified], [v.pairs.same for v in verified]
    right, first, second, people = [], [], [], 0
    for place, result in enumerate(groups):
        others = [i for i in range(len(groups)) if i != place]
        threshold = best_threshold(
            np.concatenate([scores[i] for i in others]), np.concatenate([same[i] for i in others])
        )
        right.append((scores[place] >= threshold) == same[place])
        _, person = np.unique(result.embeddings.labels, return_inverse=True)
        pairs = verified[place].pairs
        first.append(people + person[pairs.first])
        second.append(people + person[pairs.second])
        people += int(person.max()) + 1
    return PeopleFolds(
        list(groups),
        np.concatenate(right),
        np.concatenate(same),
        np.concatenate(first),
        np.concatenate(second),
        [roc(s, y) for s, y in zip(scores, same, strict=True)],
    )
