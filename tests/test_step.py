"""The optimiser step: the same on one device and on eight, masked, deterministic, traced once."""

import logging
from contextlib import contextmanager
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperface.errors import InputError
from hyperface.train import parallel
from hyperface.train.experiment import Experiment, Loss, Model, Optimizer, RingTerm, SoftmaxTerm
from hyperface.train.optim import decay_mask, learning_rate, make_optimizer
from hyperface.train.state import create_state
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
        state = jax.device_put(fresh(batch), parallel.replicated(devices))
        step = parallel.data_parallel_step(devices)
        for _ in range(3):
            state, metrics = step(state, batch)
        states.append(state)
        seen.append(metrics)
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(*seen, rtol=1e-5)
    assert seen[0]["examples"] == 13


def test_every_device_ends_with_the_same_state(batch):
    """out_axes=None would hide a difference: look at each device's own result."""
    mapped = jax.pmap(partial(train_step, axis_name="batch"), axis_name="batch", in_axes=(None, 0))
    split = {name: x.reshape(8, 2, *x.shape[1:]) for name, x in batch.items()}
    state, metrics = mapped(fresh(batch), split)
    for leaf in jax.tree.leaves((state.params, metrics)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))


def test_masked_examples_do_not_count(batch):
    state = fresh(batch)
    batch["mask"][10:] = 0
    padded, _ = jax.jit(train_step)(state, batch)
    cut, _ = jax.jit(train_step)(state, {name: x[:10] for name, x in batch.items()})
    chex.assert_trees_all_close(padded.params, cut.params, rtol=1e-4, atol=1e-6)


def test_padding_may_hold_anything(batch):
    state = fresh(batch)
    expected, _ = jax.jit(train_step)(state, {**batch, "mask": np.float32(np.arange(16) < 10)})
    batch["labels"][10:], batch["mask"][10:] = -1, 0
    found, metrics = jax.jit(train_step)(state, batch)
    chex.assert_trees_all_equal(found.params, expected.params)
    batch["mask"][:] = 0
    found, metrics = jax.jit(train_step)(state, batch)
    chex.assert_tree_all_finite((found.params, metrics))
    assert metrics["examples"] == 0


def test_the_radius_starts_at_the_mean_norm_of_the_batch_given(batch):
    state = fresh(batch)
    features, _, _ = state.network.apply({"params": state.params}, batch["images"], batch["labels"])
    expected = np.linalg.norm(features, axis=1).mean()
    np.testing.assert_allclose(state.params["head"]["ring"]["radius"], expected, rtol=1e-5)


def test_decay_of_the_scale_reaches_the_optimiser(batch):
    """With a gradient of zero only decay moves the scale."""
    for decayed in (False, True):
        loss = Loss(softmax=SoftmaxTerm(decay_scale=decayed))
        optimizer = make_optimizer(Optimizer(learning_rate=1.0, weight_decay=0.5), loss)
        params = {"scale": jnp.float32(4.0)}
        updates, _ = optimizer.update({"scale": 0.0}, optimizer.init(params), params)
        assert updates["scale"] == (-2.0 if decayed else 0.0)


def test_the_gradient_is_that_of_the_weighted_mean_loss(batch):
    state = fresh(batch)

    def mean_loss(params):
        key = jax.random.fold_in(state.key, 0)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(16))
        _, terms, _ = state.network.apply(
            {"params": params}, batch["images"], batch["labels"], keys
        )
        return jnp.mean(terms["softmax"] + 0.1 * terms["ring"])

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    after, metrics = jax.jit(train_step)(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    updates, _ = state.optimizer.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-6)


def test_the_step_is_compiled_once(batch):
    """The first state is placed as the step returns it, so the second call finds the same types."""
    state = jax.device_put(fresh(batch), parallel.replicated())
    step = parallel.data_parallel_step()
    compiled = []
    with jax.log_compiles(), catch_logs(compiled):
        for _ in range(3):
            state, _ = step(state, batch)
    assert len([line for line in compiled if "Finished XLA compilation" in line]) == 1


def test_the_same_seed_gives_the_same_state_and_another_does_not(batch):
    first, again = fresh(batch), fresh(batch)
    chex.assert_trees_all_equal(first.params, again.params)
    other = fresh(batch, Experiment("other", steps=1, seed=1, model=Model(feature_dim=8)))
    assert not np.allclose(
        first.params["head"]["softmax"]["agents"], other.params["head"]["softmax"]["agents"]
    )


def test_an_uneven_batch_is_refused():
    with pytest.raises(InputError, match=r"multiple of the 8 devices, found 60. Take 56 or 64"):
        parallel.check_batch_size(60, 8)
    with pytest.raises(InputError, match="Take 8"):
        parallel.check_batch_size(3, 8)


def test_decay_leaves_out_biases_radius_and_scale(batch):
    params = fresh(batch).params
    mask = decay_mask(params, decay_scale=False)
    assert mask["head"] == {
        "softmax": {"agents": True, "scale": False},
        "ring": {"radius": False},
    }
    assert mask["backbone"]["conv1"] == {"kernel": True, "bias": False}
    assert mask["backbone"]["prelu1"] == {"slope": True}
    assert decay_mask(params, decay_scale=True)["head"]["softmax"]["scale"]


def test_decay_is_added_before_momentum():
    """Two steps by hand: v = mu v + g + wd w, w = w - lr v."""
    optimizer = make_optimizer(Optimizer(learning_rate=0.1, momentum=0.5, weight_decay=0.2), Loss())
    params = {"kernel": jnp.float32(1.0), "bias": jnp.float32(1.0)}
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"kernel": 1.0, "bias": 1.0}, state, params)
        params = optax.apply_updates(params, updates)
    # kernel: v = 1.2, w = 0.88; v = 0.6 + 1 + 0.176 = 1.776, w = 0.7024.
    np.testing.assert_allclose(params["kernel"], 0.7024, rtol=1e-6)
    # bias: v = 1, w = 0.9; v = 1.5, w = 0.75.
    np.testing.assert_allclose(params["bias"], 0.75, rtol=1e-6)


def test_learning_rate_falls_at_each_boundary():
    rate = learning_rate(Optimizer(learning_rate=0.1, boundaries=(10, 20), factor=0.1))
    np.testing.assert_allclose([rate(9), rate(10), rate(20)], [0.1, 0.01, 0.001], rtol=1e-5)
