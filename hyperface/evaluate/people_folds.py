"""Combines the scores of several networks, each of which was trained without one group of people.

A data set of forty people is too small for a test split. Among ten test people, one or two pairs of
people who look alike determine the false-accept rate. With groups, every person is scored once, by
a network that was trained without this person. Confidence intervals are computed over all people.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hyperface.evaluate.evaluator import Result
from hyperface.metrics.bootstrap import Difference, difference_of_accuracies
from hyperface.metrics.roc import Roc, eer, roc
from hyperface.metrics.verification import best_threshold


class PeopleFolds(NamedTuple):
    """The verification scores of one method on all people of a small data set.

    The people are divided into groups. For each group, one network is trained on the people of all
    other groups, and then scores all pairs of images of the people in the group. The arrays [pairs]
    below contain the pairs of all groups, one group after the other.
    """

    groups: list[Result]
    """For each group, the result of the network that was trained on all other groups."""
    right: np.ndarray
    """[pairs] bool, True where the decision about the pair is correct. The threshold for a group is
    the one that has the highest accuracy on the pairs of all other groups."""
    same: np.ndarray
    """[pairs] bool, True where both images show the same person."""
    first: np.ndarray
    """[pairs] number of the person in the first image; numbers are unique over all groups."""
    second: np.ndarray
    """[pairs] number of the person in the second image."""
    curves: list[Roc]
    """The ROC curve of each group."""

    @property
    def accuracy(self) -> Difference:
        """The accuracy in percent, with its standard error and 95 % interval over people.

        The field `value` of the result is the accuracy. (The type is `Difference`, because the
        accuracy is computed as the difference to a method that is always wrong.) The accuracy is
        the mean of two shares of correct decisions: one over pairs of one person, and one over
        pairs of two people. So guessing scores 50.
        """
        # The difference to a method that is always wrong is the accuracy itself.
        nothing = np.zeros_like(self.right)[None]
        return difference_of_accuracies(self.right[None], nothing, self.first, self.second)

    @property
    def equal_error_rate(self) -> float:
        """The mean over the groups of the equal error rate, as a share in [0, 1].

        The equal error rate is the error at the threshold where the false-reject rate equals the
        false-accept rate.
        """
        # Per group, since scores of different networks have no threshold in common.
        return float(np.mean([eer(curve) for curve in self.curves]))

    def above(self, other: "PeopleFolds") -> Difference:
        """Returns this method's accuracy minus that of another method, in percentage points.

        The result has a standard error and a 95 % interval, from resampling the people.

        Args:
          other: the scores of the other method, on the same people, images and groups.
        """
        return difference_of_accuracies(
            self.right[None], other.right[None], self.first, self.second
        )

    def figures(self) -> dict[str, float]:
        """Returns the scores for a results table: name -> share in [0, 1].

        The names are "accuracy", "accuracy_standard_error" and "equal_error_rate".
        """
        accuracy = self.accuracy
        return {
            "accuracy": accuracy.value / 100,
            "accuracy_standard_error": accuracy.error / 100,
            "equal_error_rate": self.equal_error_rate,
        }


def put_together(groups: Sequence[Result]) -> PeopleFolds:
    """Combines the results of all groups of people into the scores of one method.

    The threshold for each group is chosen on the pairs of all other groups.

    Args:
      groups: one verification result per group of people, at least two. Each result is that of a
        network that was trained on all other groups; it contains the scores of the pairs of its
        group.

    Raises:
      ValueError: a group has no verification result.
    """
    verified = [v for result in groups if (v := result.verification) is not None]
    # Groups are told apart by their position, which one without pairs would shift.
    if len(verified) < len(groups):
        missing = len(groups) - len(verified)
        raise ValueError(f"expected a verification of every group, found {missing} groups without")
    scores, same = [v.scores for v in verified], [v.pairs.same for v in verified]
    right, first, second, people = [], [], [], 0
    for place, result in enumerate(groups):
        others = [i for i in range(len(groups)) if i != place]
        threshold = best_threshold(
            np.concatenate([scores[i] for i in others]), np.concatenate([same[i] for i in others])
        )
        # The threshold comes from the other groups, so no group chooses its own.
        right.append((scores[place] >= threshold) == same[place])
        # Labels of the groups may be equal, so people are numbered anew over all groups.
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
