"""Agents that are updated inside the backward scan: the numbers of gradient first, update second.

The reference takes the gradient of `weighted_sum`, adds it up over the devices where the agents are
copies, and applies the same rule to all rows at once.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from hyperface import losses

BATCH, DIM, CLASSES = 16, 6, 40


def sgd(numbers, rows, velocity, gradient):
    """Momentum and decay, the decay before the momentum; and the length of each row's gradient."""
    rate, decay = numbers
    moved, _ = velocity
    moved = 0.9 * moved + gradient + decay * rows
    return rows - rate * moved, (moved, jnp.sum(gradient**2, axis=1))


SGD = jax.tree_util.Partial(sgd, (jnp.float32(0.3), jnp.float32(0.02)))


def problem(classes=CLASSES, dtype=np.float32):
    """Features, agents, momentum, labels with repeated classes, and weights with a zero."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((BATCH, DIM)).astype(dtype) * 3
    agents, momentum = rng.standard_normal((2, classes, DIM)).astype(dtype)
    labels = rng.integers(0, classes, BATCH).astype(np.int32)
    # Two examples of one class, and classes in the rows that the last block repeats.
    labels[:6] = [5, 5, 5, classes - 1, 0, classes - 4]
    weights = rng.uniform(0.2, 1.0, BATCH).astype(dtype)
    weights[2] = 0
    state = (jnp.asarray(momentum), jnp.zeros(classes, dtype))
    return jnp.asarray(features), jnp.asarray(agents), state, labels, jnp.asarray(weights)


def in_sweep(terms, features, agents, state, labels, weights, update=SGD, **engine):
    """Value, losses, features' gradient, updated agents and updated state."""

    def total(features, agents, state):
        return losses.weighted_sum_with_update(
            terms,
            features,
            agents,
            state,
            labels,
            [weights] * len(terms),
            update,
            with_losses=True,
            **engine,
        )

    (value, found), new = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(
        features, agents, state
    )
    return value, found, *new


def in_two_steps(
    terms, features, agents, state, labels, weights, update=SGD, sum_over=None, **engine
):
    def total(features, agents):
        return losses.weighted_sum(
            terms, features, agents, labels, [weights] * len(terms), with_losses=True, **engine
        )

    (value, found), (to_features, to_agents) = jax.jit(
        jax.value_and_grad(total, (0, 1), has_aux=True)
    )(features, agents)
    if sum_over is not None:
        to_agents = jax.lax.psum(to_agents, sum_over)
    return value, found, to_features, *update(agents, state, to_agents)


def assert_same(found, expected, rtol=2e-6, atol=2e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


TERMS = {
    "softmax": [losses.Softmax(8.0, bounded=True)],
    "softmax, none": [losses.Softmax(1.0, normalize="none")],
    "c_contrastive": [losses.CContrastive(2.5)],
    "c_triplet": [losses.CTriplet(1.5)],
    "c_triplet, hardest": [losses.CTriplet(1.5, "hardest")],
    "margin": [losses.MarginSoftmax.of(16.0, 1.0, 0.3, 0.1)],
    "sphereface": [losses.SphereFace(2.0, 4)],
    "magface": [losses.MagFace.of(16.0, 0.4, 0.8, 1.0, 9.0)],
    "two": [losses.Softmax(8.0), losses.CContrastive(2.5)],
}
ENGINES = {
    "one block": {"block_size": CLASSES},
    "blocks": {"block_size": 8},
    "blocks that do not divide": {"block_size": 7},
    "similarities saved": {"block_size": 7, "memory_budget": 2**20},
    "mixed": {"block_size": 7, "precision": "mixed"},
    "bf16": {"block_size": 7, "precision": "bf16"},
    "inner product": {"block_size": 7, "agent_gradient": "inner-product"},
    "some present": {"block_size": 7, "present": np.arange(CLASSES) % 3 > 0},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("terms", ["softmax", "c_triplet"])
def test_the_numbers_are_those_of_two_steps(terms, engine):
    arguments = (TERMS[terms], *problem())
    found = jax.jit(partial(in_sweep, *arguments, **ENGINES[engine]))()
    assert_same(found, jax.jit(partial(in_two_steps, *arguments, **ENGINES[engine]))())


@pytest.mark.parametrize("terms", TERMS)
def test_every_kind_of_term_updates_the_same(terms):
    arguments = (TERMS[terms], *problem())
    found = jax.jit(partial(in_sweep, *arguments, block_size=7))()
    assert_same(found, jax.jit(partial(in_two_steps, *arguments, block_size=7))())


@pytest.mark.parametrize("terms", TERMS)
def test_the_whole_gradients_of_the_other_arguments_are_there(terms):
    """Those to features were compared above; here those to weights, bias and hyper-parameters."""
    features, agents, state, labels, weights = problem()
    biased = terms == "softmax"
    bias = jnp.linspace(-1.0, 1.0, CLASSES) if biased else None
    more = {"block_size": 7, "bias": bias}

    def swept(terms, weights, bias):
        return losses.weighted_sum_with_update(
            terms, features, agents, state, labels, [weights] * len(terms), SGD, **more
        )

    def plain(terms, weights, bias):
        return losses.weighted_sum(terms, features, agents, labels, [weights] * len(terms), **more)

    arguments = (jax.tree.map(jnp.float32, TERMS[terms]), weights, bias)
    more["bias"] = bias
    found = jax.jit(jax.grad(swept, (0, 1, 2) if biased else (0, 1)))(*arguments)
    expected = jax.jit(jax.grad(plain, (0, 1, 2) if biased else (0, 1)))(*arguments)
    assert_same(found, expected, rtol=1e-5, atol=1e-5)


def test_float64_agrees_to_its_own_digits():
    with jax.enable_x64(True):
        update = jax.tree_util.Partial(sgd, (jnp.float64(0.3), jnp.float64(0.02)))
        arguments = (TERMS["c_triplet"], *problem(dtype=np.float64), update)
        found = in_sweep(*arguments, block_size=7)
        assert_same(found, in_two_steps(*arguments, block_size=7), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sum_that_is_not_finite_touches_no_row(bad):
    features, agents, state, labels, weights = problem()
    features = features.at[3, 1].set(bad)
    value, _, _, *new = jax.jit(
        partial(in_sweep, TERMS["softmax"], features, agents, state, labels, weights, block_size=7)
    )()
    assert not np.isfinite(value)
    jax.tree.map(np.testing.assert_array_equal, tuple(new), (agents, state))


def test_a_cotangent_of_zero_touches_no_row():
    features, agents, state, labels, weights = problem()

    def total(agents, state):
        return losses.weighted_sum_with_update(
            TERMS["softmax"], features, agents, state, labels, [weights], SGD, block_size=7
        )

    _, pull = jax.vjp(total, agents, state)
    jax.tree.map(np.testing.assert_array_equal, pull(jnp.float32(0.0)), (agents, state))


def test_a_label_out_of_range_touches_no_row():
    features, agents, state, labels, weights = problem()
    labels = jnp.asarray(labels).at[1].set(CLASSES)
    swept = jax.jit(
        lambda labels: in_sweep(
            TERMS["softmax"], features, agents, state, labels, weights, block_size=7
        )
    )
    value, _, _, *new = swept(labels)
    assert np.isnan(value)
    jax.tree.map(np.testing.assert_array_equal, tuple(new), (agents, state))


def test_sampled_rows_are_updated_as_in_two_steps():
    features, agents, state, labels, weights = problem()
    sample = losses.sample_classes(jax.random.key(0), labels, CLASSES, rate=0.4)
    part = jax.tree.map(lambda leaf: leaf[sample.rows], (agents, state))
    arguments = (TERMS["softmax"], features, *part, sample.labels, weights)
    engine = {"block_size": 7, "present": sample.present}
    *found, rows, rows_state = in_sweep(*arguments, **engine)
    *expected, other, other_state = in_two_steps(*arguments, **engine)
    assert_same(found, expected)
    # The caller drops rows that are not present.
    kept = jax.tree.map(
        lambda leaf: leaf[sample.present], ((rows, rows_state), (other, other_state))
    )
    assert_same(*kept)


# --------------------------------------------------------------------------------- many devices


def mesh_of(*sizes):
    names = ("d",) if len(sizes) == 1 else ("data", "model")
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def mapped(step, mesh, batch, rows, *, check, loss_over=(), **engine):
    """A step under `shard_map`, whose batch and rows are split as the specs say."""

    def local(features, agents, state, labels, weights):
        value, found, to_features, agents, state = step(
            TERMS["c_triplet"], features, agents, state, labels, weights, block_size=3, **engine
        )
        if loss_over:
            value = jax.lax.psum(value, loss_over)
        return value, found, to_features, agents, state

    per_row = (rows, (rows, rows))
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(batch, *per_row, batch, batch),
            out_specs=(P(), (batch,), batch, *per_row),
            check_vma=check,
        )
    )


SPLITS = {
    "agents": ((4,), P(), P("d"), {"axis_name": "d"}, ()),
    "agents and batch": ((8,), P("d"), P("d"), {"axis_name": "d", "split_batch": True}, "d"),
    "batch": ((8,), P("d"), P(), {"sum_over": "d"}, "d"),
    "batch by one axis, agents by another": (
        (2, 4),
        P("data"),
        P("model"),
        {"axis_name": "model", "sum_over": "data"},
        "data",
    ),
    "batch by both axes, agents by one": (
        (2, 2),
        P(("data", "model")),
        P("model"),
        {"axis_name": "model", "split_batch": True, "sum_over": "data"},
        ("data", "model"),
    ),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_devices_update_as_one_device_does(split, check):
    sizes, batch, rows, engine, over = SPLITS[split]
    arguments = problem()
    found = mapped(in_sweep, mesh_of(*sizes), batch, rows, check=check, loss_over=over, **engine)
    expected = in_two_steps(TERMS["c_triplet"], *arguments, block_size=7)
    assert_same(found(*arguments), expected, rtol=1e-5, atol=5e-6)


def test_pmap_updates_the_copies_alike():
    features, agents, state, labels, weights = problem()
    split = jax.tree.map(
        lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), (features, labels, weights)
    )

    def local(batch, agents, state):
        features, labels, weights = batch
        return in_sweep(
            TERMS["softmax"], features, agents, state, labels, weights, block_size=7, sum_over="d"
        )

    step = jax.pmap(local, axis_name="d", in_axes=(0, None, None))
    *_, rows, new_state = step(split, agents, state)
    *_, other, other_state = in_two_steps(TERMS["softmax"], *problem(), block_size=7)
    for leaf, expected in zip(
        jax.tree.leaves((rows, new_state)), jax.tree.leaves((other, other_state)), strict=True
    ):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
        assert_same(leaf[0], expected, rtol=1e-5, atol=5e-6)


def test_a_batch_that_is_not_added_up_is_refused():
    sizes, batch, rows, *_ = SPLITS["batch"]
    with pytest.raises(ValueError, match=r"expected sum_over to name \['d'\]"):
        mapped(in_sweep, mesh_of(*sizes), batch, rows, check=True, loss_over="d")(*problem())


def test_one_device_that_is_not_finite_stops_all():
    sizes, batch, rows, engine, over = SPLITS["batch"]
    features, agents, state, labels, weights = problem()
    features = features.at[0, 0].set(jnp.nan)
    step = mapped(in_sweep, mesh_of(*sizes), batch, rows, check=True, loss_over=over, **engine)
    *_, new, new_state = step(features, agents, state, labels, weights)
    jax.tree.map(np.testing.assert_array_equal, (new, new_state), (agents, state))


# ------------------------------------------------------------------------------------- the memory


def test_no_gradient_of_all_agents_is_in_memory_and_no_copy_of_them():
    """262,144 agents of 64 numbers are 64 MiB, as is their gradient."""
    classes, dim, batch = 2**18, 64, 64

    def step(features, agents, momentum, labels):
        def mean(features, agents, momentum):
            update = jax.tree_util.Partial(plain_sgd, jnp.float32(0.1))
            weights = [jnp.full(batch, 1 / batch)]
            return losses.weighted_sum_with_update(
                TERMS["softmax"], features, agents, momentum, labels, weights, update
            )

        return jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(features, agents, momentum)

    shape = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    matrix = shape((classes, dim))
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    lowered = jax.jit(step, donate_argnums=(1, 2)).lower(
        shape((batch, dim)), matrix, matrix, labels
    )
    program = lowered.compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == 2 * 4 * classes * dim
    # Blocks of at most 4 MiB: similarities, slopes, rows, their momentum and gradient.
    assert memory.temp_size_in_bytes < 8 * 2**22
    assert not re.search(rf"f32\[{classes},{dim}\]\S* copy\(", program.as_text())


def plain_sgd(rate, rows, velocity, gradient):
    velocity = 0.9 * velocity + gradient
    return rows - rate * velocity, velocity


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("state", "update", "error", "match"),
    [
        (jnp.zeros((3, DIM)), None, ValueError, "with 40 rows, one per agent, found float32.3, 6"),
        (jnp.zeros((0, DIM)), None, ValueError, "floating-point arrays"),
        (jnp.zeros(CLASSES), plain_sgd, TypeError, "a pytree that can be called"),
        (
            jnp.zeros((CLASSES, DIM)),
            jax.tree_util.Partial(lambda rows, state, gradient: (rows, None)),
            ValueError,
            "expected an update that returns",
        ),
    ],
)
def test_a_state_or_update_of_another_form_is_refused(state, update, error, match):
    features, agents, _, labels, weights = problem()
    update = update or jax.tree_util.Partial(plain_sgd, 0.1)
    with pytest.raises(error, match=match):
        in_sweep(TERMS["softmax"], features, agents, state, labels, weights, update)
