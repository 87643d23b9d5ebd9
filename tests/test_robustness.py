"""The items over fixed features: kept features, every setting scored, spread and statements."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import write_people

from hyperface.data import store
from hyperface.data.datasets import open_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.data.planning import Options
from hyperface.data.sources.trees import folder
from hyperface.errors import InputError
from hyperface.reproduce import (
    command,
    commands,
    comparisons,
    feature_cache,
    heads_at_once,
    page,
    papers,
    printed_spreads,
    robustness,
)
from hyperface.reproduce.item import HOLDS, Context


@pytest.fixture
def context(random_run, tiny_experiment, tiny_data, tmp_path):
    """Where a run of faces-softmax's name is there, of random numbers on tiny data."""
    run = tmp_path / "runs" / robustness.RUN
    shutil.copytree(random_run[0], run)
    (run / "config.json").write_text(json.dumps({"experiment": tiny_experiment.to_dict()}))
    (run / "metrics.jsonl").write_text("{}\n")
    (run / "results.json").write_text("{}")
    return Context(tmp_path / "out", tiny_data, quick=True, runs=tmp_path / "runs")


def test_features_of_images_and_mirror_images_are_made_once(
    context, random_run, tiny_data, monkeypatch
):
    run = context.runs / robustness.RUN
    found = feature_cache.features(run, context)
    assert found["train"].features.shape == (48, 2, 16)
    state = random_run[1]
    split = open_split("tiny", "test", tiny_data)
    (batch,) = evaluation_batches(split, batch_size=32)
    for side, images in enumerate((batch["images"], batch["images"][:, :, ::-1])):
        direct = state.network.apply(state.evaluated, images, method="embed")
        np.testing.assert_allclose(found["test"].features[:, side], direct, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found["test"].labels, batch["labels"])
    monkeypatch.setattr(feature_cache, "open_network", None)  # Nothing is embedded again.
    again = feature_cache.features(run, context)
    np.testing.assert_array_equal(again["test"].features, found["test"].features)
    with monkeypatch.context() as changed:
        changed.setattr(feature_cache, "code_digest", lambda _: "of other code")
        with pytest.raises(TypeError):
            feature_cache.features(run, context)
    (run / "metrics.jsonl").write_text("{1}\n")
    with pytest.raises(TypeError):
        feature_cache.features(run, context)


def test_features_of_a_list_are_those_of_the_images_it_names(context, random_run, tiny_data):
    run = context.runs / robustness.RUN
    split = open_split("tiny", "test", tiny_data)
    wanted = [split.records[place]["name"].decode() for place in (3, 5, 7)]
    found = feature_cache.named_features(run, "tiny", wanted, context)
    assert sorted(found.names) == sorted(wanted)
    (batch,) = evaluation_batches(split, batch_size=32)
    state = random_run[1]
    direct = state.network.apply(state.evaluated, batch["images"][[3, 5, 7]], method="embed")
    rows = found.rows(wanted, "the list")
    np.testing.assert_allclose(found.features[rows], direct, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="all images that are named, found no nobody/1"):
        feature_cache.named_features(run, "tiny", [*wanted, "nobody/1"], context)


def untrained(settings, features, labels, *, seeds, steps, progress):
    """Heads of random numbers, of which the last setting's diverged."""
    rng = np.random.default_rng(5)
    shapes = {"inner": (16, 6), "inner_bias": (1, 6), "slope": (1, 6)}
    shapes |= {"outer": (6, 4), "outer_bias": (1, 4)}
    heads = {n: rng.normal(size=(seeds, len(settings), *s)) for n, s in shapes.items()}
    heads["outer"][:, -1] = np.nan
    assert steps == robustness.STEPS[True]
    progress(steps, steps)
    return heads


@pytest.mark.parametrize(
    ("paper", "name", "settings"),
    [("ringloss", "robustness", 20), ("normface", "figure-8-fixed-features", 14)],
)
def test_every_setting_has_its_figures(paper, name, settings, context, monkeypatch):
    monkeypatch.setattr(heads_at_once, "train", untrained)
    (item,) = papers.items(paper, (name,))
    outcome, figures = papers.measurement(item)(context)
    scored = [e for e in outcome.entries if e.column == "accuracy" and e.unit == "%"]
    assert len(scored) == settings - 1
    (lost,) = [e for e in outcome.entries if e.unit.endswith("diverged")]
    assert page.shown_entry(lost) == f"{robustness.SEEDS} of {robustness.SEEDS} seeds diverged"
    assert not outcome.missing
    for entry in outcome.entries:
        single = entry is lost or entry.row.startswith("published, ")
        assert len(entry.values) == (1 if single else robustness.SEEDS), entry
        assert np.isfinite(entry.values).all(), entry
    claims = {entry.row for entry in outcome.entries if entry.unit == HOLDS}
    printed = papers.published()[paper][name]
    assert claims | outcome.unjudged.keys() == {row["row"] for row in printed["rows"]}
    assert set(outcome.unjudged) == ({"alpha = 50 explodes"} if paper == "ringloss" else set())
    verdicts = page.judge({name: outcome})
    shown = page.Shown(item, outcome, context.out, "")
    for row in page.section(shown, printed, verdicts).tables[0].rows:
        if row[0] in outcome.unjudged:
            assert row[1:3] == ["yes", f"{page.NOT_JUDGED}: {outcome.unjudged[row[0]]}"]
    assert "explodes" not in page.summary([shown], {name: printed}, verdicts)
    assert [caption.split(",")[0] for caption in figures] == ["Accuracy", "TAR at FAR 1 %"]
    lines = [axes.get_legend_handles_labels()[1] for axes in figures.popitem()[1].axes]
    assert all(label.startswith("softmax") for labels in lines for label in labels)
    assert (lines[0][1:2] == ["softmax, normalised"]) == (paper == "normface")
    assert "not end to end" in outcome.scale
    assert "6 people; 4 other people" in outcome.scale


def test_the_papers_own_tables_vary_as_computed_by_hand():
    entries = printed_spreads.entries()
    held = {e.row.split(", ")[1].split(":")[0]: bool(e.values[0]) for e in entries if not e.column}
    expected = {"MegaFace": True, "IJB-A": True, "Janus CS3": True, "LFW": False, "CFP": False}
    assert held == expected
    found = {(e.row.removeprefix("published, "), e.column): e.values[0] for e in entries}
    for row, over_lambda, over_alpha in (
        ("MegaFace rank-1", 1.175, 3.074),
        ("CFP TAR at FAR 0.1 %", 5.575, 3.631),
        ("IJB-A FAR 1e-5", 4.650, 10.060),
        ("LFW", 0.133, 0.053),
    ):
        values = [found[row, f"deviation over {k}"] for k in ("lambda, softmax", "alpha")]
        np.testing.assert_allclose(values, [over_lambda, over_alpha], atol=5e-4)


def test_weight_10_counts_in_the_range_that_has_it():
    flat, falls = np.full(2, 80.0), np.array([80.0, 90.0])
    of = {"C-contrastive": [flat, flat + 1, flat], "center": [flat, flat, falls]}
    found = {
        (key, w): robustness.Scores(value, value, value)
        for key, values in of.items()
        for w, value in zip((0.1, 1.0, 10.0), values, strict=True)
    }
    to_one, whole = (0.1, 1.0), (0.1, 1.0, 10.0)
    spreads = {k: robustness._spread(found, k, "accuracy", to_one) for k in of}
    assert not (spreads["C-contrastive"] < spreads["center"]).any()
    spreads = {k: robustness._spread(found, k, "accuracy", whole) for k in of}
    assert (spreads["C-contrastive"] < spreads["center"]).tolist() == [False, True]


def test_without_its_run_an_item_says_how_to_make_it(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--data-dir", str(tmp_path), "--runs", str(tmp_path / "r")]
    command.main(["ringloss", "--only", "robustness", *options])
    assert "robustness              not run" in capsys.readouterr().out
    text = (tmp_path / "ringloss/report.html").read_text()
    folder = tmp_path / "r/faces-softmax"
    assert f"To train it: hyperface train faces-softmax --workdir {folder}." in text
    assert f"--only robustness --out {tmp_path} --runs {tmp_path / 'r'}" in text


def test_a_result_is_of_its_run(context):
    (item,) = papers.items("ringloss", ("robustness",))
    before, run = commands.result_key(context, item), context.runs / robustness.RUN
    assert commands.result_key(context, item) == before
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert commands.result_key(context, item) != before


def test_what_is_kept_is_of_its_data(context, tiny_data, tmp_path):
    other = dataclasses.replace(context, data_dir=tmp_path / "data")
    shutil.copytree(tiny_data, other.data_dir)
    run = context.runs / robustness.RUN
    (item,) = papers.items("ringloss", ("robustness",))
    item = item._replace(needs=("tiny",))
    assert commands.result_key(other, item) == commands.result_key(context, item)
    shutil.rmtree(other.data_dir / "tiny")
    people = write_people(tmp_path / "people", people=10, images=8)
    first, second = people / "person0", people / "person1"
    (first / "0.png").rename(second / "moved.png")  # As many images, of other people.
    (second / "0.png").rename(first / "0.png")
    store.prepare(folder(people), other.data_dir / "tiny", Options(held_out=4))
    assert commands.result_key(other, item) != commands.result_key(context, item)
    for one in (context, other):
        feature_cache.features(run, one)
    assert len(list((context.out / "features").iterdir())) == 2


def test_all_values_are_judged_beside_the_papers_own():
    """Over the paper's values lambda varies less, over all that were tried alpha does."""
    found = {}
    for key, values in robustness.TRIED.items():
        for value in values:
            score = np.full(3, 80.0 + (value == 20.0) + 9 * (value == 10.0 and key == "lambda"))
            found[key, value] = robustness.Scores(score, score, score)

    def less(ranges):
        of = {k: robustness._spread(found, k, "tar", values) for k, values in ranges.items()}
        return bool((of["lambda"] < of["alpha"]).all())

    assert less(robustness.PRINTED)
    assert not less(robustness.TRIED)


def test_a_hyper_parameter_with_one_value_left_has_no_spread():
    lost, kept = np.full(3, np.nan), np.array([80.0, 81.0, 82.0])
    found = {
        ("lambda", 1.0): robustness.Scores(kept, kept, kept),
        ("lambda", 10.0): robustness.Scores(lost, lost, lost),
    }
    assert robustness._spread_entries(found, "lambda", (1.0, 10.0), "all") == []
    margins = robustness._margins(lost, lost)
    assert comparisons.per_seed("", margins) == []
