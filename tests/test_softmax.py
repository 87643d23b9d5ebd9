"""Softmax in its four modes against the plain formula, in the confident regime, and misused."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import printed_gradients
import pytest
from jax.test_util import check_grads

from hyperface import reference
from hyperface.losses import softmax

MODES = ("both", "features", "agents", "none")


def problem(rng, batch=6, classes=5, dim=4, dtype=np.float64):
    features = rng.standard_normal((batch, dim)).astype(dtype)
    agents = rng.standard_normal((classes, dim)).astype(dtype)
    return features, agents, rng.integers(0, classes, batch).astype(np.int32)


@pytest.mark.parametrize(
    ("normalize", "scale", "with_bias"), list(itertools.product(MODES, (1.0, 64.0), (False, True)))
)
def test_value_and_gradients_equal_autodiff_of_the_formula(normalize, scale, with_bias, rng):
    with jax.enable_x64(True):
        features, agents, labels = problem(rng)
        bias = jnp.asarray(rng.standard_normal(5)) if with_bias else None
        arguments = (jnp.asarray(features), jnp.asarray(agents), jnp.asarray(scale))
        cotangent = jnp.asarray(rng.standard_normal(6))

        @jax.jit
        def ours(f, w, s):
            return softmax(
                f, w, labels, normalize=normalize, scale=s, bias=bias, allow_normalized_bias=True
            )

        @jax.jit
        def plain(f, w, s):
            return reference.softmax(
                f, w, labels, normalize=normalize, scale=s, bias=bias, allow_normalized_bias=True
            )

        value, pull = jax.vjp(ours, *arguments)
        expected, expected_pull = jax.vjp(plain, *arguments)
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-14)
        for found, wanted in zip(pull(cotangent), expected_pull(cotangent), strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("normalize", MODES)
def test_gradients_equal_finite_differences_in_float64(normalize, rng):
    with jax.enable_x64(True):
        features, agents, labels = problem(rng)
        check_grads(
            jax.jit(lambda f, w, s: softmax(f, w, labels, normalize=normalize, scale=s)),
            (jnp.asarray(features), jnp.asarray(agents), jnp.asarray(7.0)),
            order=1,
            modes=["rev"],
            rtol=1e-6,
        )


def test_confident_examples_keep_their_gradient_in_float32(rng):
    """At s = 64 and cos_y near 0.9, `logsumexp - target` in float32 loses all digits."""
    classes, dim = 200, 64
    agents = rng.standard_normal((classes, dim))
    labels = rng.integers(0, classes, 32).astype(np.int32)
    features = agents[labels] + 0.4 * rng.standard_normal((32, dim))
    expected = printed_gradients.softmax_gradients(features, agents, labels, 64.0)

    def relative_error(loss):
        def total(f, w):
            return jnp.sum(loss(f, w, labels, scale=64.0))

        found = jax.jit(jax.grad(total, argnums=(0, 1)))(
            jnp.asarray(features, jnp.float32), jnp.asarray(agents, jnp.float32)
        )
        return [
            float(np.linalg.norm(np.asarray(f, np.float64) - e) / np.linalg.norm(e))
            for f, e in zip(found, expected, strict=True)
        ]

    assert np.all(np.less(relative_error(softmax), 2e-5))
    assert max(relative_error(reference.softmax)) > 1e-2  # What the form is for.


def test_equation_9_squared_distance_form(rng):
    features, agents, labels = problem(rng, dtype=np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit_agents = agents / np.linalg.norm(agents, axis=1, keepdims=True)
    squared = np.sum((unit[:, None] - unit_agents[None]) ** 2, axis=2)
    expected = -jax.nn.log_softmax(-5.0 * squared)[np.arange(6), labels]
    found = softmax(features, agents, labels, scale=10.0)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_proposition_1_holds_without_bias_and_fails_with_it(rng):
    features, agents, _ = problem(rng, batch=50)
    winners = np.argmax(features @ agents.T, axis=1).astype(np.int32)
    loss = [softmax(s * features, agents, winners, normalize="none") for s in (1.0, 1.5, 4.0)]
    assert np.all(loss[1] <= loss[0])
    assert np.all(loss[2] <= loss[1])
    bias = 5.0 * rng.standard_normal(5)
    winners = np.argmax(features @ agents.T + bias, axis=1).astype(np.int32)
    biased = [
        softmax(s * features, agents, winners, normalize="none", bias=bias) for s in (1.0, 1.5)
    ]
    assert np.any(biased[1] > biased[0])


def test_hard_points_stay_finite():
    agents = jnp.eye(3)
    features = jnp.concatenate([jnp.zeros((1, 3)), agents[:1], -agents[:1], 1e4 * agents[:1]])
    labels = jnp.zeros(4, jnp.int32)
    for scale in (1.0, 64.0):
        total = jax.jit(lambda f, w, s=scale: jnp.sum(softmax(f, w, labels, scale=s)))
        value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(features, agents)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_one_class_costs_nothing():
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda f: jnp.sum(softmax(f, jnp.ones((1, 3)), jnp.zeros(2, jnp.int32), scale=10.0))
        )
    )(jnp.ones((2, 3)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


def test_half_precision_features_give_float32(rng):
    features, agents, labels = problem(rng, dtype=np.float32)
    half = jnp.asarray(features, jnp.bfloat16)
    loss = softmax(half, agents, labels, scale=10.0)
    assert loss.dtype == jnp.float32
    exact = softmax(half.astype(jnp.float32), agents, labels, scale=10.0)
    np.testing.assert_array_equal(loss, exact)
    gradient = jax.jit(jax.grad(lambda f: jnp.sum(softmax(f, agents, labels, scale=1.0))))(half)
    assert gradient.dtype == jnp.bfloat16


def test_a_label_out_of_range_is_nan_under_jit_and_refused_outside(rng):
    features, agents, _ = problem(rng, batch=3, dtype=np.float32)
    labels = np.array([0, 5, -1], np.int32)
    loss = jax.jit(partial(softmax, scale=1.0))(features, agents, labels)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])
    with pytest.raises(ValueError, match=r"labels in \[0, 5\).*found 5"):
        softmax(features, agents, labels)


def test_transformations_agree(rng):
    features, agents, labels = problem(rng, batch=8, dtype=np.float32)

    def loss(f, y):
        return jnp.sum(softmax(f, agents, y, scale=10.0))

    expected = jax.jit(jax.grad(loss))(features, labels)
    rows = jax.jit(jax.vmap(jax.grad(lambda f, y: loss(f[None], y[None]))))(features, labels)
    devices = jax.pmap(jax.grad(loss))(features[:, None], labels[:, None])[:, 0]
    for found in (jax.jit(jax.grad(loss))(features, labels), rows, devices):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_misuse_says_what_was_expected(rng):
    features, agents, labels = problem(rng, dtype=np.float32)
    with pytest.raises(ValueError, match="Proposition 1"):
        softmax(features, agents, labels, bias=np.zeros(5, np.float32))
    with pytest.raises(ValueError, match=r"normalize in .*found 'l2'"):
        softmax(features, agents, labels, normalize="l2")
    with pytest.raises(ValueError, match=r"features \[batch, dim\], found shape \(4,\)"):
        softmax(features[0], agents, labels)
    with pytest.raises(ValueError, match="of one dim"):
        softmax(features, agents[:, :3], labels)
    with pytest.raises(ValueError, match=r"labels \[6\]"):
        softmax(features, agents, labels[:4])
    with pytest.raises(TypeError, match="integer labels, found dtype float"):
        softmax(features, agents, labels.astype(np.float16))
    with pytest.raises(TypeError, match="floating-point agents"):
        softmax(features, agents.astype(int), labels)
    with pytest.raises(ValueError, match=r"one number per example, \[6\], found shape \(2,\)"):
        softmax(features, agents, labels, scale=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"expected scale in .*found nan"):
        softmax(features, agents, labels, scale=np.float32("nan"))
    with pytest.raises(ValueError, match=r"bias \[5\]"):
        softmax(features, agents, labels, normalize="none", bias=np.zeros(4, np.float32))


@pytest.mark.parametrize("scale", [0.0, 1.5, np.linspace(0.0, 3.0, 6)])
def test_a_bias_is_added_to_the_logits_at_any_scale(rng, scale):
    """At scale zero what is left is the cross-entropy of the bias alone."""
    with jax.enable_x64(True):
        features, agents, labels = (jnp.asarray(x) for x in problem(rng))
        arguments = (features, agents, jnp.linspace(-1.0, 2.0, 5), jnp.asarray(scale))

        def of(loss):
            return lambda f, w, b, s: loss(f, w, labels, normalize="none", bias=b, scale=s)

        found, pull = jax.vjp(of(partial(softmax, block_size=2)), *arguments)
        expected, expected_pull = jax.vjp(of(reference.softmax), *arguments)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for mine, truth in zip(pull(found), expected_pull(found), strict=True):
            np.testing.assert_allclose(mine, truth, rtol=1e-10, atol=1e-12)


def test_only_normalised_softmax_without_a_scale_warns(rng):
    features, agents, labels = problem(rng, dtype=np.float32)
    with pytest.warns(UserWarning, match="scale_for_bound"):
        softmax(features, agents, labels)
    softmax(features, agents, labels, normalize="none")
    softmax(features, agents, labels, scale=1.0)


@pytest.mark.parametrize("exponent", [6, 9, 15])
@pytest.mark.parametrize("options", [{"normalize": "agents"}, {"normalize": "none", "scale": 3.0}])
@pytest.mark.parametrize("block_size", [None, 7])
def test_long_features_keep_loss_and_gradient(rng, exponent, options, block_size):
    """Logits that the compiler does not round before it subtracts their maximum are infinite."""
    features = (rng.standard_normal((6, 8)) * 10.0**exponent).astype(np.float32)
    agents, labels = rng.standard_normal((50, 8)).astype(np.float32), np.arange(6)

    def gradients(dtype):
        def total(f, w):
            return jnp.sum(
                softmax(f, w, labels, **({"scale": 1.0} | options), block_size=block_size)
            )

        arguments = jnp.asarray(features, dtype), jnp.asarray(agents, dtype)
        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*arguments)

    found = gradients(jnp.float32)
    with jax.enable_x64(True):
        expected = jax.tree.leaves(jax.tree.map(np.asarray, gradients(jnp.float64)))
    for mine, truth in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_allclose(mine, truth, rtol=0, atol=1e-4 * np.abs(truth).max())


def test_wide_labels_are_checked_before_they_are_narrowed(rng):
    features, agents, labels = problem(rng, dtype=np.float32)
    wide = labels.astype(np.int64)
    wide[2] += 2**32
    with pytest.raises(ValueError, match=r"labels in \[0, 5\)"):
        softmax(features, agents, wide, scale=5.0)
    with jax.enable_x64(True):
        found = jax.jit(partial(softmax, scale=5.0))(features, agents, wide)
    np.testing.assert_array_equal(np.isnan(found), np.arange(6) == 2)


def test_two_dtypes_are_promoted_whatever_the_block_size(rng):
    with jax.enable_x64(True):
        features, agents, labels = problem(rng)
        half = jnp.asarray(agents, jnp.float32)

        def gradients(**engine):
            def total(f, w):
                return jnp.sum(softmax(f, w, labels, scale=5.0, **engine))

            return jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(features), half)

        whole, blocked = gradients(), gradients(block_size=2)
        for found in (whole, blocked):
            assert [x.dtype for x in found] == [jnp.float64, jnp.float32]
        np.testing.assert_allclose(blocked[0], whole[0], rtol=1e-10)
