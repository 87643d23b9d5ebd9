"""The reproduction's item on feature norms: a mixture of resolutions by hand, and its table."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hyperface.metrics.quality import ORDERS
from hyperface.reproduce import norms, papers
from hyperface.reproduce.item import Context


def made_up(rng, fade):
    """Features of 10 people at each factor: smaller images are noisier, and shorter by `fade`."""
    labels = np.repeat(np.arange(10), 8)
    directions = rng.standard_normal((10, 12))[labels]
    features = []
    for factor in norms.FACTORS:
        noisy = directions + 0.25 * factor**0.5 * rng.standard_normal(directions.shape)
        length = factor**-fade * (1 + 0.01 * rng.standard_normal((labels.size, 1)))
        features.append(noisy / np.linalg.norm(noisy, axis=1, keepdims=True) * length)
    return np.stack(features), labels, np.arange(labels.size) % len(norms.FACTORS)


def test_a_mixture_takes_each_image_at_its_resolution(rng):
    features, labels, chosen = made_up(rng, fade=0.5)
    found = norms.mixture(features, labels, chosen)
    mixed = np.stack([features[factor, image] for image, factor in enumerate(chosen)])
    own = np.linalg.norm(mixed, axis=1)
    factors = np.array(norms.FACTORS)[chosen]
    assert found.resolution == pytest.approx(spearmanr(own, -factors).statistic)
    assert found.resolution > 0.9
    assert found.quality.mean == pytest.approx(own.mean())
    for place, factor in enumerate(norms.FACTORS):
        expected = np.linalg.norm(features[place], axis=1).mean()
        assert found.by_factor[factor] == pytest.approx(expected)
    lowest, highest = (found.quality.curves[order].mean() for order in ORDERS[:2])
    assert lowest < found.quality.curves["random order"].mean() < highest
    nothing = norms.mixture(*made_up(rng, fade=0.0))
    assert abs(nothing.resolution) < 0.3


def test_each_loss_has_a_row_and_those_without_runs_say_so(rng, monkeypatch, tmp_path):
    context = Context(tmp_path, tmp_path, runs=tmp_path / "runs")
    for method, count in (("orl-softmax", 2), ("orl-magface", 1)):
        for seed in range(count):
            folder = norms.commands.folder(context.runs, method, seed)
            folder.mkdir(parents=True)
            (folder / norms.commands.TRAINED).write_text("{}")
    monkeypatch.setattr(norms, "measure", lambda *_: norms.mixture(*made_up(rng, fade=0.5)))
    (item,) = papers.items("ringloss", ("norm-as-quality",))
    assert set(item.runs) == set(norms.LOSSES.values())
    outcome, figures = papers.measurement(item)(context)
    assert set(outcome.missing) == {"NormFace", "softmax + Ring loss", "AdaFace"}
    assert len(figures) == 2
    values = {(entry.row, entry.column): entry.values for entry in outcome.entries}
    assert len(values["softmax", "correlation with resolution"]) == 2
    (share,) = values["MagFace", "mean refused, lowest norm first"]
    (oracle,) = values["MagFace", "mean refused, oracle"]
    assert 0 <= oracle < share < 1
    assert values["MagFace", "norm, area / 4, to that of whole images"] == pytest.approx(
        (0.5,), 0.05
    )
    assert "orl-softmax, 2 seeds; orl-magface, 1 seed" in outcome.scale


def test_no_refused_pair_gives_no_share():
    shares = norms._shares(np.array([0.0, 0.1]), np.array([0.0, 0.2]))
    np.testing.assert_array_equal(shares, [np.nan, 0.5])
