"""Backbones: shapes, parameter counts worked out by hand, and starting scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import models
from hyperface.errors import InputError
from hyperface.models.layers import PReLU, xavier


def initialise(model, shape):
    return model.init(jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Kernels, biases and slopes by hand: LeNet's convolutions at kernel k hold
# k^2 (1*32 + 32*32 + 32*64 + 64*64 + 64*128 + 128*128) weights and 448
# biases; slopes are one a channel, or one a layer.
LENET_KERNELS = 32 + 1024 + 2048 + 4096 + 8192 + 16384


@pytest.mark.parametrize(
    ("name", "image", "dim", "parameters"),
    [
        ("lenet", (28, 28, 1), 2, 25 * LENET_KERNELS + 448 + 6 + 1152 * 2),
        ("lenet-normface", (28, 28, 1), 3, 9 * LENET_KERNELS + 2 * 448 + 1152 * 3 + 3),
    ],
)
def test_lenets(name, image, dim, parameters):
    model = models.create(name, dim)
    params = initialise(model, image)
    assert count(params) == parameters
    assert model.apply({"params": params}, jnp.zeros((2, *image))).shape == (2, dim)


def test_the_residual_nets_convolutions_halve_the_image():
    model = models.SphereFace(widths=(8, 16), blocks=(0, 1), feature_dim=5)
    params = initialise(model, (12, 10, 3))
    stem = 9 * 3 * 8 + 8 + 8
    stage = 9 * 8 * 16 + 16 + 16 + 2 * (9 * 16 * 16 + 16)
    assert count(params) == stem + stage + 3 * 3 * 16 * 5 + 5
    assert model.apply({"params": params}, jnp.zeros((2, 12, 10, 3))).shape == (2, 5)


def test_fresh_blocks_are_nearly_the_identity():
    params = initialise(models.create("sphereface-mini", 16), (112, 92, 1))
    np.testing.assert_allclose(np.std(params["block2_1"]["Conv_0"]["kernel"]), 0.01, rtol=0.05)


def test_xavier_is_caffes():
    kernel = xavier(jax.random.key(0), (3, 3, 20, 50))
    assert 0.99 < np.abs(kernel).max() / np.sqrt(3 / 180) <= 1.0


def test_prelu_has_a_slope_a_channel():
    x = jnp.array([[-4.0, 2.0], [1.0, -8.0]])
    slopes = {"params": {"slope": jnp.array([0.25, 0.5])}}
    np.testing.assert_allclose(PReLU().apply(slopes, x), [[-1.0, 2.0], [1.0, -4.0]])
    assert initialise(PReLU(shared=True), (4, 3))["slope"].shape == (1,)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown model 'spherface-mini'. Did you mean 'sphere"):
        models.create("spherface-mini", 8)
