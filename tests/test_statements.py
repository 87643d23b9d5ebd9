"""The parts of the papers' statements: rows above others, rows that vary more, lost runs."""

import numpy as np
import pytest

from hyperface.reproduce import comparisons, statements
from hyperface.reproduce.statements import LOWEST, Scores


def of(*values):
    return dict(enumerate(values))


def margins(parts):
    return [list(part.margins.values()) for part in parts]


def test_each_row_above_is_compared_with_each_row_below():
    scores = Scores({"a": of(5, 9), "b": of(4, 8, 7), "c": of(3, 7), "d": of(1, 8)})
    assert margins(scores.above(["a", "b"], ["c", "d"])) == [[2, 2], [4, 1], [1, 1], [3, 0]]
    assert margins(scores.above("a", "absent")) == [[]]
    (entry,) = comparisons.entry("x", [part.margins for part in scores.above(["a", "b"], "d")])
    assert entry.values == (1.0, 0.0)
    assert [part.value for part in entry.parts] == [2.5, 1.5]
    assert comparisons.entry("x", [part.margins for part in scores.above("a", ["c", "e"])]) == []


def test_a_run_that_diverged_is_below_and_two_compare_nothing():
    scores = Scores({"a": of(80.0, LOWEST, LOWEST), "b": of(LOWEST, LOWEST, 70.0)})
    (part,) = scores.above("a", "b")
    assert part.margins == {0: np.inf, 2: -np.inf}


def test_deviations_are_compared_seed_by_seed():
    rows = {"a": of(0), "b": of(2), "c": of(3), "d": of(4)}
    found = margins(Scores(rows).varies_more(["a", "b"], ["c", "d"]))
    assert found == [pytest.approx([2**0.5 - 0.5**0.5])]
    # A seed that diverged differs more than all others, unless the other side has one too.
    rows = {"a": of(0, LOWEST), "b": of(2, 2), "c": of(3, 3), "d": of(4, 4)}
    assert margins(Scores(rows).varies_more(["a", "b"], ["c", "d"]))[0][1] == np.inf
    rows["c"] = of(3, LOWEST)
    assert len(margins(Scores(rows).varies_more(["a", "b"], ["c", "d"]))[0]) == 1


def test_a_seed_in_which_both_sides_diverged_is_not_compared():
    (entry,) = comparisons.per_seed("x", np.array([1.0, np.nan, 2.0]))
    assert entry.values == (1.0, 1.0)
    assert comparisons.per_seed("x", np.array([np.nan, np.nan])) == []


@pytest.mark.parametrize(
    ("accuracy", "norms", "failed"),
    [
        (76.5, (2.0, 3.0), False),
        (51.0, (2.0, 3.0), True),
        (76.5, (2.0, 300.0), True),
        (76.5, (2.0, 0.01), True),
        (76.5, (2.0, float("nan")), True),
    ],
)
def test_a_network_fails_by_its_accuracy_or_its_norms(accuracy, norms, failed):
    assert (statements.failure_margin(accuracy, norms) > 0) == failed
