"""Verification of one's own people: halves of people, pairs, and every number by another way."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperface.errors import InputError
from hyperface.evaluate import calibration_file
from hyperface.metrics.threshold import TOO_FEW
from hyperface.protocols import folder, registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.folder import pairs_of, split_people
from hyperface.protocols.protocol import Settings
from hyperface.report.calibration import threshold_table
from hyperface.runs import evaluate, verify


def people_of_several_sizes(rng, sizes=(5, 4, 6, 1, 3, 1, 5, 2, 4, 1, 3, 4), noise=0.9):
    names = [f"p{p:02}/{i}.png" for p, size in enumerate(sizes) for i in range(size)]
    person = [p for p, size in enumerate(sizes) for _ in range(size)]
    directions = rng.standard_normal((len(sizes), 12))[person]
    features = directions + noise * rng.standard_normal(directions.shape)
    order = rng.permutation(len(names))
    return NamedFeatures([names[i] for i in order], features[order], ("made up",))


def score(named, **settings):
    protocol = registry.find("folder")
    return protocol.score(named, protocol.files(None), Settings(**settings))


def by_hand(named, people):
    """Scores and kinds of all pairs of some people, without the package."""
    rows = [i for i, name in enumerate(named.names) if name.split("/")[0] in people]
    scores, same = [], []
    for i, j in itertools.combinations(rows, 2):
        a, b = named.features[i], named.features[j]
        scores.append(a @ b / np.sqrt(a @ a * (b @ b)))
        same.append(named.names[i].split("/")[0] == named.names[j].split("/")[0])
    return np.array(scores), np.array(same)


def test_every_number_by_another_way(rng):
    named = people_of_several_sizes(rng)
    found = score(named, bootstrap=50)
    calibrate = set(found.details["people who calibrate"])
    others = {name.split("/")[0] for name in named.names} - calibrate
    fitted, kinds = by_hand(named, calibrate)
    scores, same = by_hand(named, others)
    figures = {name.removesuffix(TOO_FEW): figure.value for name, figure in found.figures.items()}

    cuts = np.sort(fitted)
    cuts = (cuts[1:] + cuts[:-1]) / 2
    balanced = [np.mean(fitted[kinds] >= c) + np.mean(fitted[~kinds] < c) for c in cuts]
    best = cuts[np.isclose(balanced, max(balanced))]
    threshold = best[best.size // 2]
    accuracy = (np.mean(scores[same] >= threshold) + np.mean(scores[~same] < threshold)) / 2
    assert figures["accuracy"] == pytest.approx(accuracy)
    wins = scores[same][:, None] - scores[~same]
    assert figures["AUC"] == pytest.approx(np.mean(wins > 0))
    for far in (0.1, 0.01):
        falling = np.sort(scores[~same])[::-1]
        tar = np.mean(scores[same] > falling[int(far * falling.size)])
        assert figures[f"TAR at FAR {100 * far:g} %"] == pytest.approx(tar)
    rates = [(np.mean(scores[~same] >= c), np.mean(scores[same] < c)) for c in np.unique(scores)]
    nearest = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    assert figures["EER"] == pytest.approx(np.mean(nearest), abs=1 / same.sum())

    for point in found.calibration.points:
        falling, rising = np.sort(fitted[~kinds])[::-1], np.sort(fitted[kinds])
        refused, kept = (k[int(point.far * k.size)] for k in (falling, rising))
        assert np.nextafter(refused, 2) == pytest.approx(point.threshold)
        assert np.nextafter(kept, -2) == pytest.approx(point.reject_threshold)
        assert point.measured_far == np.mean(scores[~same] > refused)
        assert point.measured_tar == np.mean(scores[same] > refused)
        said = (scores <= refused) & (scores < kept)
        assert point.measured_frr == pytest.approx(np.mean(said[same]))
    assert found.counts == {
        "same pairs": [kinds.sum(), same.sum()],
        "different pairs": [(~kinds).sum(), (~same).sum()],
    }


def test_nobody_is_in_both_halves_and_the_seed_decides(rng):
    named = people_of_several_sizes(rng)
    halves = [score(named, bootstrap=0, seed=seed) for seed in (0, 0, 1)]
    calibrate = [set(found.details["people who calibrate"]) for found in halves]
    assert calibrate[0] == calibrate[1] != calibrate[2]
    tested = {h.first.split("/")[0] for h in (*halves[0].false_accepts, *halves[0].false_rejects)}
    assert not tested & calibrate[0]
    assert halves[0].figures == halves[1].figures
    shuffled = [named._replace(names=named.names[::-1], features=named.features[::-1])]
    assert score(shuffled[0], bootstrap=0).figures == halves[0].figures


@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.integers(1, 40))
def test_pairs_are_all_pairs_or_a_sample_of_them(sizes, most):
    people = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(len(sizes))
    rng.shuffle(people)
    rows = np.sort(rng.permutation(people.size)[: max(2, people.size - 2)])
    half = pairs_of(people, rows, most)
    listed = list(zip(half.pairs.first.tolist(), half.pairs.second.tolist(), strict=True))
    unordered = {frozenset(pair) for pair in listed}
    assert len(unordered) == len(listed)  # No pair twice, and none of an image with itself.
    every = {frozenset(pair) for pair in itertools.combinations(rows.tolist(), 2)}
    same = {pair for pair in every if len({people[i] for i in pair}) == 1}
    assert half.available == (len(same), len(every - same))
    for kind, of in ((True, same), (False, every - same)):
        found = {frozenset(p) for p, k in zip(listed, half.pairs.same, strict=True) if k == kind}
        assert found <= of
        assert len(found) == min(most, len(of))


def test_a_sample_of_many_pairs_needs_no_list_of_all_of_them():
    people = np.repeat(np.arange(50), 2000)  # 5 thousand million pairs.
    half = pairs_of(people, np.arange(people.size), most=1000)
    assert half.pairs.same.sum() == np.sum(~half.pairs.same) == 1000
    np.testing.assert_array_equal(
        people[half.pairs.first] == people[half.pairs.second], half.pairs.same
    )
    shown = half.pairs.first[half.pairs.same] // 2000
    assert np.unique(shown).size == 50  # From everywhere.


def test_people_with_several_images_are_dealt_apart():
    people = np.concatenate([np.repeat(np.arange(6), 3), np.arange(6, 16)])
    for seed in range(5):
        first = split_people(people, seed)
        assert first[:6].sum() == 3
        assert first[6:].sum() == 5


def test_intervals_hold_their_figures_and_few_people_are_warned_of(rng):
    found = score(people_of_several_sizes(rng), bootstrap=100)
    assert set(found.intervals) == set(found.figures) - {"AUC"}
    for name, (low, high) in found.intervals.items():
        assert 0 <= low <= found.figures[name].value <= high <= 1
    assert any("WARNING: the test half has 6 people" in step for step in found.steps)
    assert not score(people_of_several_sizes(rng), bootstrap=0).intervals


def test_the_measured_far_has_limits_over_people(rng):
    """By draws of people that are taken here again, with the pairs written out one by one."""
    named = people_of_several_sizes(rng, sizes=(4,) * 24, noise=1.6)
    found = score(named, bootstrap=60)
    people = sorted(
        {name.split("/")[0] for name in named.names} - set(found.details["people who calibrate"])
    )
    unit = named.features / np.linalg.norm(named.features, axis=1, keepdims=True)
    of = {p: [i for i, n in enumerate(named.names) if n.startswith(f"{p}/")] for p in people}
    draws = np.random.default_rng(0)
    drawn = [draws.integers(len(people), size=len(people)) for _ in range(60)]
    seen = 0
    for point in found.calibration.points:
        if not point.measured_far:
            assert point.measured_far_low is point.measured_far_high is None
            continue
        fars = []
        for chosen in drawn:
            scores = [
                unit[i] @ unit[j]
                for a, b in itertools.combinations(chosen.tolist(), 2)
                if a != b
                for i in of[people[a]]
                for j in of[people[b]]
            ]
            fars.append(np.mean(np.array(scores) >= point.threshold))
        low, high = np.quantile(fars, [0.025, 0.975])
        assert (point.measured_far_low, point.measured_far_high) == pytest.approx((low, high))
        assert low <= point.measured_far <= high
        seen += 1
    assert seen >= 2
    table = threshold_table("x", found.calibration)
    assert table.header[4] == "95 % over people"
    assert " to " in table.rows[0][4]
    without = threshold_table("x", score(named, bootstrap=0).calibration)
    assert "95 % over people" not in without.header
    stored = calibration_file.store(found.calibration, model="m", mirror="none", protocol="p")
    record = json.loads(stored.to_text())
    assert calibration_file.from_dict(record, "here") == stored
    low, high = (100 * limit for limit in (stored.points[0][-2:]))
    shown = verify._about(stored.points[0], stored)
    assert f"({low:.2f} to {high:.2f} % in 95 % of resamples of the people), TAR" in shown
    # A file that was written without limits is read too.
    for point in record["thresholds"]:
        del point["measured_far_low"], point["measured_far_high"]
    read = calibration_file.from_dict(record, "here")
    assert read.points[0] == stored.points[0]._replace(
        measured_far_low=None, measured_far_high=None
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1", "a/2", "b/1", "b/2", "c/1"], "at least four people.*found 3 people, 2 of them"),
        (["a/1", "b/1", "c/1", "d/1"], "found 4 people, 0 of them with several"),
        (["a/1", "b/1", "c/1", "d.png"], "names person/file, .* found 'd.png'"),
    ],
)
def test_too_few_people_are_refused(names, message, rng):
    with pytest.raises(InputError, match=f"folder: expected .*{message}"):
        score(NamedFeatures(names, rng.standard_normal((len(names), 4))))
    if "four" in message:
        enough = [*names, "d/1"]
        score(NamedFeatures(enough, rng.standard_normal((6, 4))), bootstrap=0)


def test_the_command_writes_pictures_and_thresholds(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder, "RESAMPLES", 20)
    command = ["--protocol", "folder", "--dataset", "tiny", "--data-dir", str(tiny_data)]
    evaluate.main(["pixels", *command, "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "Identity folders of tiny: thresholds" in shown
    assert "95 % over people" in shown
    assert f"Thresholds: {tmp_path}/calibration.json" in shown
    for name in ("roc", "similarities-folder", "folder-reliability"):
        assert (tmp_path / f"figures/{name}.png").exists()
    assert not (tmp_path / "figures/det.png").exists()  # No pair is decided wrongly.
    record = json.loads((tmp_path / "evaluation.json").read_text())["protocols"]["folder"]
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored["model"] == "pixels"
    assert stored["thresholds"] == record["calibration"]["points"]
    assert stored["logistic"] == record["calibration"]["logistic"]
    assert record["intervals"].keys() == record["figures"].keys() - {"AUC"}
    page = (tmp_path / "evaluation.html").read_text()
    assert "reliability" in page
    assert "One person, the least similar first" in page
    smaller = ["--bootstrap", "0", "--resolution", "4"]
    evaluate.main(["pixels", *command, "--out", str(tmp_path), *smaller])
    assert not (tmp_path / "calibration.json").exists()  # Images made smaller have none.
