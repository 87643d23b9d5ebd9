"""Video pairs: frame similarities and the histogram kernel by hand and by brute force."""

import numpy as np
import pytest
from sklearn.svm import SVC

from hyperface.metrics.svm import histogram_intersection, kernel_decisions
from hyperface.protocols.frames import (
    BINS,
    RULES,
    group_frames,
    verify_videos,
    video_similarities,
)


def random_videos(rng, videos=40, dim=16, pairs=80, folds=4, signal=1.0):
    """Arguments of verify_videos: ten people, ids 100, 103, ..., 1 to 9 frames."""
    frames = rng.integers(1, 10, videos)
    video = np.repeat(100 + 3 * np.arange(videos), frames)
    people = signal * rng.standard_normal((10, dim))
    features = people[np.repeat(np.arange(videos) % 10, frames)]
    features = features + rng.standard_normal(features.shape) + 2.0
    same = np.arange(pairs) % 2 == 0
    one = rng.integers(0, videos, pairs)
    other = (one + np.where(same, 10, 7) * rng.integers(1, 4, pairs)) % videos
    order = rng.permutation(video.size)
    fold = np.arange(pairs) * folds // pairs
    return features[order], video[order], 100 + 3 * one, 100 + 3 * other, same, fold


def matrix(features, video, one, other, mean=0.0):
    """Cosines of every frame of one video with every frame of the other."""
    unit = features - mean
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return unit[video == one] @ unit[video == other].T


def test_similarities_are_those_of_the_whole_matrix(rng):
    features, video, first, second, *_ = random_videos(rng)
    mean = features.mean(axis=0)
    found = video_similarities(group_frames(features, video), first, second, mean=mean)
    edges = np.linspace(-1, 1, BINS + 1)
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        cosines = matrix(features, video, one, other, mean)
        assert found.mean[pair] == pytest.approx(cosines.mean())
        assert found.max[pair] == pytest.approx(cosines.max())
        counts, _ = np.histogram(cosines, edges)
        np.testing.assert_allclose(found.histogram[pair], counts / cosines.size)


def test_a_histogram_by_hand():
    """Frames at 0, 90 and 180 degrees against one at 0: cosines 1, 0 and -1."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [5.0, 0.0]], np.float32)
    found = video_similarities(group_frames(features, [1, 1, 1, 2]), [1], [2])
    expected = np.zeros(BINS)
    expected[[0, 50, 99]] = 1 / 3
    np.testing.assert_allclose(found.histogram, [expected])
    np.testing.assert_allclose([found.mean, found.max], [[0.0], [1.0]], atol=1e-7)


def test_the_kernel_by_hand():
    a = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    b = np.array([[0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.5, 0.0, 0.5]])
    expected = [[0.1 + 0.3 + 0.2, 1.0, 0.5 + 0.0 + 0.2], [0.6, 0.3, 0.0]]
    np.testing.assert_allclose(histogram_intersection(a, b), expected, atol=1e-15)


def test_the_kernel_of_random_histograms(rng):
    a, b = rng.dirichlet(np.ones(30), 20), rng.dirichlet(np.ones(30), 15)
    found = histogram_intersection(a, b)
    np.testing.assert_allclose(found, np.minimum(a[:, None], b[None]).sum(axis=2), atol=1e-14)
    np.testing.assert_allclose(np.diag(histogram_intersection(a, a)), 1.0)
    with pytest.raises(ValueError, match=r"two \[rows, bins\] arrays, found \(20, 30\)"):
        histogram_intersection(a, b[:, 1:])
    with pytest.raises(ValueError, match="shares of at least 0"):
        histogram_intersection(a, -b)


def test_decisions_are_those_of_a_kernel_machine_on_the_other_folds(rng):
    histograms, same = rng.dirichlet(np.ones(8), 60), rng.random(60) < 0.5
    histograms[same, 0] += 0.2
    test = np.arange(60) < 15

    def intersection(a, b):
        return np.minimum(a[:, None], b[None]).sum(axis=2)

    machine = SVC(kernel=intersection).fit(histograms[~test], same[~test])
    found = kernel_decisions(histogram_intersection(histograms, histograms), same, test)
    # libsvm stops within 1e-3 of the optimum, and the released code does not shrink.
    np.testing.assert_allclose(found, machine.decision_function(histograms[test]), atol=5e-3)


@pytest.mark.parametrize("subtract_mean", [True, False])
def test_folds_by_brute_force(rng, subtract_mean):
    features, video, first, second, same, fold = random_videos(rng)
    result = verify_videos(features, video, first, second, same, fold, subtract_mean=subtract_mean)
    for i in range(4):
        rest, mean = fold != i, 0.0
        if subtract_mean:
            uses = np.concatenate([first[rest], second[rest]])
            mean = np.mean([features[video == use].mean(axis=0) for use in uses], axis=0)
        for pair in np.flatnonzero(~rest):
            cosines = matrix(features, video, first[pair], second[pair], mean)
            assert result.scores["mean"][pair] == pytest.approx(cosines.mean())
            assert result.scores["max"][pair] == pytest.approx(cosines.max())
        decided = result.scores["histogram"][~rest] > 0
        right = [np.mean(decided[same[~rest] == kind] == kind) for kind in (False, True)]
        assert result.folds["histogram"].accuracy[i] == pytest.approx(np.mean(right))
    assert tuple(result.folds) == tuple(result.scores) == RULES
    expected = "pairs subtracted (duplicates kept)" if subtract_mean else "no mean subtracted"
    assert expected in result.steps[1]
    assert f"80 video pairs (40 same) of 40 videos with {len(features)} frames" in result.steps[0]


def test_perfect_videos_score_one_and_random_ones_a_half(rng):
    *_, first, second, same, fold = random_videos(rng, pairs=400)
    video = np.repeat(100 + 3 * np.arange(40), 3)
    perfect = np.eye(10)[np.repeat(np.arange(40) % 10, 3)]
    for threshold in ("accuracy", "svm"):
        result = verify_videos(perfect, video, first, second, same, fold, threshold=threshold)
        assert {rule: folds.mean for rule, folds in result.folds.items()} == dict.fromkeys(RULES, 1)
    video = np.arange(800)
    first, second = video.reshape(2, 400)
    chance = verify_videos(rng.standard_normal((800, 8)), video, first, second, same, fold)
    for rule in RULES:
        assert chance.folds[rule].mean == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 400))


def test_the_histogram_sees_what_mean_and_maximum_do_not(rng):
    """Same pairs have cosines 1 and 0 in equal shares, different ones 1, 0.5 and 0."""
    angles = np.where(np.arange(400)[:, None] % 2 == 0, [0, 0, 90, 90], [0, 60, 60, 90])
    angles = np.deg2rad(np.concatenate([np.zeros((400, 4)), angles]))
    features = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, 2)
    video, pair = np.repeat(np.arange(800), 4), np.arange(400)
    same, fold = pair % 2 == 0, pair // 100
    result = verify_videos(features, video, pair, pair + 400, same, fold, subtract_mean=False)
    assert result.folds["histogram"].mean == 1.0
    assert result.folds["max"].mean < 0.8


def test_the_order_of_frames_pairs_and_sides_changes_nothing(rng):
    features, video, first, second, same, fold = random_videos(rng)
    frames, pairs = rng.permutation(video.size), rng.permutation(80)
    before = verify_videos(features, video, first, second, same, fold)
    after = verify_videos(
        features[frames], video[frames], second[pairs], first[pairs], same[pairs], fold[pairs]
    )
    for rule in ("mean", "max"):
        np.testing.assert_allclose(after.scores[rule], before.scores[rule][pairs], atol=1e-12)
        np.testing.assert_array_equal(after.folds[rule].accuracy, before.folds[rule].accuracy)
    # libsvm's answer depends on the order within its tolerance.
    decisions = after.scores["histogram"], before.scores["histogram"][pairs]
    np.testing.assert_allclose(*decisions, atol=2e-2)


@pytest.mark.parametrize(("subtract_mean", "total"), [(True, 400), (False, 80)])
def test_progress_counts_every_pass_and_there_is_no_other(rng, monkeypatch, subtract_mean, total):
    calls, passes = [], []

    def counted(*arguments, **options):
        passes.append(options["progress"])
        return video_similarities(*arguments, **options)

    monkeypatch.setattr("hyperface.protocols.frames.video_similarities", counted)
    features, video, *pairs = random_videos(rng)
    result = verify_videos(
        features,
        video,
        *pairs,
        subtract_mean=subtract_mean,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert len(passes) == total // 80
    plain = video_similarities(group_frames(features, video), *pairs[:2])
    np.testing.assert_array_equal(result.histograms, plain.histogram)


def test_videos_that_cannot_be_compared_are_refused(rng):
    data = features, video, _, second, same, fold = random_videos(rng)
    names = ("features", "video", "first", "second", "same", "fold")
    zero, nan = features.copy(), features.copy()
    zero[4], nan[2, 0] = 0, np.nan
    for changes, message in (
        ({"features": zero}, r"norm 0\.0 at row 4"),
        ({"features": nan}, "norm nan at row 2"),
        ({"features": features[:, 0]}, r"features \[frames, dim\]"),
        ({"video": video[1:]}, f"a video for each of {video.size} frames, found {video.size - 1}"),
        ({"second": second + 1}, "every video to have features, found none for"),
        ({"first": second[1:]}, "columns of one length"),
        ({"same": same & (fold > 0)}, "same and different pairs in fold 0, found 0 same of 20"),
        ({"threshold": "best"}, "one of accuracy, accuracy-mean, svm, found best"),
    ):
        with pytest.raises(ValueError, match=message):
            verify_videos(**dict(zip(names, data, strict=True)) | changes)
    with pytest.raises(ValueError, match=r"norm 0\.0 at row 0"):  # A frame equal to the mean.
        video_similarities(group_frames(np.eye(2), [1, 2]), [1], [2], mean=np.array([1.0, 0.0]))
