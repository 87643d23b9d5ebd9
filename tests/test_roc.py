"""Threshold rules, ROC figures, streams of scores, resampled people: by hand and by brute force."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import det_curve, roc_auc_score, roc_curve

from hyperface.metrics import streaming
from hyperface.metrics.bootstrap import bootstrap_people, resampled_tar
from hyperface.metrics.roc import auc, det, eer, roc, tar_at_far, true_accept_rate
from hyperface.metrics.streaming import RESOLUTION, ScoreStream, Tail
from hyperface.metrics.threshold import (
    accepted_share,
    allowed_impostors,
    impostor_threshold,
    smallest_far,
    supported,
)

# Six pairs by hand: same pairs score 0.9, 0.7, 0.4, different pairs 0.8, 0.4, 0.1.
GENUINE, IMPOSTORS = np.array([0.9, 0.7, 0.4]), np.array([0.4, 0.8, 0.1])
SCORES = np.concatenate([GENUINE, IMPOSTORS])
SAME = np.arange(6) < 3
FARS = [0.0, 1e-4, 1e-3, 0.01, 0.1, 1 / 3, 0.5, 0.9, 1.0]


def tied_scores(rng, genuine=300, impostors=5000, dtype=np.float32):
    """Scores of which many are equal."""
    high = np.round(rng.normal(0.4, 0.2, genuine), 2).clip(-1, 1)
    return high.astype(dtype), np.round(rng.normal(0, 0.2, impostors), 2).clip(-1, 1).astype(dtype)


@pytest.mark.parametrize(
    ("far", "strict", "blufr"),
    [
        (0.0, (0, 1 / 3), (0, 1 / 3)),  # Above 0.8.
        (0.16, (0, 1 / 3), (0, 1 / 3)),  # round(0.48) is none.
        (0.17, (0, 1 / 3), (1, 1 / 3)),  # round(0.51) is one: 0.8 itself.
        (1 / 3, (1, 2 / 3), (1, 1 / 3)),  # Just above 0.4, or 0.8 itself.
        (2 / 3, (2, 1.0), (2, 1.0)),  # Just above 0.1, or 0.4 itself.
        (1.0, (3, 1.0), (3, 1.0)),
    ],
)
def test_both_rules_on_six_pairs_by_hand(far, strict, blufr):
    for rule, (accepted, tar) in (("strict", strict), ("blufr", blufr)):
        threshold = impostor_threshold(IMPOSTORS, far, rule=rule)
        assert 3 * accepted_share(IMPOSTORS, threshold) == accepted
        assert true_accept_rate(GENUINE, IMPOSTORS, far, rule=rule) == pytest.approx(tar)
        assert tar_at_far(SCORES, SAME, far, rule=rule) == pytest.approx(tar)


def released_rate(genuine, impostors, far):
    """BLUFR's released rule as its code states it, midpoint and all."""
    falling = np.sort(impostors)[::-1]
    number = int(np.floor(far * falling.size + 0.5))
    if number == 0:
        above = genuine[genuine > falling[0]]
        threshold = (falling[0] + above.min()) / 2 if above.size else falling[0] + 1e-8
    elif number == falling.size:
        threshold = min(falling[-1], genuine.min()) - 1e-8
    else:
        threshold = falling[number - 1]
    return np.mean(genuine >= threshold)


def test_the_rule_blufr_is_that_of_the_released_code(rng):
    genuine, impostors = tied_scores(rng, dtype=np.float64)
    for far in FARS:
        found = true_accept_rate(genuine, impostors, far, rule="blufr")
        assert found == released_rate(genuine, impostors, far)


@settings(max_examples=60)
@given(
    scores=st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    far=st.floats(0, 1),
    rule=st.sampled_from(["strict", "blufr"]),
)
def test_what_a_threshold_accepts(scores, far, rule):
    scores = np.array(scores, np.float32) / 5
    allowed = allowed_impostors(far, scores.size, rule)
    threshold = impostor_threshold(scores, far, rule=rule)
    accepted = np.sum(scores >= threshold)
    assert threshold.dtype == np.float32
    if rule == "strict":
        assert accepted <= allowed
        # Any lower threshold that accepts one more distinct score would accept too many.
        below = scores[scores < threshold]
        assert not below.size or np.sum(scores >= below.max()) > allowed
    elif allowed:
        assert accepted >= allowed
        assert allowed == scores.size or np.sum(scores > threshold) < allowed
    else:
        assert accepted == 0


def test_the_highest_scores_are_enough_for_a_threshold(rng):
    _, impostors = tied_scores(rng)
    top = np.sort(impostors)[-51:]
    for rule in ("strict", "blufr"):
        for far in (0.0, 0.001, 0.01, [0.0, 0.005, 0.01]):
            found = impostor_threshold(top, far, rule=rule, num_impostors=5000)
            np.testing.assert_array_equal(found, impostor_threshold(impostors, far, rule=rule))
    with pytest.raises(ValueError, match=r"expected the 101 highest of 5000 .* FAR 0.02, found 51"):
        impostor_threshold(top, 0.02, num_impostors=5000)


def test_rates_equal_scikit_learns_roc_curve_at_every_rate(rng):
    genuine, impostors = tied_scores(rng)
    scores, same = np.concatenate([genuine, impostors]), np.arange(5300) < 300
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    every = np.arange(5001) / 5000
    best = tar[np.searchsorted(far, every * (1 + 1e-12), side="right") - 1]
    np.testing.assert_array_equal(true_accept_rate(genuine, impostors, every), best)


def test_area_and_error_rates_equal_scikit_learns(rng):
    genuine, impostors = tied_scores(rng)
    scores, same = np.concatenate([genuine, impostors]), np.arange(5300) < 300
    curve = roc(scores, same)
    assert curve.thresholds.dtype == np.float32
    assert auc(curve) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    far, frr, thresholds = det_curve(same, scores)
    ours = det(curve)
    for threshold, *errors in zip(thresholds, far, frr, strict=True):
        place = np.flatnonzero(ours.thresholds == threshold)
        if place.size:  # scikit-learn ends at the last threshold that accepts a false pair.
            np.testing.assert_allclose((ours.far[place[0]], ours.frr[place[0]]), errors)
    assert place.size


def test_equal_error_rate_by_hand_and_by_brute_force(rng):
    assert eer(roc(SCORES, SAME)) == pytest.approx(1 / 3)  # At 0.7 one of three, both kinds.
    assert eer(roc(np.array([0.9, 0.1]), np.array([True, False]))) == 0.0
    assert eer(roc(np.array([0.1, 0.9]), np.array([True, False]))) == 1.0
    assert eer(roc(np.zeros(4), np.arange(4) < 2)) == 0.5  # All equal: the diagonal.
    genuine, impostors = rng.normal(1, 1, 3000), rng.normal(0, 1, 4000)
    found = eer(roc(np.concatenate([genuine, impostors]), np.arange(7000) < 3000))
    grid = np.linspace(-1, 2, 2001)
    errors = np.abs([np.mean(genuine < t) - np.mean(impostors >= t) for t in grid])
    assert found == pytest.approx(np.mean(impostors >= grid[errors.argmin()]), abs=1e-3)


def test_a_rate_needs_pairs_enough():
    assert smallest_far(1000) == 0.001
    np.testing.assert_array_equal(
        supported([0.0, 9e-4, 1e-3, 0.1], 1000), [False, False, True, True]
    )


def test_chance_scores_accept_as_many_of_both_kinds_and_all_equal_ones_none(rng):
    genuine, impostors = rng.random(20_000), rng.random(50_000)
    for far in (0.01, 0.1):
        spread = 5 * np.sqrt(far / 20_000)
        assert true_accept_rate(genuine, impostors, far) == pytest.approx(far, abs=spread)
    assert true_accept_rate(np.ones(9), np.ones(9), 0.5) == 0.0


def test_float32_scores_are_not_copied_to_float64(rng):
    genuine, impostors = tied_scores(rng, impostors=1_000_000)
    tracemalloc.start()
    true_accept_rate(genuine, impostors, [1e-4, 1e-2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * impostors.nbytes


def test_scores_of_two_types_meet_in_the_wider_one():
    just_above = np.nextafter(0.5, 1)
    assert true_accept_rate(np.array([just_above]), np.float32([0.5]), 0.0) == 1.0
    assert true_accept_rate(np.array([0.5]), np.float32([0.5]), 0.0) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], IMPOSTORS, 0.1), r"\[pairs\] genuine scores, found \(0,\)"),
        ((GENUINE, [[0.1]], 0.1), r"\[pairs\] impostor scores, found \(1, 1\)"),
        ((GENUINE, [0.1, np.nan], 0.1), "finite scores, found 1 impostor"),
        (([0.3, np.inf], IMPOSTORS, 0.1), "finite scores, found 1 genuine"),
        ((GENUINE, IMPOSTORS, 1.5), r"far in \[0, 1\], found 1.5"),
        ((GENUINE, IMPOSTORS, np.nan), r"far in \[0, 1\], found nan"),
    ],
)
def test_misuse_of_rates_says_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        true_accept_rate(*arguments)


def test_an_unknown_rule_and_too_many_scores_are_refused():
    with pytest.raises(ValueError, match=r"one of .*'strict', 'blufr'.*, found 'floor'"):
        impostor_threshold(IMPOSTORS, 0.1, rule="floor")
    with pytest.raises(ValueError, match="at most 2 impostor scores, found 3"):
        impostor_threshold(IMPOSTORS, 0.1, num_impostors=2)


def streamed(genuine, impostors, blocks=7, **settings):
    stream = ScoreStream(dtype=genuine.dtype, **settings)
    for same, different in zip(
        np.array_split(genuine, blocks), np.array_split(impostors, blocks), strict=True
    ):
        stream.add(genuine=same, impostors=different)
    return stream


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", ["strict", "blufr"])
def test_a_stream_is_exact_up_to_its_tail(rng, monkeypatch, rule, dtype):
    monkeypatch.setattr(streaming, "CHUNK", 100)
    genuine, impostors = tied_scores(rng, dtype=dtype)
    stream = streamed(genuine, impostors, tail=501)
    assert (stream.num_genuine, stream.num_impostors) == (300, 5000)
    assert stream.exact_far == 0.1
    fars = np.array([0.0, 1e-4, 3e-4, 1e-3, 0.01, 0.0999, 0.1, 1.0])
    np.testing.assert_array_equal(
        stream.threshold(fars, rule=rule), impostor_threshold(impostors, fars, rule=rule)
    )
    np.testing.assert_array_equal(
        stream.true_accept_rate(fars, rule=rule),
        true_accept_rate(genuine, impostors, fars, rule=rule),
    )


def test_a_stream_beyond_its_tail_is_within_a_bin(rng):
    genuine = rng.normal(0.3, 0.2, 500).clip(-1, 1).astype(np.float32)
    impostors = rng.normal(0, 0.2, 9000).clip(-1, 1).astype(np.float32)
    stream = streamed(genuine, impostors, tail=10)
    fars = np.append(np.linspace(0.01, 0.999, 300), 10 / 9000)
    assert stream.exact_far < fars.min()
    for rule, lowest, highest in (("strict", 0, RESOLUTION), ("blufr", -RESOLUTION, 0)):
        away = stream.threshold(fars, rule=rule) - impostor_threshold(impostors, fars, rule=rule)
        assert away.min() >= lowest - 1e-7
        assert away.max() <= highest + 1e-7
        assert np.ptp(away) > RESOLUTION / 2  # Not exact, so the bounds above were tested.
        accepted = np.sum(impostors[:, None] >= stream.threshold(fars, rule=rule), axis=0)
        allowed = allowed_impostors(fars, 9000, rule)
        assert np.all(accepted <= allowed if rule == "strict" else accepted >= allowed)


def test_streams_merge_in_any_order(rng):
    genuine, impostors = tied_scores(rng)
    order = rng.permutation(impostors.size)
    whole = streamed(genuine, impostors, tail=100)
    parts = [
        streamed(genuine[:50], impostors[order[:700]], tail=100),
        streamed(genuine[50:], impostors[order[700:]], tail=100),
    ]
    parts[1].merge(parts[0])
    assert parts[1].exact_far == whole.exact_far
    np.testing.assert_array_equal(parts[1].histogram, whole.histogram)
    np.testing.assert_array_equal(parts[1].tail.scores(), whole.tail.scores())
    np.testing.assert_array_equal(parts[1].true_accept_rate(FARS), whole.true_accept_rate(FARS))


def test_the_curve_of_a_stream_is_the_exact_one_at_its_edges(rng):
    genuine = rng.normal(0.3, 0.2, 500).clip(-1, 1).astype(np.float32)
    impostors = rng.normal(0, 0.2, 9000).clip(-1, 1).astype(np.float32)
    curve = streamed(genuine, impostors).roc()
    np.testing.assert_allclose(curve.far, accepted_share(impostors, curve.thresholds))
    np.testing.assert_allclose(curve.tar, accepted_share(genuine, curve.thresholds))
    exact = roc(np.concatenate([genuine, impostors]), np.arange(9500) < 500)
    assert auc(curve) == pytest.approx(auc(exact), abs=1e-4)
    assert eer(curve) == pytest.approx(eer(exact), abs=1e-3)


def test_a_stream_holds_twice_its_tail_at_most(rng):
    tail = Tail(50)
    scores = np.sort(rng.random(20_000).astype(np.float32))  # Rising: every score is the highest.
    for block in np.split(scores, 400):
        tail.add(block)
        assert tail._held <= 2 * tail.size
    np.testing.assert_array_equal(tail.scores(), scores[:-51:-1])
    by_hand = Tail(2)
    by_hand.add(np.float32([0.1, 0.4, 0.3, 0.2]))
    assert by_hand.cut == np.float32(0.3)
    by_hand.add(np.float32([0.3, 0.3001]))
    np.testing.assert_array_equal(by_hand.scores(), np.float32([0.4, 0.3001]))


def test_misuse_of_a_stream_says_what_was_expected():
    stream = ScoreStream(tail=5)
    with pytest.raises(ValueError, match="float32 impostor scores, found float64"):
        stream.add(impostors=np.zeros(2))
    with pytest.raises(ValueError, match="finite scores, found 1 impostor"):
        stream.add(impostors=np.float32([0.1, np.nan]))
    with pytest.raises(ValueError, match=r"\[-1, 1\], found 0.5 to 3: cosines need unit features"):
        stream.add(genuine=np.float32([0.5, 3.0]))
    with pytest.raises(ValueError, match="same and different pairs, found 0 and 0"):
        stream.true_accept_rate(0.1)
    with pytest.raises(ValueError, match="tail of size 5, found 6"):
        stream.merge(ScoreStream(tail=6))
    with pytest.raises(ValueError, match="stream of float32 scores, found float64"):
        stream.merge(ScoreStream(tail=5, dtype=np.float64))
    with pytest.raises(ValueError, match="at least 1 score, found 0"):
        Tail(0)


@pytest.mark.parametrize("rule", ["strict", "blufr"])
def test_a_resampled_rate_is_the_rate_of_the_pairs_taken(rng, rule):
    scores, same = np.round(rng.standard_normal(200), 1), rng.random(200) < 0.3
    for far in (0.0, 0.02, 0.3, 1.0):
        tar = resampled_tar(scores, same, far, rule=rule)
        for _ in range(5):
            taken = rng.integers(0, 4, 200)
            expected = tar_at_far(np.repeat(scores, taken), np.repeat(same, taken), far, rule=rule)
            assert tar(taken) == pytest.approx(expected)
    assert np.isnan(tar(np.where(same, 1, 0)))


def test_people_are_drawn_not_pairs(rng):
    """Of 40 people each has 25 equal images: the mean is as uncertain as that of 40 numbers."""
    values = rng.standard_normal(40)
    people = np.repeat(np.arange(40), 25)
    figures = values[people]
    interval = bootstrap_people(
        lambda taken: taken @ figures / taken.sum(), people, people, draws=4000
    )
    half = 1.96 * values.std() / np.sqrt(40)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    again = bootstrap_people(lambda taken: taken.mean(), people, people, draws=5, seed=3)
    np.testing.assert_array_equal(
        again.draws,
        bootstrap_people(lambda taken: taken.mean(), people, people, draws=5, seed=3).draws,
    )


def test_a_pair_is_taken_as_often_as_both_its_people():
    first, second = np.array(["a", "a", "b"]), np.array(["a", "b", "c"])
    seen = []
    bootstrap_people(lambda taken: seen.append(taken) or 0.0, first, second, draws=200)
    drawn = set(map(tuple, np.array(seen)))
    assert drawn <= {
        (a, a * b, b * c) for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3
    }
    assert {(2, 2, 0), (1, 1, 1), (3, 0, 0), (0, 0, 2)} <= drawn


def test_misuse_of_the_bootstrap_says_what_was_expected():
    with pytest.raises(ValueError, match=r"one person per side .*found \(3,\) and \(2,\)"):
        bootstrap_people(np.mean, [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="two people or more, found 1"):
        bootstrap_people(np.mean, [1, 1], [1, 1])
    with pytest.raises(ValueError, match="found NaN in all"):
        bootstrap_people(lambda taken: np.nan, [1, 2], [1, 2], draws=3)
    with pytest.raises(ValueError, match=r"level in \(0, 1\) and draws, found 95"):
        bootstrap_people(np.mean, [1, 2], [1, 2], level=95)
    with pytest.raises(ValueError, match=r"6 bools, one per score, found \(5,\)"):
        resampled_tar(SCORES, SAME[:5], 0.1)
