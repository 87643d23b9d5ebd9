"""Templates: Ring loss' fusion by hand and by brute force, media pooling, 1:1 rates."""

import numpy as np
import pytest

from hyperface.metrics.roc import tar_at_far
from hyperface.protocols import templates as module
from hyperface.protocols.templates import (
    group_templates,
    score_matrix,
    template_scores,
    verify_templates,
)


def random_templates(rng, templates=30, dim=8):
    """(features, template, media): ids 50, 52, ...; 1 to 7 images in any order, of 3 media."""
    sizes = rng.integers(1, 8, templates)
    template = np.repeat(50 + 2 * np.arange(templates), sizes)
    order = rng.permutation(template.size)
    features = rng.standard_normal((template.size, dim)) * rng.uniform(0.1, 9, (template.size, 1))
    return features, template[order], rng.integers(0, 3, template.size)


def brute(cosines, gammas):
    """Ring loss, section 4, as printed."""
    return sum(
        np.sum(cosines * np.exp(gamma * cosines)) / np.sum(np.exp(gamma * cosines))
        for gamma in range(1, gammas + 1)
    )


def fused(features, template, one, other, gammas):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return brute(unit[template == one] @ unit[template == other].T, gammas)


def test_single_images_score_gammas_times_their_cosine(rng):
    features = rng.standard_normal((20, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    templates = group_templates(features, np.arange(20))
    first, second = rng.integers(0, 20, (2, 50))
    cosines = np.sum(unit[first] * unit[second], axis=1)
    for gammas in (1, 2, 8, 40):
        scores = template_scores(templates, first, second, gammas=gammas)
        np.testing.assert_allclose(scores, gammas * cosines, rtol=1e-12)


def test_two_images_against_one_by_hand():
    """Cosines 1 and 0: S = e / (e + 1) + e^2 / (e^2 + 1)."""
    templates = group_templates(np.array([[2.0, 0.0], [0.0, 3.0], [0.5, 0.0]]), [1, 1, 2])
    expected = np.e / (np.e + 1) + np.e**2 / (np.e**2 + 1)
    for ids in ([1], [2]), ([2], [1]):
        assert template_scores(templates, *ids, gammas=2).item() == pytest.approx(expected)
    mean = template_scores(templates, [1], [2], gammas=None)
    assert mean.item() == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("gammas", [2, 8])
def test_pairs_and_matrix_equal_the_printed_formula_in_any_blocks(rng, monkeypatch, block, gammas):
    monkeypatch.setattr(module, "BLOCK_COSINES", block)
    features, template, _ = random_templates(rng)
    templates = group_templates(features, template)
    ids = 50 + 2 * np.arange(30)
    probes, gallery = ids[rng.permutation(30)[:20]], ids[rng.permutation(30)[:12]]
    expected = [[fused(features, template, p, g, gammas) for g in gallery] for p in probes]
    found = score_matrix(templates, probes, gallery, gammas=gammas)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    rows, columns = rng.integers(0, 20, 70), rng.integers(0, 12, 70)
    scores = template_scores(templates, probes[rows], gallery[columns], gammas=gammas)
    np.testing.assert_allclose(scores, found[rows, columns], rtol=1e-12)


def test_many_gammas_stay_exact_in_float32():
    """The weights of a pair whose cosines are all -1 are the smallest there are."""
    features = np.array([[1, 0], [1, 0], [-1, 0], [-1, 0]], np.float32)
    templates = group_templates(features, [0, 0, 1, 1])
    assert template_scores(templates, [0], [1], gammas=40).item() == pytest.approx(-40, rel=1e-6)


def test_means_and_media(rng):
    features, template, media = random_templates(rng)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    plain, pooled = group_templates(features, template), group_templates(features, template, media)
    for position, one in enumerate(plain.ids):
        rows = template == one
        mean = unit[rows].mean(axis=0)
        np.testing.assert_allclose(plain.means()[position], mean / np.linalg.norm(mean))
        media_means = [unit[rows & (media == i)].mean(axis=0) for i in np.unique(media[rows])]
        media_means /= np.linalg.norm(media_means, axis=1, keepdims=True)
        own = slice(*pooled.starts[position : position + 2])
        np.testing.assert_allclose(pooled.features[own], media_means)
    expected = plain.means() @ plain.means().T
    found = score_matrix(plain, plain.ids, plain.ids, gammas=None)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert f"{len(unit)} images averaged within {len(pooled.features)} media" in pooled.steps[1]
    np.testing.assert_array_equal(pooled.ids, plain.ids)


def test_the_order_of_images_and_sides_changes_nothing(rng):
    features, template, media = random_templates(rng)
    order, (first, second) = rng.permutation(len(features)), 50 + 2 * rng.integers(0, 30, (2, 99))
    before = template_scores(group_templates(features, template, media), first, second)
    other = group_templates(features[order], template[order], media[order])
    np.testing.assert_allclose(template_scores(other, second, first), before, rtol=1e-12)


def test_rates_of_each_split(rng):
    """Templates of 40 people; perfect features accept all, random ones as many of both kinds."""
    person = np.repeat(np.arange(40), 3)
    template, first, second = np.arange(120), *rng.integers(0, 120, (2, 40_000))
    same, split = person[first] == person[second], np.arange(40_000) % 10
    perfect = group_templates(np.eye(40)[person], template)
    result = verify_templates(perfect, first, second, same, split)
    np.testing.assert_array_equal(result.rates.tar, 1.0)
    assert result.rates.unsupported() == [1e-6, 1e-5, 1e-4]
    assert result.steps[-1].endswith("at no false accept: 1e-06, 1e-05, 0.0001")
    assert "gamma = 1..8" in result.steps[2]
    features = rng.standard_normal((16_000, 4))
    chance = verify_templates(
        group_templates(features, np.arange(16_000)),
        *np.arange(16_000).reshape(2, -1),
        np.arange(8000) % 4 == 0,
        np.arange(8000) // 2000,
        gammas=2,
        fars=(0.01, 0.1),
    )
    for i, far in enumerate((0.01, 0.1)):
        assert chance.rates.tar[:, i].mean() == pytest.approx(far, abs=5 * np.sqrt(far / 2000))
    last = tar_at_far(chance.scores[6000:], np.arange(2000) % 4 == 0, 0.1)
    assert chance.rates.tar[3, 1] == last


def test_templates_that_cannot_be_scored_are_refused(rng):
    features, template, media = random_templates(rng)
    zero, nan = features.copy(), features.copy()
    zero[3], nan[1] = 0, np.nan
    for arguments, message in (
        ((zero, template), r"norm 0\.0 at row 3"),
        ((nan, template), "norm nan at row 1"),
        ((features, template[1:]), f"a template for each of {len(features)} images"),
        ((features, template, media[1:]), "columns of one length"),
        ((features, template.astype(str)), "whole numbers in template"),
        ((np.array([[1.0, 0], [-1, 0]]), [1, 1], [4, 4]), r"norm 0\.0 at row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            group_templates(*arguments)
    templates = group_templates(features, template)
    with pytest.raises(ValueError, match="every template to have features, found none for 51"):
        template_scores(templates, [50], [51])
    with pytest.raises(ValueError, match="found none for 7"):
        score_matrix(templates, [50], [52, 7])
    with pytest.raises(ValueError, match="columns of one length"):
        template_scores(templates, [50, 52], [50])
    for gammas in (0, 41):
        with pytest.raises(ValueError, match=f"gammas from 1 to 40, found {gammas}"):
            template_scores(templates, [50], [52], gammas=gammas)
    with pytest.raises(ValueError, match="same and different pairs in split 0, found 1 same of 1"):
        verify_templates(templates, [50], [50], [1], [0])
