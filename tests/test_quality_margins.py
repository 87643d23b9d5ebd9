"""AdaFace and MagFace: values by hand, gradients three ways, and where they are hard."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from hyperface import losses, reference
from hyperface.losses import NormStatistics

BATCH, CLASSES, DIM = 8, 24, 5
STATISTICS = NormStatistics(20.0, 15.0)


def problem(dtype=np.float64):
    """Norms from 4 to 130: some beyond MagFace's range and AdaFace's clip."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((BATCH, DIM))
    features *= np.geomspace(4, 130, BATCH)[:, None] / np.linalg.norm(features, axis=1)[:, None]
    agents = 3 * rng.standard_normal((CLASSES, DIM))
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    cotangent = rng.standard_normal(BATCH)
    return features.astype(dtype), agents.astype(dtype), labels, cotangent.astype(dtype)


SMALL = {"scale": 9.0, "lower_margin": 0.1, "upper_margin": 1.2, "upper_norm": 50.0}
LOSSES = {
    "adaface": (
        partial(losses.adaface, statistics=STATISTICS),
        partial(reference.adaface, statistics=STATISTICS),
    ),
    "adaface, small": (
        partial(losses.adaface, statistics=STATISTICS, scale=9.0, margin=0.7, concentration=0.2),
        partial(reference.adaface, statistics=STATISTICS, scale=9.0, margin=0.7, concentration=0.2),
    ),
    "magface": (losses.magface, reference.magface),
    "magface, printed": (
        partial(losses.magface, easy_margin=False, **SMALL),
        partial(reference.magface, easy_margin=False, **SMALL),
    ),
}


@partial(jax.jit, static_argnums=0)
def value_and_gradients(loss, features, agents, labels, cotangent):
    value, pull = jax.vjp(lambda f, w: loss(f, w, labels), features, agents)
    return value, *pull(cotangent)


def truth(name):
    with jax.enable_x64(True):
        return value_and_gradients(LOSSES[name][1], *map(jnp.asarray, problem()))


def assert_close(found, expected, tolerance):
    for mine, right in zip(found, expected, strict=True):
        right = np.asarray(right, np.float64)
        assert mine.shape == right.shape
        np.testing.assert_allclose(mine, right, rtol=0, atol=tolerance * max(1, abs(right).max()))


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_the_formula(name, block_size):
    with jax.enable_x64(True):
        loss = partial(LOSSES[name][0], block_size=block_size)
        found = value_and_gradients(loss, *map(jnp.asarray, problem()))
        assert_close(found, truth(name), 1e-12)


def test_magfaces_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        features, agents, labels, _ = problem()
        arguments = (jnp.asarray(features), jnp.asarray(agents))
        loss = partial(losses.magface, labels=labels, scale=9.0)
        check_grads(jax.jit(loss), arguments, order=1, modes=["rev"], rtol=1e-5)


def test_adafaces_gradient_is_that_of_finite_differences_at_a_fixed_norm():
    """No gradient flows through the norm: features move on their spheres."""
    with jax.enable_x64(True):
        features, agents, labels, _ = problem()
        norms = np.linalg.norm(features, axis=1, keepdims=True)

        def loss(directions, agents):
            on_sphere = norms * directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
            return losses.adaface(on_sphere, agents, labels, statistics=STATISTICS, scale=9.0)

        check_grads(
            jax.jit(loss),
            (jnp.asarray(features), jnp.asarray(agents)),
            order=1,
            modes=["rev"],
            rtol=1e-5,
        )


@pytest.mark.parametrize("split_batch", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_devices_give_the_formula(name, split_batch):
    rows = PartitionSpec("classes")
    batch = rows if split_batch else PartitionSpec()
    mesh = jax.make_mesh((4,), ("classes",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    loss = partial(LOSSES[name][0], axis_name="classes", split_batch=split_batch)
    sharded = jax.shard_map(
        partial(value_and_gradients, loss),
        mesh=mesh,
        in_specs=(batch, rows, batch, batch),
        out_specs=(batch, batch, rows),
        check_vma=False,
    )
    assert_close(jax.jit(sharded)(*problem(np.float32)), truth(name), 3e-5)


def test_adaface_by_hand():
    """s = 2, m = 0.4, h = 0.333, mean 20, std 10; cosines 0.6 and 0.8, theta 0.927295.

    Norm 50: z = 0.333 x 30 / 10.001 = 0.998900; angle 0.927295 - 0.399560 = 0.527735, margin
    0.799560: target 2 (0.863950 - 0.799560) = 0.128780, the loss is
    log(1 + e^(1.6 - 0.128780)) = 1.677946.
    Norm 5: z = -0.499450; angle 1.127075, margin 0.200220: target 2 (0.429303 - 0.200220)
    = 0.458166, loss 1.418884. The norm 500 is clipped to 100, and z to 1.
    """
    direction, agents = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
    loss = partial(
        losses.adaface,
        agents=agents,
        labels=np.zeros(1, np.int32),
        statistics=NormStatistics(20.0, 10.0),
        scale=2.0,
    )
    np.testing.assert_allclose(loss(50 * direction), 1.677946, rtol=1e-5)
    np.testing.assert_allclose(loss(5 * direction), 1.418884, rtol=1e-5)
    target = 2 * (np.cos(np.arccos(0.6) - 0.4) - 0.8)
    np.testing.assert_allclose(loss(500 * direction), np.log1p(np.exp(1.6 - target)), rtol=1e-5)


def test_magface_by_hand():
    """s = 2, cosines 0.6 and 0.8: at norm 60 the margin is 0.625, below 10 it is 0.45.

    Target 2 cos(0.927295 + 0.625) = 0.037000, loss log(1 + e^(1.6 - 0.037000)) = 1.753212.
    """
    direction, agents = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
    loss = partial(losses.magface, agents=agents, labels=np.zeros(1, np.int32), scale=2.0)
    np.testing.assert_allclose(loss(60 * direction), 1.753212, rtol=1e-5)
    for norm, margin in ((1, 0.45), (10, 0.45), (110, 0.8), (1000, 0.8)):
        expected = np.log1p(np.exp(1.6 - 2 * np.cos(np.arccos(0.6) + margin)))
        np.testing.assert_allclose(loss(norm * direction), expected, rtol=1e-5)
    # Cosines -0.6 and 0.8: without a margin, as released, and with it, as printed.
    away = 60 * direction * np.array([-1.0, 1.0], np.float32)
    np.testing.assert_allclose(loss(away), np.log1p(np.exp(1.6 + 1.2)), rtol=1e-5)
    expected = np.log1p(np.exp(1.6 - 2 * np.cos(np.arccos(-0.6) + 0.625)))
    np.testing.assert_allclose(loss(away, easy_margin=False), expected, rtol=1e-5)


def test_the_magnitudes_gradient_is_the_margins_slope():
    """Along the feature: s p sin(theta + m(a)) (u_m - l_m) / (u_a - l_a); 0 outside the range."""
    agents, labels = np.eye(2, dtype=np.float32), np.zeros(1, np.int32)
    unit = np.array([0.6, 0.8])

    def radial(norm):
        features = jnp.asarray(norm * unit[None], jnp.float32)
        gradient = jax.jit(jax.grad(lambda f: losses.magface(f, agents, labels, scale=2.0)[0]))(
            features
        )
        return float(np.asarray(gradient[0], np.float64) @ unit)

    angle = np.arccos(0.6) + 0.625
    share = 1 / (1 + np.exp(2 * np.cos(angle) - 1.6))
    np.testing.assert_allclose(radial(60), 2 * share * np.sin(angle) * 0.0035, rtol=1e-4)
    for norm in (5, 200):
        assert abs(radial(norm)) < 1e-6


def test_the_regulariser_and_its_gradient():
    features = np.array([[3.0, 4.0], [30.0, 40.0], [120.0, 160.0]])
    with jax.enable_x64(True):
        value, pull = jax.vjp(losses.magface_regularizer, jnp.asarray(features))
        np.testing.assert_allclose(value, [0.1 + 10 / 12100, 0.02 + 50 / 12100, 2 / 110])
        expected = (1 / 110**2 - 1 / 50**2) * features[1] / 50
        np.testing.assert_allclose(pull(jnp.ones(3))[0], [[0, 0], expected, [0, 0]], atol=1e-15)
        inside = jnp.asarray(features[1:2])
        check_grads(jax.jit(losses.magface_regularizer), (inside,), order=1, modes=["rev"])


@pytest.mark.parametrize("name", ["adaface", "magface"])
@pytest.mark.parametrize("factor", [0.0, 1e-20, 1e-3, 1.0, -1.0, 1e4, 1e15, -1e15])
def test_hard_points_stay_finite(name, factor):
    """The zero vector, tiny and huge norms, cosines of 1 and -1 to the own agent."""
    agents = np.array([[1.0, 2.0, -2.0], [3.0, 0.0, 1.0]], np.float32)
    features = agents[:1] * np.float32(factor)
    found = value_and_gradients(
        LOSSES[name][0], features, agents, np.zeros(1, np.int32), np.ones(1, np.float32)
    )
    for array in found:
        assert np.all(np.isfinite(array))


def test_whole_numbers_and_numbers_per_example_are_taken():
    features, agents, labels, cotangent = problem(np.float32)
    for name, options in (
        ("adaface", {"margin": 1, "scale": 9, "concentration": 1}),
        ("magface", {"lower_margin": 1, "upper_margin": 2, "lower_norm": 10, "scale": 9}),
    ):
        loss = LOSSES[name][0]
        arrays = {key: np.full(BATCH, value) for key, value in options.items()}
        floats = {key: float(value) for key, value in options.items()}
        expected = value_and_gradients(partial(loss, **floats), features, agents, labels, cotangent)
        for kind in (options, arrays):
            found = jax.vjp(lambda f, w: loss(f, w, labels, **kind), features, agents)  # noqa: B023
            assert_close((found[0], *found[1](jnp.asarray(cotangent))), expected, 1e-5)


def test_half_precision_features_give_float32(rng):
    features, agents, labels, _ = problem(np.float32)
    half = jnp.asarray(features, jnp.bfloat16)
    for loss, _ in LOSSES.values():
        found = loss(half, agents, labels)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, loss(half.astype(jnp.float32), agents, labels))


# ------------------------------------------------------------------------------- statistics


def test_statistics_move_by_a_batchs_mean_and_unbiased_deviation():
    norms = np.array([5.0, 7.0, 300.0, 0.0])
    features = norms[:, None] * np.array([[0.6, 0.8]])
    clipped = np.array([5.0, 7.0, 100.0, 0.001])
    found = losses.updated_norm_statistics(
        NormStatistics(), jnp.asarray(features, jnp.float32), momentum=0.25
    )
    np.testing.assert_allclose(found.mean, 0.75 * 20 + 0.25 * clipped.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.std, 0.75 * 100 + 0.25 * clipped.std(ddof=1), rtol=1e-6)


def test_padding_and_devices_do_not_change_the_statistics(rng):
    features = rng.standard_normal((8, 4)).astype(np.float32) * 10
    counted = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)
    expected = losses.updated_norm_statistics(NormStatistics(), features[counted])
    masked = losses.updated_norm_statistics(NormStatistics(), features, counted=counted)
    split = jax.pmap(
        lambda f, c: losses.updated_norm_statistics(
            NormStatistics(), f, counted=c, axis_name="batch"
        ),
        axis_name="batch",
    )(features[:, None], counted[:, None])
    np.testing.assert_allclose(masked, expected, rtol=1e-6)
    for device in range(8):
        np.testing.assert_allclose([x[device] for x in split], expected, rtol=1e-6)


def test_a_batch_too_small_for_a_statistic_leaves_it():
    features, momentum = np.full((2, 2), 3.0, np.float32), 0.5
    for count, mean, std in ((0, 20.0, 100.0), (1, 10 + 1.5 * 2**0.5, 100.0)):
        found = losses.updated_norm_statistics(
            NormStatistics(), features, momentum=momentum, counted=np.arange(2) < count
        )
        np.testing.assert_allclose(found, (mean, std), rtol=1e-6)


def test_statistics_have_no_gradient(rng):
    features, agents, labels, _ = problem(np.float32)

    def total(mean, std, features):
        moved = losses.updated_norm_statistics(NormStatistics(mean, std), features)
        return jnp.sum(losses.adaface(features, agents, labels, statistics=moved)) + moved.mean

    to_mean, to_std, to_features = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(20.0, 15.0, features)
    assert to_mean == to_std == 0
    radial = np.sum(np.asarray(to_features) * features, axis=1)
    np.testing.assert_allclose(radial, 0.0, atol=1e-3)


def test_misuse_says_what_was_expected():
    features, agents, labels, _ = problem(np.float32)
    with pytest.raises(ValueError, match=r"margin in \[0, inf\], found -0.1"):
        losses.adaface(features, agents, labels, statistics=STATISTICS, margin=-0.1)
    whole = np.arange(1, BATCH + 1)
    with pytest.raises(ValueError, match=r"margin in \[0, inf\], found -1"):
        losses.adaface(features, agents, labels, statistics=STATISTICS, margin=-whole)
    with pytest.raises(ValueError, match=r"scalar mean, found shape \(2,\)"):
        losses.adaface(features, agents, labels, statistics=NormStatistics(np.ones(2), 1.0))
    with pytest.raises(ValueError, match=r"upper_margin in .*found 4"):
        losses.magface(features, agents, labels, upper_margin=4.0)
    with pytest.raises(ValueError, match=r"lower_norm below upper_norm, found 10.0 and 5.0"):
        losses.magface_regularizer(features, upper_norm=5.0)
    with pytest.raises(ValueError, match=r"momentum in \[0, 1\], found 2"):
        losses.updated_norm_statistics(STATISTICS, features, momentum=2.0)
    with pytest.raises(TypeError, match="counted of dtype bool"):
        losses.updated_norm_statistics(STATISTICS, features, counted=np.ones(BATCH))
