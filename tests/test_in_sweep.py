"""Steps whose backward scan updates the agents: the numbers of steps with the whole gradient."""

import re
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn
from linear_backbone import Linear, linear  # noqa: F401  # The fixture acts on every test here.

from hyperface import models
from hyperface.config.experiment import Experiment, Group, Groups, Model, Optimizer, check
from hyperface.config.loss import (
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    Loss,
    MagFaceTerm,
    RingTerm,
    SoftmaxTerm,
)
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.train import parallel
from hyperface.train.divergence import DivergenceError, check_finite
from hyperface.train.state import create_state
from hyperface.train.step import train_step

CLASSES = 24
OFF = SoftmaxTerm(weight=0.0)
GROUPS = Groups(agents=Group(rate=10.0, decay=2.0))
LOSSES = {
    "softmax": Loss(softmax=SoftmaxTerm(dropout=0.3), ring=RingTerm(weight=0.1)),
    "bias": Loss(softmax=SoftmaxTerm(scale=1.0, normalize="none", bias=True)),
    "c-triplet, unit rows": Loss(softmax=OFF, c_triplet=CTripletTerm(1.0, gradient="caffe")),
    "one matrix for two": Loss(c_contrastive=CContrastiveTerm(weight=0.3), share_agents=True),
    "a matrix each": Loss(c_contrastive=CContrastiveTerm(weight=0.3)),
    "magface and centers": Loss(
        softmax=OFF,
        magface=MagFaceTerm(1.0, scale=16.0, lower_norm=1.0, upper_norm=9.0),
        center=CenterTerm(weight=0.01),
    ),
    "sampled": Loss(softmax=SoftmaxTerm(scale=8.0), sample_rate=0.5),
    "bf16": Loss(softmax=SoftmaxTerm(scale=8.0), precision="bf16"),
}


def experiment(loss, *, in_sweep, split=False, **optimizer):
    optimizer = {
        "learning_rate": 0.02,
        "groups": GROUPS,
        "boundaries": (3,),
        "agents_update": "in-sweep" if in_sweep else "whole",
    } | optimizer
    return check(
        Experiment(
            "swept",
            100,
            model=Model(feature_dim=8),
            loss=loss,
            optimizer=Optimizer(**optimizer),
            shard_agents=split,
        )
    )


def batches(steps, classes=CLASSES):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        mask = np.ones(16, np.float32)
        mask[[0, 1, 9]] = 0
        yield {
            "images": rng.standard_normal((16, 4, 4, 1)).astype(np.float32),
            "labels": rng.integers(0, classes, 16).astype(np.int32),
            "mask": mask,
        }


def fresh(run, classes=CLASSES):
    (first,) = batches(1)
    return create_state(run, classes, first["images"], first["labels"])


def stepped(step, state, steps=6, classes=CLASSES):
    seen = []
    for batch in batches(steps, classes):
        state, metrics = step(state, batch)
        seen.append(jax.device_get(metrics))
    return state, seen


def contents(state):
    return jax.device_get(
        (state.step, state.params, state.batch_stats, state.opt_state, state.average)
    )


def assert_same(found, expected, rtol=1e-4, atol=2e-6):
    (state, seen), (other, known) = found, expected
    chex.assert_trees_all_close(seen, known, rtol=2e-5, atol=2e-6)
    chex.assert_trees_all_close(contents(state), contents(other), rtol=rtol, atol=atol)


@pytest.mark.parametrize("loss", LOSSES)
def test_six_steps_are_those_with_the_whole_gradient(loss):
    ended = [
        stepped(jax.jit(train_step), fresh(experiment(LOSSES[loss], in_sweep=in_sweep)))
        for in_sweep in (True, False)
    ]
    assert_same(*ended)


@pytest.mark.parametrize(
    "optimizer", [{"rate_in_velocity": True}, {"average": 0.9}, {"freeze_backbone": 2}]
)
def test_every_rule_of_the_optimiser_is_kept(optimizer):
    ended = [
        stepped(jax.jit(train_step), fresh(experiment(LOSSES["softmax"], in_sweep=s, **optimizer)))
        for s in (True, False)
    ]
    assert_same(*ended)


@pytest.mark.parametrize("loss", ["softmax", "bias", "sampled"])
def test_copies_of_the_agents_on_eight_devices_move_as_on_one(loss):
    expected = stepped(jax.jit(train_step), fresh(experiment(LOSSES[loss], in_sweep=False)))
    state = jax.device_put(fresh(experiment(LOSSES[loss], in_sweep=True)), mesh.replicated())
    assert_same(stepped(parallel.data_parallel_step(), state), expected)


@pytest.mark.parametrize("loss", ["one matrix for two", "c-triplet, unit rows"])
@pytest.mark.parametrize("classes", [CLASSES, 9])
def test_split_agents_move_as_on_one_device(loss, classes):
    """Nine classes on eight devices take two rows each, seven of them nobody's."""
    run = experiment(LOSSES[loss], in_sweep=True, split=True)
    whole = experiment(LOSSES[loss], in_sweep=False)
    expected = stepped(jax.jit(train_step), fresh(whole, classes), classes=classes)
    state = parallel.on_mesh(lambda state: state, fresh(run, classes), split_classes=True)
    state, seen = stepped(parallel.mesh_step(split_classes=True), state, classes=classes)
    assert_same((parallel.whole_classes(state), seen), expected)


def test_a_sample_of_split_agents_moves_as_with_the_whole_gradient():
    ended = []
    for in_sweep in (True, False):
        run = experiment(LOSSES["sampled"], in_sweep=in_sweep, split=True)
        state = parallel.on_mesh(lambda state: state, fresh(run), split_classes=True)
        ended.append(stepped(parallel.mesh_step(split_classes=True), state))
    assert_same(*ended)


# ------------------------------------------------------------------- steps that are not finite


def test_a_loss_that_is_not_finite_changes_no_row():
    before = fresh(experiment(LOSSES["softmax"], in_sweep=True))
    (batch,) = batches(1)
    batch["images"][4] = np.inf
    state, metrics = jax.jit(train_step)(before, batch)
    assert state.diverged
    assert not np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal(contents(state), contents(before))
    # And no later step does, until the host has answered.
    state, _ = stepped(jax.jit(train_step), state, 2)
    chex.assert_trees_all_equal(contents(state), contents(before))


def test_another_term_that_is_not_finite_changes_no_row():
    """The softmax is finite, Ring loss is not."""
    before = fresh(experiment(LOSSES["softmax"], in_sweep=True))
    head = before.params["head"] | {"ring": {"radius": jax.numpy.float32(np.nan)}}
    before = before.replace(params=before.params | {"head": head})
    (batch,) = batches(1)
    state, metrics = jax.jit(train_step)(before, batch)
    assert np.isfinite(metrics["softmax"])
    assert not np.isfinite(metrics["ring"])
    chex.assert_trees_all_equal(contents(state), contents(before))


@jax.custom_vjp
def breaking(x):
    """Finite forward, NaN backward."""
    return x


breaking.defvjp(lambda x: (x, None), lambda _, g: (g * np.nan,))


class Breaking(nn.Module):
    """A backbone whose gradient is not finite."""

    feature_dim: int

    @nn.compact
    def __call__(self, images):
        return breaking(Linear(self.feature_dim)(images))


def test_a_backbone_gradient_that_is_not_finite_loses_the_state(monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Breaking(feature_dim))
    (batch,) = batches(1)
    lost = []
    for in_sweep in (True, False):
        state = fresh(experiment(LOSSES["bf16"], in_sweep=in_sweep))
        state, metrics = jax.jit(train_step)(state, batch)
        assert state.diverged
        with pytest.raises(DivergenceError, match="gradient_norm = nan") as error:
            check_finite(1, {name: float(x) for name, x in metrics.items()})
        lost.append(error.value.updated)
    assert lost == [True, False]


# ------------------------------------------------------------------------- memory, and refusals


@pytest.mark.parametrize("split", [False, True])
def test_the_step_has_no_gradient_and_no_copy_of_the_agents(split):
    """The agents of one device are 32 MiB, and those of each of eight 16 MiB."""
    classes, dim, rows = (2**20, 32, 2**17) if split else (2**17, 64, 2**17)
    run = experiment(LOSSES["one matrix for two"], in_sweep=True, split=split)
    run = replace(run, model=Model(feature_dim=dim))
    images = jax.ShapeDtypeStruct((64, 4, 4, 1), np.float32)
    labels = jax.ShapeDtypeStruct((64,), np.int32)
    state = jax.eval_shape(lambda x, y: create_state(run, classes, x, y), images, labels)
    batch = {"images": images, "labels": labels, "mask": images.update(shape=(64,))}
    if split:
        state = parallel.shapes_on_mesh(state, split_classes=True)
        lowered = parallel.mesh_step(split_classes=True).lower(state, batch)
    else:
        lowered = jax.jit(train_step, donate_argnums=0).lower(state, batch)
    program = lowered.compile()
    assert not re.search(rf"f32\[{rows},{dim}\]\S* copy\(", program.as_text())
    # Blocks of at most 4 MiB: similarities, slopes, rows, their momentum and gradient.
    assert program.memory_analysis().temp_size_in_bytes < 6 * 4 * 2**20


@pytest.mark.parametrize("other", [{"clip": 1.0}, {"accumulate": 2}])
def test_what_needs_the_whole_gradient_is_refused(other):
    with pytest.raises(InputError, match=r"agents-update: expected whole with optimizer\.clip"):
        experiment(LOSSES["softmax"], in_sweep=True, **other)
    with pytest.raises(InputError, match="expected whole with a loss that has no agents"):
        experiment(Loss(softmax=OFF, ring=RingTerm(weight=0.1)), in_sweep=True)
