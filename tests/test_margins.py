"""Margins and scales: one per example, and known numbers that are out of range."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from hyperface import losses, reference

BATCH, CLASSES, DIM = 6, 24, 5
NAMES = ("scale", "angular_multiplier", "angular_margin", "cosine_margin")


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((BATCH, DIM)).astype(dtype)
    agents = (3 * rng.standard_normal((CLASSES, DIM))).astype(dtype)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    numbers = (
        rng.uniform(5, 80, BATCH),
        rng.uniform(1, 1.3, BATCH),
        rng.uniform(0, 0.6, BATCH),
        rng.uniform(0, 0.4, BATCH),
    )
    return features, agents, labels, tuple(x.astype(dtype) for x in numbers)


def ours(features, agents, numbers, labels, **engine):
    margins = dict(zip(NAMES, numbers, strict=True))
    return losses.margin_softmax(features, agents, labels, **margins, **engine)


def plain(features, agents, numbers, labels):
    margins = dict(zip(NAMES, numbers, strict=True))
    return reference.margin_softmax(features, agents, labels, **margins)


def value_and_gradients(loss, features, agents, numbers, labels, cotangent):
    value, pull = jax.vjp(lambda f, w, n: loss(f, w, n, labels), features, agents, numbers)
    to_features, to_agents, to_numbers = pull(cotangent)
    return value, to_features, to_agents, *to_numbers


def expected(cotangent):
    with jax.enable_x64(True):
        features, agents, labels, numbers = problem()
        arguments = jax.tree.map(jnp.asarray, (features, agents, numbers))
        return value_and_gradients(plain, *arguments, labels, jnp.asarray(cotangent, jnp.float64))


@pytest.fixture
def cotangent(rng):
    return rng.standard_normal(BATCH)


def assert_close(found, truth, tolerance):
    for mine, right in zip(found, truth, strict=True):
        right = np.asarray(right)
        assert mine.shape == right.shape
        np.testing.assert_allclose(mine, right, rtol=0, atol=tolerance * max(1, abs(right).max()))


@pytest.mark.parametrize("block_size", [None, 7])
def test_numbers_per_example_are_the_formulas(block_size, cotangent):
    truth = expected(cotangent)
    with jax.enable_x64(True):
        features, agents, labels, numbers = problem()
        arguments = jax.tree.map(jnp.asarray, (features, agents, numbers))
        loss = partial(ours, block_size=block_size)
        found = value_and_gradients(loss, *arguments, labels, jnp.asarray(cotangent))
        assert_close(found, truth, 1e-12)
        check_grads(
            jax.jit(lambda *a: loss(*a, labels)), arguments, order=1, modes=["rev"], rtol=1e-5
        )


@pytest.mark.parametrize("normalize", ["both", "none"])
def test_softmax_has_one_scale_per_example(normalize, cotangent):
    with jax.enable_x64(True):
        features, agents, labels, (scale, *_) = problem()

        def together(f, w, s):
            return losses.softmax(f, w, labels, normalize=normalize, scale=s, block_size=7)

        def one_by_one(f, w, s):
            rows = [
                reference.softmax(
                    f[i : i + 1], w, labels[i : i + 1], normalize=normalize, scale=s[i]
                )
                for i in range(BATCH)
            ]
            return jnp.concatenate(rows)

        arguments = [jnp.asarray(x) for x in (features, agents, scale)]
        found, pull = jax.vjp(together, *arguments)
        truth, pull_truth = jax.vjp(one_by_one, *arguments)
        assert_close(
            (found, *pull(jnp.asarray(cotangent))),
            (truth, *pull_truth(jnp.asarray(cotangent))),
            1e-11,
        )


@pytest.mark.parametrize("split_batch", [False, True])
def test_devices_take_their_part_of_the_numbers(split_batch, cotangent):
    """With a split batch each device passes the numbers of its own examples."""
    features, agents, labels, numbers = problem(np.float32)
    everywhere, rows = PartitionSpec(), PartitionSpec("classes")
    batch = rows if split_batch else everywhere
    mesh = jax.make_mesh((2,), ("classes",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    loss = partial(ours, axis_name="classes", split_batch=split_batch, block_size=5)
    sharded = jax.shard_map(
        partial(value_and_gradients, loss),
        mesh=mesh,
        in_specs=(batch, rows, batch, batch, batch),
        out_specs=(batch, batch, rows, batch, batch, batch, batch),
        check_vma=False,
    )
    found = jax.jit(sharded)(features, agents, numbers, labels, cotangent.astype(np.float32))
    assert_close(found, expected(cotangent), 5e-5)


def test_a_margin_may_be_learned():
    """Its gradient is that of a finite difference, for a scalar that stands for all examples."""
    with jax.enable_x64(True):
        features, agents, labels, _ = problem()

        def loss(scale, margin):
            return losses.margin_softmax(
                features, agents, labels, scale=scale, angular_margin=margin
            )

        check_grads(
            jax.jit(loss), (jnp.asarray(9.0), jnp.asarray(0.4)), order=1, modes=["rev"], rtol=1e-6
        )


@pytest.mark.parametrize("kind", [float, np.float32, lambda x: np.full(BATCH, x, np.float32)])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("angular_margin", -0.1),
        ("angular_margin", 3.2),
        ("cosine_margin", 2.5),
        ("angular_multiplier", 0.5),
        ("cosine_margin", float("nan")),
    ],
)
def test_a_known_margin_out_of_range_is_refused(name, value, kind):
    features, agents, labels, _ = problem(np.float32)
    with pytest.raises(ValueError, match=f"expected {name} in "):
        losses.margin_softmax(features, agents, labels, **{"scale": 9.0, name: kind(value)})


def test_numbers_of_another_shape_are_refused():
    features, agents, labels, _ = problem(np.float32)
    with pytest.raises(ValueError, match=r"one number per example, \[6\], found shape \(1,\)"):
        losses.margin_softmax(features, agents, labels, scale=9.0, angular_margin=np.zeros(1))


def test_a_scale_is_bounded_only_where_each_is_known_to_be_small():
    """Without the maximum taken off, exp(100) overflows float32."""
    assert losses.MarginSoftmax.of(np.array([9.0, 64.0])).bounded
    assert not losses.MarginSoftmax.of(np.array([9.0, 100.0])).bounded
    assert not losses.MarginSoftmax.of(jnp.array([9.0, 64.0])).bounded
    features = agents = np.eye(2, dtype=np.float32)
    scale = np.array([1.0, 100.0], np.float32)
    loss = losses.softmax(features, agents, np.array([1, 0]), scale=scale)
    np.testing.assert_allclose(loss, [1.3132617, 100.0], rtol=1e-6)


def test_a_label_out_of_range_is_nan_for_its_example_alone():
    features, agents, labels, numbers = problem(np.float32)
    labels[2] = CLASSES
    loss = jax.jit(ours)(features, agents, numbers, labels)
    np.testing.assert_array_equal(np.isnan(loss), np.arange(BATCH) == 2)


@pytest.mark.parametrize(
    "term",
    [
        losses.Softmax.of(64.0, "both"),
        losses.MarginSoftmax.of(64.0, cosine_margin=0.35),
        losses.AdaFace.of(losses.NormStatistics()),
        losses.MagFace.of(),
    ],
    ids=lambda term: type(term).__name__,
)
def test_a_bias_of_any_size_does_not_overflow(term):
    """The scale alone is at most 70, so that exp would not need the largest logit subtracted."""
    features, labels, bias = jnp.array([[20.0, 0.0]]), jnp.array([1]), jnp.array([200.0, 0.0])

    def loss(scale_of_bias):
        return losses.joint([term], features, jnp.eye(2), labels, bias=scale_of_bias * bias)[0][0]

    # Far from any bound the loss grows as the bias of the other class.
    value, slope = jax.value_and_grad(loss)(1.0)
    np.testing.assert_allclose(value - loss(0.5), 100.0, rtol=1e-5)
    np.testing.assert_allclose(slope, 200.0, rtol=1e-5)
