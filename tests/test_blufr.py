"""BLUFR: a trial worked by hand, brute force, and the counts of the real one."""

from types import SimpleNamespace

import numpy as np
import pytest

from hyperface.devices.mesh import split_rows
from hyperface.metrics import streaming
from hyperface.metrics.cosine import unit_features
from hyperface.metrics.streaming import stream_all_pairs
from hyperface.protocols.blufr import VERIFICATION_FARS, blufr


def trial(test, gallery, probe):
    """A trial; training images take no part."""
    return SimpleNamespace(test=np.array(test), gallery=np.array(gallery), probe=np.array(probe))


def at_angles(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# By hand, in degrees: A at 0 and 40, B at 65 and 100, C at 92; the last image is not of the test.
# Same pairs are 40 and 35 apart; different ones 8, 25, 27, 52, 60, 65, 92 and 100.
# In the gallery A is at 0 and B at 65. A's probe at 40 is nearer to B (25) than to A (40): rank 2.
# B's at 100 is 35 from B: rank 1. C's at 92 has no mate and is 27 from B.
FEATURES = 3 * at_angles(0, 40, 65, 100, 92, 1)
LABELS = np.array(["A", "A", "B", "B", "C", "A"])
HAND = trial([0, 1, 2, 3, 4], [0, 2], [1, 3, 4])


def test_one_trial_by_hand():
    found = blufr(
        FEATURES,
        LABELS,
        [HAND],
        verification_fars=[0, 3 / 8, 4 / 8, 1],
        identification_fars=[0, 0.5, 1],
        ranks=[1, 2],
    )
    assert (found.num_genuine[0], found.num_impostors[0]) == (2, 8)
    # The third highest different pair is 27 apart, the fourth 52, beyond both same pairs.
    np.testing.assert_array_equal(found.verification_rates, [[0, 0, 1, 1]])
    # At FAR 0 the threshold is nearer than 27, and nobody is detected. round(0.5) of 1 accepts all.
    np.testing.assert_array_equal(found.identification_rates, [[[0, 0.5, 0.5], [0, 1, 1]]])
    np.testing.assert_array_equal(found.verification_supported, [[False, True, True, True]])
    np.testing.assert_array_equal(found.identification_supported, [[False, False, True]])


def test_the_strict_rule_stands_just_above_the_next_impostor():
    found = blufr(
        FEATURES, LABELS, [HAND], rule="strict", verification_fars=[2 / 8, 3 / 8],
        identification_fars=[0.5], ranks=[2],
    )  # fmt: skip
    np.testing.assert_array_equal(found.verification_rates, [[0, 1]])
    np.testing.assert_array_equal(found.identification_rates, [[[0]]])


def test_mean_less_standard_deviation_by_hand():
    # In the second trial A's images are 1 apart, B's one is 8 from C's: nearer than all others.
    found = blufr(FEATURES, LABELS, [HAND, trial([0, 5, 4, 3], [0, 4], [5, 3])])
    np.testing.assert_array_equal(found.verification(0.001).trials, [0, 1])
    assert found.verification(0.001).mean == 0.5
    assert found.verification(0.001).std == pytest.approx(np.sqrt(0.5))
    assert found.verification().mean_minus_std == pytest.approx(0.5 - np.sqrt(0.5))
    np.testing.assert_array_equal(found.identification().trials, [0, 1])
    np.testing.assert_array_equal(found.identification(1.0, rank=1).trials, [0.5, 1])
    assert np.isnan(blufr(FEATURES, LABELS, [HAND]).verification().std)
    with pytest.raises(ValueError, match=r"a FAR of the list \[0.0, 1e-08.*, found 0.0015"):
        found.verification(0.0015)
    with pytest.raises(ValueError, match=r"a rank of the list .*, found 11"):
        found.identification(rank=11)


def people(rng, number=30, images=6, dim=8, noise=0.8):
    labels = rng.permutation(np.repeat(np.arange(number), images))
    centers = rng.standard_normal((number, dim))
    return centers[labels] + noise * rng.standard_normal((labels.size, dim)), labels


def deal(rng, labels, held_out):
    """A trial: one gallery image for each person but the last few, all other images as probes."""
    test = rng.permutation(labels.size)[: labels.size - held_out]
    gallery = [np.flatnonzero(labels[test] == person)[0] for person in np.unique(labels)[:-8]]
    return trial(test, test[gallery], np.delete(test, gallery))


def brute_force(features, labels, one, far, rank, rule):
    """Every pair, every sort, by the definitions."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)

    def threshold(impostors):
        falling = np.sort(impostors)[::-1]
        if rule == "strict":
            return np.nextafter(falling[int(np.floor(far * falling.size))], np.inf)
        allowed = int(np.floor(far * falling.size + 0.5))
        return falling[allowed - 1] if allowed else np.nextafter(falling[0], np.inf)

    pairs = [(i, j) for n, i in enumerate(one.test) for j in one.test[:n]]
    scores = np.array([unit[i] @ unit[j] for i, j in pairs])
    same = np.array([labels[i] == labels[j] for i, j in pairs])
    rate = np.mean(scores[same] >= threshold(scores[~same]))

    gallery = labels[one.gallery]
    impostors, searches = [], []
    for probe in one.probe:
        row = unit[one.gallery] @ unit[probe]
        if labels[probe] not in gallery:
            impostors.append(row.max())
            continue
        order = np.argsort(-row)
        place = int(np.flatnonzero(gallery[order] == labels[probe])[0])
        searches.append((row[order[place]], place + 1))
    limit = threshold(np.array(impostors))
    return rate, np.mean([score >= limit and place <= rank for score, place in searches])


@pytest.mark.parametrize("rule", ["blufr", "strict"])
def test_trials_equal_brute_force(rng, monkeypatch, rule):
    monkeypatch.setattr(
        streaming, "TILE", 32
    )  # Tiles with and without same pairs, and ragged ones.
    features, labels = people(rng)
    trials = [deal(rng, labels, held_out=10), deal(rng, labels, held_out=30)]
    fars = [0.0, 0.001, 0.02, 0.3]
    found = blufr(
        features, labels, trials, rule=rule, dtype=np.float64, exact_far=0.5,
        verification_fars=fars, identification_fars=fars, ranks=[1, 5],
    )  # fmt: skip
    for number, one in enumerate(trials):
        for place, far in enumerate(fars):
            for line, rank in enumerate([1, 5]):
                rate, identified = brute_force(features, labels, one, far, rank, rule)
                assert found.verification_rates[number, place] == pytest.approx(rate)
                dirs = found.identification_rates[number, line, place]
                assert dirs == pytest.approx(identified)


def test_every_pair_is_scored_once(rng, monkeypatch):
    features, labels = people(rng, dim=20)
    unit = unit_features(features, np.float64)
    first, second = np.triu_indices(labels.size, k=1)
    scores, same = np.sum(unit[first] * unit[second], axis=1), labels[first] == labels[second]
    for tile in (7, 64, 512):
        monkeypatch.setattr(streaming, "TILE", tile)
        stream = stream_all_pairs(unit, labels, exact_far=1.0)
        np.testing.assert_allclose(np.sort(stream.genuine()), np.sort(scores[same]), rtol=1e-12)
        np.testing.assert_allclose(
            stream.tail.scores(), np.sort(scores[~same])[::-1], rtol=0, atol=1e-12
        )


def test_products_shared_by_devices_give_the_same(rng):
    """On 8 simulated devices, in float64, where no two scores are close enough for rounding."""
    features, labels = people(rng)
    trials = [deal(rng, labels, held_out=10) for _ in range(2)]
    shared = set()

    def place(rows):
        placed = split_rows(rows)
        shared.add(len(placed.sharding.device_set) * (not placed.sharding.is_fully_replicated))
        return placed

    one = blufr(features, labels, trials, dtype=np.float64)
    eight = blufr(features, labels, trials, dtype=np.float64, place=place)
    assert 8 in shared
    np.testing.assert_equal(eight._asdict(), one._asdict())


def test_the_order_of_images_does_not_matter(rng):
    features, labels = people(rng)
    one = deal(rng, labels, held_out=10)
    order = rng.permutation(labels.size)
    place = np.argsort(order)
    moved = trial(
        rng.permutation(place[one.test]),
        rng.permutation(place[one.gallery]),
        rng.permutation(place[one.probe]),
    )
    before = blufr(features, labels, [one], dtype=np.float64)
    after = blufr(features[order], labels[order], [moved], dtype=np.float64)
    np.testing.assert_array_equal(before.verification_rates, after.verification_rates)
    np.testing.assert_array_equal(before.identification_rates, after.identification_rates)


def test_perfect_features_score_one(rng):
    labels = np.repeat(np.arange(30), 6)
    found = blufr(np.eye(30)[labels], labels, [deal(rng, labels, held_out=5)])
    np.testing.assert_array_equal(found.verification_rates, 1)
    np.testing.assert_array_equal(found.identification_rates, 1)


def real_trials(folder):
    with np.load(folder / "protocols/blufr_lfw.npz") as stored:
        labels = stored["labels"]
        return labels, [
            trial(stored[f"test_{n}"], stored[f"gal_{n}"], stored[f"prob_{n}"]) for n in range(2)
        ]


def test_counts_and_limits_on_the_real_trials(real_data, rng):
    labels, trials = real_trials(real_data)
    done = []
    chance = blufr(
        rng.standard_normal((labels.size, 32)), labels, trials, progress=lambda *n: done.append(n)
    )
    assert done == [(1, 2), (2, 2)]
    assert chance.num_genuine[0] == 231_834
    np.testing.assert_array_equal(
        chance.num_genuine + chance.num_impostors,
        [one.test.size * (one.test.size - 1) // 2 for one in trials],
    )
    for far, rate in zip(VERIFICATION_FARS, chance.verification_rates[0], strict=True):
        # Scores share images, so that they spread more than as many coins would.
        assert rate == pytest.approx(far, abs=10 * np.sqrt(far * (1 - far) / 231_834) + 1e-5)
    perfect = blufr(rng.standard_normal((labels.max() + 1, 64))[labels], labels, trials[:1])
    assert perfect.verification_rates.min() == 1
    assert perfect.identification_rates.min() == 1


def changed(**parts):
    return SimpleNamespace(**{**vars(HAND), **parts})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(test=np.array([0, 1, 2, 3, 6])), "0 to 5, found 0 to 6 in the test indices"),
        (changed(probe=np.array([1, 3, -1])), "0 to 5, found -1 to 3 in the probe indices"),
        (changed(test=np.array([0, 1, 1, 2, 3, 4])), "once, found a repetition in the test"),
        (changed(gallery=np.array([0, 5])), "test images alone, found others in the gallery"),
        (changed(probe=np.array([0, 3, 4])), "no image in gallery and probe, found one in trial 1"),
        (changed(probe=np.array([1, 3])), r"impostor scores, found \(0,\)"),
        (changed(probe=np.array([4])), "whose person is in the gallery, found none"),
        (changed(test=np.array([True, False])), r"whole numbers, found bool\(2,\) in the test"),
        (trial([0, 2, 4], [0], [2]), "same and different pairs, found 0 and 3"),
    ],
)
def test_a_trial_that_does_not_fit_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        blufr(FEATURES, LABELS, [bad])


def test_features_that_cannot_be_scored_are_refused():
    for value, message in ((np.nan, "norm nan at row 2"), (0.0, r"norm 0.0 at row 2 \(1 rows")):
        bad = FEATURES.copy()
        bad[2] = value
        with pytest.raises(ValueError, match=message):
            blufr(bad, LABELS, [HAND])
    with pytest.raises(ValueError, match="features that differ, found 6 that all point one way"):
        blufr(np.outer(np.arange(1, 7), [1.0, 2.0]), LABELS, [HAND])
    with pytest.raises(ValueError, match=r"6 labels, one a feature, found \(5,\)"):
        blufr(FEATURES, LABELS[:5], [HAND])
    with pytest.raises(ValueError, match=r"shape \[images, dim\], found \(6,\)"):
        blufr(np.ones(6), LABELS, [HAND])
    with pytest.raises(ValueError, match="at least one trial, found none"):
        blufr(FEATURES, LABELS, [])
