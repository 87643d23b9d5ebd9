"""Planted outliers are found exactly; blocks of any size equal brute force; lists; overlap."""

import numpy as np
import pytest

from hyperface.data.cleaning import (
    clean,
    squared_distances,
    unit,
    write_keep_list,
)
from hyperface.data.overlap import same_names, similar_people
from hyperface.errors import InputError
from hyperface.files import read_names


def people(rng, sizes, dim=16, noise=0.05, length=3.0):
    """Features around a random direction a class, shuffled, of random lengths."""
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = unit(rng.normal(size=(len(sizes), dim)))
    features = centres[labels] + noise * rng.normal(size=(labels.size, dim))
    return features * rng.uniform(1, length, (labels.size, 1)), labels


def in_blocks(features, labels, size):
    def start():
        for first in range(0, len(labels), size):
            yield features[first : first + size], labels[first : first + size]

    return start


# --------------------------------------------------------------------------------------- distances


def test_distances_by_hand():
    """Two classes on the axes: (2, 0) and (0, 1) have the mean (1/2, 1/2), each 1/2 from it."""
    features, labels = np.array([(2.0, 0), (0, 1), (0, -5)]), np.array([1, 1, 3])
    found = squared_distances(in_blocks(features, labels, 2), 4)
    np.testing.assert_allclose(found.images, [0.5, 0.5, 0])
    np.testing.assert_allclose(found.classes, [np.nan, 0.5, np.nan, 0])
    np.testing.assert_array_equal(found.counts, [0, 2, 0, 1])
    raw = squared_distances(in_blocks(features, labels, 2), 4, normalize=False)
    np.testing.assert_allclose(raw.images, [1.25, 1.25, 0])  # From (1, 1/2).


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("normalize", [True, False])
def test_any_blocks_give_the_brute_force_distances(rng, size, normalize):
    features, labels = people(rng, [30, 1, 0, 55, 17])
    used = unit(features) if normalize else features
    means = np.stack([used[labels == c].mean(0) if c != 2 else np.zeros(16) for c in range(5)])
    expected = np.sum((used - means[labels]) ** 2, axis=1)
    found = squared_distances(in_blocks(features, labels, size), 5, normalize=normalize)
    np.testing.assert_allclose(found.images, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.labels, labels)
    for c in (0, 1, 3, 4):
        assert found.classes[c] == pytest.approx(expected[labels == c].mean(), abs=1e-12)
        if normalize:  # Of unit vectors the mean squared distance is 1 - ||mean||^2.
            assert found.classes[c] == pytest.approx(1 - means[c] @ means[c], abs=1e-12)


def test_single_precision_and_an_empty_block_are_fine(rng):
    features, labels = people(rng, [20, 20])
    double = squared_distances(in_blocks(features, labels, 8), 2)

    def start():
        yield features[:0].astype(np.float32), labels[:0]
        yield from in_blocks(features.astype(np.float32), labels.astype(np.int32), 8)()

    np.testing.assert_allclose(squared_distances(start, 2).images, double.images, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.eye(3), [0, 1, 5], r"one label in \[0, 3\) per feature, found 5"),
        (np.eye(3), [0, -1, 1], r"found -1"),
        (np.eye(3), [0, 1], r"found shapes \(3, 3\), \(2,\)"),
        (np.eye(3) * [1, 0, 1], [0, 1, 2], r"above zero, found norm 0.0 at row 1 \(1 rows"),
        (np.eye(3) * [1, np.nan, 1], [0, 1, 2], r"found norm nan at row 0 \(3 rows"),
    ],
)
def test_features_without_a_distance_are_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        squared_distances(lambda: [(features, np.array(labels))], 3)


def test_a_stream_that_differs_or_is_empty_is_refused(rng):
    features, labels = people(rng, [5, 5])
    passes = iter([[(features, labels)], [(features[:8], labels[:8])]])
    with pytest.raises(ValueError, match="same 10 images from both passes, found 8"):
        squared_distances(lambda: next(passes), 2)
    with pytest.raises(ValueError, match="blocks of features, found none"):
        squared_distances(list, 2)
    with pytest.raises(ValueError, match="expected finite features"):
        squared_distances(lambda: [(features * np.inf, labels)], 2, normalize=False)


# ---------------------------------------------------------------------------------------- cleaning


def planted(rng):
    """Ten classes of 20; class 4 is a mix of people, and image 33 shows another person."""
    features, labels = people(rng, [20] * 10)
    features[labels == 4] = rng.normal(size=(20, 16))
    wrong = np.flatnonzero(labels != 4)[33]
    features[wrong] = -features[wrong]
    return features, labels, wrong


@pytest.mark.parametrize(
    "options",
    [
        {"class_threshold": 0.5, "image_threshold": 0.9},
        {"class_quantile": 0.9, "image_quantile": 179 / 180},
    ],
)
def test_a_planted_class_and_a_planted_image_are_dropped_and_nothing_else(rng, options):
    features, labels, wrong = planted(rng)
    found = clean(squared_distances(in_blocks(features, labels, 13), 10), **options)
    np.testing.assert_array_equal(np.flatnonzero(found.dropped_classes), [4])
    np.testing.assert_array_equal(found.keep, (labels != 4) & (np.arange(200) != wrong))


def test_thresholds_are_kept_and_quantiles_are_of_what_is_left():
    """Classes of distance 0, 1/2 and 1; a threshold that is met exactly keeps."""
    features = np.array([(1.0, 0), (1, 0), (1, 0), (0, 1), (1, 0), (-1, 0)])
    distances = squared_distances(lambda: [(features, np.array([0, 0, 1, 1, 3, 3]))], 4)
    np.testing.assert_allclose(distances.classes, [0, 0.5, np.nan, 1])
    assert clean(distances).keep.all()
    assert clean(distances, class_threshold=1.0, image_threshold=1.0).keep.all()
    for options in ({"class_threshold": 0.75}, {"class_quantile": 2 / 3}, {"image_threshold": 0.5}):
        assert clean(distances, **options).keep.tolist() == [True] * 4 + [False] * 2
    found = clean(distances, class_quantile=0.5, image_quantile=0.5)
    assert (found.class_threshold, found.image_threshold) == (0.5, 0.0)
    assert found.keep.tolist() == [True] * 2 + [False] * 4
    assert found.dropped_classes.tolist() == [False, False, False, True]
    assert not clean(distances, class_threshold=0, image_quantile=0.5).keep[2:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"class_threshold": 1.0, "class_quantile": 0.5},
            "class threshold or quantile, found both",
        ),
        ({"image_threshold": -1.0}, "image threshold of at least 0, found -1.0"),
        ({"class_threshold": np.nan}, "class threshold of at least 0, found nan"),
        ({"image_quantile": 0.0}, r"image quantile in \(0, 1\], found 0.0"),
        ({"class_quantile": 99.0}, r"class quantile in \(0, 1\], found 99.0"),
    ],
)
def test_impossible_thresholds_are_refused(rng, options, message):
    distances = squared_distances(in_blocks(*people(rng, [3, 3]), 6), 2)
    with pytest.raises(ValueError, match=message):
        clean(distances, **options)


# -------------------------------------------------------------------------------------- keep lists


def test_a_keep_list_comes_back_sorted(tmp_path):
    path = tmp_path / "keep.txt"
    write_keep_list(path, ["b/1.jpg", "é d/2.png", "a/10.jpg"])
    assert path.read_bytes() == "a/10.jpg\nb/1.jpg\né d/2.png\n".encode()
    assert read_names(path) == ["a/10.jpg", "b/1.jpg", "é d/2.png"]
    path.write_bytes(b"\xef\xbb\xbfb.jpg\r\n\r\na.jpg\r\n \r\n")  # By hand, on another system.
    assert read_names(path) == ["b.jpg", "a.jpg"]


def test_spaces_around_a_name_belong_to_it(tmp_path):
    path = tmp_path / "keep.txt"
    write_keep_list(path, [" anna/1.jpg", "bob /2"])
    assert read_names(path) == [" anna/1.jpg", "bob /2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"keep.txt: expected names, one per line, found none"),
        (b"\n \n", r"keep.txt: expected names, one per line, found none"),
        (b"a\n\nb\na\n", r"keep.txt:4: expected each name once, found 'a' as in line 1"),
        (b"\xff\n", r"keep.txt: expected UTF-8, found .*utf-8"),
        (None, r"keep.txt: expected a file of text, found none"),
    ],
)
def test_broken_keep_lists_are_refused(tmp_path, data, message):
    path = tmp_path / "keep.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_names(path)


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a\nb"], [" "], [""]])
def test_a_list_that_could_not_be_read_is_not_written(tmp_path, names):
    with pytest.raises(InputError, match=r"keep.txt.*expected"):
        write_keep_list(tmp_path / "keep.txt", names)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- overlap


def test_names_are_compared_without_case_accents_and_separators():
    train = ["Adam_Sandler", "Beyoncé Knowles", "0001", "Jean-Claude_Juncker", "Al_Gore", "a b"]
    test = [
        "adam sandler",
        "BEYONCE_KNOWLES",
        "0001",
        "Jean Claude Juncker",
        "Algore",
        "A_B",
        "a.b",
    ]
    assert same_names(["Peña_Nieto"], ["pena nieto"]) == [("Peña_Nieto", "pena nieto")]
    assert same_names(train, test) == [
        ("Adam_Sandler", "adam sandler"),
        ("Beyoncé Knowles", "BEYONCE_KNOWLES"),
        ("Jean-Claude_Juncker", "Jean Claude Juncker"),
        ("a b", "A_B"),
        ("a b", "a.b"),
    ]


def test_people_of_both_sets_are_found_by_their_features(rng, monkeypatch):
    monkeypatch.setattr("hyperface.data.overlap.BLOCK", 3)
    features, labels = people(rng, [12] * 10, dim=32)
    shared = (labels == 2) | (labels == 7)
    test = shared & (rng.random(120) < 0.5)
    test_features, test_labels = features[test], labels[test] + 100
    found = similar_people(features[~test], labels[~test], test_features, test_labels, 0.8)
    assert {(pair.train_person, pair.test_person) for pair in found} == {(2, 102), (7, 107)}
    assert found[0].similarity >= found[1].similarity
    for pair in found:
        one = unit(features[~test])[labels[~test] == pair.train_person]
        other = unit(test_features)[test_labels == pair.test_person]
        means = unit(np.stack([one.mean(0), other.mean(0)]))
        assert pair.similarity == pytest.approx(means[0] @ means[1])
        assert labels[~test][pair.train_image] == pair.train_person
        assert test_labels[pair.test_image] == pair.test_person
        best = unit(features[~test])[pair.train_image] @ unit(test_features)[pair.test_image]
        assert best == pytest.approx((one @ other.T).max())


def test_every_pair_is_reported_at_the_lowest_threshold_most_similar_first():
    train, test = np.array([(1.0, 0), (0, 2)]), np.array([(3.0, 4), (0, -1)])
    found = similar_people(train, np.array([5, 6]), test, np.array([0, 1]), -1.0)
    seen = [(pair.train_person, pair.test_person, round(pair.similarity, 6)) for pair in found]
    assert seen == [(6, 0, 0.8), (5, 0, 0.6), (5, 1, 0.0), (6, 1, -1.0)]
    assert len(similar_people(train, np.array([5, 6]), test, np.array([0, 1]), 0.6)) == 2


def test_people_of_the_same_name_are_reported_however_different(rng, monkeypatch):
    monkeypatch.setattr("hyperface.data.overlap.BLOCK", 3)
    features, labels = people(rng, [4] * 8, dim=32)
    train, test = labels < 6, labels >= 5
    both = features[train], labels[train] * 10, features[test], labels[test] * 10
    named = [(0, 60), (40, 70), (50, 50)]
    found = similar_people(*both, 0.9, named)
    pairs = [(pair.train_person, pair.test_person) for pair in found]
    assert pairs[0] == (50, 50)  # By its features too, and reported once.
    assert sorted(pairs) == named
    assert found[0].similarity > 0.9 > found[1].similarity >= found[2].similarity


@pytest.mark.parametrize("threshold", [1.5, np.nan])
def test_a_threshold_that_is_no_cosine_is_refused(threshold):
    with pytest.raises(ValueError, match="expected a cosine"):
        similar_people(np.eye(2), np.arange(2), np.eye(2), np.arange(2), threshold)
