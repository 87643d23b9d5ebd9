"""The feature norm as quality: curves and correlations by hand, by brute force and by protocols."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from named_people import PLAIN, write_lists
from scipy.stats import spearmanr

from hyperface.errors import InputError
from hyperface.metrics.quality import ORDERS, discard_curve, norm_quality, spearman
from hyperface.metrics.verification import Pairs
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures, read_features
from hyperface.protocols.image_quality import norms_as_quality
from hyperface.protocols.result import Result
from hyperface.report.quality import discard_curves, quality_table
from hyperface.runs import evaluate


def by_all_orders(refused, quality):
    """The mean curve over every order of the pairs in which quality never falls."""
    curves = []
    for order in itertools.permutations(range(len(refused))):
        if all(quality[i] <= quality[j] for i, j in itertools.pairwise(order)):
            curves.append([np.mean([refused[i] for i in order[k:]]) for k in range(len(order))])
    return np.mean(curves, axis=0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=6))
def test_ties_are_left_out_in_random_order(pairs):
    refused, quality = map(list, zip(*pairs, strict=True))
    curve = discard_curve(refused, quality)
    np.testing.assert_allclose(curve.refused, by_all_orders(refused, quality), atol=1e-12)
    np.testing.assert_allclose(curve.left_out, np.arange(len(pairs)) / len(pairs))


def test_curves_by_hand():
    falls = discard_curve([True, True, False, False], [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(falls.refused, [1 / 2, 1 / 3, 0, 0])
    # Trapezoids from 0 to 1/4 and on to 1/2, over 1/2.
    assert falls.mean(0.5) == pytest.approx((1 / 2 + 1 / 3) / 4 + (1 / 3) / 4)
    assert falls.at(0.125) == pytest.approx(5 / 12)
    rises = discard_curve([True, True, False, False], [4.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(rises.refused, [1 / 2, 2 / 3, 1, 1])
    equal = discard_curve([True, False, False, False], np.full(4, 7.0))
    np.testing.assert_allclose(equal.refused, 0.25)
    assert equal.mean() == pytest.approx(0.25)
    single = discard_curve([True], [3.0])
    assert (single.refused.tolist(), single.mean()) == ([1.0], 1.0)
    assert not discard_curve([False] * 5, np.arange(5)).refused.any()


@pytest.mark.parametrize(
    ("refused", "quality", "message"),
    [
        ([], [], r"\[pairs\] quality scores, found \(0,\)"),
        ([True], [1.0, 2.0], "a quality for each of 1 genuine pairs"),
        ([True, False], [1.0, np.nan], "finite scores"),
        ([2, 0], [1.0, 2.0], "same to be 0 or 1"),
    ],
)
def test_curves_refuse(refused, quality, message):
    with pytest.raises(ValueError, match=message):
        discard_curve(refused, quality)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_spearman_is_the_correlation_of_mean_ranks(values):
    one, other = zip(*values, strict=True)
    found = spearman(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert np.isnan(found)
    else:
        ranks = [[sum((y < x) + (y == x) / 2 for y in side) for x in side] for side in (one, other)]
        assert found == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    with pytest.raises(ValueError, match="two lists of one length"):
        spearman(one, other[1:])


def people_of_unequal_quality(rng, people=40, images=6):
    """Images whose features are the noisier the shorter they are."""
    quality = rng.uniform(0.3, 3.0, people * images)
    directions = np.repeat(rng.standard_normal((people, 16)), images, axis=0)
    noisy = directions + rng.standard_normal(directions.shape) / quality[:, None]
    features = noisy / np.linalg.norm(noisy, axis=1, keepdims=True) * quality[:, None]
    names = [f"p{p:02}/{i}.png" for p in range(people) for i in range(images)]
    return NamedFeatures(names, features.astype(np.float32), ("made up",))


def all_pairs_of(named):
    first, second = np.triu_indices(len(named.names), 1)
    person = np.array([name[:3] for name in named.names])
    return Pairs(first, second, person[first] == person[second])


def test_every_number_by_another_way(rng):
    named = people_of_unequal_quality(rng)
    pairs = all_pairs_of(named)
    x = np.asarray(named.features, np.float64)
    norms = np.sqrt((x * x).sum(1))
    scores = (x @ x.T / np.outer(norms, norms))[pairs.first, pairs.second]
    found = norm_quality(norms, pairs, scores, far=0.01)

    impostors = sorted(scores[~pairs.same])[::-1]
    refused = scores[pairs.same] <= impostors[len(impostors) // 100]
    smaller = np.minimum(norms[pairs.first], norms[pairs.second])
    rising = refused[np.argsort(smaller[pairs.same])]
    for share in (0.0, 0.1, 0.3, 0.5):
        k = int(share * rising.size)
        assert found.curves[ORDERS[0]].at(share) == pytest.approx(rising[k:].mean())
        assert found.curves[ORDERS[1]].at(share) == pytest.approx(rising[: rising.size - k].mean())
        assert found.curves[ORDERS[2]].at(share) == pytest.approx(rising.mean())
        best = max(0, rising.sum() - k) / (rising.size - k)
        assert found.curves[ORDERS[3]].at(share) == pytest.approx(best)
    lowest, highest, random, oracle = (found.curves[order].mean() for order in ORDERS)
    assert oracle < lowest < random < highest
    assert found.genuine == pytest.approx(
        spearmanr(smaller[pairs.same], scores[pairs.same]).statistic
    )
    assert found.impostor == pytest.approx(
        spearmanr(smaller[~pairs.same], scores[~pairs.same]).statistic
    )
    assert (found.mean, found.deviation) == pytest.approx((norms.mean(), norms.std()))


def test_what_cannot_be_measured_is_refused_or_left_out(rng):
    named = people_of_unequal_quality(rng, people=4, images=2)
    pairs = all_pairs_of(named)
    scores = rng.standard_normal(pairs.same.size)
    norms = named.image_norms()
    for far in (0.001, 0.0):
        with pytest.raises(ValueError, match=rf"FAR of at least 0.0417, .*24.*, found {far:g}"):
            norm_quality(norms, pairs, scores, far=far)
    with pytest.raises(ValueError, match="first from 0 to 5"):
        norm_quality(norms[:6], pairs, scores, far=0.1)
    with pytest.raises(ValueError, match="finite scores"):
        norm_quality(np.where(norms > 1, np.inf, norms), pairs, scores, far=0.1)
    found, steps = norms_as_quality(named, pairs, scores)
    assert found.far == 0.1  # The lowest rate that 24 different pairs support.
    assert "FAR 10 %" in steps[0]
    unit = named._replace(features=named.features / norms[:, None])
    found, steps = norms_as_quality(unit, pairs, scores)
    assert found is None
    assert "all features have one length" in steps[0]
    few = Pairs(*(side[pairs.same | (np.cumsum(~pairs.same) < 9)] for side in pairs))
    found, steps = norms_as_quality(named, few, scores[: few.same.size])
    assert found is None
    assert "10 different pairs are needed" in steps[0]


def test_norms_are_those_without_mirror_images(rng, tmp_path):
    """`hyperface embed` stores them beside merged features, and they go with the rows."""
    named = people_of_unequal_quality(rng, people=3, images=2)
    norms = rng.uniform(1, 9, 6)
    path = tmp_path / "features.npz"
    np.savez(path, names=np.array(named.names), features=named.features, norms=norms)
    read = read_features(path)
    np.testing.assert_array_equal(read.image_norms(), norms)
    np.testing.assert_array_equal(read.take(np.array([4, 1])).image_norms(), norms[[4, 1]])
    np.testing.assert_allclose(
        named.image_norms(), np.linalg.norm(named.features.astype(float), axis=1)
    )
    for wrong in (norms[:5], np.where(norms > 5, 0.0, norms), norms[:, None]):
        np.savez(path, names=np.array(named.names), features=named.features, norms=wrong)
        with pytest.raises(InputError, match="norm above zero for each of 6 images in 'norms'"):
            read_features(path)


def test_protocols_report_it(rng, tmp_path):
    named = people_of_unequal_quality(rng)
    protocol = registry.find("folder")
    found = protocol.score(named, [], PLAIN)
    assert found.quality.curves[ORDERS[0]].at(0.3) < found.quality.curves[ORDERS[0]].at(0)
    record = found.record()["quality"]
    assert record["genuine pairs refused"][ORDERS[0]][30] == found.quality.curves[ORDERS[0]].at(0.3)
    assert len(record["left out"]) == 51
    json.dumps(record, allow_nan=False)
    table = quality_table("People", found.quality)
    assert [row[0] for row in table.rows] == list(ORDERS)
    assert len(discard_curves(found.quality).axes[0].lines) == 4
    assert "quality" in Result("x", {}, ()).record()


def test_norms_against_resolution_by_command(tiny_data, tmp_path, capsys):
    images = [f"person{p}/{i}.png" for p in (6, 7, 8, 9) for i in range(8)]
    same = [f"{a},{b},1" for a, b in itertools.combinations(images, 2) if a[:7] == b[:7]][:40]
    other = [f"{a},{b},0" for a, b in itertools.combinations(images, 2) if a[:7] != b[:7]][::3]
    write_lists(tmp_path, {"pairs.csv": ["first,second,same", *same, *other]})
    evaluate.main(
        ["pixels", "--protocol", "pairs", "--dataset", "tiny", "--data-dir", str(tiny_data),
         "--pairs", str(tmp_path / "pairs.csv"), "--preset", "plain", "--folds", "4",
         "--resolution", "1", "16", "--out", str(tmp_path / "out")]
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "Pairs of tiny: feature norm as quality" in shown
    assert "Feature norm against resolution" in shown
    assert "Pairs of tiny, area / 16" in shown.split("Feature norm against resolution")[1]
    assert (tmp_path / "out/figures/pairs-quality.png").exists()
    page = (tmp_path / "out/evaluation.html").read_text()
    assert "Feature norm as quality: Pairs of tiny, area / 16" in page
    record = json.loads((tmp_path / "out/evaluation.json").read_text())["protocols"]
    assert record["pairs"]["quality"]["far"] == 0.01
