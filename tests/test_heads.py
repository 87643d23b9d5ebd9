"""Heads: where scale and radius start, the floor, and dropout that ignores the device count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import theory
from hyperface.heads import Heads, RingHead, SoftmaxHead


@pytest.fixture
def batch(rng):
    return jnp.asarray(rng.standard_normal((6, 4)), jnp.float32), jnp.arange(6) % 5


def test_the_learned_scale_starts_where_the_bound_is_small(batch):
    head = SoftmaxHead(num_classes=5, initial_bound=0.05)
    params = head.init(jax.random.key(0), *batch)["params"]
    _, scalars = head.apply({"params": params}, *batch)
    np.testing.assert_allclose(theory.softmax_lower_bound(5, params["scale"]), 0.05, rtol=1e-5)
    np.testing.assert_allclose(scalars["softmax_bound"], 0.05, rtol=1e-5)


def test_the_learned_scale_never_acts_below_its_floor_and_can_climb_back(batch):
    head = SoftmaxHead(num_classes=5, min_scale=0.5)
    params = head.init(jax.random.key(0), *batch)["params"]
    params["agents"] = jnp.eye(5, 4)
    aligned = (params["agents"][:4], jnp.arange(4))

    def loss(scale):
        values, scalars = head.apply({"params": params | {"scale": scale}}, *aligned)
        return jnp.sum(values), scalars["scale"]

    (_, used), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.float32(-3.0))
    assert used == 0.5
    assert gradient < 0  # Well-separated features want a larger scale: descent raises it.


def test_a_fixed_scale_is_no_parameter(batch):
    params = SoftmaxHead(num_classes=5, scale=20.0).init(jax.random.key(0), *batch)["params"]
    assert set(params) == {"agents"}


def test_agents_start_on_the_sphere_only_where_their_length_does_not_matter(batch):
    def norms(normalize):
        head = SoftmaxHead(num_classes=5, normalize=normalize, scale=1.0)
        agents = head.init(jax.random.key(0), *batch)["params"]["agents"]
        return np.linalg.norm(agents, axis=1), np.abs(agents).max()

    np.testing.assert_allclose(norms("both")[0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(norms("agents")[0], 1.0, rtol=1e-6)
    assert norms("none")[1] <= np.sqrt(3 / 4)  # Caffe's xavier, fan-in 4.


def test_the_radius_starts_at_the_first_batchs_mean_norm(batch):
    params = RingHead().init(jax.random.key(0), batch[0])["params"]
    expected = np.linalg.norm(batch[0], axis=1).mean()
    np.testing.assert_allclose(params["radius"], expected, rtol=1e-6)
    assert RingHead(initial_radius=3.0).init(jax.random.key(0), batch[0])["params"]["radius"] == 3


def test_heads_name_their_terms(batch):
    heads = Heads(softmax=SoftmaxHead(num_classes=5), ring=RingHead())
    variables = heads.init(jax.random.key(0), *batch)
    terms, scalars = heads.apply(variables, *batch)
    assert {name: loss.shape for name, loss in terms.items()} == {"softmax": (6,), "ring": (6,)}
    assert set(scalars) == {"scale", "softmax_bound", "radius"}
    assert set(variables["params"]) == {"softmax", "ring"}


def test_dropout_follows_the_keys_alone(batch):
    head = SoftmaxHead(num_classes=5, dropout_rate=0.5)
    variables = head.init(jax.random.key(0), *batch)
    keys = jax.random.split(jax.random.key(1), 6)
    whole, _ = head.apply(variables, *batch, keys)
    part, _ = head.apply(variables, batch[0][3:], batch[1][3:], keys[3:])
    np.testing.assert_allclose(whole[3:], part, rtol=1e-5)
    plain, _ = head.apply(variables, *batch)
    assert not np.allclose(whole, plain)
