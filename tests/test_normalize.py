"""Eq. 3 and Eq. 4: values, and the hand-written rules proven three ways."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import printed_gradients
import pytest
from jax.test_util import check_grads

from hyperface import cosine_similarity, l2_norm, l2_normalize, losses, reference

HARD_NORMS = (1e-6, 1e-3, 1.0, 1e4)
FUNCTIONS = ((l2_normalize, reference.l2_normalize), (l2_norm, reference.l2_norm))


@pytest.mark.parametrize("norm", HARD_NORMS)
@pytest.mark.parametrize(("function", "plain"), FUNCTIONS)
def test_value_and_gradient_equal_autodiff_of_the_formula(function, plain, norm, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(norm * rng.standard_normal((3, 5)))
        value, pull = jax.vjp(function, x)
        expected, expected_pull = jax.vjp(plain, x)
        cotangent = jnp.asarray(rng.standard_normal(value.shape))
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(value, function(x), rtol=0)
        (found,), (wanted,) = pull(cotangent), expected_pull(cotangent)
        assert found.dtype == x.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * float(abs(wanted).max()))


@pytest.mark.parametrize("shape", [(4,), (2, 7), (3, 2, 1)])
@pytest.mark.parametrize(("function", "plain"), FUNCTIONS)
def test_gradient_equals_finite_difference_in_float64(function, plain, shape, rng):
    del plain
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal(shape) + 0.3)
        check_grads(jax.jit(function), (x,), order=2, modes=["rev"], rtol=1e-6)


def test_gradient_is_equation_4(rng):
    x, cotangent = rng.standard_normal((2, 6, 9))
    with jax.enable_x64(True):
        (found,) = jax.vjp(l2_normalize, jnp.asarray(x))[1](jnp.asarray(cotangent))
    np.testing.assert_allclose(
        found, printed_gradients.l2_normalize_gradient(x, cotangent), rtol=1e-12
    )


def test_eps_has_its_true_gradient(rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((2, 3)))
        for function, _ in FUNCTIONS:
            check_grads(
                jax.jit(lambda eps, f=function: f(x, eps=eps)),
                (jnp.asarray(0.3),),
                order=1,
                modes=["rev"],
            )


@hypothesis.given(
    hnp.arrays(np.int64, (4, 6), elements=st.integers(-1000, 1000)),
    hnp.arrays(np.int64, (4, 6), elements=st.integers(-1000, 1000)),
    st.floats(0.01, 10),
)
@hypothesis.settings(max_examples=50)
def test_gradient_is_orthogonal_and_every_step_lengthens(x, cotangent, step):
    x, cotangent = x / 100 + 0.5, cotangent / 100
    with jax.enable_x64(True):
        (gradient,) = jax.vjp(lambda x: l2_normalize(x, eps=1e-30), jnp.asarray(x))[1](
            jnp.asarray(cotangent)
        )
    gradient = np.asarray(gradient)
    size = np.linalg.norm(x, axis=1) * np.linalg.norm(gradient, axis=1)
    scale = size + np.linalg.norm(cotangent, axis=1)
    assert np.all(np.abs(np.sum(x * gradient, axis=1)) <= 1e-10 * scale)
    moved = np.linalg.norm(x - step * gradient, axis=1)
    assert np.all(moved >= np.linalg.norm(x, axis=1) * (1 - 1e-8))


def test_zero_vector_is_finite_as_documented():
    zero, cotangent = jnp.zeros((1, 3)), jnp.array([[1.0, -2.0, 0.5]])
    value, pull = jax.vjp(l2_normalize, zero)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_allclose(pull(cotangent)[0], cotangent * 1e6, rtol=1e-5)
    value, pull = jax.vjp(l2_norm, zero)
    np.testing.assert_allclose(value, 1e-6, rtol=1e-5)
    np.testing.assert_array_equal(pull(jnp.ones(1))[0], 0.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = jnp.full((2, 1000), 100.0, dtype)  # The sum of squares, 1e7, is beyond float16.
    assert l2_normalize(x).dtype == dtype
    assert l2_norm(x).dtype == jnp.float32
    np.testing.assert_allclose(l2_norm(x), 100 * np.sqrt(1000), rtol=1e-6)
    exact = reference.l2_normalize(x.astype(jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(l2_normalize(x), exact)
    for function, plain in FUNCTIONS:
        found = jax.jit(jax.grad(lambda x, f=function: jnp.sum(jnp.cos(f(x).astype(jnp.float32)))))(
            x
        )
        wide = x.astype(jnp.float32)
        exact = jax.jit(jax.grad(lambda x, f=plain: jnp.sum(jnp.cos(f(x)))))(wide)
        assert found.dtype == dtype
        scale = float(jnp.abs(exact).max())
        np.testing.assert_allclose(
            found.astype(jnp.float32), exact, rtol=0.01, atol=max(0.01 * scale, 1e-4)
        )


def test_no_dtype_is_promoted_silently(rng):
    x = jnp.asarray(rng.standard_normal((3, 4)), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        assert l2_normalize(x).dtype == jnp.bfloat16
        found = [
            l2_norm(x),
            cosine_similarity(x, x.astype(jnp.float32)),
            losses.softmax(x, x, jnp.arange(3), scale=jnp.float32(4.0)),
            losses.ring(x, jnp.float32(1.0)),
        ]
    assert {array.dtype for array in found} == {jnp.dtype("float32")}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis(axis, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(l2_normalize(x, axis), axis=axis), 1.0, rtol=1e-6)
    np.testing.assert_allclose(l2_norm(x, axis), np.linalg.norm(x, axis=axis), rtol=1e-6)
    assert l2_norm(x, axis, keepdims=True).ndim == 2


def test_rules_hold_under_transformations(rng):
    x = jnp.asarray(rng.standard_normal((8, 5)), jnp.float32)

    def loss(x):
        return jnp.sum(jnp.sin(l2_normalize(x)) * jnp.cos(l2_norm(x, keepdims=True)))

    expected = jax.jit(jax.grad(loss))(x)
    row_by_row = jax.vmap(jax.grad(lambda row: loss(row[None])))(x)
    through_vmap = jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(lambda row: loss(row[None]))(x))))(x)
    on_devices = jax.pmap(jax.grad(loss))(x.reshape(8, 1, 5)).reshape(8, 5)
    for found in (jax.jit(jax.grad(loss))(x), row_by_row, through_vmap, on_devices):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_cosine_similarity_ignores_length(rng):
    features, agents = rng.standard_normal((4, 6)), rng.standard_normal((3, 6))
    found = cosine_similarity(features.astype("f4"), 1e3 * agents.astype("f4"))
    expected = (features / np.linalg.norm(features, axis=1, keepdims=True)) @ (
        agents / np.linalg.norm(agents, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bad_input_says_what_was_expected():
    with pytest.raises(TypeError, match="floating-point vectors, found dtype int32"):
        l2_normalize(jnp.arange(3))
    with pytest.raises(ValueError, match=r"axis of shape \(3,\), found axis 1"):
        l2_norm(jnp.ones(3), axis=1)
    with pytest.raises(ValueError, match=r"of one dim, found \(2, 3\) and \(2, 4\)"):
        cosine_similarity(jnp.ones((2, 3)), jnp.ones((2, 4)))
