"""The torture command in its short form; a run that ends otherwise is noticed."""

import json
import shutil

import numpy as np
import pytest

from hyperface.errors import InputError
from hyperface.train.checkpoint import Checkpoints
from launch import torture
from launch.restarts import Trainer


@pytest.mark.slow
def test_a_killed_run_and_every_fault_end_as_they_should(capsys):
    with pytest.raises(SystemExit) as ended:
        torture.main(["--kills", "3"])
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


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="--kills: expected at least 1"):
        torture.main(["--kills", "0"])
    with pytest.raises(InputError, match="unknown experiment 'mnist-rng'"):
        torture.main(["mnist-rng"])
