"""Protocols by name: features with names in, the right figures out, or one clear error."""

from dataclasses import replace

import numpy as np
import pytest
from named_people import IMAGES, PEOPLE, PLAIN, named_people, write_lists

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning, shift_warning
from hyperface.metrics.roc import tar_at_far
from hyperface.metrics.threshold import RULE_STEPS, TOO_FEW
from hyperface.protocols import registry, video
from hyperface.protocols._blufr import BlufrLists, Trial
from hyperface.protocols.blufr import blufr
from hyperface.protocols.features import NamedFeatures, check, read_features
from hyperface.protocols.groups import Grouping
from hyperface.protocols.ijb import TemplatePairs, Templates
from hyperface.protocols.megaface import ImageList, score_megaface
from hyperface.protocols.pair_list import PairList
from hyperface.protocols.pair_rules import PRESETS, PairRules
from hyperface.protocols.pair_verification import score_pairs
from hyperface.protocols.protocol import Settings
from hyperface.protocols.result import Figure, Result, hardest, over_snapshots
from hyperface.protocols.template_protocols import score_search, score_templates
from hyperface.protocols.template_rules import TEMPLATE_RULES
from hyperface.reproduce.papers import published


@pytest.fixture
def named(rng):
    return named_people(rng)


@pytest.fixture
def pairs(rng):
    """Forty pairs of each kind in four folds."""
    first, second, same, fold = [], [], [], []
    for number in range(80):
        one = rng.integers(PEOPLE)
        other = one if number % 2 else (one + rng.integers(1, PEOPLE)) % PEOPLE
        i, j = rng.permutation(IMAGES)[:2]
        first.append(f"p{one}/{i}.png")
        second.append(f"p{other}/{j}.png")
        same.append(one == other)
        fold.append(number // 20)
    return PairList(first, second, np.array(same), np.array(fold))


# ------------------------------------------------------------------------------- named features


def test_features_are_read_with_their_names(tmp_path, named):
    np.savez(tmp_path / "a.npz", features=named.features.astype(np.float16), names=named.names)
    np.save(tmp_path / "b.npy", named.features)
    (tmp_path / "b.txt").write_text("\n".join(named.names) + "\n")
    for path, dtype in ((tmp_path / "a.npz", np.float32), (tmp_path / "b.npy", np.float64)):
        found = read_features(path)
        assert list(found.names) == named.names
        assert found.features.dtype == dtype
        np.testing.assert_allclose(found.features, named.features, rtol=1e-3, atol=1e-3)
    assert "48 images read from a.npz, 16 dims" in read_features(tmp_path / "a.npz").steps[0]


def test_files_that_are_no_features_are_refused(tmp_path, named):
    np.savez(tmp_path / "a.npz", x=named.features)
    np.save(tmp_path / "b.npy", named.features)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "d.npz").write_bytes(b"PK no")
    for name, message in {
        "a.npz": "arrays 'features' and 'names', found 'x'",
        "b.npy": r"names in .*b\.txt beside it, found no file",
        "c.npy": "found: an array of object, expected numbers",
        "d.npz": "expected a whole zip archive",
        "e.npy": "expected an .npy file at .*, found no file",
    }.items():
        with pytest.raises(InputError, match=message):
            read_features(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, f: (n[:-1], f), r"found features \(48, 16\) and 47 names"),
        (lambda n, f: (n, f[:, 0]), r"expected \[images, dim\] features"),
        (lambda n, f: (n, (100 * f).astype(int)), "expected floats, found int64"),
        (lambda n, f: ([*n[:-1], n[0]], f), "expected every name once, found 'p"),
        (lambda n, f: (n, np.where(np.arange(48)[:, None] == 5, np.nan, f)), "norm nan of 'p"),
        (lambda n, f: (n, np.where(np.arange(48)[:, None] < 2, 0, f)), "norm 0.0 of .*2 images"),
        (lambda n, f: (n, np.ones_like(f)), "features that differ, found 48 that all"),
    ],
)
def test_features_that_cannot_be_scored_are_refused(named, change, message):
    names, features = change(list(named.names), named.features)
    with pytest.raises(InputError, match=f"here: .*{message}|here: {message}"):
        check(NamedFeatures(names, features), "here")


def test_a_missing_image_is_named_with_the_nearest(named):
    with pytest.raises(InputError, match=r"none of 'p3/7.png' \(1 of 2 images .*nearest .*'p3/"):
        named.rows(["p3/1.png", "p3/7.png"], "the list")
    rows = named.rows(["p3/1.png", "p0/0.png", "p3/1.png"], "the list")
    assert [named.names[row] for row in rows] == ["p3/1.png", "p0/0.png", "p3/1.png"]


def test_the_digest_is_of_names_and_features(named):
    same = NamedFeatures(list(named.names), named.features.copy())
    assert same.digest() == named.digest()
    for other in (
        named._replace(names=named.names[::-1]),
        named._replace(features=named.features * 2),
    ):
        assert other.digest() != named.digest()


# -------------------------------------------------------------------------------------- pair lists


def test_good_features_score_perfectly_whatever_their_order_and_length(named, pairs):
    scored = score_pairs("mine", named, pairs, PLAIN)
    shown = {name: figure.value for name, figure in scored.figures.items()}
    few = " (too few pairs: at no false accept)"  # Forty different pairs support no FAR of 1 %.
    assert shown == {
        "accuracy": 1.0, "EER": 0.0, "AUC": 1.0,
        f"TAR at FAR 1 %{few}": 1.0, f"TAR at FAR 0.1 %{few}": 1.0,
    }  # fmt: skip
    assert scored.steps[0] == "made up"
    assert scored.details["fold accuracies"] == [1.0] * 4
    assert not any("WARNING" in step for step in scored.steps)


def test_intervals_are_over_people(named, pairs):
    noisy = named._replace(features=named.features[::-1] * 0.5 + named.features)
    scored = score_pairs("mine", noisy, pairs, Settings(PRESETS["plain"], bootstrap=200))
    assert len(scored.intervals) == 2
    for rate, (low, high) in scored.intervals.items():
        assert 0 <= low <= scored.figures[rate].value <= high <= 1
        assert high - low > 0.1  # Eight people say little.
    assert "intervals: 95 % of 200 resamples of people" in scored.steps
    flat = noisy._replace(names=[name.replace("/", "_") for name in noisy.names])
    renamed = [[name.replace("/", "_") for name in side] for side in pairs[:2]]
    settings = Settings(PRESETS["plain"], bootstrap=200)
    with pytest.raises(InputError, match=r"expected names person/file.*Leave --bootstrap out"):
        score_pairs("mine", flat, PairList(*renamed, *pairs[2:]), settings)


def test_a_record_has_no_infinity_wherever_it_stands():
    details = {"limits": (1.0, np.inf, [np.nan, (-np.inf,)]), "one": {"two": (2, "x", None)}}
    record = Result("mine", {}, (), details=details).record()
    assert record["details"] == {
        "limits": [1.0, None, [None, [None]]],
        "one": {"two": [2, "x", None]},
    }


def test_names_in_a_wrong_order_are_warned_of(named, pairs, rng):
    swapped = named._replace(names=[named.names[i] for i in rng.permutation(48)])
    people = np.array([int(name[1]) for name in named.names])
    half = np.array([int(name[3]) // 3 for name in named.names])
    gallery, probes = (
        Templates(
            side + 2 * people[half == side],
            people[half == side],
            np.arange(24),
            [named.names[i] for i in np.flatnonzero(half == side)],
        )
        for side in (0, 1)
    )
    both = Templates(
        *(np.concatenate(column) for column in zip(gallery[:3], probes[:3], strict=True)),
        names=gallery.names + probes.names,
    )
    first, second = (side.ravel() for side in np.mgrid[:PEOPLE, :PEOPLE])
    compared = TemplatePairs(2 * first, 2 * second + 1, first == second)
    for features, warned in ((named, 0), (swapped, 1)):
        for scored in (
            score_templates("templates", features, [(both, compared)], 8),
            score_pairs("mine", features, pairs, PLAIN),
            score_search("search", features, [(gallery, probes)], 8),
            score_megaface(features, 10 * rng.standard_normal((2000, 16))),
        ):
            assert sum("WARNING" in step for step in scored.steps) == warned, scored.protocol


def test_the_guard_is_as_wide_as_the_sampling_error():
    """6,000 pairs tell 53 % from a guess, and 80 pairs not even 70 %."""
    for accuracy, count, warned in ((0.53, 6000, 0), (0.519, 6000, 1), (0.7, 80, 1), (0.75, 80, 0)):
        assert len(guess_warning("accuracy", accuracy, 0.5, count, least=0.02)) == warned
    (step,) = guess_warning("VR at FAR 0.1 %", 0.0015, 0.001, 10**6, least=0.001)
    assert step.startswith("WARNING: VR at FAR 0.1 % of 0.15 % is no more than the 0.1 % that")


@pytest.mark.parametrize(("shift", "where"), [(1, "after"), (-1, "before")])
def test_names_shifted_by_a_row_are_warned_of(named, shift, where, rng):
    """In sorted order most images keep a name of their person."""
    one, other = rng.integers(0, 48, (2, 600))
    other = np.where(np.arange(600) % 2 == 0, one // 6 * 6 + (other % 5 + one + 1) % 6, other)
    other = np.where((one == other), (one + 9) % 48, other)
    names = sorted(named.names)
    first, second = ([names[i] for i in side] for side in (one, other))
    pairs = PairList(first, second, one // 6 == other // 6, np.arange(600) // 150)
    order = np.argsort(named.names)
    rows = np.roll(order, shift)  # The feature of a name is a row further on, or back.
    shifted = NamedFeatures([named.names[i] for i in order], named.features[rows])
    scored = score_pairs("mine", shifted, pairs, PLAIN)
    assert 0.6 < scored.figures["accuracy"].value < 1.0
    (step,) = (step for step in scored.steps if "WARNING" in step)
    assert f"with every name on the row {where} its own" in step
    assert "100.0 % of 600 pairs are right" in step
    ordered = NamedFeatures([named.names[i] for i in order], named.features[order])
    steps = score_pairs("mine", ordered, pairs, PLAIN).steps
    assert not any("WARNING" in step for step in steps)


def test_a_list_that_alternates_is_tried_on_both_kinds(named):
    """2,000 pairs, of which an even choice of a thousand would be of one kind."""
    number = np.arange(1999)
    one = number % 48
    other = np.where(number % 2 == 0, one // 6 * 6 + (one + 1) % 6, (one + 9) % 48)
    order = np.argsort(named.names)
    features, same = named.features[order], one // 6 == other // 6
    assert same[np.linspace(0, same.size - 1, 1000).astype(int)].all()
    assert shift_warning(features, one, other, same) == ()
    (step,) = shift_warning(np.roll(features, 1, axis=0), one, other, same)
    assert "100.0 % of 1,000 pairs are right" in step
    assert shift_warning(features, one[same], other[same], same[same]) == ()


def test_the_record_has_curves_ranks_and_counts(named, pairs, rng):
    record = score_pairs("mine", named, pairs, PLAIN).record()
    curve = record["curves"]["mine"]
    assert curve["thresholds"][0] is None  # Nothing is accepted at infinity.
    assert len(curve["thresholds"]) == len(curve["far"])
    assert record["counts"] == {"same pairs": 40, "different pairs": 40}
    assert record["cmc"] is None
    searched = score_megaface(named, rng.standard_normal((200, 16))).record()
    assert searched["cmc"] == [1.0] * 100
    assert searched["counts"]["distractors"] == 200
    assert searched["counts"]["same pairs"] == PEOPLE * 15


def test_the_hardest_pairs_are_the_worst_mistakes(named, pairs):
    scored = score_pairs("mine", named, pairs, PLAIN)
    rows = {name: i for i, name in enumerate(named.names)}
    unit = named.features / np.linalg.norm(named.features, axis=1, keepdims=True)
    cosines = {
        (a, b): unit[rows[a]] @ unit[rows[b]]
        for a, b, same in zip(pairs.first, pairs.second, pairs.same, strict=True)
        if not same
    }
    worst = max(cosines, key=cosines.get)
    assert (scored.false_accepts[0].first, scored.false_accepts[0].second) == worst
    assert scored.false_accepts[0].score == pytest.approx(cosines[worst])
    scores = [pair.score for pair in scored.false_rejects]
    assert scores == sorted(scores)
    assert len(scores) == 20
    accepts, rejects = hardest(np.array([0.5, np.nan]), "ab", "cd", np.array([False, False]))
    assert len(accepts) == 1
    assert not rejects


def test_lfw_by_name(named, tmp_path, monkeypatch, pairs):
    (tmp_path / "lfw").mkdir()
    (tmp_path / "lfw/pairs.txt").touch()
    monkeypatch.setattr("hyperface.protocols.lfw.read_lfw_pairs", lambda path: pairs)
    assert registry.score("lfw", named, tmp_path, PLAIN).figures["accuracy"].value == 1.0
    for name in ("pairsDevTrain.txt", "pairsDevTest.txt"):
        (tmp_path / "lfw" / name).touch()
    view = registry.score("lfw-view1", named, tmp_path, PLAIN)
    assert view.figures["accuracy"] == Figure(1.0, None)  # One tested fold has no spread.
    assert view.scores[1].size == 80
    with pytest.raises(InputError, match=r"cfp_protocol.zip, found none.*--protocol-dir"):
        registry.score("cfp-ff", named, tmp_path, PLAIN)
    few = named._replace(names=named.names[:40], features=named.features[:40])
    with pytest.raises(InputError, match=r"every image of lfw, found none of 'p"):
        registry.score("lfw", few, tmp_path, PLAIN)
    settings = Settings(PairRules(pca=4000))
    with pytest.raises(InputError, match="lfw: expected"):
        registry.score("lfw", named, tmp_path, settings)


def test_cfp_averages_its_splits(named, tmp_path, monkeypatch, pairs):
    (tmp_path / "cfp_protocol.zip").touch()
    noisy = named._replace(
        features=named.features + 3 * np.random.default_rng(2).standard_normal(named.features.shape)
    )
    monkeypatch.setattr("hyperface.protocols.cfp.read_cfp", lambda path: {"FF": pairs, "FP": pairs})
    scored = registry.score("cfp-fp", noisy, tmp_path, PLAIN)
    folds = scored.details["fold accuracies"]
    assert scored.figures["accuracy"].value == pytest.approx(np.mean(folds))
    assert scored.figures["accuracy"].spread == pytest.approx(np.std(folds, ddof=1))
    assert scored.spread == "standard deviation over splits"
    assert 0 < scored.figures["EER"].value < 0.5
    few = "TAR at FAR 0.1 %, all splits' pairs together (too few pairs: at no false accept)"
    assert few in scored.figures
    assert "no mean subtracted, no PCA" in registry.score("cfp-fp", noisy, tmp_path).steps
    three = registry.score("cfp-fp", noisy, tmp_path, Settings(pca=3))
    assert three.details["dimensions"] == [3] * 4


def test_settings_that_a_protocol_does_not_accept_change_nothing(
    named, tmp_path, monkeypatch, pairs
):
    """One command may score several protocols, of which only some accept an option."""
    (tmp_path / "cfp_protocol.zip").touch()
    monkeypatch.setattr("hyperface.protocols.cfp.read_cfp", lambda path: {"FF": pairs, "FP": pairs})
    expected = registry.score("cfp-fp", named, tmp_path, PLAIN)
    grouping = Grouping("groups.csv", {f"p{n}": f"g{n % 2}" for n in range(PEOPLE)})
    rule = TEMPLATE_RULES["insightface"]
    others = replace(PLAIN, bootstrap=20, grouping=grouping, template_rule=rule)
    found = registry.score("cfp-fp", named, tmp_path, others)
    assert found.record() == expected.record()
    for protocol in registry.PROTOCOLS.values():
        # An option that is no field would be an error for every user of the protocol.
        assert Settings().accepted(protocol.options) == Settings()


def test_cfps_tar_is_of_all_splits_together(named, tmp_path, monkeypatch, pairs):
    """Forty times the list has 400 different pairs a split, 1,600 in all: only these support it."""
    (tmp_path / "cfp_protocol.zip").touch()
    noise = np.random.default_rng(2).standard_normal(named.features.shape)
    many = PairList(
        pairs.first * 40, pairs.second * 40, np.tile(pairs.same, 40), np.tile(pairs.fold, 40)
    )
    monkeypatch.setattr("hyperface.protocols.cfp.read_cfp", lambda path: {"FF": many, "FP": many})
    noisy = named._replace(features=named.features + 3 * noise)
    scored = registry.score("cfp-fp", noisy, tmp_path)
    table = published()["ringloss"]["table-2"]
    wanted = dict(zip(table["protocols"], table["figures"], strict=True))["cfp-fp"]
    expected = tar_at_far(scored.scores[0], many.same, 0.001)
    assert scored.figures[wanted] == Figure(expected, None)
    marked = [name for name in scored.figures if "too few pairs" in name]
    assert marked == ["TAR at FAR 0.1 % (too few pairs: at no false accept)"]
    assert "1,600 different pairs together" in scored.steps[-1]


def test_every_tar_and_dir_tells_its_threshold_rule(named, pairs, tmp_path, monkeypatch, rng):
    scored = [
        score_pairs("mine", named, pairs, PLAIN),
        score_megaface(named, rng.standard_normal((200, 16))),
    ]
    people = np.array([int(name[1]) for name in named.names])
    templates = Templates(2 * people, people, np.arange(48), list(named.names))
    odd = templates._replace(template=2 * people + 1)
    first, second = (2 * i for i in np.triu_indices(PEOPLE, 1))
    first, second = np.append(first, [0]), np.append(second, [1])
    both = Templates(*(np.concatenate(c) for c in zip(templates[:3], odd[:3], strict=True)),
                     names=templates.names * 2)  # fmt: skip
    compared = TemplatePairs(first, second, first // 2 == second // 2)
    scored.append(score_templates("ijba", named, [(both, compared)], 8))
    scored.append(score_search("ijba-search", named, [(templates, odd)], 8))
    for found in scored:
        assert found.steps.count(RULE_STEPS["strict"]) == 1, found.protocol


def test_blufr_is_mean_minus_deviation(named, tmp_path, monkeypatch, rng):
    (tmp_path / "blufr_lfw_config.mat").touch()
    people = np.array([int(name[1]) for name in named.names])
    trials = []
    for _ in range(3):
        chosen = np.flatnonzero(np.isin(people, rng.permutation(PEOPLE)[:6]))
        known = np.unique(people[chosen])[:3]
        gallery = np.array([np.flatnonzero(people == person)[0] for person in known])
        trials.append(Trial(np.array([], int), chosen, gallery, np.setdiff1d(chosen, gallery)))
    config = BlufrLists(list(named.names), people, trials)
    monkeypatch.setattr("hyperface.protocols.blufr.read_blufr", lambda path: config)
    noisy = named._replace(features=named.features + rng.standard_normal(named.features.shape) * 2)
    scored = registry.score("blufr", noisy, tmp_path, PLAIN)
    expected = blufr(noisy.features, people, trials)
    rates = expected.verification(0.001).trials
    vr = f"VR at FAR 0.1 %{TOO_FEW}"  # A trial has 540 different pairs.
    assert scored.figures[vr] == Figure(rates.mean(), np.std(rates, ddof=1))
    assert scored.steps.count(RULE_STEPS["blufr"]) == 1
    strict = registry.score("blufr", noisy, tmp_path, Settings(rule="strict"))
    assert strict.steps.count(RULE_STEPS["strict"]) == 1
    assert not any("WARNING" in step for step in scored.steps)
    assert len(scored.record()["counts"]["different pairs"]) == 3
    chance = named._replace(features=rng.standard_normal(named.features.shape))
    assert any("WARNING: VR" in step for step in registry.score("blufr", chance, tmp_path).steps)
    reported = scored.figures[f"VR at FAR 0.1 %, mean - deviation{TOO_FEW}"].value
    assert reported == pytest.approx(rates.mean() - np.std(rates, ddof=1))
    assert all(label.endswith(TOO_FEW) for label in scored.figures)


def test_blufr_labels_each_rate_that_has_too_few_pairs(tmp_path, monkeypatch, rng):
    """Of 240 images 28,200 different pairs support a VR; 96 probes without a mate, no DIR."""
    (tmp_path / "blufr_lfw_config.mat").touch()
    people = np.repeat(np.arange(40), 6)
    gallery = np.arange(24) * 6
    probes = np.setdiff1d(np.arange(240), gallery)
    trial = Trial(np.array([], int), np.arange(240), gallery, probes)
    names = [f"{i}.jpg" for i in range(240)]
    config = BlufrLists(names, people, [trial, trial])
    monkeypatch.setattr("hyperface.protocols.blufr.read_blufr", lambda path: config)
    scored = registry.score("blufr", NamedFeatures(names, rng.normal(size=(240, 8))), tmp_path)
    few = [label for label in scored.figures if label.endswith(TOO_FEW)]
    assert few == [label for label in scored.figures if label.startswith("DIR")]
    assert len(few) == 2
    fars = scored.details["identification FARs with too few probes"]
    assert (min(fars), max(fars)) == (0, 0.01)
    assert max(scored.details["FARs with too few pairs"]) == 3e-5


def test_ytf_groups_frames_by_video(tmp_path, monkeypatch, rng):
    (tmp_path / "ytf").mkdir()
    (tmp_path / "ytf/splits.txt").touch()
    names, features, directions = [], [], rng.standard_normal((6, 8))
    for person in range(6):
        for clip in range(2):
            for frame in range(int(rng.integers(2, 5))):
                names.append(f"p{person}/{clip}/{frame}.jpg")
                features.append(directions[person] + 0.1 * rng.standard_normal(8))
    first, second, same, fold = [], [], [], []
    for number in range(24):
        one = number % 6
        other = one if number % 4 < 2 else (one + 1) % 6
        first.append(f"p{one}/0")
        second.append(f"p{other}/1")
        same.append(one == other)
        fold.append(number // 12)
    pairs = PairList(first, second, np.array(same), np.array(fold))
    monkeypatch.setattr("hyperface.protocols.video.read_ytf_splits", lambda path: pairs)
    named = NamedFeatures(names, np.array(features))
    scored = registry.score("ytf", named, tmp_path, PLAIN)
    assert {name: f.value for name, f in scored.figures.items()} == dict.fromkeys(
        ("accuracy, mean", "accuracy, max", "accuracy, histogram"), 1.0
    )
    told = {
        name: " ".join(registry.score("ytf", named, tmp_path, Settings(protocol)).steps)
        for name, protocol in PRESETS.items()
        if name != "insightface"  # Its grid is of distances between single images.
    }
    with pytest.raises(InputError, match=r"ytf: expected threshold to be one of .*found grid"):
        registry.score("ytf", named, tmp_path, Settings(PRESETS["insightface"]))
    assert "mean, max: threshold of a linear SVM" in told["normface-released"]
    assert "mean, max: mean of all thresholds of highest" in told["sphereface-released"]
    assert "median of equally good ones" in told["normface"]
    subtracted = [name for name, steps in told.items() if "pairs subtracted" in steps]
    assert subtracted == ["normface", "normface-released", "sphereface-released"]
    for pca in (0, 3):  # Of pair lists alone.
        asked = registry.score("ytf", named, tmp_path, Settings(pca=pca))
        assert " ".join(asked.steps) == told["normface"]
        plain = Settings(PRESETS["plain"], pca=pca)
        assert " ".join(registry.score("ytf", named, tmp_path, plain).steps) == told["plain"]
    keep = [i for i, name in enumerate(names) if not name.startswith("p3/1")]
    few = NamedFeatures([names[i] for i in keep], np.array(features)[keep])
    with pytest.raises(InputError, match=r"found none of 'p3/1' \(1 videos are missing\)"):
        registry.score("ytf", few, tmp_path, PLAIN)


def test_halves_of_peoples_images_stand_for_videos(tmp_path, rng):
    names, features = [], []
    for person, direction in enumerate(rng.standard_normal((30, 16))):
        images = 11 if person < 25 else 9  # The last five have too few.
        for image in range(images):
            names.append(f"p{person:02}/{image:02}.jpg")
            features.append(direction + 0.1 * rng.standard_normal(16))
    named = NamedFeatures(names, np.array(features))
    scored = registry.score("halves", named, tmp_path, PLAIN)
    assert {name: f.value for name, f in scored.figures.items()} == dict.fromkeys(
        ("accuracy, mean", "accuracy, max", "accuracy, histogram"), 1.0
    )
    steps = " ".join(scored.steps)
    assert "25 people with at least 10 images" in steps
    assert "50 video pairs (25 same) of 50 videos with 275 frames, 10 folds" in steps
    same, different = (scored.details["histograms"][kind] for kind in ("same", "different"))
    # Fewer pairs than are kept of each kind: all of them are there.
    np.testing.assert_allclose(np.mean(same["single"], axis=0), same["mean"], atol=1e-5)
    assert np.argmax(same["mean"]) > 90
    assert np.sum(different["mean"]) == pytest.approx(1)
    few = NamedFeatures(names[: 19 * 11], np.array(features)[: 19 * 11])
    with pytest.raises(InputError, match=r"halves: expected 20 people .*, found 19"):
        registry.score("halves", few, tmp_path, PLAIN)


def test_pairs_of_halves_keep_to_their_fold():
    pairs = video.half_pairs([f"p{i}" for i in range(23)])
    assert pairs.same.sum() * 2 == pairs.same.size == 46
    of = [{(f.split("/")[0]) for f in side} for side in pairs[:2]]
    assert of[0] == of[1] == {f"p{i}" for i in range(23)}
    seen = {}
    for first, second, same, fold in zip(*pairs, strict=True):
        people = {first.split("/")[0], second.split("/")[0]}
        assert len(people) == (1 if same else 2)
        for person in people:
            assert seen.setdefault(person, fold) == fold


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("agedb", "agedb/agedb_30.txt", None),
        ("calfw", "calfw/pairs_CALFW.txt", lambda fold, same: same * (fold + 1)),
        ("cplfw", "cplfw/pairs_CPLFW.txt", lambda fold, same: same),
    ],
)
def test_lists_of_ten_folds_are_scored(named, tmp_path, name, file, label):
    """AgeDB's list has a line a pair, CALFW's and CPLFW's two; one pair of each kind a fold."""
    lines = []
    for fold in range(10):
        for same in (1, 0):
            one, other = fold % PEOPLE, (fold + 1 - same) % PEOPLE
            pair = f"p{one}/{fold // PEOPLE}.png", f"p{other}/5.png"
            if label is None:
                lines.append(f"{pair[0]} {pair[1]} {same}")
            else:
                lines += [f"{image} {label(fold, same)}" for image in pair]
    write_lists(tmp_path, {file: lines})
    scored = registry.score(name, named, tmp_path, PLAIN)
    assert scored.figures["accuracy"] == Figure(1.0, 0.0)
    assert scored.counts == {"same pairs": 10, "different pairs": 10}


def test_megaface_takes_people_from_names_and_leaves_noise_out(named, rng):
    distractors = rng.standard_normal((200, 16))
    scored = score_megaface(named, distractors)
    assert scored.figures["rank-1"].value == 1.0
    assert scored.ranks[0] == 1.0
    assert "noise lists: none" in scored.steps
    flat = named._replace(names=[name.replace("/", "_") for name in named.names])
    with pytest.raises(InputError, match="megaface: expected names person/file"):
        score_megaface(flat, distractors)
    mates = named.features[:1] * 3  # A distractor that is a probe's own person.
    with_mate = np.concatenate([distractors, mates])
    assert "no list of probes: all there are" in scored.steps
    assert score_megaface(named, with_mate).figures["rank-1"].value < 1.0
    given = {"distractor_names": [f"d/{i}.jpg" for i in range(201)], "noises": ["mine.txt"]}
    for noise in ({"d/200.jpg"}, {"200.jpg"}):  # FaceScrub's lists have file names alone.
        cleaned = score_megaface(named, with_mate, noise=noise, **given)
        assert cleaned.figures["rank-1"].value == 1.0
        assert "0 probes left out, 1 distractors left out" in cleaned.steps
    # Twelve probes whose ids, not whose folders, say who they are; all distractors but the mate.
    names = [f"p{person}/{image}.png" for person in range(4) for image in range(3)]
    probe_list = ImageList(names, [name[1] for name in names], "probes.json")
    distractor_list = ImageList([f"d/{i}.jpg" for i in range(200)], None, "distractors.json")
    lists = {"probe_list": probe_list, "distractor_list": distractor_list}
    listed = score_megaface(named, with_mate, noise={"d/7.jpg"}, **given, **lists)
    assert listed.figures["rank-1"].value == 1.0
    for step in (
        "probes: the 12 of probes.json",
        "distractors: the 200 of distractors.json",
        "12 probes of 4 people, 199 distractors, 24 searches, each for one mate among the "
        "distractors; ties count against it",
        "0 probes left out, 1 distractors left out",
    ):
        assert step in listed.steps
    with pytest.raises(InputError, match="distractors with names, of which distractors"):
        score_megaface(named, distractors, distractor_list=distractor_list)
    missing = distractor_list._replace(names=["d/0.jpg", "d/900.jpg"])
    with pytest.raises(InputError, match=r"found none of 'd/900.jpg' \(1 of 2 are missing\)"):
        score_megaface(named, with_mate, distractor_list=missing, **given)
    nameless = score_megaface(named, distractors, noise={named.names[0]})
    assert "1 probes left out, distractors have no names and are all taken" in nameless.steps


def test_snapshots_are_averaged_with_their_spread():
    shots = [
        Result("lfw", {"accuracy": Figure(value, 0.1)}, (f"at step {step}", "the cosine"))
        for step, value in ((4, 0.5), (8, 0.7))
    ]
    found = over_snapshots(shots)
    assert found.steps == (
        "snapshot 1: at step 4",
        "snapshot 2: at step 8",
        "the cosine",
        "curves, pairs, groups and feature norms are those of snapshot 2",
    )
    assert found.figures["accuracy"] == pytest.approx((0.6, np.std([0.5, 0.7], ddof=1)))
    assert found.record()["details"]["snapshots"] == {"accuracy": [0.5, 0.7]}
    with pytest.raises(ValueError, match="at least two snapshots of one protocol, found 1 of 1"):
        over_snapshots(shots[:1])


def test_published_features_on_lfw(real_data):
    """`tests/test_pairs.py` compares the same figure with an independent script."""
    features = read_features(real_data / "features/lfw_pairs_facenet_casia_512d.npz")
    scored = registry.score("lfw", features, real_data / "protocols", PLAIN)
    accuracy = scored.figures["accuracy"]
    assert (round(100 * accuracy.value, 2), round(100 * accuracy.spread, 2)) == (97.38, 0.28)
