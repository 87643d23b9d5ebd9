"""Training by groups of people: who is in which group, and what the groups score together."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hyperface.config.experiment import Data, Evaluation, check
from hyperface.data.datasets import open_experiment_split, open_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError
from hyperface.evaluate.embed import Embeddings
from hyperface.evaluate.evaluator import Result
from hyperface.evaluate.people_folds import put_together
from hyperface.metrics.verification import verify
from hyperface.report.people_folds import accuracy_table
from hyperface.runs import evaluate, train


def names(split):
    return [record["name"].decode() for record in split.records]


def test_every_person_is_in_one_group_and_never_trained_on_there(tiny_data):
    scored = []
    for group in (1, 2, 3):
        data = Data(name="tiny", people_fold=(group, 3))
        test = open_experiment_split(data, "test", tiny_data)
        rest = open_experiment_split(data, "train", tiny_data)
        assert not set(names(test)) & set(names(rest))
        assert len(test.records) + len(rest.records) == 80
        for split in (test, rest):
            labels = {}
            for record in split.records:
                labels.setdefault(record["name"].decode().split("/")[0], set()).add(record["label"])
            assert sorted(label for (label,) in labels.values()) == list(range(split.num_classes))
        assert test.num_classes + rest.num_classes == 10
        scored += names(test)
    stored = [open_split("tiny", part, tiny_data) for part in ("train", "test")]
    assert sorted(scored) == sorted(name for split in stored for name in names(split))


def test_too_few_people_for_the_groups_are_refused(tiny_data):
    with pytest.raises(InputError, match=r"data\.people-fold: expected at least 12 people"):
        open_experiment_split(Data(name="tiny", people_fold=(1, 6)), "test", tiny_data)


def test_images_are_made_smaller_by_the_mean_of_blocks(tiny_data):
    whole = open_split("tiny", "test", tiny_data)
    half = open_split("tiny", "test", tiny_data, shrink=2)
    assert half.image_shape == (8, 7, 3)
    (large, *_), (small, *_) = (evaluation_batches(s, batch_size=4) for s in (whole, half))
    pixels = large["images"] * 128 + 127.5
    mean = sum(pixels[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    np.testing.assert_allclose(small["images"] * 128 + 127.5, np.rint(mean), atol=1e-3)
    with pytest.raises(InputError, match=r"data\.shrink: expected a factor of both sides"):
        open_split("tiny", "test", tiny_data, shrink=3)


def groups_of(rng, spread):
    """Verified features of three groups of four people, and all of their pairs once more."""
    results, everything = [], []
    for _ in range(3):
        labels = np.repeat(np.arange(4), 5)
        features = rng.normal(size=(4, 8))[labels] + spread * rng.normal(size=(20, 8))
        verification = verify(features, labels, folds=5)
        norms = np.linalg.norm(features, axis=1)
        results.append(Result(Embeddings(features, norms, labels), verification=verification))
        everything.append((verification.scores, verification.pairs.same))
    return results, everything


def test_groups_are_decided_by_the_threshold_of_the_others():
    results, everything = groups_of(np.random.default_rng(0), spread=1.2)
    found = put_together(results)
    right, same = [], []
    for place, (scores, truth) in enumerate(everything):
        rest = [pair for i, pair in enumerate(everything) if i != place]
        others, labels = (np.concatenate(part) for part in zip(*rest, strict=True))
        cuts = np.sort(others)
        gains = [np.mean(others[labels] >= c) - np.mean(others[~labels] >= c) for c in cuts]
        best = np.flatnonzero(np.isclose(gains, np.max(gains)))
        # The threshold is midway between two scores, so the cut's own score lies above it.
        low, high = cuts[best[0] - 1], cuts[best[-1]]
        sure = (scores <= low) | (scores >= high)
        decided = scores >= high
        right.append(np.where(sure, decided == truth, np.nan))
        same.append(truth)
    right, same = np.concatenate(right), np.concatenate(same)
    sure = ~np.isnan(right)
    np.testing.assert_array_equal(found.right[sure], right[sure].astype(bool))
    expected = 50 * (found.right[same].mean() + found.right[~same].mean())
    assert found.accuracy.value == pytest.approx(expected)
    assert found.first.max() == found.second.max() == 11
    assert np.all((found.first == found.second) == same)


def test_a_group_without_verification_is_refused():
    results, _ = groups_of(np.random.default_rng(0), spread=1.2)
    results.insert(1, Result(results[0].embeddings, accuracy=0.5))
    with pytest.raises(ValueError, match="a verification of every group, found 1 groups without"):
        put_together(results)


def test_a_last_person_with_one_image_is_counted():
    rng = np.random.default_rng(3)
    results, _ = groups_of(rng, spread=1.2)
    labels = np.append(results[2].embeddings.labels, 4)
    features = rng.normal(size=(labels.size, 8))
    norms, verification = np.linalg.norm(features, axis=1), verify(features, labels, folds=5)
    results[2] = Result(Embeddings(features, norms, labels), verification=verification)
    table = accuracy_table({"mine": put_together(results)}, None)
    assert table.title.startswith("Verification of 13 people")


def test_a_better_method_is_above_and_its_interval_says_so():
    worse, _ = groups_of(np.random.default_rng(1), spread=3.0)
    better, _ = groups_of(np.random.default_rng(1), spread=0.3)
    difference = put_together(better).above(put_together(worse))
    assert difference.low > 0
    assert difference.value == pytest.approx(
        put_together(better).accuracy.value - put_together(worse).accuracy.value
    )


@pytest.fixture(scope="module")
def trained(tiny_experiment, tiny_data, tmp_path_factory):
    experiment = dataclasses.replace(
        tiny_experiment,
        name="orl40-normface",
        steps=4,
        evaluation=Evaluation(batch_size=10, folds=4, people_folds=2),
        compare=("orl40-softmax",),
    )
    folder = tmp_path_factory.mktemp("groups") / "run"
    return train.train(experiment, workdir=folder, data_dir=tiny_data)


def test_a_run_trains_and_reports_each_group(trained):
    folder = Path(trained.folder)
    assert set(trained.scores) == {"raw pixels", "orl40-normface", "orl40-softmax"}
    record = json.loads((folder / "results.json").read_text())
    assert record["results"] == trained.scores
    assert record["settings"]["experiment"]["evaluation"]["people_folds"] == 2
    assert "people_fold" not in record["settings"]["experiment"]["data"]
    for place in ("", "groups/2", "compare/orl40-softmax", "compare/orl40-softmax/groups/2"):
        assert (folder / place / "checkpoints/4").is_dir()
    page = (folder / "report.html").read_text()
    assert "each by a network that never saw them" in page
    assert "points above orl40-softmax" in page


def test_a_groups_network_is_scored_again_on_its_group(trained, tiny_data, capsys):
    folder = Path(trained.folder)
    record = json.loads((folder / "results.json").read_text())
    evaluate.main([str(folder / "groups/2"), "--data-dir", str(tiny_data)])
    again = json.loads((folder / "groups/2/evaluation.json").read_text())
    assert again["figures"] == pytest.approx(record["groups"]["orl40-normface"][1])
    assert "group 2 of 2 of the people" in json.dumps(again["settings"]["data"])
    assert "of tiny/1.0.0, group 2 of 2 of the people" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Data(people_fold=(3, 2))}, "data.people-fold: expected a group from 1 to n"),
        ({"data": Data(shrink=0)}, "data.shrink: expected at least 1"),
        (
            {"evaluation": Evaluation(people_folds=2, snapshots=2, snapshot_every=4)},
            "evaluation.people-folds: expected 1 with",
        ),
    ],
)
def test_what_cannot_go_together_is_refused(changes, message, tiny_experiment):
    with pytest.raises(InputError, match=message):
        check(dataclasses.replace(tiny_experiment, **changes))
