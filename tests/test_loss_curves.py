"""Every class-wise loss has one device's curve on many devices and in several processes."""

import json

import jax
import numpy as np
import pytest
from loss_curves import LOSSES, curve, curves, first_state
from processes import HERE, in_processes

from hyperface import models
from hyperface.devices import mesh
from hyperface.train import parallel
from hyperface.train.step import train_step

MOST = 2e-6
"""Of a curve's deviation: what a start one unit in the last place away makes, some times over."""


@pytest.fixture(autouse=True)
def own_model(monkeypatch):
    """The net that `first_state` puts in place of all is gone after the test."""
    monkeypatch.setattr(models, "create", models.create)


def one_device(name, steps):
    return curve(jax.jit(train_step), first_state(name), steps)


def nudged(name, steps):
    """One device's curve where half of the parameters start one unit in the last place away."""
    rng, state = np.random.default_rng(1), first_state(name)
    params = jax.tree.map(
        lambda x: np.where(rng.random(x.shape) < 0.5, np.nextafter(x, np.float32(np.inf)), x),
        state.params,
    )
    return curve(jax.jit(train_step), state.replace(params=params), steps)


def mapped(name, steps):
    """The curve of `data_parallel_step`, the loop's own for agents that are not split."""
    state = jax.device_put(first_state(name), mesh.replicated())
    return curve(parallel.data_parallel_step(), state, steps)


def in_several(names, steps, processes, devices, timeout):
    """Curves of processes of some devices each."""
    command = [HERE / "loss_curves.py", str(steps), *names]
    outputs = in_processes(command, processes, devices, timeout=timeout)
    assert set(outputs) == {outputs[0]}  # Each knows the loss of the whole batch.
    found = map(json.loads, outputs[0].splitlines())
    return {name: by_layout for line in found for name, by_layout in line.items()}


def deviation(found, known):
    """The largest difference of two curves, relative to the loss of the step."""
    assert len(found) == len(known)
    return np.max(np.abs(np.subtract(found, known)) / np.abs(known))


def test_two_processes_have_the_curve_of_one_device():
    found = in_several(["c-triplet"], 10, 2, 2, 300)["c-triplet"]
    known = one_device("c-triplet", 10)
    assert deviation(found["whole"], known) < MOST
    assert deviation(found["split"], known) < MOST


def test_the_released_ring_loss_takes_the_mean_norm_of_all_devices():
    found = curves(["ring, released"], 3)["ring, released"]
    assert deviation(found["whole"], one_device("ring, released", 3)) < MOST


@pytest.mark.slow
def test_fifty_steps_of_every_loss_in_one_two_and_four_processes(capsys):
    """Prints the largest deviation of each loss, beside what a nudged start makes."""
    steps, names = 50, list(LOSSES)
    known = {name: one_device(name, steps) for name in names}
    found = {"1 x 8": curves(names, steps)}
    for processes, devices in ((1, 2), (2, 2), (4, 1)):
        several = in_several(names, steps, processes, devices, 3600)
        found[f"{processes} x {devices}"] = several
    worst = {}
    for name in names:
        layouts = [
            (f"{way}, {layout}", curve)
            for way, by_name in found.items()
            for layout, curve in by_name[name].items()
        ]
        layouts.append(("pmap", mapped(name, steps)))
        deviations = [deviation(curve, known[name]) for _, curve in layouts]
        # NumPy's maximum of a NaN and a number is NaN, and its position that of the NaN.
        worst[name], where = np.max(deviations), layouts[np.argmax(deviations)][0]
        own = deviation(nudged(name, steps), known[name])
        with capsys.disabled():
            print(f"\n{name:38} {worst[name]:.1e} ({where:24}) nudged {own:.1e}", end="")
    assert all(most < MOST for most in worst.values())
