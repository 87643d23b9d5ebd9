"""Pair lists in folds: worked by hand, against scikit-learn's PCA a fold, and on LFW's own list."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from hyperface.metrics import projection
from hyperface.metrics.roc import eer, roc
from hyperface.metrics.splits import pair_rates
from hyperface.metrics.svm import grid_threshold, svm_threshold
from hyperface.metrics.verification import balanced_accuracy
from hyperface.protocols.pair_rules import PRESETS, PairRules
from hyperface.protocols.pair_verification import verify_pairs


def random_list(rng, images=60, dim=12, pairs=120, folds=4, signal=2.0):
    """(features, first, second, same, fold): ten people; images recur in pairs and folds."""
    person = np.arange(images) % 10
    features = rng.standard_normal((images, dim)) + 3.0
    features += signal * rng.standard_normal((10, dim))[person]
    same = np.arange(pairs) % 2 == 0
    first = rng.integers(0, images, pairs)
    step = np.where(same, 10, 7) * rng.integers(1, 4, pairs)
    return features, first, (first + step) % images, same, np.arange(pairs) * folds // pairs


def brute(features, first, second, same, fold, project):
    """Scores of each pair in its own test fold, with `project` fitted on the others' images."""
    scores = np.empty(same.size)
    for i in np.unique(fold):
        rest = fold != i
        fitted = project(np.concatenate([features[first[rest]], features[second[rest]]]))
        a, b = fitted(features[first]), fitted(features[second])
        cosines = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        scores[~rest] = cosines[~rest]
    return scores


def test_six_pairs_by_hand():
    """Angles 10, 20, 55 degrees between same, 60, 50, 40 between different images."""
    angles = np.deg2rad([0, 10, 60, 0, 20, 50, 0, 55, 40])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 10)[:, None]
    first, second = np.array([0, 0, 3, 3, 6, 6]), np.array([1, 2, 4, 5, 7, 8])
    same, fold = np.arange(6) % 2 == 0, np.array([0, 0, 1, 1, 2, 2])
    result = verify_pairs(features, first, second, same, fold)
    cos = np.cos(np.deg2rad(np.arange(90)))
    np.testing.assert_allclose(result.scores, cos[[10, 60, 20, 50, 55, 40]])
    # Without the first fold the best cut lies between 20 and 40 degrees, without the third between
    # 20 and 50. Without the second, where 10 and 55 are same and 40 and 60 different, two cuts have
    # 3 of 4 right, between 10 and 40 and between 55 and 60: the higher is taken. Their mean lies
    # between 40 and 55, where 2 of 4 are right.
    middle = [(cos[10] + cos[40]) / 2, (cos[55] + cos[60]) / 2]
    expected = [(cos[20] + cos[40]) / 2, middle[0], (cos[20] + cos[50]) / 2]
    np.testing.assert_allclose(result.folds.thresholds, expected)
    mean = PairRules(threshold="accuracy-mean")
    released = verify_pairs(features, first, second, same, fold, mean)
    np.testing.assert_allclose(released.folds.thresholds[1], np.mean(middle))
    rest = fold != 1
    right = [
        balanced_accuracy(result.scores[rest], same[rest], t) for t in (*middle, np.mean(middle))
    ]
    assert right == [0.75, 0.75, 0.5]
    np.testing.assert_allclose(result.folds.accuracy, [1.0, 1.0, 0.5])
    assert result.folds.mean == pytest.approx(5 / 6)
    assert result.folds.standard_error == pytest.approx(1 / 6)


@pytest.mark.parametrize("pca", [0.9, 0.995, 5, np.int64(12)])
def test_pca_is_that_of_scikit_learn_fitted_on_the_other_folds(rng, pca):
    data = random_list(rng)
    fitted = []

    def project(images):
        fitted.append(PCA(pca, svd_solver="full").fit(images))
        return fitted[-1].transform

    expected = brute(*data, project)
    result = verify_pairs(*data, PairRules(pca=pca))
    np.testing.assert_allclose(result.scores, expected, atol=1e-12)
    np.testing.assert_array_equal(result.dims, [machine.n_components_ for machine in fitted])
    single = verify_pairs(data[0].astype(np.float32), *data[1:], PairRules(pca=pca))
    np.testing.assert_allclose(single.scores, expected, atol=2e-5)


def test_more_dimensions_than_images_change_nothing_in_pca(rng):
    features, *pairs = random_list(rng, images=40, dim=200)
    result = verify_pairs(features, *pairs, PairRules(pca=0.99))
    expected = brute(features, *pairs, lambda images: PCA(0.99).fit(images).transform)
    np.testing.assert_allclose(result.scores, expected, atol=1e-10)


def test_only_the_mean_of_the_other_folds_is_subtracted(rng):
    data = random_list(rng)
    result = verify_pairs(*data, PRESETS["sphereface-released"])
    expected = brute(*data, lambda images: lambda rows: rows - images.mean(axis=0))
    np.testing.assert_allclose(result.scores, expected, atol=1e-12)


def test_nothing_is_fitted_on_the_fold_that_is_tested(rng):
    """Other features there change no threshold: its images are in no other fold."""
    features, _, _, same, _ = random_list(rng, images=240)
    first, second, fold = np.arange(120), np.arange(120, 240), np.arange(120) // 30
    data, other = (first, second, same, fold), features.copy()
    of_fold = np.concatenate([first[fold == 2], second[fold == 2]])
    other[of_fold] = rng.standard_normal((of_fold.size, 12))
    for name, rules in PRESETS.items():
        before, after = (verify_pairs(x, *data, rules) for x in (features, other))
        np.testing.assert_allclose(
            before.folds.thresholds[2], after.folds.thresholds[2], err_msg=name
        )
        assert not np.allclose(before.folds.thresholds, after.folds.thresholds)


def test_euclidean_with_the_svm_is_the_released_rule(rng):
    features, first, second, same, fold = random_list(rng)
    result = verify_pairs(features, first, second, same, fold, PRESETS["normface-released"])
    pca = PCA(0.995, svd_solver="full")
    accuracy = []
    for i in range(4):
        rest = fold != i
        pca.fit(np.concatenate([features[first[rest]], features[second[rest]]]))
        unit = pca.transform(features)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        distance = np.linalg.norm(unit[first] - unit[second], axis=1)[:, None]
        np.testing.assert_allclose(result.scores[~rest], -distance[~rest, 0], atol=1e-7)
        machine = SVC(kernel="linear", shrinking=False).fit(distance[rest], same[rest])
        right = machine.predict(distance[~rest]) == same[~rest]
        accuracy.append((right[same[~rest]].mean() + right[~same[~rest]].mean()) / 2)
    np.testing.assert_allclose(result.folds.accuracy, accuracy)


def test_insightface_takes_the_best_of_a_grid(rng):
    """As its verification code: the first of the best thresholds; a pair below it is the same."""
    features, first, second, same, fold = random_list(rng)
    result = verify_pairs(features, first, second, same, fold, PRESETS["insightface"])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = np.sum(np.square(unit[first] - unit[second]), axis=1)
    np.testing.assert_allclose(result.scores, -distance, atol=1e-12)
    same = np.asarray(same, bool)
    for i in range(4):
        rest, grid = fold != i, np.arange(0, 4, 0.01)
        shares = [np.mean((distance[rest] < t) == same[rest]) for t in grid]
        best = grid[int(np.argmax(shares))]
        assert -result.folds.thresholds[i] == pytest.approx(best)
        right = (distance < best) == same
        kinds = [right[~rest & (same == kind)].mean() for kind in (True, False)]
        assert result.folds.accuracy[i] == pytest.approx(np.mean(kinds))
    assert any("insightface's grid" in step for step in result.steps)
    # A distance that equals a threshold is not below it.
    assert grid_threshold(np.array([-0.5, -0.51]), np.array([True, False])) > -0.51


def test_a_pair_at_the_threshold_is_called_the_same():
    assert balanced_accuracy(np.array([0.5, 0.4]), np.array([True, False]), 0.5) == 1.0
    assert balanced_accuracy(np.array([0.5, 0.5]), np.array([True, False]), 0.5) == 0.5


def test_an_svm_where_same_pairs_score_lower_accepts_everything():
    assert svm_threshold(np.array([0.0, 1.0]), np.array([True, False])) == -np.inf


@pytest.mark.parametrize("name", PRESETS)
def test_random_features_score_a_half_and_perfect_ones_one(rng, name):
    same, fold = np.arange(2000) % 2 == 0, np.arange(2000) // 200
    first, second = np.arange(2000), np.arange(2000, 4000)
    chance = verify_pairs(rng.standard_normal((4000, 8)), first, second, same, fold, PRESETS[name])
    assert chance.folds.mean == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 2000))
    people = rng.standard_normal((50, 8))
    person = rng.integers(0, 50, 2000)
    perfect = people[np.concatenate([person, (person + ~same) % 50])]
    result = verify_pairs(perfect, first, second, same, fold, PRESETS[name])
    assert (result.folds.mean, result.folds.standard_error) == (1.0, 0.0)


@pytest.mark.parametrize("name", PRESETS)
def test_the_order_of_images_pairs_and_sides_changes_nothing(rng, name):
    features, first, second, same, fold = random_list(rng)
    images, pairs = rng.permutation(60), rng.permutation(120)
    place = np.argsort(images)
    turned = rng.random(120) < 0.5
    one, other = np.where(turned, (second, first), (first, second))
    before = verify_pairs(features, first, second, same, fold, PRESETS[name])
    after = verify_pairs(
        features[images],
        place[one][pairs],
        place[other][pairs],
        same[pairs],
        fold[pairs],
        PRESETS[name],
    )
    np.testing.assert_allclose(after.scores, before.scores[pairs], atol=1e-12)
    np.testing.assert_array_equal(after.folds.accuracy, before.folds.accuracy)


@pytest.mark.parametrize("name", PRESETS)
def test_progress_is_told_a_fold(rng, name):
    told = []
    verify_pairs(*random_list(rng), PRESETS[name], progress=lambda *at: told.append(at))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_view_1_tests_one_of_two_lists(rng):
    features, first, second, same, _ = random_list(rng)
    fold = (np.arange(120) >= 80).astype(int)
    result = verify_pairs(features, first, second, same, fold, tested=[1])
    both = verify_pairs(features, first, second, same, fold)
    assert result.folds.mean == both.folds.accuracy[1]
    assert np.isnan(result.folds.standard_error)
    np.testing.assert_array_equal(np.isnan(result.scores), fold == 0)
    assert "in 2 folds, 1 of them tested" in result.steps[0]


def test_every_step_is_told_with_its_numbers(rng):
    data = random_list(rng)
    steps = verify_pairs(*data, PRESETS["normface-released"]).steps
    for words in (
        "120 pairs (60 same) of 59 images in 4 folds, 4 of them tested",
        "mean of the 180 images of the other folds' pairs (duplicates kept)",
        "PCA fitted on the same images, keeping 99.5 % of the variance: 12 of 12 dimensions",
        "unit length, similarity is the negative Euclidean distance",
        "linear SVM, C = 1",
        "ddof 1",
    ):
        assert sum(words in step for step in steps) == 1
    assert "keeping a fixed number: 5 of 12" in verify_pairs(*data, PairRules(pca=5)).steps[2]
    plain = verify_pairs(*data)
    assert plain.steps[1] == "no mean subtracted, no PCA"
    assert plain.rules == PRESETS["plain"]


def changed(data, **changes):
    names = ("features", "first", "second", "same", "fold")
    return dict(zip(names, data, strict=True)) | changes


def test_what_cannot_be_scored_is_refused(rng):
    data = features, first, second, same, fold = random_list(rng)
    zero, nan, infinite = features.copy(), features.copy(), features.copy()
    zero[3], nan[5, 1], infinite[7, 0] = 0, np.nan, np.inf
    length = rng.uniform(0.1, 10, (60, 1))
    one_kind = np.where(fold == 2, True, same)
    only_one = np.where(fold == 1, same, False)
    for changes, message in (
        ({"features": zero}, r"norm 0\.0 at row 3 \(1 rows in all\)"),
        ({"features": nan}, r"norm nan at row 5"),
        ({"features": infinite}, r"norm inf at row 7"),
        ({"features": np.ones((60, 4))}, "features that differ, found 60 that all point one way"),
        ({"features": features[:1] * length}, "found 60 that all point one way"),
        ({"features": np.float32(features[:1] * length)}, "found 60 that all point one way"),
        ({"features": features[0]}, r"features \[images, dim\] of real numbers, found float64"),
        ({"first": first[:-1]}, "columns of one length"),
        ({"second": np.where(second == second[7], 60, second)}, "second from 0 to 59, found 60"),
        ({"first": first - 100}, "first from 0 to 59"),
        ({"first": first.astype(float)}, "whole numbers in first, found float64"),
        ({"same": 2 * same}, "same to be 0 or 1"),
        ({"same": one_kind}, "same and different pairs in fold 2, found 30 same of 30"),
        ({"same": only_one}, "same and different pairs in fold 0, found 0 same of 30"),
        ({"same": same & (fold == 0), "tested": [0]}, "in the folds other than 0, found 0 same"),
        ({"fold": np.zeros(120, int)}, "at least 2 folds, found 1"),
        ({"tested": [4]}, r"tested folds among \[0, 1, 2, 3\], found \[4\]"),
        ({"rules": PairRules(pca=13)}, r"in \(0, 1\) or 1 to 12 dimensions, found 13"),
        ({"rules": PairRules(pca=1.0)}, "1 to 12 dimensions, found 1.0"),
        ({"rules": PairRules(pca=0)}, "1 to 12 dimensions, found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            verify_pairs(**changed(data, **changes))
    with pytest.raises(ValueError, match=r"similarity to be one of cosine, .*squared, found dot"):
        PairRules(similarity="dot")
    with pytest.raises(ValueError, match="squared distances with threshold grid, found cosine"):
        PairRules(threshold="grid")
    with pytest.raises(
        ValueError, match="threshold to be one of accuracy, accuracy-mean, svm, grid, found best"
    ):
        PairRules(threshold="best")


def test_a_pca_too_large_is_refused_before_it_starts(rng, monkeypatch):
    monkeypatch.setattr(projection, "LARGEST_PCA", 11)
    data = random_list(rng)
    with pytest.raises(ValueError, match="at most 11 dimensions or images for PCA per fold"):
        verify_pairs(*data, PairRules(pca=0.9))
    verify_pairs(data[0][:, :11], *data[1:], PairRules(pca=0.9))
    verify_pairs(*data)  # Without PCA any size will do.


@pytest.mark.parametrize(("folds", "held_out"), [([0, 0, 0], 0), ([0, 1, 1], 2)])
def test_a_projection_needs_a_fold_to_hold_out_and_another_one(folds, held_out, rng):
    moments = projection.fold_moments(
        rng.standard_normal((3, 2)), np.arange(3), np.array(folds), scatter=False
    )
    with pytest.raises(ValueError, match=f"one of at least 2 folds, found {held_out} and"):
        moments.projection(held_out, None)


def test_rates_of_each_split_and_their_spread(rng):
    scores, same = rng.standard_normal(600), np.arange(600) % 2 == 0
    scores, split = scores + same, np.arange(600) // 200
    rates = pair_rates(scores, same, split, fars=(0.1, 0.001))
    for i in range(3):
        part = split == i
        assert rates.eer[i] == eer(roc(scores[part], same[part]))
        assert rates.auc[i] == pytest.approx(roc_auc_score(same[part], scores[part]))
        eleventh = np.sort(scores[part & ~same])[-11]
        assert rates.tar[i, 0] == np.mean(scores[part & same] > eleventh)
    np.testing.assert_array_equal(rates.allowed, [[10, 0]] * 3)
    assert rates.unsupported() == [0.001]
    spread = rates.spread()
    assert spread["tar_at_far_0.1"] == (np.mean(rates.tar[:, 0]), np.std(rates.tar[:, 0], ddof=1))
    assert list(spread) == ["eer", "auc", "tar_at_far_0.1", "tar_at_far_0.001"]
    pooled = pair_rates(scores, same, np.zeros(600, int))
    assert np.isnan(pooled.spread()["auc"].deviation)


def test_rates_of_wrong_lists_are_refused():
    same, split = np.array([1, 0, 1, 1]), np.array([1, 1, 2, 2])
    with pytest.raises(ValueError, match="same and different pairs in split 2, found 2 same"):
        pair_rates(np.arange(4.0), same, split)
    with pytest.raises(ValueError, match=r"a score for each of 4 pairs, found \(3,\)"):
        pair_rates(np.arange(3.0), same, split)


@pytest.fixture(scope="module")
def lfw(real_data):
    """LFW's 6,000 pairs with features of a published FaceNet."""
    file = np.load(real_data / "features/lfw_pairs_facenet_casia_512d.npz", allow_pickle=False)
    row = {name: i for i, name in enumerate(file["names"])}
    lines = (real_data / "protocols/lfw/pairs.txt").read_text().splitlines()[1:]
    words = [line.split() for line in lines]
    sides = [(w[:2], (w[0], w[2])) if len(w) == 3 else (w[:2], w[2:]) for w in words]
    first, second = (
        np.array([row[f"{name}/{name}_{int(number):04d}.jpg"] for name, number in side])
        for side in zip(*sides, strict=True)
    )
    same = np.array([len(w) == 3 for w in words])
    return file["features"], first, second, same, np.arange(6000) // 600


def test_lfw_with_published_features(lfw):
    """An independent script: 97.42 ± 0.27 by cosine and 97.47 ± 0.27 by distance.

    It differs in the choice among equally good thresholds only, which moves single pairs: the
    lowest of them for the cosine, steps of 0.01 of the squared distance. Both are done here.
    """
    result = verify_pairs(*lfw)
    assert round(100 * result.folds.mean, 2) == 97.38
    assert round(100 * result.folds.standard_error, 2) == 0.28
    *_, same, fold = lfw

    def rule_accuracy(scores, cuts):
        found = []
        for i in range(10):
            test = fold == i
            accepted = scores[:, None] >= cuts
            right = np.mean(accepted[~test] == same[~test, None], axis=0)
            cut = cuts[np.flatnonzero(right == right.max())[0]]
            found.append(np.mean((scores[test] >= cut) == same[test]))
        return np.mean(found), np.std(found, ddof=1) / np.sqrt(10)

    lowest = rule_accuracy(result.scores, np.sort(result.scores)[2000:4000])
    assert np.round(100 * np.array(lowest), 2).tolist() == [97.42, 0.27]
    grid = rule_accuracy(2 * result.scores - 2, -np.arange(0, 4, 0.01)[::-1])
    assert np.round(100 * np.array(grid), 2).tolist() == [97.47, 0.27]


def test_lfw_with_pca_equals_scikit_learn(lfw):
    features, *pairs = lfw
    features = features.astype(np.float64)
    result = verify_pairs(features, *pairs, PRESETS["normface"])
    assert np.round([100 * result.folds.mean, 100 * result.folds.standard_error], 2).tolist() == [
        97.57,
        0.23,
    ]
    first_folds = [column[pairs[3] < 3] for column in pairs]
    few = verify_pairs(features, *first_folds, PRESETS["normface"])
    pca = PCA(0.995, svd_solver="covariance_eigh")
    expected = brute(features, *first_folds, lambda images: pca.fit(images).transform)
    np.testing.assert_allclose(few.scores, expected, atol=1e-8)
