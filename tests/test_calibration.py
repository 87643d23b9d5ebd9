"""Calibration of similarities: thresholds, logistic, isotonic, Cllr and ECE, and the file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperface.errors import InputError
from hyperface.evaluate.calibration_file import from_dict, read_calibration, store
from hyperface.metrics.bootstrap import resampled_accuracy, resampled_eer, resampled_tar
from hyperface.metrics.calibration import (
    Logistic,
    calibrate,
    cllr,
    cosine_as_probability,
    fit_isotonic,
    fit_logistic,
    reliability,
)
from hyperface.metrics.chance import shift_warning
from hyperface.metrics.operating_points import operating_points
from hyperface.metrics.roc import auc, eer, roc, tar_at_far
from hyperface.metrics.splits import pair_rates
from hyperface.metrics.svm import svm_threshold
from hyperface.metrics.verification import (
    balanced_accuracy,
    best_threshold,
    deal_folds,
    fold_accuracy,
    held_out_accuracy,
)
from hyperface.protocols.result import hardest


def scored_pairs(rng, same=60, different=300):
    scores = np.concatenate([rng.normal(0.6, 0.15, same), rng.normal(0.1, 0.15, different)])
    order = rng.permutation(same + different)
    return scores[order], (np.arange(same + different) < same)[order]


def test_the_logistic_is_the_optimum_of_platts_objective(rng):
    scores, same = scored_pairs(rng)
    found = fit_logistic(scores, same)
    counts = np.where(same, same.sum(), (~same).sum())
    target = np.where(same, (counts + 1) / (counts + 2), 1 / (counts + 2))
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    solution = np.zeros(2)
    for _ in range(50):  # Newton's method.
        p = 1 / (1 + np.exp(-design @ solution))
        gradient = design.T @ ((p - target) / counts)
        solution -= np.linalg.solve(design.T @ (design * (p * (1 - p) / counts)[:, None]), gradient)
    np.testing.assert_allclose(found, solution, rtol=1e-6)


@given(st.floats(-5, 5), st.floats(0.01, 20))
def test_the_logistic_moves_with_the_scores(offset, scale):
    scores, same = scored_pairs(np.random.default_rng(1))
    moved = fit_logistic(scores * scale + offset, same)
    expected = fit_logistic(scores, same).log_ratio(scores)
    np.testing.assert_allclose(moved.log_ratio(scores * scale + offset), expected, atol=1e-4)


def test_a_cosine_that_rounding_put_above_1_counts_as_1():
    """Two equal images have such a cosine in float32."""
    above = np.nextafter(np.float32(1), np.float32(2))
    found = cosine_as_probability(np.array([-1.0, 0.0, above], np.float32))
    np.testing.assert_array_equal(found, [0.0, 0.5, 1.0])
    assert np.isfinite(cllr(found, np.array([0, 0, 1])))


def test_separable_pairs_have_a_finite_calibration():
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0])
    found = fit_logistic(scores, same)
    assert np.isfinite(found).all()
    assert found.probability(0.85) > 0.5 > found.probability(0.15)
    stated = fit_isotonic(scores, same).probability(np.array([-1.0, 0.1, 0.85, 2.0]))
    assert (np.diff(stated) >= 0).all()
    assert stated.min() > 0
    assert stated.max() < 1


def test_a_prior_moves_the_odds():
    found = Logistic(8.0, -3.0)
    for prior in (0.001, 0.3, 0.9):
        odds = np.exp(8 * 0.5 - 3) * prior / (1 - prior)
        assert found.probability(0.5, prior) == pytest.approx(odds / (1 + odds))
    assert found.probability(1e6) == 1
    assert found.probability(-1e6) == 0
    with pytest.raises(ValueError, match=r"a prior in \(0, 1\), found 1"):
        found.probability(0.5, 1)


def test_isotonic_is_pooled_adjacent_violators_with_a_pair_of_each_kind_at_both_ends():
    scores, same = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1])
    found = fit_isotonic(scores, same)
    # Four pairs of each kind in all, two of each at either end; blocks are pooled by hand.
    np.testing.assert_allclose(found.probability(scores), [1 / 3, 0.5, 0.5, 2 / 3])


def test_cllr_and_ece_by_their_definitions(rng):
    same = rng.random(500) < 0.2
    stated = np.clip(rng.normal(0.3 + 0.4 * same, 0.2), 0.01, 0.99)
    ratio = stated / (1 - stated)
    bits = np.log2(1 + 1 / ratio[same]).mean() + np.log2(1 + ratio[~same]).mean()
    assert cllr(stated, same) == pytest.approx(bits / 2)
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    error = 0.0
    for low in np.arange(15):
        inside = (stated >= low / 15) & (stated < (low + 1) / 15)
        error += abs(np.sum(weight[inside] * (stated[inside] - same[inside])))
    assert reliability(stated, same).error == pytest.approx(error)
    assert reliability(stated, same).weight.sum() == pytest.approx(1)
    assert reliability(np.array([1.0, 0.0]), [1, 0]).error == 0
    assert cllr([1.0, 0.0], [1, 0]) == 0
    assert np.isfinite(cllr([0.0, 1.0], [1, 0]))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]))
def test_neither_error_is_above_the_rate_on_the_pairs_that_chose_the_thresholds(seed, far):
    rng = np.random.default_rng(seed)
    scores, same = np.round(rng.normal(size=200), 1), rng.random(200) < 0.3
    (point,) = operating_points(scores, same, [far])
    assert np.mean(scores[~same] >= point.threshold) <= far
    assert np.mean(scores[same] <= point.reject_threshold) <= far
    decisions = [point.decide(score) for score in scores]
    assert decisions.count("same") == np.sum(scores >= point.threshold)
    assert point.supported == (far * np.sum(~same) >= 1)


def test_calibrating_helps_on_other_pairs(rng):
    found = calibrate(*scored_pairs(rng), [0.01, 0.1]).measured_on(*scored_pairs(rng))
    assert [point.far for point in found.points] == [0.1, 0.01]
    before, *after = found.quality.values()
    assert all(q.cllr < before.cllr / 2 for q in after)
    assert all(q.reliability.error < before.reliability.error / 2 for q in after)
    assert 0 < found.points[1].measured_far < 0.05


# --------------------------------------------------------------------------------------- the file


@pytest.fixture
def stored(rng):
    found = calibrate(*scored_pairs(rng), [0.1, 0.001]).measured_on(*scored_pairs(rng))
    return store(found, model="abc", mirror="sum", protocol="Identity folders of mine")


def test_a_calibration_is_read_as_it_was_written(stored, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(stored.to_text())
    assert read_calibration(path) == stored
    assert path.stat().st_size < 2000


def test_a_rate_takes_the_next_lower_one(stored):
    assert stored.point(0.1).far == stored.point(0.5).far == 0.1
    assert stored.point(0.05).far == stored.point(0.001).far == 0.001
    with pytest.raises(
        InputError,
        match=r"--far: expected a rate that the calibration has \(0.1, 0.001\) or a higher one",
    ):
        stored.point(0.0001)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "another"),
        (("version",), 2),
        (("model",), 3),
        (("mirror",), "twice"),
        (("thresholds",), []),
        (("thresholds",), None),
        (("thresholds", 0, "threshold"), "0.5"),
        (("thresholds", 0, "threshold"), True),
        (("thresholds", 0, "supported"), 1),
        (("thresholds", 0, "far"), float("nan")),
        (("logistic",), [1, 2]),
        (("logistic", "slope"), None),
    ],
)
def test_a_damaged_calibration_is_refused(stored, path, value):
    record = json.loads(stored.to_text())
    at = record
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(InputError, match=r"^c.json: expected a"):
        from_dict(record, "c.json")


# ------------------------------------------------------------------------- what says same or not

SCORES = np.array([0.9, 0.8, 0.3, 0.1])
METRICS = {
    "roc": lambda same: roc(SCORES, same).tar,
    "tar_at_far": lambda same: tar_at_far(SCORES, same, 0.5),
    "eer": lambda same: eer(roc(SCORES, same)),
    "auc": lambda same: auc(roc(SCORES, same)),
    "balanced_accuracy": lambda same: balanced_accuracy(SCORES, same, 0.5),
    "best_threshold": lambda same: best_threshold(SCORES, same),
    "deal_folds": lambda same: deal_folds(same, 2),
    "fold_accuracy": lambda same: fold_accuracy(SCORES, same, np.array([0, 0, 1, 1])).accuracy,
    "held_out_accuracy": lambda same: held_out_accuracy(SCORES, same, np.arange(4) < 2),
    "svm_threshold": lambda same: svm_threshold(SCORES, same),
    "pair_rates": lambda same: pair_rates(SCORES, same, [0, 0, 0, 0]).auc,
    "resampled_tar": lambda same: resampled_tar(SCORES, same, 0.5)(np.ones(4, int)),
    "resampled_eer": lambda same: resampled_eer(SCORES, same)(np.ones(4, int)),
    "resampled_accuracy": lambda same: resampled_accuracy([1, 1, 0, 1], same)(np.ones(4, int)),
    "hardest": lambda same: [h.score for h in hardest(SCORES, "abcd", "efgh", same)[0]],
    "shift_warning": lambda same: shift_warning(np.eye(4), np.arange(4), np.arange(4), same),
    "operating_points": lambda same: operating_points(SCORES, same, [0.5])[0].threshold,
    "fit_logistic": lambda same: fit_logistic(SCORES, same),
    "fit_isotonic": lambda same: fit_isotonic(SCORES, same).probability(SCORES),
    "cllr": lambda same: cllr(SCORES, same),
    "reliability": lambda same: reliability(SCORES, same).error,
}


@pytest.mark.parametrize("name", METRICS)
def test_same_is_bool_or_0_and_1(name):
    compute = METRICS[name]
    expected = compute(np.array([True, False, True, False]))
    np.testing.assert_array_equal(compute(np.array([1, 0, 1, 0])), expected)
    for wrong in ([2, 0, 1, 0], [1, -1, 1, -1], [1, np.nan, 1, 0], ["1", "0", "1", "0"]):
        with pytest.raises(ValueError, match=r"same.*found|numbers.* in same"):
            compute(np.array(wrong))
    with pytest.raises(ValueError, match=r"same.*found|numbers.* in same"):
        compute(np.array([True, None, False, True], object))
