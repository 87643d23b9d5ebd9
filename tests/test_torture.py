"""The torture command in its short form; a run that ends otherwise is noticed."""

import dataclasses
import json
import os
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from processes import HERE
from test_sharded_step import Linear

from benchmarks.torture import command
from benchmarks.torture.faults import FAULTS
from benchmarks.torture.restarts import Trainer
from hyperface import models
from hyperface.config.experiment import Evaluation, Model
from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.errors import InputError
from hyperface.train.checkpoint.manager import Checkpoints


def test_two_kills_and_a_flipped_bit_of_a_bare_run(
    tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    """The command's own pieces around the training loop alone, whose start is the most of it."""
    bare = dataclasses.replace(
        tiny_experiment,
        steps=20,
        log_every=1,
        model=Model(feature_dim=8),
        loss=Loss(softmax=SoftmaxTerm(scale=8.0)),
        evaluation=Evaluation(folds=4),
    )
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
    told = [str(tiny_data), json.dumps(bare.to_dict())]
    trainer = Trainer(told, tmp_path, start=[str(HERE / "bare_run.py")])
    trainer.train("whole")
    found = trainer.train_killed("killed", 2, random.Random(0), 4.0)
    assert found.kills >= 1
    assert found.equal
    assert found.lost <= trainer.most_lost == 8
    assert FAULTS["a flipped bit in the newest"](trainer) == ("said, the one before it used", True)


def test_a_run_that_ends_otherwise_is_a_row_that_fails(tmp_path):
    def ended(status):
        raise RuntimeError(f"expected status {status}, found 1: Traceback")

    row = command._judged("a full disk", lambda: ended(2))
    assert row == ("a full disk", "expected status 2, found 1: Traceback", False)
    assert "FAILS  expected status 2" in command._row(*row)


@pytest.mark.slow
def test_a_killed_run_and_every_fault_end_as_they_should(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--kills", "3"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0, shown
    assert "3 kills" in shown
    assert "FAILS" not in shown


def test_a_run_that_ends_otherwise_is_noticed(random_run, tmp_path):
    whole, state = random_run
    config = {"experiment": {"steps": 8}}
    for name in ("whole", "same", "other", "scored"):
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 8}\n')
    with Checkpoints(whole / "checkpoints", read_only=True) as checkpoints:
        meta = checkpoints.meta(8)
    shutil.rmtree(tmp_path / "other/checkpoints/8")
    nearly = state.replace(distortion=np.nextafter(state.distortion, np.float32(1)))
    with Checkpoints(tmp_path / "other/checkpoints") as checkpoints:
        checkpoints.save(8, nearly, meta)
    shutil.rmtree(tmp_path / "scored/checkpoints/8")
    with Checkpoints(tmp_path / "scored/checkpoints") as checkpoints:
        checkpoints.save(8, state, meta, 1.0)
    trainer = Trainer([], tmp_path)
    assert (trainer.saved("same"), trainer.logged("same")) == (8, 8)
    assert trainer.equal("same")
    assert not trainer.equal("other")
    assert not trainer.equal("scored")


def test_a_parameter_that_is_nan_is_infinitely_far_away(tmp_path, monkeypatch):
    trainer = Trainer([], tmp_path)
    states = {"whole": [np.ones(2), np.ones(2)], "other": [np.ones(2), np.full(2, np.nan)]}
    monkeypatch.setattr(trainer, "_state", lambda run: SimpleNamespace(params=states[run]))
    assert not trainer.distance("other") <= 1.0


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="--kills: expected at least 1"):
        command.main(["--kills", "0"])
    with pytest.raises(InputError, match="unknown experiment 'mnist-rng'"):
        command.main(["mnist-rng"])
