"""The reproduction's item on feature norms: what is measured by hand, and its table."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hyperface.reproduce import norms, papers
from hyperface.reproduce.item import Context


def made_up(rng, fade=0.5):
    """Features and labels of 10 people by factor: smaller images are noisier and shorter."""
    labels = np.repeat(np.arange(10), 8)
    directions = rng.standard_normal((10, 12))[labels]
    for factor in norms.FACTORS:
        noise = rng.uniform(0.2, 1.5, (labels.size, 1))
        noisy = directions + noise * rng.standard_normal(directions.shape)
        length = factor**-fade / (1 + noise)
        yield factor, noisy / np.linalg.norm(noisy, axis=1, keepdims=True) * length, labels


def test_norms_are_measured_over_all_pairs(rng):
    _, features, labels = next(made_up(rng))
    found = norms.of_all_pairs(features, labels)
    own = np.linalg.norm(features, axis=1)
    assert found.mean == pytest.approx(own.mean())
    first, second = np.triu_indices(labels.size, 1)
    same = labels[first] == labels[second]
    cosines = np.sum(features[first] * features[second], axis=1) / (own[first] * own[second])
    smaller = np.minimum(own[first], own[second])
    expected = spearmanr(smaller[same], cosines[same]).statistic
    assert found.genuine == pytest.approx(expected)
    assert found.genuine > 0.3


def test_each_loss_has_a_row_and_those_without_runs_say_so(rng, monkeypatch, tmp_path):
    context = Context(tmp_path, tmp_path, runs=tmp_path / "runs")
    for method, count in (("orl-softmax", 2), ("orl-magface", 1)):
        for seed in range(count):
            folder = norms.commands.folder(context.runs, method, seed)
            folder.mkdir(parents=True)
            (folder / norms.commands.TRAINED).write_text("{}")

    def made():
        return {factor: norms.of_all_pairs(*some) for factor, *some in made_up(rng)}

    monkeypatch.setattr(norms, "measure", lambda *_: made())
    (item,) = papers.items("ringloss", ("norm-as-quality",))
    assert set(item.runs) == set(norms.LOSSES.values())
    outcome, figures = papers.measurement(item)(context)
    assert set(outcome.missing) == {"NormFace", "softmax + Ring loss", "AdaFace"}
    assert len(figures) == 2
    values = {(entry.row, entry.column): entry.values for entry in outcome.entries}
    assert len(values["softmax", "correlation, genuine"]) == 2
    (share,) = values["MagFace", "mean refused, lowest norm first"]
    (oracle,) = values["MagFace", "mean refused, oracle"]
    assert 0 <= oracle < share < 1
    ratio = values["MagFace", "mean norm, area / 16, to that before"]
    assert ratio == pytest.approx((0.25,), rel=0.1)
    assert "orl-softmax, 2 seeds; orl-magface, 1 seed" in outcome.scale


def test_no_refused_pair_gives_no_share():
    shares = norms._shares(np.array([0.0, 0.1]), np.array([0.0, 0.2]))
    np.testing.assert_array_equal(shares, [np.nan, 0.5])
