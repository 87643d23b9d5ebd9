"""The target's angle and ArcFace's gradient near the agent and opposite to it, in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from hyperface import losses, reference
from hyperface.losses._angle import angle

ANGLES = (0.3, 1e-2, 1e-3, 1e-4, 1e-5, np.pi - 1e-3, np.pi - 1e-5)


def near(theta, dim=64, norms=(20.0, 0.3)):
    """One feature and the agents, float32 numbers; the first agent is at about this angle."""
    rng = np.random.default_rng(0)
    agents = rng.standard_normal((4, dim))
    own = agents[0] / np.linalg.norm(agents[0])
    across = rng.standard_normal(dim)
    across -= (across @ own) * own
    across /= np.linalg.norm(across)
    feature = norms[0] * (np.cos(theta) * own + np.sin(theta) * across)
    agents *= norms[1] / np.linalg.norm(agents[0])
    return feature[None].astype(np.float32), agents.astype(np.float32)


def error(found, truth):
    truth = np.asarray(truth, np.float64)
    return np.linalg.norm(np.asarray(found, np.float64) - truth) / np.linalg.norm(truth)


@partial(jax.jit, static_argnums=0)
def gradients(loss, features, agents):
    labels = np.zeros(features.shape[0], np.int32)
    return jax.jit(jax.grad(lambda f, w: jnp.sum(loss(f, w, labels)), argnums=(0, 1)))(
        features, agents
    )


arcface = partial(losses.margin_softmax, scale=4.0, angular_margin=0.5)
released = partial(arcface, gradient="released")


@pytest.mark.parametrize("loss", [arcface, released])
@pytest.mark.parametrize("norms", [(1.0, 1.0), (20.0, 0.3), (3e4, 5.0)])
@pytest.mark.parametrize("theta", ANGLES)
def test_float32_gradients_are_those_of_float64(theta, norms, loss):
    features, agents = near(theta, norms=norms)
    found = gradients(loss, features, agents)
    with jax.enable_x64(True):
        truth = gradients(loss, features.astype(np.float64), agents.astype(np.float64))
    for mine, right in zip(found, truth, strict=True):
        assert error(mine, right) < 1e-5


@pytest.mark.parametrize("theta", [2.0, 0.3, 1e-3, 1e-4, np.pi - 1e-3])
def test_the_angle_is_the_arccos_of_the_cosine_in_float64(theta):
    """As far as float64's own arccos goes: its error at 1e-4 rad is 1e-8."""
    features, agents = near(theta)
    with jax.enable_x64(True):
        features, rows = jnp.asarray(features, float), jnp.asarray(agents[:1], float)

        def plain(f, w):
            unit, unit_row = reference.l2_normalize(f), reference.l2_normalize(w)
            return jnp.arccos(jnp.sum(unit * unit_row, axis=1))

        found, pull = jax.vjp(angle, features, rows)
        truth, pull_truth = jax.vjp(plain, features, rows)
        np.testing.assert_allclose(found, truth, rtol=1e-7)
        for mine, right in zip(pull(jnp.ones(1)), pull_truth(jnp.ones(1)), strict=True):
            assert error(mine, right) < 3e-7
        if theta in (2.0, 0.3):
            check_grads(jax.jit(angle), (features, rows), order=2, modes=["rev"], rtol=1e-4)


def test_the_gradient_tends_to_s_p_sin_m_at_the_agent():
    """Its part across the agent, per unit of the unit feature: ArcFace's closed form."""
    features, agents = near(1e-5, norms=(20.0, 20.0))
    with jax.enable_x64(True):
        features, agents = features.astype(float), agents.astype(float)
        gradient = np.asarray(gradients(arcface, features, agents)[0])
    unit_agents = agents / np.linalg.norm(agents, axis=1, keepdims=True)
    norm = np.linalg.norm(features)
    unit = features[0] / norm
    cosines = unit_agents @ unit
    logits = 4.0 * cosines
    logits[0] = 4.0 * np.cos(1e-5 + 0.5)
    shares = np.exp(logits) / np.exp(logits).sum()
    away = unit - cosines[0] * unit_agents[0]
    away /= np.linalg.norm(away)
    expected = 4.0 * (1 - shares[0]) * np.sin(0.5) + 4.0 * shares[1:] @ (unit_agents[1:] @ away)
    np.testing.assert_allclose(norm * (gradient[0] @ away), expected, rtol=1e-4)
    assert abs(gradient[0] @ unit) < 1e-7  # No gradient along the feature.


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 1e-20, 1e15, -1e15, 1e25])
@pytest.mark.parametrize("of_agents", [False, True])
def test_at_0_and_pi_and_at_any_length_the_gradient_is_finite(factor, of_agents):
    agents = np.array([[1.0, 2.0, -2.0], [3.0, 0.0, 1.0]], np.float32)
    features = agents[:1].copy()
    (agents if of_agents else features)[:1] *= np.float32(factor)
    value = arcface(features, agents, np.zeros(1, np.int32))
    assert np.all(np.isfinite(value))
    for gradient in gradients(arcface, features, agents):
        assert np.all(np.isfinite(gradient))


def test_a_zero_vector_is_at_a_right_angle_to_all():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    found = angle(jnp.array([[0.0, 0.0], [3.0, 4.0]]), rows)
    np.testing.assert_allclose(found, np.pi / 2, rtol=1e-6)


@pytest.mark.parametrize("split_batch", [False, True])
@pytest.mark.parametrize("block_size", [None, 1])
def test_the_angle_is_of_the_device_that_has_the_agent(split_batch, block_size):
    near_agents = [near(theta) for theta in (1e-4, 2e-5)]
    features = np.concatenate([feature for feature, _ in near_agents])
    agents, labels = near_agents[0][1][[2, 3, 0, 1]], np.array([2, 2], np.int32)
    loss = partial(arcface, axis_name="classes", split_batch=split_batch, block_size=block_size)

    def both(loss, features, agents, labels):
        value, pull = jax.vjp(lambda f, w: loss(f, w, labels), features, agents)
        return value, *pull(jnp.ones_like(value))

    rows = PartitionSpec("classes")
    batch = rows if split_batch else PartitionSpec()
    mesh = jax.make_mesh((2,), ("classes",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(
        partial(both, loss),
        mesh=mesh,
        in_specs=(batch, rows, batch),
        out_specs=(batch, batch, rows),
        check_vma=False,
    )
    found = jax.jit(sharded)(features, agents, labels)
    with jax.enable_x64(True):
        truth = jax.jit(partial(both, arcface))(
            features.astype(float), agents.astype(float), labels
        )
    for mine, right in zip(found, truth, strict=True):
        assert error(mine, right) < 1e-5


def test_the_released_gradient_is_that_of_an_inner_product_with_a_new_value():
    """By hand: cos 0.6 and 0.8 (theta 0.9273), s = 2, m = 0.5, two classes at a right angle.

    Target logit 2 cos(1.4273) = 0.28602, the other 1.6: p = sigmoid(1.31398) = 0.78818. The slope
    to the target's cosine is -2 p = -1.57636, to the other's 1.57636. On the unit feature these are
    along the agents (1, 0) and (0, 1); the part along the feature (0.6, 0.8) is taken away.
    """
    features, agents = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
    options = {"scale": 2.0, "angular_margin": 0.5}

    def loss(f, gradient):
        return losses.margin_softmax(f, agents, np.array([0]), gradient=gradient, **options)[0]

    value, found = jax.value_and_grad(loss)(jnp.asarray(features), "released")
    np.testing.assert_allclose(value, 1.55201, rtol=1e-5)
    np.testing.assert_allclose(value, loss(features, "exact"), rtol=1e-6)
    # (-1, 1) less (0.6, 0.8) x 0.2 is (-1.12, 0.84).
    np.testing.assert_allclose(found[0], 1.57636 * np.array([-1.12, 0.84]), rtol=1e-5)
    exact = jax.grad(loss)(jnp.asarray(features), "exact")[0]
    slope = np.sin(np.arccos(0.6) + 0.5) / 0.8  # of the target's cosine, in units of s
    by_hand = 1.57636 * (np.array([-slope, 1.0]) - (0.8 - 0.6 * slope) * np.array([0.6, 0.8]))
    np.testing.assert_allclose(exact, by_hand, rtol=1e-5)


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match=r"gradient in \('exact', 'released'\), found 'caffe'"):
        losses.margin_softmax(
            np.ones((1, 2), np.float32), np.eye(2), np.array([0]), scale=1.0, gradient="caffe"
        )
