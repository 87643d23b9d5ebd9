"""A run with agents split over devices: the replicated run's numbers, also when interrupted."""

import dataclasses
import json
import re
import signal
import time

import chex
import jax
import pytest
from conftest import write_people
from processes import HERE, ends, in_processes, start
from test_sharded_step import Linear

from hyperface import models, owned
from hyperface.config.loss import CenterTerm, Loss, SoftmaxTerm
from hyperface.data import store
from hyperface.data.planning import Options
from hyperface.data.sources.trees import folder
from hyperface.errors import InputError
from hyperface.train import loop
from hyperface.train.logs import read_metrics


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))


@pytest.fixture(scope="module")
def ten_people(tmp_path_factory):
    root = write_people(tmp_path_factory.mktemp("ten"), people=14, images=4)
    data_dir = tmp_path_factory.mktemp("data")
    store.prepare(folder(root), data_dir / "tiny", Options(held_out=4))
    return data_dir


def train(experiment, data_dir, workdir):
    state = loop.train(experiment, data_dir, workdir)
    return jax.device_get((state.params, state.distortion)), read_metrics(workdir / "metrics.jsonl")


def test_a_run_equals_the_replicated_one_and_may_be_interrupted(
    tiny_experiment, ten_people, tmp_path
):
    """Ten classes on eight devices: checkpoints hold ten rows, not sixteen."""
    loss = Loss(softmax=SoftmaxTerm(dropout=0.1), center=CenterTerm(weight=0.001))
    once = dataclasses.replace(tiny_experiment.evaluation, snapshots=1)
    run = dataclasses.replace(tiny_experiment, loss=loss, steps=8, evaluation=once)
    split = dataclasses.replace(run, shard_agents=True)
    expected, known = train(run, ten_people, tmp_path / "replicated")
    found, metrics = train(split, ten_people, tmp_path / "split")
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, known, rtol=1e-4, atol=1e-6)

    (tmp_path / "split" / "checkpoints" / "8").rename(tmp_path / "lost")
    again, metrics_again = train(split, ten_people, tmp_path / "split")
    chex.assert_trees_all_equal(again, found)
    assert metrics_again == metrics

    (tmp_path / "split" / "checkpoints" / "8").rename(tmp_path / "lost again")
    replicated, metrics_replicated = train(run, ten_people, tmp_path / "split")
    chex.assert_trees_all_close(replicated, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics_replicated, known, rtol=1e-4, atol=1e-6)
    left = {path.name for path in (tmp_path / "split" / "checkpoints").iterdir()}
    assert left == {"4", "8", owned.MARKER}  # None was held to be damaged.


def train_in_two_processes(experiment, data_dir, workdir):
    """Of two devices each."""
    told = data_dir, workdir, json.dumps(experiment.to_dict())
    outputs = in_processes([HERE / "one_of_two.py", *told], 2, 2)
    return read_metrics(workdir / "metrics.jsonl"), outputs


@pytest.mark.slow
@pytest.mark.parametrize("shard_agents", [True, False], ids=["split", "whole"])
def test_two_processes_train_as_one(tiny_experiment, ten_people, tmp_path, shard_agents):
    """Ten steps with dropout; process 0 alone writes and prints."""
    once = dataclasses.replace(tiny_experiment.evaluation, snapshots=1)
    loss = Loss(softmax=SoftmaxTerm(dropout=0.1), center=CenterTerm(weight=0.001))
    run = dataclasses.replace(
        tiny_experiment,
        steps=10,
        log_every=1,
        checkpoint_every=5,
        evaluation=once,
        loss=loss,
        shard_agents=shard_agents,
    )
    _, known = train(run, ten_people, tmp_path / "one")
    found, outputs = train_in_two_processes(run, ten_people, tmp_path / "two")
    assert len(found) == 10
    chex.assert_trees_all_close(found, known, rtol=1e-4, atol=1e-6)
    assert "needs about" in outputs[0]
    assert "needs about" not in outputs[1]


def test_too_few_classes_are_refused_before_anything_is_made(tiny_experiment, tiny_data, tmp_path):
    split = dataclasses.replace(tiny_experiment, shard_agents=True)
    with pytest.raises(InputError, match="for each of the 8 devices, found 6"):
        loop.train(split, tiny_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_saves_the_same_step_of_both(
    tiny_experiment, tiny_data, tmp_path
):
    """To the one that does not write."""
    run = dataclasses.replace(
        tiny_experiment,
        steps=1_000_000,
        log_every=1,
        checkpoint_every=500_000,
        loss=Loss(softmax=SoftmaxTerm(scale=8.0)),
        evaluation=dataclasses.replace(tiny_experiment.evaluation, snapshots=1),
    )
    told = tiny_data, tmp_path / "run", json.dumps(run.to_dict())
    started = start([HERE / "one_of_two.py", *told], 2, 1)
    until = time.monotonic() + 300
    while not read_metrics(tmp_path / "run/metrics.jsonl") and time.monotonic() < until:
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    statuses, outputs = ends(started, timeout=300)
    assert statuses == [0, 0], outputs
    (step,) = {
        *(int(re.search(r"SIGTERM: step (\d+) is saved", output)[1]) for output in outputs),
        *(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.is_dir()),
    }
    assert read_metrics(tmp_path / "run/metrics.jsonl")[-1]["step"] == step
