"""Statements about faces on trained runs: pairs, mirror images, Proposition 3's bound by seed."""

import json
import shutil

import numpy as np
import pytest

from hyperface.data.datasets import Split
from hyperface.data.images import encode_png
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.lfw import read_lfw_pairs
from hyperface.protocols.pair_list import PairList
from hyperface.reproduce import (
    commands,
    faces,
    faces_convergence,
    feature_cache,
    page,
    papers,
    untrained,
)
from hyperface.reproduce.command import Reproduce, _shown
from hyperface.reproduce.item import HOLDS, Context
from hyperface.reproduce.runs import ACCURACY


@pytest.fixture
def context(tmp_path):
    return Context(tmp_path / "out", tmp_path / "data", runs=tmp_path / "runs")


def measured(name, context):
    (item,) = papers.items("normface", (name,))
    outcome, figures = papers.measurement(item)(context)
    assert bool(figures) == ("figure" in item.gives)
    rows = {row["row"] for row in papers.published()["normface"][name]["rows"]}
    missing = {row for row in rows if row.startswith("LFW, ")} if outcome.missing else set()
    assert not rows or rows == {entry.row for entry in outcome.entries} | missing
    return outcome, {(entry.row, entry.column): entry.values for entry in outcome.entries}


def test_pair_accuracy_weighs_both_kinds_alike():
    # Inner products: same 4 and 1, different 0, 2, 0 and 2.
    features = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    # From 4 on: one of two same pairs, no different one; from 1 on: all same, two of four others.
    assert (
        faces.decide_all_pairs(features, labels, "Inner-Product", normalized=False).accuracy()
        == 75.0
    )
    # Cosines: same 1 and 0.71, different 0, 0.71, 0, 0.71.
    assert (
        faces.decide_all_pairs(features, labels, "Inner-Product", normalized=True).accuracy()
        == 75.0
    )
    # Squared distances: same 0 and 1, different 5, 2, 5 and 2: all told apart.
    assert (
        faces.decide_all_pairs(features, labels, "Euclidean", normalized=False).accuracy() == 100.0
    )


def kept_by_seed(context, monkeypatch, *made):
    """A trained run a seed, whose features are these, of people a tenth of the images each."""
    runs = {}
    for seed, features in enumerate(made):
        run = commands.folder(context.runs, faces.RUN, seed)
        run.mkdir(parents=True)
        (run / "results.json").write_text("{}")
        runs[run] = feature_cache.MirroredFeatures(features, np.repeat(np.arange(6), 10))
    monkeypatch.setattr(feature_cache, "features", lambda run, c, splits: {"test": runs[run]})


def noisy_people(seed):
    rng = np.random.default_rng(seed)
    unit = np.eye(6)[np.repeat(np.arange(6), 10)] + 0.1 * rng.normal(size=(60, 6))
    return np.stack([unit * rng.uniform(0.1, 5, (60, 1)), -unit], axis=1)


def test_normalisation_helps_where_norms_tell_nothing(context, monkeypatch):
    kept_by_seed(context, monkeypatch, noisy_people(0), noisy_people(1))
    outcome, found = measured("table-1-faces", context)
    assert found["Inner-Product", "after"] == found["Euclidean", "after"] == (100.0, 100.0)
    assert max(found["Euclidean", "before"]) < 95
    assert found["Euclidean", "gain"][0] == 100 - found["Euclidean", "before"][0]
    assert found["Euclidean: normalisation helps", ""] == (1.0, 1.0)
    assert found["normalisation adds 0.6 to 0.7 points", ""] == (0.0, 0.0)
    assert "2 seeds; all pairs of 60 images of 6 people" in outcome.scale
    assert "LFW, Euclidean" in outcome.missing


def test_people_and_seeds_decide_whether_normalisation_helps(context, monkeypatch):
    kept_by_seed(context, monkeypatch, *map(noisy_people, range(8)))
    row = "Euclidean: normalisation helps"
    outcome, _ = measured("table-1-faces", context)
    # The networks that are compared were all fine-tuned from one.
    assert page.judge({"x": outcome})["x", row, ""] == page.UNDECIDED
    (entry,) = [e for e in outcome.entries if e.row == row]
    assert ", of one start, by" in page.shown_entry(entry, page.UNDECIDED)
    monkeypatch.setattr(commands, "is_of_one_start", lambda _: False)
    outcome, found = measured("table-1-faces", context)
    assert page.judge({"x": outcome})["x", row, ""] == page.HELD
    (entry,) = [e for e in outcome.entries if e.row == row]
    assert entry.parts[0].value == pytest.approx(np.mean(found["Euclidean", "gain"]))


def test_statements_of_one_seed_are_undecided(context, monkeypatch):
    kept_by_seed(context, monkeypatch, noisy_people(0))
    for name in ("table-1-faces", "mirror"):
        outcome, _ = measured(name, context)
        assert set(page.judge({name: outcome}).values()) == {page.UNDECIDED}


def test_a_list_is_scored_in_its_folds_before_and_after_normalisation():
    # Norms 1 to 4 along two axes: same pairs are one direction.
    names = [f"{person}/{norm}" for person in "ab" for norm in range(1, 5)]
    features = np.array([n * np.eye(2)[p] for p in (0, 1) for n in range(1, 5)])
    named = NamedFeatures(names, features)
    same = PairList(("a/1", "b/2"), ("a/4", "b/3"), np.array([True, True]), np.array([0, 1]))
    apart = PairList(("a/1", "a/2"), ("b/1", "b/2"), np.array([False, False]), np.array([0, 1]))
    pairs = PairList(*(left + right for left, right in zip(same[:2], apart[:2], strict=True)),
                     np.concatenate([same.same, apart.same]),
                     np.concatenate([same.fold, apart.fold]))  # fmt: skip
    for name in faces.SIMILARITIES:
        assert faces.decide_list(named, pairs, name, normalized=True).accuracy() == 100
    # Distances: same 3 and 1, different 1.41 and 2.83. The second fold's threshold, 1.91, has both
    # pairs of the first wrong; no cut of the first is as good as a guess, so that all is accepted.
    decided = faces.decide_list(named, pairs, "Euclidean", normalized=False)
    assert decided.accuracy() == 25
    assert decided.first.tolist() == ["a", "b", "a", "a"]


PEOPLE = [f"p{person}" for person in range(6)]
NAMES = [f"{person}/{person}_{n:04}.jpg" for person in PEOPLE for n in range(1, 11)]


def write_pairs(context):
    """LFW's list of these people: two folds of three same and three different pairs."""
    path = context.data_dir / "protocols/lfw/pairs.txt"
    path.parent.mkdir(parents=True)
    lines = [f"{p}\t1\t2" for p in PEOPLE] + [f"{p}\t1\tp{(n + 1) % 6}\t2" for n, p in
             enumerate(PEOPLE)]  # fmt: skip
    folds = [lines[i + 3 * f + k] for f in range(2) for i in (0, 6) for k in range(3)]
    path.write_text("\n".join(["2\t3", *folds]) + "\n")


def test_untrained_features_are_scored_as_a_net_is(context, monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(20, 120, (6, 8, 6, 1))
    # How bright the right half is says nothing of a person, and most of what pixels tell.
    light = np.repeat(rng.uniform(-100, 100, (60, 1)), 3, axis=1)
    images = np.repeat(base, 10, axis=0) + np.pad(light, ((0, 0), (3, 0)))[:, None, :, None] + 100
    records = [
        {
            "image": encode_png(np.clip(image, 0, 255).astype(np.uint8)),
            "label": place // 10,
            "name": name.encode(),
        }
        for place, (image, name) in enumerate(zip(images, NAMES, strict=True))
    ]
    split = Split("lfw/1.0.0", "test", records, 6, (8, 6, 1))
    monkeypatch.setattr(untrained, "open_split", lambda *_: split)
    monkeypatch.setattr(untrained, "find", lambda name, _: name == "lfw")
    monkeypatch.setattr(untrained, "COMPONENTS", 6)
    monkeypatch.setattr(
        feature_cache, "named_features", lambda run, *_: NamedFeatures(NAMES, noisy_people(0)[:, 0])
    )
    write_pairs(context)
    outcome, found = measured("untrained", context)
    row = "LFW, 6,000 pairs: "
    shown = {row + what for what in ("raw pixels", "eigenfaces", untrained.RUN)}
    assert found.keys() == {(one, column) for one in shown for column in untrained.FIGURES}
    assert found[row + untrained.RUN, "accuracy"] == (100.0,)
    # In cosine distances of the images themselves, by hand.
    flat = (np.clip(images, 0, 255).astype(np.uint8).reshape(60, -1) - 127.5) / 128
    pairs = read_lfw_pairs(context.data_dir / "protocols/lfw/pairs.txt")
    expected = faces.decide_list(NamedFeatures(NAMES, flat), pairs, "Inner-Product",
                                   normalized=True).accuracy()  # fmt: skip
    assert found[row + "raw pixels", "accuracy"] == pytest.approx((expected,))
    assert found[row + "eigenfaces", "accuracy"][0] < 100
    assert set(outcome.missing) == {"CFP, frontal and frontal", "CFP, frontal and profile"}


def test_lfw_is_compared_where_it_is_at_hand(context, monkeypatch):
    kept_by_seed(context, monkeypatch, noisy_people(0), noisy_people(1))
    monkeypatch.setattr(
        feature_cache, "named_features", lambda run, *_: NamedFeatures(NAMES, noisy_people(0)[:, 0])
    )
    monkeypatch.setattr(faces, "find", lambda name, folder: folder)
    write_pairs(context)
    outcome, found = measured("table-1-faces", context)
    assert found["LFW, Inner-Product", "after"] == (100.0, 100.0)
    assert not outcome.missing
    assert "LFW: 12 pairs in 2 folds" in outcome.scale


def test_the_sum_with_the_mirror_image_is_compared(context, monkeypatch):
    # What differs between an image and its mirror image is taken out by the sum alone.
    made = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        unit, noise = np.eye(6)[np.repeat(np.arange(6), 10)], 2 * rng.normal(size=(60, 6))
        made.append(np.stack([unit + noise, unit - noise], axis=1))
    kept_by_seed(context, monkeypatch, *made)
    outcome, found = measured("mirror", context)
    assert found["image and mirror image, summed", ""] == pytest.approx((100, 100))
    assert {e.values for e in outcome.entries if e.unit == HOLDS} == {(1.0, 1.0)}


def write_run(context, name, bound):
    folder = context.runs / name
    folder.mkdir(parents=True)
    lines = [{"step": step, "distortion": bound + 1 - step / 400} for step in (200, 400)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "results.json").write_text("{}")


def test_the_distortion_of_every_seed_is_read(context):
    write_run(context, "faces-c-contrastive", 0.7)
    write_run(context, "faces-normface", 0.5)
    (item,) = papers.items("normface", ("proposition-3-faces",))
    before = commands.result_key(context, item)
    write_run(context, "faces-normface-seed1", 0.6)
    assert commands.result_key(context, item) != before
    outcome, found = measured("proposition-3-faces", context)
    own = "mean squared distance to the own agent"
    assert found[f"softmax, normalised: {own}", ""] == pytest.approx((0.5, 0.6))
    assert found[f"C-contrastive, normalised: {own}", ""] == pytest.approx((0.7,))
    assert outcome.scale.startswith("faces-c-contrastive: 400 steps, 1 seed; faces-normface: ")


def write_converged(context, row, seed, loss, bound):
    """A finished run of a row of the convergence of thousands of people."""
    run = commands.folder(context.runs, faces_convergence.METHODS[row], seed)
    run.mkdir(parents=True)
    line = {"step": 900, "loss": loss, "softmax": loss, "softmax_bound": bound, "scale": 9.0}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    record = {"experiment": "x", "snapshots": {"x": [{ACCURACY: 0.9}]}}
    (run / "results.json").write_text(json.dumps(record))


def test_claims_about_convergence_compare_runs_of_one_seed(context):
    learned = faces_convergence.LEARNED
    bounds = {0: 5.0, 1: 1.0, 2: 5.0}
    for row in faces_convergence.METHODS:
        if row == learned:
            continue
        for seed, bound in bounds.items():
            write_converged(context, row, seed, 7.0, bound)
    for seed in (0, 2):  # The bound of seed 1 is another one.
        write_converged(context, learned, seed, 3.0, 1.0)
    outcome, _ = faces_convergence.convergence(context)
    claims = {entry.row: entry.values for entry in outcome.entries if entry.unit == HOLDS}
    assert list(claims.values()) == [(1.0, 1.0), (1.0, 1.0)]
    assert not outcome.missing

    for seed in (0, 2):
        shutil.rmtree(commands.folder(context.runs, faces_convergence.METHODS[learned], seed))
    write_converged(context, learned, 3, 3.0, 1.0)
    outcome, _ = faces_convergence.convergence(context)
    assert outcome.missing.keys() == claims.keys()
    assert not [entry for entry in outcome.entries if entry.unit == HOLDS]


def test_a_run_that_is_fine_tuned_comes_with_its_start(context):
    (item,) = papers.items("normface", ("proposition-3-faces",))
    shown = _shown(item, Reproduce("normface", runs=context.runs), context, measure=True)
    assert page.state(shown.outcome) == page.NOT_RUN
    start, run = context.runs / "faces-softmax", context.runs / "faces-normface"
    assert (
        f"To train it: hyperface train faces-softmax --workdir {start}, then "
        f"hyperface train faces-normface --init-from {start} --workdir {run}."
    ) in shown.reason
