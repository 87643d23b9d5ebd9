"""A checkpoint goes onto other devices and processes, each reading only what it will hold."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from loss_curves import CLASSES, batches, first_state
from processes import HERE, in_processes
from restored_steps import LOSS, SAVED, STEPS, go_on

from hyperface import models
from hyperface.train import parallel
from hyperface.train.checkpoint.integrity import checksums
from hyperface.train.checkpoint.manager import Checkpoints


@pytest.fixture(autouse=True)
def own_model(monkeypatch):
    """The net that `first_state` puts in place of all is gone after the test."""
    monkeypatch.setattr(models, "create", models.create)


def host(state):
    """What has a value on the host, of a state that may be padded."""
    state = parallel.whole_classes(state)
    return jax.device_get((state.params, state.opt_state, state.distortion, state.step))


def saved_by(folder, split):
    """A checkpoint of eight devices, its arrays, and what the steps after it make."""
    state = parallel.on_mesh(lambda: first_state(LOSS), split_classes=split)
    step, losses = parallel.mesh_step(split_classes=split), []
    for at, batch in enumerate(batches(STEPS), start=1):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        if at == SAVED:
            arrays = host(state)
            with Checkpoints(folder) as checkpoints:
                checkpoints.save(SAVED, parallel.whole_classes(state), {})
    return folder, arrays, losses[SAVED:], host(state)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", models.create)
        return {
            layout: saved_by(folder / layout, layout == "split") for layout in ("whole", "split")
        }


@pytest.mark.parametrize(
    ("source", "devices", "layout"),
    [("whole", 8, "split"), ("split", 4, "split"), ("split", 2, "whole"), ("split", 1, "whole")],
)
def test_other_devices_go_on_with_the_same_numbers(saved, source, devices, layout):
    folder, arrays, losses, end = saved[source]
    restored, state, found = go_on(folder, layout == "split", jax.devices()[:devices])
    chex.assert_trees_all_equal(host(restored), arrays)
    np.testing.assert_allclose(found, losses, rtol=2e-6)
    chex.assert_trees_all_close(host(state), end, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", [pytest.param("whole", marks=pytest.mark.slow), "split"])
def test_two_processes_go_on_and_one_after_them(saved, layout, tmp_path):
    """From the other layout's checkpoint; what the two save is read by one."""
    source = {"whole": "split", "split": "whole"}[layout]
    folder, _, losses, end = saved[source]
    shutil.copytree(folder, tmp_path / "run")
    first, second = in_processes([HERE / "restored_steps.py", tmp_path / "run", layout], 2, 2)
    assert first.splitlines()[-1] == second.splitlines()[-1]
    np.testing.assert_allclose(json.loads(first.splitlines()[-1]), losses, rtol=2e-6)
    restored, _, rest = go_on(tmp_path / "run", layout == "split")
    assert rest == []
    chex.assert_trees_all_close(host(restored), end, rtol=1e-4, atol=1e-6)


def test_no_device_holds_all_agents(saved):
    """Restored, a device has three of 24 rows, the last of nobody; saved, one of eight columns."""
    restored, *_ = go_on(saved["whole"][0], split=True)
    head, momentum = (
        [x for x in jax.tree.leaves(tree) if x.ndim == 2 and x.shape[0] >= CLASSES]
        for tree in (restored.params["head"], restored.opt_state)
    )
    assert len(head) == 2  # Agents and centers.
    assert momentum
    for leaf in (*head, *momentum):
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(3, 8)}
    np.testing.assert_array_equal(head[0][CLASSES:], 0)
    assert np.isnan(restored.distortion[CLASSES:]).all()
    agents = parallel.whole_classes(restored).params["head"]["softmax"]["agents"]
    assert {shard.data.shape for shard in agents.addressable_shards} == {(CLASSES, 1)}


def test_columns_are_split_as_far_as_they_go():
    """Eight columns over six devices: two halves, three copies of each."""
    devices = jax.devices()[:6]
    state = parallel.on_mesh(lambda: first_state(LOSS), split_classes=True, devices=devices)
    agents = parallel.whole_classes(state).params["head"]["softmax"]["agents"]
    assert {shard.data.shape for shard in agents.addressable_shards} == {(CLASSES, 4)}
    assert checksums({"a": agents}) == checksums({"a": np.asarray(agents)})


@pytest.mark.parametrize("fault", ["damage", pytest.param("disk", marks=pytest.mark.slow)])
def test_what_one_of_two_processes_cannot_read_both_take_alike(fault, tmp_path):
    """Damage costs both the newest checkpoint; another fault ends both, and no name changes."""
    state = first_state(LOSS)
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (4, 8):
            checkpoints.save(step, state, {})
    command = [HERE / "damage_for_one.py", tmp_path / "run", fault]
    outputs = in_processes(command, 2, 1, timeout=60)
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert first == second
    if fault == "damage":
        assert (first, names) == (4, ["4", "broken-8"])
    else:
        assert "expected to read it, found: Input/output error. Nothing" in first
        assert names == ["4", "8"]
