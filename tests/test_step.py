"""The optimiser step: the same on one device and on eight, masked, deterministic, traced once."""

import logging
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from hyperface import losses, models
from hyperface.config.experiment import Experiment, Model, Optimizer
from hyperface.config.loss import (
    BatchTripletTerm,
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    Loss,
    RingTerm,
    SoftmaxTerm,
)
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.train import divergence, parallel
from hyperface.train.state import create_state, make_network
from hyperface.train.step import train_step

EXPERIMENT = Experiment(
    "step",
    steps=10,
    model=Model(feature_dim=8),
    loss=Loss(softmax=SoftmaxTerm(dropout=0.3), ring=RingTerm(weight=0.1)),
    optimizer=Optimizer(learning_rate=0.01),
)


@pytest.fixture
def batch(rng):
    return {
        "images": rng.standard_normal((16, 16, 14, 1)).astype(np.float32),
        "labels": (np.arange(16) % 5).astype(np.int32),
        "mask": np.ones(16, np.float32),
    }


class Linear(nn.Module):
    """The least backbone, which compiles at once."""

    feature_dim: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.feature_dim)(images.reshape(images.shape[0], -1))


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))


@contextmanager
def catch_logs(lines):
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def fresh(batch, experiment=EXPERIMENT):
    return create_state(experiment, 5, batch["images"], batch["labels"])


def test_eight_devices_equal_one_even_with_uneven_masks_and_dropout(batch):
    batch["mask"][[0, 1, 9]] = 0  # The first device of eight has no example at all.
    states, seen = [], []
    for devices in (jax.local_devices()[:1], jax.local_devices()):
        state = jax.device_put(fresh(batch), mesh.replicated(devices))
        step = parallel.data_parallel_step(devices)
        for _ in range(3):
            state, metrics = step(state, batch)
        states.append(state)
        seen.append(metrics)
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(*seen, rtol=1e-5)
    assert seen[0]["examples"] == 13


@pytest.fixture
def batch_normed(monkeypatch):
    net = partial(models.IResNet, widths=(4,), blocks=(1,))
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: net(feature_dim))


def test_batch_norm_trains_alike_on_one_device_and_eight(batch_normed, batch):
    """Parameters, moving averages and the features that those make in evaluation."""
    batch["mask"][[0, 1, 9]] = 0
    states, features = [], []
    for devices in (jax.local_devices()[:1], jax.local_devices()):
        state = jax.device_put(fresh(batch), mesh.replicated(devices))
        before = jax.device_get(state.batch_stats)
        step = parallel.data_parallel_step(devices)
        for _ in range(2):
            state, _ = step(state, batch)
        states.append((state.params, state.batch_stats))
        variables = jax.device_get(state.variables)
        features.append(state.network.apply(variables, batch["images"], method="embed"))
    chex.assert_trees_all_close(*states, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(*features, rtol=1e-3, atol=1e-4)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(states[0][1]), strict=True):
        assert not np.allclose(old, new)


def test_only_batch_norm_has_averages(batch):
    assert jax.eval_shape(fresh, batch).batch_stats == {}


def test_terms_that_look_at_the_whole_batch_do_so_on_eight_devices(linear, batch):
    """Mined triplets, centers, a mean norm, sampled classes, the distortion: two equal one."""
    batch["mask"][[0, 1, 9]] = 0
    loss = Loss(
        softmax=SoftmaxTerm(scale=5.0),
        c_triplet=CTripletTerm(weight=0.2, gradient="caffe"),
        center=CenterTerm(weight=0.01),
        triplet=BatchTripletTerm(weight=0.5),
        ring=RingTerm(weight=0.1, form="released-auto"),
        sample_rate=0.4,
    )
    ended = []
    for devices in (jax.local_devices()[:1], jax.local_devices()[:2]):
        state = jax.device_put(
            fresh(batch, replace(EXPERIMENT, loss=loss)), mesh.replicated(devices)
        )
        step = parallel.data_parallel_step(devices)
        for _ in range(2):
            state, metrics = step(state, batch)
        ended.append((state.params, state.opt_state, state.distortion, metrics))
    chex.assert_trees_all_close(*ended, rtol=1e-3, atol=1e-5)


def test_a_sampled_step_touches_the_rows_drawn_and_no_others(linear, batch):
    """With decay and momentum, which would move every row."""
    loss = Loss(softmax=SoftmaxTerm(scale=5.0), sample_rate=0.1)
    experiment = replace(EXPERIMENT, loss=loss)
    state = create_state(experiment, 50, batch["images"], batch["labels"])
    state = state.replace(opt_state=jax.tree.map(lambda x: x + 0.5, state.opt_state))
    after, _ = jax.jit(train_step)(state, batch)

    def moved(tree_before, tree_after):
        before, after = (
            np.asarray(t["head"]["softmax"]["agents"]) for t in (tree_before, tree_after)
        )
        return set(np.flatnonzero(np.any(before != after, axis=1)))

    rows = moved(state.params, after.params)
    assert set(range(5)) <= rows  # the batch's own classes
    assert 5 <= len(rows) <= 10  # and at most 5 drawn
    traces = [
        optax.tree.get(s.opt_state.inner_states["head.agents"], "trace") for s in (state, after)
    ]
    assert moved(*traces) == rows


def test_every_step_draws_its_dropout_and_its_classes_anew(linear, batch):
    """The same at every step would train a part of the features and of the agents only."""
    state, step = fresh(batch), jax.jit(train_step)
    found = [step(state.replace(step=jnp.int32(k)), batch)[1]["softmax"] for k in range(4)]
    assert len(set(map(float, found))) == 4
    sampled = replace(EXPERIMENT, loss=Loss(softmax=SoftmaxTerm(scale=5.0), sample_rate=0.1))
    state = create_state(sampled, 50, batch["images"], batch["labels"])
    agents = state.params["head"]["softmax"]["agents"]
    rows = set()
    for k in range(4):
        after, _ = step(state.replace(step=jnp.int32(k)), batch)
        moved = np.any(after.params["head"]["softmax"]["agents"] != agents, axis=1)
        rows.add(tuple(np.flatnonzero(moved)))
    assert len(rows) == 4


def test_parameters_start_from_another_key_than_dropout_and_samples_draw_from(linear, batch):
    """Equal keys give equal numbers: what is drawn later would repeat the initial parameters."""
    state = fresh(batch)
    again = state.network.init(state.key, batch["images"], batch["labels"])["params"]
    for name in ("backbone", "head"):
        arrays = zip(jax.tree.leaves(state.params[name]), jax.tree.leaves(again[name]), strict=True)
        assert not all(np.array_equal(one, other) for one, other in arrays)
    used = jax.random.key(EXPERIMENT.seed)
    assert not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(used))


def test_a_sampled_step_at_rate_one_moves_as_the_full_one(linear, batch):
    """Drawn in another order, all classes give the same step."""
    full = Loss(softmax=SoftmaxTerm(scale=5.0))
    almost = replace(full, sample_rate=0.999)  # of 5 classes all are drawn
    ended = []
    for loss in (full, almost):
        state = fresh(batch, replace(EXPERIMENT, loss=loss))
        ended.append(jax.jit(train_step)(state, batch)[0].params)
    chex.assert_trees_all_close(*ended, rtol=1e-4, atol=1e-6)


def test_forced_agents_stay_on_the_sphere(linear, batch):
    for gradient, on_sphere in (("caffe", True), ("exact", False)):
        loss = Loss(softmax=SoftmaxTerm(scale=5.0, gradient=gradient))
        after, _ = jax.jit(train_step)(fresh(batch, replace(EXPERIMENT, loss=loss)), batch)
        norms = np.linalg.norm(after.params["head"]["softmax"]["agents"], axis=1)
        assert np.allclose(norms, 1.0, atol=1e-6) == on_sphere


@pytest.mark.parametrize("rule", ["paper", "caffe"])
def test_centers_move_by_their_rule(linear, batch, rule):
    """The paper's alpha, or Caffe's learning rate (first step: no momentum yet)."""
    loss = Loss(center=CenterTerm(weight=0.01, rule=rule))
    state = fresh(batch, replace(EXPERIMENT, loss=loss))
    features = state.network.apply({"params": state.params}, batch["images"], method="embed")
    centers = state.params["head"]["center"]["centers"]
    direction = losses.center_direction(centers, features, batch["labels"])
    after, _ = jax.jit(train_step)(state, batch)
    expected = centers - (0.5 if rule == "paper" else 0.01) * direction
    found = after.params["head"]["center"]["centers"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_average_of_the_parameters_follows_them(linear, batch):
    """Decay (1 + t) / (10 + t) while that is below the one asked for."""
    optimizer = Optimizer(learning_rate=0.1, average=0.15)
    first = fresh(batch, replace(EXPERIMENT, optimizer=optimizer))
    second, _ = jax.jit(train_step)(first, batch)
    third, _ = jax.jit(train_step)(second, batch)

    def mixed(decay, old, new):
        return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

    expected = mixed(0.15, mixed(0.1, first.params, second.params), third.params)
    chex.assert_trees_all_close(third.evaluated["params"], expected, rtol=1e-5, atol=1e-7)
    assert fresh(batch).evaluated is not None


def test_a_given_backbone_is_where_the_heads_start(linear, batch):
    before = fresh(batch)
    backbone = {"params": jax.tree.map(lambda x: 3.0 * x, before.params["backbone"])}
    after = create_state(EXPERIMENT, 5, batch["images"], batch["labels"], backbone)
    chex.assert_trees_all_equal(after.params["backbone"], backbone["params"])
    radii = [state.params["head"]["ring"]["radius"] for state in (before, after)]
    np.testing.assert_allclose(radii[1], 3.0 * radii[0], rtol=1e-5)
    chex.assert_trees_all_equal_shapes(after.opt_state, before.opt_state)


def test_frozen_layers_stay_and_the_others_move_as_before(batch):
    """Frozen first layers cost no backward pass: the program has fewer operations."""
    free = replace(EXPERIMENT, model=Model(name="sphereface-mini", feature_dim=8))
    optimizer = replace(free.optimizer, frozen=("conv[12]", "prelu[12]", "block[12]_*"))
    frozen = replace(free, optimizer=optimizer)
    before, flops, after = fresh(batch, free), {}, {}
    for experiment in (free, frozen):
        state = fresh(batch, experiment)
        compiled = jax.jit(train_step).lower(state, batch).compile()
        flops[experiment] = compiled.cost_analysis()["flops"]
        after[experiment] = compiled(state, batch)[0].params
    assert flops[frozen] < 0.7 * flops[free]
    for name, layer in after[frozen]["backbone"].items():
        is_first = name.startswith(("conv1", "conv2", "prelu1", "prelu2", "block1", "block2"))
        expected = (before.params if is_first else after[free])["backbone"][name]
        chex.assert_trees_all_close(layer, expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match=r"layers of the backbone \(block2_1, .*, found 'blok1'"):
        fresh(batch, replace(free, optimizer=Optimizer(frozen=("blok1",))))


def test_the_distortion_is_averaged_per_class_over_steps(linear, batch):
    batch["labels"] = np.int32(np.arange(16) % 3)  # classes 3 and 4 are never seen
    state, metrics = jax.jit(train_step)(fresh(batch), batch)
    assert np.array_equal(np.isnan(state.distortion), [False] * 3 + [True] * 2)
    np.testing.assert_allclose(metrics["distortion"], np.nanmean(state.distortion), rtol=1e-6)
    assert 0.5 < metrics["distortion"] < 3.5  # random vectors are about 2 apart


def test_every_device_ends_with_the_same_state(batch):
    """out_axes=None would hide a difference: look at each device's own result."""
    mapped = jax.pmap(partial(train_step, axis_name="batch"), axis_name="batch", in_axes=(None, 0))
    split = {name: x.reshape(8, 2, *x.shape[1:]) for name, x in batch.items()}
    state, metrics = mapped(fresh(batch), split)
    for leaf in jax.tree.leaves((state.params, metrics)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))


def test_masked_examples_do_not_count(linear, batch):
    state = fresh(batch)
    batch["mask"][10:] = 0
    padded, logged = jax.jit(train_step)(state, batch)
    cut, expected = jax.jit(train_step)(state, {name: x[:10] for name, x in batch.items()})
    chex.assert_trees_all_close(padded.params, cut.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(logged, expected, rtol=1e-4, atol=1e-6)


def test_padding_is_not_counted_among_the_images_of_a_center(linear, batch):
    """Else the center of class 0, which padding is labelled with, lags in every last batch."""
    loss = Loss(center=CenterTerm(weight=0.01))
    state = fresh(batch, replace(EXPERIMENT, loss=loss))
    batch["mask"][10:] = 0
    padded, _ = jax.jit(train_step)(state, batch)
    cut, _ = jax.jit(train_step)(state, {name: x[:10] for name, x in batch.items()})
    found, expected = (s.params["head"]["center"]["centers"] for s in (padded, cut))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_padding_may_hold_anything(linear, batch):
    state = fresh(batch)
    expected, _ = jax.jit(train_step)(state, {**batch, "mask": np.float32(np.arange(16) < 10)})
    batch["labels"][10:], batch["mask"][10:] = -1, 0
    found, metrics = jax.jit(train_step)(state, batch)
    chex.assert_trees_all_equal(found.params, expected.params)
    batch["mask"][:] = 0
    found, metrics = jax.jit(train_step)(state, batch)
    chex.assert_tree_all_finite((found.params, metrics))
    assert metrics["examples"] == 0


def test_the_radius_starts_at_the_mean_norm_of_the_batch_given(linear, batch):
    state = fresh(batch)
    features, _ = state.network.apply({"params": state.params}, batch["images"], batch["labels"])
    expected = np.linalg.norm(features, axis=1).mean()
    np.testing.assert_allclose(state.params["head"]["ring"]["radius"], expected, rtol=1e-5)


def test_the_gradient_is_that_of_the_weighted_mean_loss(linear, batch):
    loss = Loss(
        softmax=SoftmaxTerm(scale=5.0),
        c_contrastive=CContrastiveTerm(weight=0.3),
        ring=RingTerm(weight=0.1),
    )
    state = fresh(batch, replace(EXPERIMENT, loss=loss))

    def mean_loss(params):
        images, labels, head = batch["images"], batch["labels"], params["head"]
        features = state.network.apply({"params": params}, images, method="embed")
        return jnp.mean(
            losses.softmax(features, head["softmax"]["agents"], labels, scale=5.0)
            + 0.3 * losses.c_contrastive(features, head["c_contrastive"]["agents"], labels)
            + 0.1 * losses.ring(features, head["ring"]["radius"])
        )

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    after, metrics = jax.jit(train_step)(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    updates, _ = state.optimizer.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-6)


def test_the_step_is_compiled_once(batch):
    """The first state is placed as the step returns it, so the second call finds the same types."""
    state = jax.device_put(fresh(batch), mesh.replicated())
    step = parallel.data_parallel_step()
    compiled = []
    with jax.log_compiles(), catch_logs(compiled):
        for _ in range(3):
            state, _ = step(state, batch)
    assert len([line for line in compiled if "Finished XLA compilation" in line]) == 1


@pytest.mark.parametrize("mapped", ["data_parallel", "mesh"])
def test_another_shape_is_refused_instead_of_compiled(linear, batch, mapped):
    if mapped == "mesh":
        step = parallel.mesh_step(split_classes=False)
        state = parallel.on_mesh(lambda: fresh(batch), split_classes=False)
    else:
        step, state = parallel.data_parallel_step(), jax.device_put(fresh(batch))
    state, _ = step(state, batch)
    half = {name: x[:8] for name, x in batch.items()}
    with pytest.raises(ValueError, match="to be compiled once"):
        step(state, half)


@pytest.mark.parametrize("sample_rate", [1.0, 0.6])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_groups(linear, batch, sample_rate):
    """Nor does a sound one after it, until that is taken back."""
    loss = Loss(softmax=SoftmaxTerm(), center=CenterTerm(weight=0.1), sample_rate=sample_rate)
    average = 0.9 if sample_rate == 1 else 0.0
    optimizer = Optimizer(learning_rate=0.01, average=average)
    step = jax.jit(train_step)
    before, _ = step(fresh(batch, replace(EXPERIMENT, loss=loss, optimizer=optimizer)), batch)
    images = batch["images"].copy()
    images[3] = np.inf
    state, metrics = step(before, batch | {"images": images})
    found = divergence.nonfinite_names(int(metrics["nonfinite"]))
    names = "backbone.kernels, backbone.biases, head.agents, head.scale, head.centers"
    assert found == f"the gradients of {names}"
    assert bool(state.diverged)
    chex.assert_trees_all_equal(state.replace(diverged=before.diverged), before)
    again, metrics = step(state, batch)
    assert int(metrics["nonfinite"]) == 0
    chex.assert_trees_all_equal(again, state)
    onward, _ = step(state.replace(diverged=before.diverged), batch)
    expected, _ = step(before, batch)
    chex.assert_trees_all_equal(onward, expected)


@pytest.mark.parametrize("bad", ["first", "second", "third"])
def test_one_array_that_is_not_finite_is_found_in_its_group(bad):
    """Else a run that diverges names nothing, or other parameters than those that did."""
    names = ("first", "second", "third")
    layers = {name: {"kernel": jnp.full(2, np.inf if name == bad else 1.0)} for name in names}
    tree = {"backbone": layers, "head": {"ring": {"radius": jnp.ones(())}}}
    found = dict(zip(divergence.GROUPS, divergence.nonfinite_groups(tree), strict=True))
    assert [name for name, is_bad in found.items() if is_bad] == ["backbone.kernels"]


def test_an_update_that_overflows_is_named(linear, batch):
    wild = replace(EXPERIMENT, optimizer=Optimizer(learning_rate=1e38))
    state, metrics = jax.jit(train_step)(fresh(batch, wild), batch)
    assert divergence.nonfinite_names(int(metrics["nonfinite"])).startswith(
        "the new values of backbone.k"
    )
    assert not np.isfinite(metrics["parameter_norm"])
    assert not state.diverged


def test_the_same_seed_gives_the_same_state_and_another_does_not(batch):
    first, again = fresh(batch), fresh(batch)
    chex.assert_trees_all_equal(first.params, again.params)
    other = fresh(batch, Experiment("other", steps=1, seed=1, model=Model(feature_dim=8)))
    assert not np.allclose(
        first.params["head"]["softmax"]["agents"], other.params["head"]["softmax"]["agents"]
    )


def test_pixels_that_nobody_scaled_are_noticed_once(linear, batch):
    batch["images"] = np.abs(batch["images"]) * 100
    step = parallel.data_parallel_step(jax.local_devices()[:1])
    state = fresh(batch)
    with pytest.warns(UserWarning, match=r"expected floats in \[-1, 1\], found float32 from 0"):
        state, _ = step(state, batch)
    step(state, batch)  # A second warning would be an error.


def test_the_model_is_made_as_the_experiment_says():
    model = Model("sphereface-20", 64, dtype="bfloat16", remat=True)
    backbone = make_network(replace(EXPERIMENT, model=model), 5).backbone
    assert (backbone.feature_dim, backbone.dtype, backbone.remat) == (64, "bfloat16", True)


def test_an_uneven_batch_is_refused():
    with pytest.raises(InputError, match=r"multiple of the 8 devices, found 60. Take 56 or 64"):
        mesh.check_batch_size(60, 8)
    with pytest.raises(InputError, match="Take 8"):
        mesh.check_batch_size(3, 8)
