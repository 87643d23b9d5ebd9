"""Mined pairs and triplets against the plain formulas, which are tested by loops over them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from hyperface import losses, reference
from hyperface.losses import _mining

LABELS = np.array([0, 1, 0, 2, 1, 0, 2])
MININGS = ("all", "violating", "hardest")


@pytest.fixture
def features(rng):
    return rng.standard_normal((7, 4))


KINDS = ("batch_contrastive", "batch_triplet")


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_the_formulas_and_finite_differences(
    features, mining, kind, monkeypatch
):
    monkeypatch.setattr(_mining, "TRIPLET_BYTES", 3 * 49 * 8)  # three anchors at once, of seven
    with jax.enable_x64(True):
        features = jnp.asarray(features)
        cotangent = jnp.linspace(1.0, 2.0, 7)

        def loss(module):
            return lambda f: getattr(module, kind)(f, LABELS, margin=1.7, mining=mining)

        found, pull = jax.vjp(loss(losses), features)
        expected, expected_pull = jax.vjp(loss(reference), features)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(pull(cotangent), expected_pull(cotangent), atol=1e-12)
        check_grads(jax.jit(loss(losses)), (features,), order=1, modes=["rev"])


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_in_no_pair(features, mining, kind):
    counted, loss = np.arange(7) < 5, getattr(losses, kind)
    found = loss(features, LABELS, margin=1.7, mining=mining, counted=counted)
    expected = getattr(reference, kind)(features[:5], LABELS[:5], margin=1.7, mining=mining)
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[5:], 0.0)


@pytest.mark.parametrize("labels", [np.zeros(7, int), np.arange(7)])
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_class_only_and_nothing_alike(features, labels, mining, kind):
    def total(module):
        return lambda f: jnp.sum(getattr(module, kind)(f, labels, margin=1.7, mining=mining))

    features = jnp.asarray(features, jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(total(losses)))(features)
    expected, expected_gradient = jax.jit(jax.value_and_grad(total(reference)))(features)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_split_batch_has_the_losses_and_gradients_of_the_whole(rng, mining, kind):
    """Uneven padding: the last of four devices has none of the counted examples."""
    with jax.enable_x64(True):
        features = jnp.asarray(rng.standard_normal((12, 4)))
        labels, counted = jnp.asarray(np.arange(12) % 3), jnp.arange(12) < 8
        cotangent = jnp.linspace(1.0, 2.0, 12)

        def total(f, y, kept, weights, axis_name=None):
            loss = getattr(losses, kind)(
                f, y, margin=1.7, mining=mining, counted=kept, axis_name=axis_name
            )
            return jnp.sum(weights * loss), loss

        arguments = (features, labels, counted, cotangent)
        run = partial(jax.value_and_grad, has_aux=True)
        (_, expected), slope = jax.jit(run(total))(*arguments)
        split = [x.reshape(4, 3, *x.shape[1:]) for x in arguments]
        mapped = jax.pmap(run(partial(total, axis_name="batch")), axis_name="batch")
        (_, found), found_slope = mapped(*split)
        np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found_slope.reshape(12, 4), slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_computes_the_pairs_of_its_own_examples_alone(kind):
    """So that the cost per device falls with the number of devices."""

    def flops(devices):
        def loss(f, y):
            return getattr(losses, kind)(f, y, mining="hardest", axis_name="batch")

        mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(loss, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
        shapes = jax.ShapeDtypeStruct((128, 64), "f4"), jax.ShapeDtypeStruct((128,), "i4")
        return jax.jit(mapped).lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(4) < 0.3 * flops(1)


def test_all_triplets_are_never_held_at_once():
    shape = jax.ShapeDtypeStruct((512, 8), "f4")
    total = jax.grad(lambda f: jnp.sum(losses.batch_triplet(f, np.arange(512) // 4)))
    memory = jax.jit(total).lower(shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 96 * 2**20  # 512 MiB for each array of all triplets


def test_misuse_says_what_was_expected(features):
    with pytest.raises(ValueError, match=r"mining in .*found 'semi'"):
        losses.batch_triplet(features, LABELS, mining="semi")
    with pytest.raises(TypeError, match="integer labels, found dtype float"):
        losses.batch_contrastive(features, LABELS.astype(float))
    with pytest.raises(TypeError, match="counted of dtype bool"):
        losses.batch_contrastive(features, LABELS, counted=np.ones(7))
    with pytest.raises(ValueError, match=r"labels \[7\], one per feature, found shape \(6,\)"):
        losses.batch_triplet(features, LABELS[:6])
