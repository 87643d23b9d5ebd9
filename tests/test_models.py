"""Backbones: shapes, parameter counts worked out by hand, starting scales, precision, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from hyperface import models
from hyperface.config.backbones import BACKBONES
from hyperface.errors import InputError
from hyperface.models import convolutions
from hyperface.models import norm as norms
from hyperface.models.convolutions import depthwise, pointwise
from hyperface.models.layers import PReLU, max_pool, xavier
from hyperface.models.lightcnn import max_feature_map
from hyperface.models.norm import BatchNorm

FACE, SQUARE, GREY = (112, 96, 3), (112, 112, 3), (28, 28, 1)


def initialise(model, shape):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def abstract(model, shape, batch=1):
    """Shapes of the variables and of a batch of images, with nothing computed."""
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return variables, images


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Kernels, biases and slopes by hand: LeNet's convolutions at kernel k hold
# k^2 (1*32 + 32*32 + 32*64 + 64*64 + 64*128 + 128*128) weights and 448
# biases; slopes are one a channel, or one a layer.
LENET_KERNELS = 32 + 1024 + 2048 + 4096 + 8192 + 16384


def iresnet_parameters(blocks):
    """Its layers one by one; a BN holds two numbers a channel, the last one a single one."""
    total, inputs = 27 * 64 + 2 * 64 + 64, 64
    for width, number in zip((64, 128, 256, 512), blocks, strict=True):
        total += inputs * width + 2 * width  # the shortcut of the first block
        for _ in range(number):
            total += 2 * inputs + 9 * inputs * width + 2 * width + width
            total += 9 * width * width + 2 * width
            inputs = width
    return total + 2 * 512 + 7 * 7 * 512 * 512 + 512 + 512


def mobilefacenet_parameters(feature_dim, stem=64, per_group=1, widths=(64, 128, 128)):
    """Its layers one by one; a BN holds two numbers a channel."""

    def layer(weights, channels, prelu=True):
        return weights + (3 if prelu else 2) * channels

    total = layer(27 * stem, stem) + layer(9 * per_group * stem, stem)
    inputs = stem
    for width, first, later, blocks in zip(
        widths, (128, 256, 512), (128, 256, 256), (5, 7, 3), strict=True
    ):
        for block in range(blocks):
            inside = later if block else first
            total += layer(inputs * inside, inside) + layer(9 * inside, inside)
            total += layer(inside * width, width, prelu=False)
            inputs = width
    total += layer(inputs * 512, 512) + layer(49 * 512, 512, prelu=False)
    return total + layer(512 * feature_dim, feature_dim, prelu=False)


def folded(parameters, channels):
    """BN's scale and bias become one bias: one number less per channel."""
    return parameters - channels


WIDE = {"stem": 128, "per_group": 2, "widths": (128, 256, 256)}
# Channels behind convolutions of MobileFaceNet: what each holds a BN for.
MOBILE_CHANNELS = (
    2 * 64 + 5 * (128 + 128 + 64) + 7 * (256 + 256 + 128) + (512 + 512 + 128)
    + 2 * (256 + 256 + 128) + 2 * 512
)  # fmt: skip


def iresnet_folded(blocks):
    """A BN behind a convolution becomes its bias; the last one joins the feature layer's bias."""
    widths = (64, 128, 256, 512)
    behind = 64 + sum(w * (2 * n + 1) for w, n in zip(widths, blocks, strict=True))
    return folded(iresnet_parameters(blocks), behind) - 512


# Where a released residual net gives its blocks biases that are frozen at zero, the published count
# holds them and ours does not: two for each block and channel.
COUNTS = {
    "lenet": (GREY, 2, 25 * LENET_KERNELS + 448 + 6 + 1152 * 2),
    "lenet-normface": (GREY, 3, 9 * LENET_KERNELS + 2 * 448 + 1152 * 3 + 3),
    "lenet-caffe": (GREY, 2, 25 * LENET_KERNELS + 2 * 448 + 1152 * 2 + 2 + 2),
    # Two convolutions, two linear layers, and a slope a channel of all but the last.
    "lenet-plane": (GREY, 2, 520 + 20 + 25_050 + 50 + 400_500 + 500 + 1_002),
    "wen28": (FACE, 512, 27_543_072 - 6_272),
    "lightcnn-9": ((128, 128, 1), 256, 5_480_864),
    # Kernel, channels in and out (before max-feature-map) of each convolution; the feature.
    "lightcnn-mini": (
        FACE,
        128,
        sum(
            (k * k * c + 1) * n
            for k, c, n in (
                (5, 3, 24),
                *((1, 12, 24), (3, 12, 48), (1, 24, 48), (3, 24, 96), (1, 48, 96)),
                *((3, 48, 64), (1, 32, 64), (3, 32, 64)),
            )
        )
        + (7 * 6 * 32 + 1) * 256,
    ),
    "sphereface-20": (FACE, 512, 22_670_656 - 2 * (64 + 2 * 128 + 4 * 256 + 512)),
    # From sphereface-20's own: 8 blocks more.
    "sphereface-36": (
        FACE,
        512,
        22_670_656
        - 2 * (64 + 2 * 128 + 4 * 256 + 512)
        + sum(n * (18 * c * c + 2 * c) for n, c in ((1, 64), (2, 128), (4, 256), (1, 512))),
    ),
    "sphereface-64": (FACE, 512, 48_200_512 - 2 * (3 * 64 + 8 * 128 + 16 * 256 + 3 * 512)),
    "sphereface-64-released": (
        FACE,
        512,
        47_905_088 - 2 * (3 * 64 + 7 * 128 + 16 * 256 + 3 * 512),
    ),
    "sphereface-mini": ((112, 92, 1), 128, 288_176),
    "iresnet-18": (SQUARE, 512, iresnet_parameters((2, 2, 2, 2))),
    "iresnet-50": (SQUARE, 512, iresnet_parameters((3, 4, 14, 3))),
    "iresnet-100": (SQUARE, 512, iresnet_parameters((3, 13, 30, 3))),
    "iresnet-18-folded": (SQUARE, 512, iresnet_folded((2, 2, 2, 2))),
    "iresnet-50-folded": (SQUARE, 512, iresnet_folded((3, 4, 14, 3))),
    "iresnet-100-folded": (SQUARE, 512, iresnet_folded((3, 13, 30, 3))),
    "mobilefacenet": (SQUARE, 128, mobilefacenet_parameters(128)),
    # As many numbers as a released file holds: by hand 1,190,336.
    "mobilefacenet-folded": (SQUARE, 512, 1_190_336),
    "mobilefacenet-wide": (SQUARE, 512, mobilefacenet_parameters(512, **WIDE)),
    "mobilefacenet-wide-folded": (
        SQUARE,
        512,
        # All channels behind a convolution: the stem's and the projections' are twice as many.
        folded(
            mobilefacenet_parameters(512, **WIDE),
            MOBILE_CHANNELS + 512 + 2 * 64 + 5 * 64 + (7 + 3) * 128,
        ),
    ),
}


def test_the_table_of_counts_is_whole():
    assert COUNTS.keys() == BACKBONES.keys()
    # insightface's own, less the scale of the last BN, which it freezes at one.
    assert iresnet_parameters((3, 13, 30, 3)) == 65_156_160 - 512
    assert folded(mobilefacenet_parameters(512), MOBILE_CHANNELS + 512) == 1_190_336
    # The paper rounds to 0.99 million, without the slopes of PReLU.
    assert 0.98e6 < mobilefacenet_parameters(128) < 1.01e6


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_features(name):
    shape, dim, parameters = COUNTS[name]
    assert BACKBONES[name][:3] == (shape, dim, parameters)
    for dtype in ("float32", "bfloat16"):
        model = models.create(name, dtype=dtype)
        variables, images = abstract(model, shape, batch=2)
        assert count(variables["params"]) == parameters
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
        features = jax.eval_shape(model.apply, variables, images)
        assert (features.shape, features.dtype) == ((2, dim), np.float32)


@pytest.mark.parametrize("name", COUNTS)
def test_rematerialised_nets_have_the_same_variables(name):
    shape, _, _ = COUNTS[name]
    plain, again = (abstract(models.create(name, remat=r), shape)[0] for r in (False, True))
    assert plain == again


def cost_of(name):
    """Parameters and floating-point operations of a network, computed from it."""
    model, shape = models.create(name), BACKBONES[name].image_shape
    variables, images = abstract(model, shape, batch=1)
    cost = jax.jit(model.apply).lower(variables, images).cost_analysis()
    return count(variables["params"]), cost["flops"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (b.flops > 10**9)) for n, b in BACKBONES.items()],
)
def test_the_table_says_what_the_networks_are(name):
    described = BACKBONES[name]
    assert cost_of(name) == (described.parameters, described.flops)


def test_operations_are_those_by_hand():
    # With padding counted: 2 * 9 * inputs * outputs * places, and the feature layer.
    stages = ((64, 56 * 48, 1, 3), (128, 28 * 24, 2, 64), (256, 14 * 12, 4, 128), (512, 42, 1, 256))
    by_hand = sum(18 * p * w * (i + 2 * n * w) for w, p, n, i in stages) + 2 * 21504 * 512
    assert 0.85 * by_hand < BACKBONES["sphereface-20"].flops < by_hand


# Sides of the maps that the named convolutions make, and the numbers that reach the feature layer.
TRACES = {
    "wen28": (
        {"1a": (110, 94), "1b": (108, 92), "2": (52, 44), "3": (24, 20), "4": (10, 8)},
        5 * 4 * 512,
    ),
    "sphereface-20": ({"1": (56, 48), "2": (28, 24), "3": (14, 12), "4": (7, 6)}, 7 * 6 * 512),
    "lightcnn-9": ({"1": (128, 128), "2": (64, 64), "3": (32, 32), "4": (16, 16)}, 8 * 8 * 128),
    "iresnet-18": ({"1": (112, 112)}, 7 * 7 * 512),
}


@pytest.mark.parametrize("name", TRACES)
def test_maps_have_the_papers_sizes(name):
    sides, last = TRACES[name]
    model = models.create(name)
    variables, images = abstract(model, COUNTS[name][0])

    def outputs(variables, images):
        state = model.apply(variables, images, capture_intermediates=True, mutable="intermediates")
        return state[1]["intermediates"]

    maps = jax.eval_shape(outputs, variables, images)
    found = {place: maps[f"conv{place}"]["__call__"][0].shape[1:3] for place in sides}
    assert found == sides
    assert variables["params"]["feature"]["kernel"].shape[0] == last


def test_mobilefacenets_maps_have_the_papers_sizes():
    """Table 1: 56, 28, 14 and 7 places a side, and the channels of each."""
    model = models.create("mobilefacenet")
    variables, images = abstract(model, SQUARE)

    def outputs(variables, images):
        state = model.apply(variables, images, capture_intermediates=True, mutable="intermediates")
        return state[1]["intermediates"]

    maps = jax.eval_shape(outputs, variables, images)
    found = {
        name: made["__call__"][0].shape[1:] for name, made in maps.items() if "__call__" in made
    }
    assert found["conv1"] == found["conv2"] == (56, 56, 64)
    for stage, sides, width, blocks in ((1, 28, 64, 5), (2, 14, 128, 7), (3, 7, 128, 3)):
        named = [name for name in found if name.startswith(f"block{stage}_")]
        assert len(named) == blocks
        assert {found[name] for name in named} == {(sides, sides, width)}
    assert (found["conv3"], found["global"], found["feature"]) == ((7, 7, 512), (512,), (128,))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 6, 5), (1, 1, 2, 3), (3, 8, 8, 4)])
def test_depthwise_is_a_grouped_convolution(stride, shape, rng):
    """Values and both gradients, also of the form for devices that are no CPU."""

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=shape[-1],
        )  # fmt: skip

    with jax.enable_x64(True):
        x, kernel = rng.normal(size=shape), rng.normal(size=(3, 3, 1, shape[-1]))
        expected, plain = jax.vjp(grouped, x, kernel)
        found, rule = jax.vjp(lambda x, kernel: depthwise(x, kernel, stride), x, kernel)
        slope = rng.normal(size=expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        for a, b in zip(plain(slope), rule(slope), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)
        elsewhere = convolutions._at_once(stride, convolutions._padded(x), slope).reshape(
            kernel.shape
        )
        np.testing.assert_allclose(elsewhere, plain(slope)[1], rtol=0, atol=1e-12)
        check_grads(
            jax.jit(lambda *args: depthwise(*args, stride)), (x, kernel), order=1, modes=["rev"]
        )


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 4, 3)])
def test_pointwise_is_a_product(shape, rng):
    with jax.enable_x64(True):
        x, kernel = rng.normal(size=shape), rng.normal(size=(3, 4))
        expected, plain = jax.vjp(jnp.matmul, x, kernel)
        found, rule = jax.vjp(pointwise, x, kernel)
        slope = rng.normal(size=expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        for a, b in zip(plain(slope), rule(slope), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)
        check_grads(pointwise, (x, kernel), order=2, modes=["rev"])
    mixed = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.float32)
    found, rule = jax.vjp(pointwise, *mixed)
    assert [part.dtype for part in rule(jnp.ones_like(found))] == [jnp.bfloat16, jnp.float32]


def test_depthwise_in_bfloat16_sums_in_float32(rng):
    x, kernel = rng.normal(size=(2, 9, 9, 4)), rng.normal(size=(3, 3, 1, 4))
    half = [jnp.asarray(part, jnp.bfloat16) for part in (x, kernel)]
    found, rule = jax.vjp(depthwise, *half)
    full, plain = jax.vjp(depthwise, *(part.astype(jnp.float32) for part in half))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, full.astype(jnp.bfloat16))
    slope = jnp.ones_like(found)
    for a, b in zip(rule(slope), plain(slope.astype(jnp.float32)), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, rtol=2e-2, atol=1e-1)


def test_mobilefacenet_normalises_by_the_batch_where_it_is_trained(rng):
    model, shape = SMALL["mobilefacenet"]
    images = rng.standard_normal((4, *shape)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(1), images)

    @jax.jit
    def trained(variables, images):
        features, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return features, changed, gradients(model, variables, images)

    features, changed, slopes = trained(variables, images)
    assert jnp.abs(features - jax.jit(model.apply)(variables, images)).max() > 1e-3
    before, after = (jax.tree.leaves(tree["batch_stats"]) for tree in (variables, changed))
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_maps_of_another_size_than_the_weights_over_them_are_refused():
    model, shape = SMALL["mobilefacenet"]
    variables, _ = abstract(model, shape)
    images = jax.ShapeDtypeStruct((1, 24, 12, 3), jnp.float32)
    with pytest.raises(InputError, match=r"whose last map is 2 x 2, .*found images of 24 x 12"):
        jax.eval_shape(model.apply, variables, images)


def test_the_residual_nets_convolutions_halve_the_image():
    model = models.SphereFace(widths=(8, 16), blocks=(0, 1), feature_dim=5)
    variables, images = abstract(model, (12, 10, 3), batch=2)
    stem = 9 * 3 * 8 + 8 + 8
    stage = 9 * 8 * 16 + 16 + 16 + 2 * (9 * 16 * 16 + 16)
    assert count(variables) == stem + stage + 3 * 3 * 16 * 5 + 5
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)


# Small relatives of every net, which compute in no time.
SMALL = {
    "lenet": (models.LeNet(feature_prelu=True), (12, 12, 1)),
    "wen": (models.Wen(stem=4, widths=(4, 8), blocks=(1, 1), feature_dim=5), (20, 18, 3)),
    "lightcnn": (models.LightCNN(feature_dim=5), (16, 16, 1)),
    "sphereface": (models.SphereFace(widths=(4, 8), blocks=(1, 1), feature_dim=5), (12, 10, 3)),
    "iresnet": (models.IResNet(widths=(4, 8), blocks=(1, 1), feature_dim=5), (12, 10, 3)),
    "iresnet-folded": (
        models.IResNet(widths=(4, 8), blocks=(1, 1), feature_dim=5, folded=True),
        (12, 10, 3),
    ),
    **{
        f"mobilefacenet{'-folded' * folded}": (
            models.MobileFaceNet(
                stem=8, stages=((4, 8, 8, 2), (6, 8, 8, 1)), last=8, feature_dim=5, folded=folded
            ),
            (16, 12, 3),
        )
        for folded in (False, True)
    },
}


def gradients(model, variables, images):
    settings = {"train": True, "mutable": ["batch_stats"]} if model.batch_norm else {}

    def loss(params):
        features = model.apply(variables | {"params": params}, images, **settings)
        return jnp.sum(jnp.sin(features[0] if model.batch_norm else features))

    return jax.grad(loss)(variables["params"])


@pytest.mark.parametrize("name", SMALL)
def test_a_network_may_be_mapped_by_shard_map(name, rng):
    """Gradients of the parameters, which all devices share, are sums over the devices.

    JAX's default tracks which values differ between devices, which every hand-written rule must
    respect.
    """
    model, shape = SMALL[name]
    images = rng.standard_normal((8, *shape))
    variables = jax.jit(model.init)(jax.random.key(1), images.astype(np.float32))

    def loss(params, images, axis_name):
        settings = {"train": True, "mutable": ["batch_stats"], "axis_name": axis_name}
        found = model.apply(
            variables | {"params": params}, images, **(settings if model.batch_norm else {})
        )
        total = jnp.sum(jnp.sin(found[0] if model.batch_norm else found))
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    split = jax.shard_map(
        lambda params, images: loss(params, images, "batch"),
        mesh=jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(PartitionSpec(), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
    )
    params = variables["params"]
    expected = jax.jit(jax.grad(lambda *a: loss(*a, None)))(params, images.astype(np.float32))
    found = jax.jit(jax.grad(split))(params, images.astype(np.float32))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


# The other nets' blocks are Wen's.
@pytest.mark.parametrize("name", ["wen", "iresnet", "mobilefacenet-folded"])
def test_rematerialised_blocks_give_the_same_gradients(name, rng):
    model, shape = SMALL[name]
    images = rng.standard_normal((3, *shape)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(1), images)

    def both(variables, images):
        return [gradients(m, variables, images) for m in (model, model.clone(remat=True))]

    assert "remat" in str(jax.make_jaxpr(both)(variables, images))
    plain, again = jax.jit(both)(variables, images)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_close_to_float32(name, rng):
    model, shape = SMALL[name]
    images = rng.standard_normal((4, *shape)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    full, half = (
        np.asarray(jax.jit(m.apply)(variables, images))
        for m in (model, model.clone(dtype=jnp.bfloat16))
    )
    assert half.dtype == np.float32
    apart = np.linalg.norm(full - half, axis=1) / np.linalg.norm(full, axis=1)
    assert np.all((apart > 0) & (apart < 0.03)), apart


def test_starting_scales():
    """Blocks nearly the identity, Caffe's xavier elsewhere, and each paper's own exceptions."""
    params = initialise(models.create("sphereface-mini", 16), (112, 92, 1))
    np.testing.assert_allclose(np.std(params["block2_1"]["Conv_0"]["kernel"]), 0.01, rtol=0.05)
    model, shape = SMALL["wen"]
    params = initialise(model, shape)
    assert not params["conv2"]["bias"].any()
    assert np.abs(params["conv2"]["kernel"]).max() <= np.sqrt(3 / (9 * 4))
    np.testing.assert_allclose(np.std(params["block2_1"]["Conv_1"]["kernel"]), 0.01, rtol=0.1)
    model, shape = SMALL["lightcnn"]
    params = initialise(model, shape)
    assert all(np.all(layer["bias"] == np.float32(0.1)) for layer in params.values())
    model, shape = SMALL["iresnet"]
    params = initialise(model, shape)
    np.testing.assert_allclose(np.std(params["block2_1"]["conv1"]["kernel"]), 0.1, rtol=0.15)
    assert "scale" not in params["norm_feature"]


def test_xavier_is_caffes():
    kernel = xavier(jax.random.key(0), (3, 3, 20, 50))
    assert 0.99 < np.abs(kernel).max() / np.sqrt(3 / 180) <= 1.0


def test_prelu_has_a_slope_a_channel():
    x = jnp.array([[-4.0, 2.0], [1.0, -8.0]])
    slopes = {"params": {"slope": jnp.array([0.25, 0.5])}}
    np.testing.assert_allclose(PReLU().apply(slopes, x), [[-1.0, 2.0], [1.0, -4.0]])
    assert initialise(PReLU(shared=True), (4, 3))["slope"].shape == (1,)


def test_max_feature_map_takes_the_larger_half():
    np.testing.assert_array_equal(max_feature_map(jnp.array([[1.0, 5.0, 3.0, 4.0]])), [[3.0, 5.0]])


@pytest.mark.parametrize("side", [5, 6, 7, 8])
@pytest.mark.parametrize("window", [2, 3])
def test_pools_round_as_asked(rng, side, window):
    x = rng.standard_normal((2, side, side + 2, 3)).astype(np.float32)
    for up, places in ((False, (side - window) // 2 + 1), (True, -(-(side - window) // 2) + 1)):
        expected = [
            [x[:, i : i + window, j : j + window].max((1, 2)) for j in range(0, 2 * places + 1, 2)]
            for i in range(0, 2 * places - 1, 2)
        ]
        found = max_pool(jnp.asarray(x), window, round_up=up)
        np.testing.assert_array_equal(found, np.array(expected).transpose(2, 0, 1, 3))


def test_pools_by_reshape_have_the_gradient_of_pools(rng):
    x = jnp.asarray(rng.standard_normal((2, 6, 4, 3)), jnp.float32)
    weights = rng.standard_normal((2, 3, 2, 3)).astype(np.float32)
    found = jax.grad(lambda x: jnp.sum(weights * max_pool(x)))(x)
    plain = jax.grad(lambda x: jnp.sum(weights * nn.max_pool(x, (2, 2), strides=(2, 2))))(x)
    np.testing.assert_array_equal(found, plain)


def batch_norm(x, counted, *, axis_name=None, train=True):
    model = BatchNorm()
    variables = {
        "params": {"scale": jnp.array([2.0, 0.5]), "bias": jnp.array([1.0, -1.0])},
        "batch_stats": {"mean": jnp.array([1.0, 2.0]), "variance": jnp.array([4.0, 9.0])},
    }
    settings = {"train": train, "counted": counted, "axis_name": axis_name}
    return model.apply(variables, x, **settings, mutable=["batch_stats"])


def test_batch_norm_by_hand(rng):
    x = rng.standard_normal((4, 3, 5, 2)) * [3.0, 0.1] + [50.0, -2.0]
    counted = np.array([True, True, False, True])
    found, state = batch_norm(x.astype(np.float32), counted)
    real = x[counted].reshape(-1, 2)
    mean, variance = real.mean(0), real.var(0)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * [2.0, 0.5] + [1.0, -1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    averages = state["batch_stats"]
    np.testing.assert_allclose(averages["mean"], 0.9 * np.array([1, 2]) + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        averages["variance"], 0.9 * np.array([4, 9]) + 0.1 * variance, rtol=1e-5
    )
    found, state = batch_norm(x.astype(np.float32), None, train=False)
    expected = (x - [1, 2]) / np.sqrt(np.array([4, 9]) + 1e-5) * [2.0, 0.5] + [1.0, -1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(state["batch_stats"]["mean"], [1.0, 2.0])


@pytest.mark.parametrize("counted", [[True] * 6, [True, False, True, True, False, True]])
def test_batch_norm_gradients_are_those_of_its_formula(rng, counted):
    """By finite difference in float64, and by autodiff of the plain formula for any cotangent."""
    with jax.enable_x64(True):
        x, slope = jnp.asarray(rng.normal(3, 2, (2, 6, 3, 4)))
        scale, bias = jnp.asarray(rng.normal(1, 0.5, (2, 4)))
        mask = jnp.asarray(counted)

        def rule(x, scale, bias):
            center, spread, count = norms._statistics(jax.lax.stop_gradient(x), mask, None)
            statistics = center, jax.lax.rsqrt(spread + norms.EPSILON), count
            return norms._normalized(x, scale, bias, statistics, mask, None)

        def plain(x, scale, bias):
            real = x[np.flatnonzero(counted)].reshape(-1, 4)
            deviation = jnp.sqrt(real.var(axis=0) + norms.EPSILON)
            unit = (x - real.mean(axis=0).reshape(1, 1, 4)) / deviation.reshape(1, 1, 4)
            return unit * scale.reshape(1, 1, 4) + bias.reshape(1, 1, 4)

        check_grads(jax.jit(rule), (x, scale, bias), order=1, modes=["rev"])
        found, pull = jax.vjp(rule, x, scale, bias)
        expected, plain_pull = jax.vjp(plain, x, scale, bias)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for ours, theirs in zip(pull(slope), plain_pull(slope), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    low = jax.vjp(rule, *(a.astype(jnp.bfloat16) for a in (x, scale, bias)))[1]
    assert low(jnp.ones((6, 3, 4)))[0].dtype == jnp.bfloat16


def test_batch_norm_keeps_its_digits_where_the_mean_is_large(rng):
    """The gradient of the scale in float32, against the formula in float64."""
    x = (rng.standard_normal((64, 14, 14, 2)) + 1e3).astype(np.float32)
    slope = rng.standard_normal(x.shape).astype(np.float32)

    def loss(scale):
        params = {"scale": scale, "bias": jnp.zeros(2)}
        averages = {"mean": jnp.zeros(2), "variance": jnp.ones(2)}
        found, _ = BatchNorm().apply(
            {"params": params, "batch_stats": averages}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(slope * found)

    wide = x.astype(np.float64)
    unit = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + norms.EPSILON)
    found = jax.jit(jax.grad(loss))(jnp.ones(2))
    np.testing.assert_allclose(found, np.sum(slope * unit, (0, 1, 2)), atol=1e-2)


def test_batch_norm_of_padding_alone_learns_nothing(rng):
    x = rng.standard_normal((4, 2)).astype(np.float32)
    found, state = batch_norm(x, np.zeros(4, bool))
    assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(state["batch_stats"]["mean"], [1.0, 2.0])


def test_batch_norm_is_one_over_eight_devices(rng):
    """Values, averages and gradients, though the first device holds nothing but padding."""
    x = rng.standard_normal((16, 3, 2)).astype(np.float32)
    counted = np.arange(16) % 5 != 1
    counted[:2] = False
    weights = rng.standard_normal(x.shape).astype(np.float32)

    def step(x, counted, weights, axis_name=None):
        def loss(x):
            found, state = batch_norm(x, counted, axis_name=axis_name)
            mask = counted.reshape(-1, 1, 1)
            return jnp.sum(jnp.where(mask, weights * found, 0.0)), (found, state)

        return jax.grad(loss, has_aux=True)(x)

    gradient, (found, state) = jax.jit(step)(x, counted, weights)
    mapped = jax.pmap(lambda *a: step(*a, axis_name="batch"), axis_name="batch")
    split = [a.reshape(8, 2, *a.shape[1:]) for a in (x, counted, weights)]
    gradients, (parts, states) = mapped(*split)
    np.testing.assert_allclose(np.reshape(parts, x.shape), found, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.reshape(gradients, x.shape), gradient, rtol=1e-4, atol=1e-5)
    for one, all_eight in zip(jax.tree.leaves(state), jax.tree.leaves(states), strict=True):
        np.testing.assert_allclose(all_eight, np.broadcast_to(one, (8, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 112, 96), np.float32), r"found shape \(2, 3, 112, 96\). Move the chan"),
        (np.zeros((112, 96, 3), np.float32), r"expected \[batch, height, width, channels\]"),
        (np.zeros((2, 12, 10, 3), np.uint8), "expected floats in .*, found uint8"),
        (np.zeros((2, 12, 10, 1), np.float32), "expected 3 channels, .* found 1"),
        (np.zeros((2, 16, 10, 3), np.float32), "has 9 places, .* found images of 16 x 10, with 4"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_compiling(images, message):
    model, shape = SMALL["sphereface"]
    variables, _ = abstract(model, shape)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.apply, variables, images)


@pytest.mark.parametrize("name", ["wen28", "lenet"])
def test_images_that_vanish_are_refused(name):
    with pytest.raises(InputError, match="of images of 1 x 1 the last map is empty"):
        abstract(models.create(name), (1, 1, 1))


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown model 'spherface-mini'. Did you mean 'sphere"):
        models.create("spherface-mini", 8)
