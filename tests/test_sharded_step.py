"""The step with agents split over devices: the numbers of one device, an eighth of the memory."""

from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

from hyperface import models
from hyperface.errors import InputError
from hyperface.objective import (
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    Loss,
    MarginTerm,
    MultipliedAngleTerm,
    RingTerm,
    SoftmaxTerm,
)
from hyperface.train import parallel
from hyperface.train.experiment import Experiment, Model, Optimizer, check
from hyperface.train.state import create_state

CLASSES = 24
OFF = SoftmaxTerm(weight=0.0)
LOSSES = {
    "softmax": Loss(softmax=SoftmaxTerm(dropout=0.3)),
    "plain softmax": Loss(softmax=SoftmaxTerm(scale=1.0, normalize="none", bias=True)),
    "c-contrastive": Loss(softmax=OFF, c_contrastive=CContrastiveTerm(weight=1.0)),
    "c-triplet": Loss(softmax=OFF, c_triplet=CTripletTerm(weight=1.0, gradient="caffe")),
    "joint": Loss(c_contrastive=CContrastiveTerm(weight=0.3), share_agents=True),
    "a-softmax": Loss(softmax=OFF, a_softmax=MultipliedAngleTerm(weight=1.0)),
    "margin": Loss(softmax=OFF, margin_softmax=MarginTerm(1.0, angular_margin=0.3, scale=16.0)),
    "ring": Loss(softmax=SoftmaxTerm(scale=8.0), ring=RingTerm(weight=0.1)),
    "center": Loss(center=CenterTerm(weight=0.01)),
}


class Linear(nn.Module):
    """The least backbone, which compiles at once."""

    feature_dim: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.feature_dim)(images.reshape(images.shape[0], -1))


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))


def experiment(loss, **options):
    options.setdefault("optimizer", Optimizer(learning_rate=0.05))
    return check(
        Experiment("split", 100, model=Model(feature_dim=8), loss=loss, shard_agents=True, **options)
    )


def batches(steps, classes=CLASSES):
    """Random patterns with a mask that leaves the first device without an example."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        mask = np.ones(16, np.float32)
        mask[[0, 1, 9]] = 0
        yield {
            "images": rng.standard_normal((16, 4, 4, 1)).astype(np.float32),
            "labels": rng.integers(0, classes, 16).astype(np.int32),
            "mask": mask,
        }


def creator(run, classes=CLASSES):
    return lambda images, labels: create_state(run, classes, images, labels)


def trained(run, steps, *, devices=8, split, classes=CLASSES):
    """The state after some steps, without padding, and each step's metrics."""
    devices = jax.local_devices()[:devices]
    first = next(batches(1, classes))
    make, arguments = creator(run, classes), (first["images"], first["labels"])
    if split:
        state = parallel.split_classes(make, *arguments, devices=devices)
        step = parallel.sharded_step(devices)
    else:
        state = jax.device_put(make(*arguments), parallel.replicated(devices))
        step = parallel.data_parallel_step(devices)
    seen = []
    for batch in batches(steps, classes):
        state, metrics = step(state, batch)
        seen.append(jax.device_get(metrics))
    return parallel.whole_classes(state) if split else state, seen


@pytest.mark.parametrize("name", LOSSES)
def test_twenty_steps_are_those_of_one_device_and_of_the_replicated_head(name):
    run = experiment(LOSSES[name])
    state, metrics = trained(run, 20, split=True)
    for devices in (1, 8):
        expected, known = trained(run, 20, devices=devices, split=False)
        for mine, truth in zip(metrics, known, strict=True):
            chex.assert_trees_all_close(mine, truth, rtol=2e-5, atol=2e-6)
        kept = (state.params, state.opt_state, state.distortion)
        truth = (expected.params, expected.opt_state, expected.distortion)
        chex.assert_trees_all_close(*map(jax.device_get, (kept, truth)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["plain softmax", "center"])
def test_classes_that_do_not_divide_are_padded_with_rows_that_count_nowhere(name):
    """Nine classes on eight devices take two rows each, seven of them nobody's."""
    run = experiment(LOSSES[name], optimizer=Optimizer(learning_rate=0.05, average=0.9))
    state, metrics = trained(run, 5, split=True, classes=9)
    expected, known = trained(run, 5, devices=1, split=False, classes=9)
    chex.assert_trees_all_close(metrics, known, rtol=2e-5, atol=2e-6)
    kept = (state.params, state.opt_state, state.distortion, state.average)
    truth = (expected.params, expected.opt_state, expected.distortion, expected.average)
    chex.assert_trees_all_close(*map(jax.device_get, (kept, truth)), rtol=1e-3, atol=1e-5)
