"""Verdicts from resampled people and seeds: rarely wrong without an effect, and found with one."""

import numpy as np
import pytest

from hyperface.metrics.bootstrap import (
    Difference,
    decide,
    difference_of_accuracies,
    difference_of_means,
    holm,
    paired_difference,
)
from hyperface.reproduce.comparisons import paired_t

TRIALS = 400
# 5 % of the trials, and three standard deviations of their number.
MOST = 0.05 * TRIALS + 3 * np.sqrt(0.05 * 0.95 * TRIALS)


def scores(rng, *, seeds, people, of_seeds, of_people, effect=0.0, shared=False):
    """Scores [seeds, people] of two methods: people, seeds, and both together differ."""
    ours, theirs = (
        of_people * rng.normal(size=people)
        + of_seeds * rng.normal(size=(count, 1))
        + rng.normal(size=(count, people))
        for count in (seeds, 1 if shared else seeds)
    )
    return ours + effect, theirs


def decided(seed, **kind):
    """Returns how many of the trials are "yes" and how many are "no"."""
    rng = np.random.default_rng(seed)
    found = [
        decide([[difference_of_means(*scores(rng, **kind), draws=500)]])[0] for _ in range(TRIALS)
    ]
    return found.count("yes"), found.count("no")


@pytest.mark.parametrize(
    ("seeds", "people", "of_seeds", "of_people"),
    [(3, 20, 0.0, 0.0), (3, 10, 0.5, 1.0), (3, 60, 2.0, 0.2), (5, 20, 0.5, 2.0), (20, 6, 0.0, 1.0)],
)
def test_without_an_effect_at_most_one_in_twenty_is_decided(seeds, people, of_seeds, of_people):
    kind = {"seeds": seeds, "people": people, "of_seeds": of_seeds, "of_people": of_people}
    assert sum(decided(0, **kind)) <= MOST


def test_a_baseline_that_all_seeds_share_decides_nothing():
    kind = {"seeds": 5, "people": 30, "of_seeds": 2.0, "of_people": 1.0, "shared": True}
    assert decided(1, **kind) == (0, 0)


def test_plain_resampling_would_decide_far_too_often():
    """People and seeds with replacement, as a reader may expect: why the corrections are there."""
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(TRIALS):
        ours, theirs = scores(rng, seeds=3, people=60, of_seeds=2.0, of_people=0.2)
        gains = (ours - theirs)[rng.integers(3, size=(300, 3))].mean(axis=(1, 2))
        low, high = np.quantile(gains, [0.025, 0.975])
        wrong += not low <= 0 <= high
    assert wrong > 2 * MOST


def test_an_effect_that_can_be_detected_is_found_in_about_four_of_five():
    rng = np.random.default_rng(3)
    kind = {"seeds": 5, "people": 40, "of_seeds": 0.3, "of_people": 0.7}
    pilot = [difference_of_means(*scores(rng, **kind)).detectable for _ in range(40)]
    yes, no = decided(4, effect=float(np.mean(pilot)), **kind)
    assert 0.65 * TRIALS < yes < 0.95 * TRIALS
    assert no == 0


def test_families_and_composites_are_rarely_wrong():
    """Of twenty statements, and of statements with ten parts, without any effect."""
    rng, wrong, of_parts = np.random.default_rng(5), 0, 0
    for _ in range(TRIALS):
        margins = rng.normal(size=(20, 5)) + 0.5 * rng.normal(size=5)
        found = [paired_t(list(of_seeds)) for of_seeds in margins]
        wrong += set(decide([[one] for one in found])) != {"undecided"}
        of_parts += decide([found[:10]])[0] != "undecided"
    assert wrong <= MOST
    assert of_parts <= MOST


def test_a_statement_holds_if_each_part_does_and_fails_if_one_does_not():
    def part(value):
        return paired_t([value - 0.1, value, value + 0.1])

    assert decide([[part(2.0), part(3.0)]]) == ["yes"]
    assert decide([[part(2.0), part(-3.0)]]) == ["no"]
    assert decide([[part(2.0), part(0.01)]]) == ["undecided"]


def test_few_seeds_and_one_start_decide_nothing():
    assert decide([[paired_t([5.0, 5.1])]]) == ["undecided"]
    margins = [5.0, 5.1, 4.9, 5.2]
    assert decide([[paired_t(margins)]]) == ["yes"]
    assert decide([[paired_t(margins, starts=1)]]) == ["undecided"]
    # Statements that cannot be tested do not make it harder for the others.
    weak = paired_t([1.0, 1.2, 0.9])
    assert decide([[weak], *[[paired_t([5.0])]] * 99])[0] == "yes"
    assert decide([[weak], *[[paired_t([-1.0, 1.0, 0.1])]] * 99])[0] == "undecided"


def test_the_t_interval_is_that_of_the_textbook():
    found = paired_t([1.0, 2.0, 3.0])
    half = 4.302653 / np.sqrt(3)
    np.testing.assert_allclose(found[:4], [2.0, 2 - half, 2 + half, 1 / np.sqrt(3)], rtol=1e-6)
    assert found.p_not_above == pytest.approx(0.0370899, abs=1e-6)
    assert found.p_not_above + found.p_not_below == pytest.approx(1)


def test_runs_that_diverged_and_equal_margins_count_by_their_sign():
    for margins in ([np.inf, 1.0, 2.0], [0.5, 0.5, 0.5]):
        found = paired_t(margins)
        assert (found.p_not_above, found.p_not_below) == (0.125, 1.0)
        assert np.isnan(found.low)
    assert paired_t([0.0, 0.0, 0.0])[4:6] == (1.0, 1.0)
    assert paired_t([np.inf] * 3).seeds == 3
    assert np.isnan(paired_t([np.inf] * 3).value)
    assert decide([[paired_t([np.inf] * 7)]]) == ["yes"]


def test_holm_stops_at_the_first_that_is_too_large():
    assert holm([0.012, 0.6, 0.013, 0.02]).tolist() == [True, False, True, True]
    assert holm([0.012, 0.6, 0.03, 0.02]).tolist() == [True, False, False, False]
    assert holm([]).size == 0


def accuracy(right, same):
    return 50 * (right[same].mean() + right[~same].mean())


def test_accuracies_are_compared_pair_by_pair_of_people(rng):
    """By brute force: each draw takes pairs as often as both of their people."""
    first, second = rng.integers(0, 6, (2, 300))
    same = first == second
    ours, theirs = (rng.random((2, 300)) < share for share in (0.8, 0.6))
    seen = []

    def spy(taken):
        times = np.where(same, taken[:, first], taken[:, first] * taken[:, second])
        values = [
            [50 * sum(t[k] @ (o[k] * 1.0 - u[k]) / t[k].sum() for k in (same, ~same))
             for o, u in zip(ours, theirs, strict=True)]
            for t in times
        ]  # fmt: skip
        seen.append(len(taken))
        return np.array(values)

    found = difference_of_accuracies(ours, theirs, first, second, draws=700)
    expected = paired_difference(spy, 6, draws=700)
    np.testing.assert_allclose(found, expected)
    assert seen == [1, 500, 200]
    both = [accuracy(o, same) - accuracy(u, same) for o, u in zip(ours, theirs, strict=True)]
    assert found.value == pytest.approx(np.mean(both))


def test_more_people_and_more_seeds_make_the_interval_narrower():
    widths = []
    for seeds, people in ((3, 20), (3, 200), (12, 200)):
        rng = np.random.default_rng(6)
        made = scores(rng, seeds=seeds, people=people, of_seeds=0.1, of_people=1.0)
        found = difference_of_means(*made)
        widths.append(found.high - found.low)
    assert widths[0] > 2 * widths[1] > 2 * widths[2]


def test_people_count_by_their_weight():
    gains = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    found = difference_of_means(gains, np.zeros((3, 2)), weights=[3, 1])
    assert found.value == 0.75


def test_misuse_of_differences_says_what_was_expected():
    with pytest.raises(ValueError, match="two people or more, found 1"):
        difference_of_means(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="found NaN in all"):
        paired_difference(lambda taken: np.full((len(taken), 1), np.nan), 4, draws=10)
    assert isinstance(paired_t([1.0]), Difference)
