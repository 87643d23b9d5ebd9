"""Ring loss against its printed equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import printed_gradients
import pytest
from jax.test_util import check_grads

from hyperface import reference
from hyperface.losses import ring


@pytest.mark.parametrize("norm", [1e-6, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("radius", [0.5, 20.0])
def test_value_and_gradients_equal_autodiff_and_the_paper(norm, radius, rng):
    with jax.enable_x64(True):
        features = norm * rng.standard_normal((5, 7))
        cotangent = rng.standard_normal(5)
        arguments = (jnp.asarray(features), jnp.asarray(radius))
        value, pull = jax.vjp(ring, *arguments)
        expected, expected_pull = jax.vjp(reference.ring, *arguments)
        found = pull(jnp.asarray(cotangent))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_array_equal(value, ring(*arguments))
        printed = printed_gradients.ring_gradients(features, radius, cotangent)
        for mine, autodiff, paper in zip(
            found, expected_pull(jnp.asarray(cotangent)), printed, strict=True
        ):
            assert mine.dtype == jnp.float64
            np.testing.assert_allclose(mine, autodiff, rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(mine, paper, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3), (4, 2)])
def test_gradients_equal_finite_differences_in_float64(shape, rng):
    with jax.enable_x64(True):
        arguments = (jnp.asarray(rng.standard_normal(shape)), jnp.asarray(1.7))
        check_grads(jax.jit(ring), arguments, order=2, modes=["rev"], rtol=1e-6)


def test_zero_vector_as_documented():
    features, radius = jnp.zeros((1, 3)), jnp.float32(2.0)
    to_features, to_radius = jax.jit(jax.grad(lambda f, r: jnp.sum(ring(f, r)), argnums=(0, 1)))(
        features, radius
    )
    np.testing.assert_array_equal(to_features, 0.0)
    np.testing.assert_allclose(to_radius, 2.0 - 1e-6, rtol=1e-6)


def test_released_forms_by_hand():
    """Norms 5 and 1 with R = 2: differences 3 and -1; the mean norm is 3."""
    features = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    for form, expected, slope in (
        ("released-l2", [9.0, 1.0], 6.0),
        ("released-l1", [5.0, 1.0], 2.0),  # Beyond 1: 2 x 3 - 1; within: its square.
        ("released-auto", [3.0, 1.0 / 3.0], 2.0),
    ):
        np.testing.assert_allclose(ring(features, 2.0, form=form), expected, rtol=1e-6)
        gradient = jax.jit(jax.grad(lambda f, form=form: ring(f, 2.0, form=form)[0]))(features)
        np.testing.assert_allclose(gradient[0], slope * features[0] / 5.0, rtol=1e-5)
    # Short features, of a mean norm of 0.3, are divided by 0.5: their loss would blow up.
    short = ring(0.1 * features, 0.2, form="released-auto")
    np.testing.assert_allclose(short, [0.09 / 0.5, 0.01 / 0.5], rtol=1e-5)
    with pytest.raises(ValueError, match=r"form in .*found 'l2'"):
        ring(features, 2.0, form="l2")


def test_the_released_mean_norm_is_that_of_all_counted_examples():
    """Norms 5, 0 and 1 are counted, and 7e29 is padding: the mean is 2 on one device and on two."""
    features = jnp.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [5e29, 5e29]])
    counted = jnp.array([True, True, True, False])

    def auto(features, counted, axis_name=None):
        return ring(features, 3.0, form="released-auto", counted=counted, axis_name=axis_name)

    one = auto(features, counted)
    np.testing.assert_allclose(one[:3], [4 / 2, 9 / 2, 4 / 2], rtol=1e-5)
    split = features.reshape(2, 2, 2), counted.reshape(2, 2)
    two = jax.pmap(partial(auto, axis_name="batch"), axis_name="batch")(*split)
    np.testing.assert_allclose(two.ravel()[:3], one[:3], rtol=1e-6)
    np.testing.assert_array_equal(auto(features, counted & False)[0], 4 / 0.5)
    with pytest.raises(TypeError, match="counted of dtype bool"):
        auto(features, jnp.ones(4))


def test_half_precision_features_give_float32(rng):
    features = jnp.asarray(100 * rng.standard_normal((3, 400)), jnp.float16)
    loss = ring(features, 1000.0)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(
        loss, reference.ring(features.astype(jnp.float32), 1000.0), rtol=1e-6
    )


def test_descent_brings_norms_to_the_learned_radius(rng):
    """With lambda alone all features end at one norm, the radius at the mean norm."""
    features, radius = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32), jnp.float32(3.0)
    gradient = jax.jit(jax.grad(lambda f, r: jnp.sum(ring(f, r)), argnums=(0, 1)))
    for _ in range(200):
        step_features, step_radius = gradient(features, radius)
        features, radius = features - 0.1 * step_features, radius - 0.1 * step_radius / 6
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), radius, rtol=1e-4)


def test_transformations_agree(rng):
    features = jnp.asarray(rng.standard_normal((8, 5)), jnp.float32)
    expected = jax.jit(jax.grad(lambda f: jnp.sum(ring(f, 2.0))))(features)
    rows = jax.vmap(jax.grad(lambda f: jnp.sum(ring(f[None], 2.0))))(features)
    devices = jax.pmap(jax.grad(lambda f: jnp.sum(ring(f, 2.0))))(features[:, None])[:, 0]
    for found in (rows, devices):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_misuse_says_what_was_expected():
    with pytest.raises(ValueError, match=r"scalar radius, found shape \(1,\)"):
        ring(jnp.ones((2, 3)), jnp.ones(1))
    with pytest.raises(ValueError, match=r"features \[batch, dim\], found shape \(3,\)"):
        ring(jnp.ones(3), 1.0)
    with pytest.raises(TypeError, match="floating-point features"):
        ring(jnp.ones((2, 3), int), 1.0)
