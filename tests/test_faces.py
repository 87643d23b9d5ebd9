"""Statements about faces on trained runs: pairs, mirror images, Proposition 3's bound by seed."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from launch import papers
from launch.papers import cached, faces, page
from launch.papers.item import HOLDS, Context
from launch.reproduce import Reproduce, _shown


@pytest.fixture
def context(tmp_path):
    console = Console(file=io.StringIO())
    return Context(tmp_path / "out", tmp_path / "data", console, runs=tmp_path / "runs")


def measured(name, context):
    (item,) = papers.items("normface", (name,))
    outcome, figures = papers.measurement(item)(context)
    assert bool(figures) == ("figure" in item.gives)
    rows = {row["row"] for row in papers.published()["normface"][name]["rows"]}
    assert rows == {entry.row for entry in outcome.entries}
    return outcome, {(entry.row, entry.column): entry.values for entry in outcome.entries}


def test_pair_accuracy_weighs_both_kinds_alike():
    # Inner products: same 4 and 1, different 0, 2, 0 and 2.
    features = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    # From 4 on: one of two same pairs, no different one; from 1 on: all same, two of four others.
    assert faces.pair_accuracy(features, labels, "Inner-Product", normalized=False) == 75.0
    # Cosines: same 1 and 0.71, different 0, 0.71, 0, 0.71.
    assert faces.pair_accuracy(features, labels, "Inner-Product", normalized=True) == 75.0
    # Squared distances: same 0 and 1, different 5, 2, 5 and 2: all told apart.
    assert faces.pair_accuracy(features, labels, "Euclidean", normalized=False) == 100.0


def test_normalisation_helps_where_norms_tell_nothing(context, monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    unit = np.eye(6)[labels] + 0.1 * rng.normal(size=(60, 6))
    both = np.stack([unit * rng.uniform(0.1, 5, (60, 1)), -unit], axis=1)
    monkeypatch.setattr(cached, "features", lambda run, c: {"test": cached.Cached(both, labels)})
    outcome, found = measured("table-1-faces", context)
    assert found["Inner-Product", "after"] == found["Euclidean", "after"] == (100.0,)
    assert found["Euclidean", "before"][0] < 95
    assert found["Euclidean", "gain"][0] == 100 - found["Euclidean", "before"][0]
    assert found["Euclidean: normalisation helps", ""] == (1.0,)
    assert found["normalisation adds 0.6 to 0.7 points", ""] == (0.0,)
    assert "all pairs of 60 images of 6 people" in outcome.scale


def test_the_sum_with_the_mirror_image_is_compared(context, monkeypatch):
    # What differs between an image and its mirror image is taken out by the sum alone.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    unit, noise = np.eye(6)[labels], 2 * rng.normal(size=(60, 6))
    both = np.stack([unit + noise, unit - noise], axis=1)
    monkeypatch.setattr(cached, "features", lambda run, c: {"test": cached.Cached(both, labels)})
    outcome, found = measured("mirror", context)
    assert found["image and mirror image, summed", ""][0] == pytest.approx(100)
    assert {e.values for e in outcome.entries if e.unit == HOLDS} == {(1.0,)}


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
    before = context.key(item)
    write_run(context, "faces-normface-seed1", 0.6)
    assert context.key(item) != before
    outcome, found = measured("proposition-3-faces", context)
    own = "mean squared distance to the own agent"
    assert found[f"softmax, normalised: {own}", ""] == pytest.approx((0.5, 0.6))
    assert found[f"C-contrastive, normalised: {own}", ""] == pytest.approx((0.7,))
    assert outcome.scale.startswith("faces-c-contrastive: 400 steps, 1 seed; faces-normface: ")


def test_a_run_that_is_fine_tuned_comes_with_its_start(context):
    (item,) = papers.items("normface", ("proposition-3-faces",))
    shown = _shown(item, Reproduce("normface", runs=context.runs), context, measure=True)
    assert page.state(shown.outcome) == page.NOT_RUN
    start, run = context.runs / "faces-softmax", context.runs / "faces-normface"
    assert (
        f"Made by: python -m launch.train faces-softmax --workdir {start}, then "
        f"python -m launch.train faces-normface --init-from {start} --workdir {run}."
    ) in shown.reason
