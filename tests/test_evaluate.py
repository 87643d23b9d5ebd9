"""Verification, ROC and embedding: worked by hand, against scikit-learn, and in the limits."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_curve

from hyperface.evaluate.classification import nearest_agent_accuracy
from hyperface.evaluate.embed import embed_split, embedder
from hyperface.metrics import verification
from hyperface.metrics.roc import roc, tar_at_far
from hyperface.metrics.verification import (
    all_pairs,
    balanced_accuracy,
    best_threshold,
    cosine_scores,
    deal_folds,
    fold_accuracy,
    mean_best_threshold,
    verify,
)

# Six pairs by hand: same pairs score 0.9, 0.7, 0.4, different pairs 0.8, 0.4, 0.1.
SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])
SAME = np.array([True, False, True, True, False, False])


def test_roc_by_hand_with_a_tie():
    curve = roc(SCORES, SAME)
    np.testing.assert_allclose(curve.thresholds, [np.inf, 0.9, 0.8, 0.7, 0.4, 0.1])
    np.testing.assert_allclose(curve.far * 3, [0, 0, 1, 1, 2, 3])
    np.testing.assert_allclose(curve.tar * 3, [0, 1, 1, 2, 3, 3])


def test_roc_equals_scikit_learn(rng):
    scores = np.round(rng.standard_normal(500), 1)  # Many ties.
    same = rng.random(500) < 0.3
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    curve = roc(scores, same)
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(curve.tar, tar)
    np.testing.assert_allclose(curve.thresholds, thresholds)


@pytest.mark.parametrize(
    ("far", "tar"),
    [
        (0.0, 1 / 3),  # Above the best impostor, 0.8.
        (0.3, 1 / 3),  # Still none of three may pass.
        (1 / 3, 2 / 3),  # 0.8 may pass; the tie at 0.4 is refused on both sides.
        (2 / 3, 1.0),
        (1.0, 1.0),
    ],
)
def test_tar_at_far_by_hand(far, tar):
    assert tar_at_far(SCORES, SAME, far) == pytest.approx(tar)


def test_tar_at_far_is_the_best_point_of_the_roc_within_the_far(rng):
    scores, same = np.round(rng.standard_normal(2000), 2), rng.random(2000) < 0.2
    curve = roc(scores, same)
    for far in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0):
        assert tar_at_far(scores, same, far) == pytest.approx(curve.tar[curve.far <= far].max())


def test_random_scores_accept_as_many_of_both_kinds(rng):
    scores, same = rng.standard_normal(60_000), rng.random(60_000) < 0.5
    for far in (0.01, 0.1):
        assert tar_at_far(scores, same, far) == pytest.approx(far, abs=5 * np.sqrt(far / 30_000))


def test_best_threshold_by_hand():
    # Balanced accuracy is 2/3 after 0.9, after 0.7, and after 0.4: the cuts 0.85, 0.55 and 0.25.
    assert best_threshold(SCORES, SAME) == pytest.approx(0.55)
    assert mean_best_threshold(SCORES, SAME) == pytest.approx((0.85 + 0.55 + 0.25) / 3)
    assert best_threshold(np.array([0.9, 0.2]), np.array([True, False])) == pytest.approx(0.55)


def test_no_threshold_has_a_higher_accuracy(rng):
    """On pairs of any separation, with ties, of one kind few, and where same pairs score lower."""
    for trial in range(200):
        same = rng.permutation(np.arange(rng.integers(4, 40)) < 2 + trial % 2)
        scores = np.round(rng.standard_normal(same.size) + (trial % 5 - 1) * same, trial % 3)
        cuts = np.append(np.unique(scores), np.inf)
        best = max(balanced_accuracy(scores, same, cut) for cut in cuts)
        assert balanced_accuracy(scores, same, best_threshold(scores, same)) == pytest.approx(best)


def test_a_threshold_between_neighbouring_floats_refuses_the_lower():
    for low in np.float32([0.5, -0.5]):
        scores = np.array([np.nextafter(low, np.float32(1)), low])
        assert (
            balanced_accuracy(scores, np.array([True, False]), best_threshold(scores, [1, 0])) == 1
        )


def test_fold_accuracy_takes_the_threshold_from_the_other_folds():
    scores = np.array([0.9, 0.8, 0.4, 0.3])
    same = np.array([True, False, True, False])
    found = fold_accuracy(scores, same, np.array([0, 0, 1, 1]))
    # Each fold's own cut would be perfect; the other fold's accepts or refuses everything.
    np.testing.assert_allclose(found.thresholds, [0.35, 0.85])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.5])


def test_folds_hold_both_kinds_evenly():
    same = np.arange(100) % 7 == 0
    fold = deal_folds(same, 5)
    for kind in (same, ~same):
        assert np.ptp(np.bincount(fold[kind], minlength=5)) <= 1
    with pytest.raises(ValueError, match=r"at least 20 pairs of each kind .* found 15 same"):
        deal_folds(same, 20)


def test_all_pairs_of_four_images():
    pairs = all_pairs(np.array([0, 0, 1, 1]))
    assert list(zip(pairs.first, pairs.second, strict=True)) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
    ]  # fmt: skip
    np.testing.assert_array_equal(pairs.same, [True, False, False, False, False, True])


def test_scores_of_few_pairs_and_of_all_are_the_cosines(rng, monkeypatch):
    """All by one product, few in blocks that never hold every pair's features."""
    monkeypatch.setattr(verification, "BLOCK_BYTES", 3 * 5 * 8)
    features = rng.standard_normal((20, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    every = all_pairs(np.zeros(20))
    few = verification.Pairs(*(column[:40] for column in every))
    for pairs in (every, few):
        expected = [unit[i] @ unit[j] for i, j in zip(pairs.first, pairs.second, strict=True)]
        np.testing.assert_allclose(cosine_scores(features, pairs), expected, rtol=1e-12)


def test_perfect_features_score_one_and_random_ones_a_half(rng):
    labels = np.repeat(np.arange(10), 8)
    perfect = verify(np.eye(10)[labels], labels)
    assert perfect.folds.mean == 1.0
    assert perfect.folds.standard_error == 0.0
    assert perfect.tar_at_far == {0.01: 1.0, 0.001: 1.0}
    chance = verify(rng.standard_normal((80, 200)), labels)
    assert 0.4 < chance.folds.mean < 0.6


def test_neither_order_nor_length_of_features_matters(rng):
    labels = np.repeat(np.arange(6), 7)
    features = rng.standard_normal((42, 5)) + 2 * np.eye(6, 5)[labels]
    order = rng.permutation(42)
    lengths = rng.uniform(0.1, 10, (42, 1))
    first, second = verify(features, labels), verify((lengths * features)[order], labels[order])
    assert first.tar_at_far == second.tar_at_far
    np.testing.assert_allclose(first.curve.tar, second.curve.tar)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_feature_without_direction_is_refused(bad, rng):
    features = rng.standard_normal((4, 3))
    features[2] = bad
    with pytest.raises(ValueError, match="at row 2"):
        cosine_scores(features, all_pairs(np.array([0, 0, 1, 1])))


def test_misuse_of_roc_says_what_was_expected():
    with pytest.raises(ValueError, match="of one length"):
        roc(SCORES, SAME[:3])
    with pytest.raises(ValueError, match="finite scores, found 1"):
        roc(np.where(SCORES == 0.1, np.nan, SCORES), SAME)
    with pytest.raises(ValueError, match="found 6 same of 6 pairs"):
        roc(SCORES, np.ones(6, bool))
    with pytest.raises(ValueError, match=r"far in \[0, 1\], found 2"):
        tar_at_far(SCORES, SAME, 2)


def test_mirror_merges(rng):
    images = rng.standard_normal((3, 4, 5, 1)).astype(np.float32)
    weights = jnp.asarray(rng.standard_normal((20, 2)), jnp.float32)

    def apply(weights, images):
        return images.reshape(images.shape[0], -1) @ weights

    plain, mirrored = apply(weights, images), apply(weights, images[:, :, ::-1])
    for mirror, expected in (
        ("none", plain),
        ("sum", plain + mirrored),
        ("max", jnp.maximum(plain, mirrored)),
        ("concat", jnp.concatenate([plain, mirrored], axis=1)),
    ):
        features, norms = embedder(apply, mirror)(weights, images)
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(norms, np.linalg.norm(plain, axis=1), rtol=1e-5)


def test_padding_is_dropped():
    batch = {
        "images": np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1),
        "labels": np.array([5, 6, 7, 5], np.int32),
        "mask": np.array([1, 1, 1, 0], np.float32),
    }
    embed = embedder(lambda _, images: images.reshape(4, 1), "none")
    found = embed_split(embed, None, [batch, batch])
    np.testing.assert_array_equal(found.features[:, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(found.labels, [5, 6, 7, 5, 6, 7])


def test_nearest_agent_by_product_and_by_cosine():
    features = np.array([[1.0, 0.9], [0.1, 1.0]])
    agents = np.array([[1.0, 0.0], [0.0, 5.0]])
    labels = np.array([0, 1])
    assert nearest_agent_accuracy(features, agents, labels) == 0.5
    assert nearest_agent_accuracy(features, agents, labels, normalize="agents") == 1.0
    bias = np.array([10.0, 0.0])
    assert nearest_agent_accuracy(features, agents, labels, bias=bias) == 0.5
    unbiased = {"normalize": "both", "scale": 100.0, "bias": bias}
    assert nearest_agent_accuracy(features, agents, labels, **unbiased) == 1.0
