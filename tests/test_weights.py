"""Released files give the features of the nets they come from; damaged or other files nothing."""

import dataclasses
import os
import pickle
import re
import sys
import zipfile
from functools import partial

import caffe_nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_nets
from flax import traverse_util
from named_backbones import register

from hyperface import models, weights
from hyperface.errors import InputError
from hyperface.weights import caffe
from hyperface.weights.load import flattened_shape
from hyperface.weights.maps import Pixels, name_maps

TINY = {
    "tiny-sphereface": (partial(models.SphereFace, widths=(8, 12), blocks=(1, 2)), (20, 14, 3)),
    "tiny-wen": (partial(models.Wen, stem=4, widths=(6, 8), blocks=(1, 2)), (26, 20, 3)),
    "tiny-iresnet": (
        partial(models.IResNet, widths=(4, 6, 8, 8), blocks=(1, 2, 1, 1)),
        (32, 48, 3),
    ),
}


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch):
    for name, (make, shape) in TINY.items():
        register(name, make, shape, 6, monkeypatch.setitem)


def fresh(name, feature_dim=None, image_shape=None):
    """Shapes and dtypes of a fresh backbone, which is all that loading looks at."""
    model = models.create(name, feature_dim)
    images = jnp.zeros((1, *(image_shape or models.BACKBONES[name].image_shape)))
    return jax.eval_shape(model.init, jax.random.key(0), images)


def features(name, variables, images):
    return jax.jit(models.create(name).apply)(variables, images)


def some_pixels(rng, name):
    return rng.integers(0, 256, (2, *models.BACKBONES[name].image_shape)).astype(np.float32)


def ours(pixels):
    return jnp.asarray((pixels - 127.5) / 128)


def channels_first(images, order="rgb"):
    images = images[..., ::-1] if order == "bgr" else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def sphereface_net(rng, bias=0.0):
    return caffe_nets.sphereface(rng, (20, 14, 3), (8, 12), (1, 2), 6, 5 * 4, bias)


CAFFE = {
    "tiny-sphereface": sphereface_net,
    "tiny-wen": lambda rng: caffe_nets.wen(rng, (26, 20, 3), 4, (6, 8), (1, 2), 6, 5 * 3),
    "lenet-normface": caffe_nets.normface_lenet,
    "lenet-plane": caffe_nets.plane_lenet,
    "lightcnn-9": caffe_nets.lightened_cnn,
}


@pytest.fixture
def caffe_file(tmp_path):
    def write(net, name="net.caffemodel", **settings):
        path = tmp_path / name
        path.write_bytes(caffe_nets.caffemodel(net.layers, old=net._old, **settings))
        return path

    return write


def write_safetensors(path, arrays):
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    return path


# Numerical equality


@pytest.mark.parametrize("name", CAFFE)
def test_caffe_files_give_the_features_of_their_layers(name, rng, caffe_file):
    """The released net on its own pixels, ours on the same ones: 1e-4 of the largest feature."""
    net = CAFFE[name](rng)
    (released, *_) = (m.pixels for m in name_maps(name) if m.entries[0].source in net.arrays)
    pixels = some_pixels(rng, name)
    theirs = (pixels - released.center) / released.spread
    expected = net.features(channels_first(theirs, released.channels))
    taken = dataclasses.replace(released, channels="rgb")
    variables, report = weights.load_backbone(caffe_file(net), name, fresh(name), pixels=taken)
    found = features(name, variables, jnp.asarray(theirs))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert report.exact
    assert len(report.loaded) == len(traverse_util.flatten_dict(variables))
    assert report.fresh == ()


@pytest.mark.parametrize("name", ["tiny-sphereface", "tiny-wen"])
def test_a_loaded_colour_net_takes_this_librarys_images(name, rng, caffe_file):
    net = CAFFE[name](rng)
    pixels = some_pixels(rng, name)
    expected = net.features(channels_first(np.asarray(ours(pixels)), "bgr"))
    variables, report = weights.load_backbone(caffe_file(net), name, fresh(name))
    found = features(name, variables, ours(pixels))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert report.trained_on == Pixels(127.5, 128, "bgr")
    assert "trained on (pixel - 127.5) / 128, bgr; takes (pixel - 127.5) / 128, rgb" in str(report)


def test_moved_pixels_are_exact_inside_the_padding(rng, caffe_file):
    """LightCNN saw pixel / 255: on our images its first map is the same but for the edge."""
    net = caffe_nets.lightened_cnn(rng)
    path, like = caffe_file(net), fresh("lightcnn-9")
    released = Pixels(0, 255, "grey")
    as_released, _ = weights.load_backbone(path, "lightcnn-9", like, pixels=released)
    for_ours, report = weights.load_backbone(path, "lightcnn-9", like)
    pixels = some_pixels(rng, "lightcnn-9")[:1]

    def first_map(variables, images):
        conv = variables["params"]["conv1"]
        shown = jax.lax.conv_general_dilated(
            images, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return np.asarray(shown + conv["bias"].reshape(1, 1, 1, -1))

    a, b = first_map(as_released, jnp.asarray(pixels / 255)), first_map(for_ours, ours(pixels))
    np.testing.assert_allclose(a[:, 2:-2, 2:-2], b[:, 2:-2, 2:-2], atol=1e-5)
    assert np.abs(a[:, 0] - b[:, 0]).max() > 1e-2
    assert not report.exact
    assert "edges of images differ" in str(report)


@pytest.mark.parametrize(
    ("name", "make", "unused"),
    [
        ("tiny-sphereface", torch_nets.sphereface, ("fc6.bias", "fc6.weight")),
        ("lightcnn-9", torch_nets.lightcnn, ("fc2.bias", "fc2.weight")),
        ("tiny-iresnet", torch_nets.iresnet, ("features.weight",)),
        ("lenet", torch_nets.lenet, ("ringloss.radius",)),
    ],
)
@pytest.mark.parametrize("ending", [".pth.tar", ".safetensors"])
def test_torch_files_give_the_features_of_their_layers(
    name, make, unused, ending, rng, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", torch_nets.stand_in())
    path, (state, net) = tmp_path / f"net{ending}", make(rng)
    if ending == ".safetensors":
        write_safetensors(path, state)
    else:
        state = {f"module.{name}": array for name, array in state.items()}
        torch_nets.save({"state_dict": state, "epoch": np.int64(3)}, path)
    released = name_maps(name)[0 if "lenet" not in name else 1].pixels
    pixels = some_pixels(rng, name)
    theirs = (pixels - np.float32(released.center)) / np.float32(released.spread)
    expected = net(channels_first(theirs, released.channels))
    like = fresh(name)
    # Where the first convolution is padded, only a net for pixels of the same zero is exact.
    taken = Pixels(released.center, 128, "rgb")
    variables, report = weights.load_backbone(path, name, like, pixels=taken)
    found = features(name, variables, jnp.asarray((pixels - taken.center) / 128, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert report.exact
    assert set(unused) <= set(report.ignored)
    assert jax.tree.structure(variables) == jax.tree.structure(like)


# Name maps


# "this library, for small data" has no released file but follows SphereFace's names.
@pytest.mark.parametrize("name", [*models.BACKBONES])
def test_the_maps_cover_every_parameter_once(name):
    model = models.create(name)
    images = jax.ShapeDtypeStruct((1, *models.BACKBONES[name].image_shape), jnp.float32)
    wanted = traverse_util.flatten_dict(
        jax.eval_shape(model.init, jax.random.key(0), images), sep="/"
    )
    maps = name_maps(name)
    assert bool(maps) != name.endswith("-folded")  # Those are in ONNX files, without names.
    for names in maps:
        targets = [e.target for e in names.entries if e.kind not in ("zero", "one")]
        assert sorted(targets) == sorted(wanted)
        sources = [e.source for e in names.entries]
        assert len(set(sources)) == len(sources)
        assert sum(e.kind == "first conv" for e in names.entries) == 1
        assert not any(re.fullmatch(names.ignored, source) for source in sources)


# Read by hand in the released deploy files: the last residual convolution of each net, its stage
# and block in ours, and how many convolutions there are.
@pytest.mark.parametrize(
    ("name", "source", "target", "convolutions"),
    [
        ("sphereface-20", "conv3_9", "block3_4/Conv_1", 20),
        ("sphereface-64-released", "conv2_15", "block2_7/Conv_1", 62),
        ("wen28", "conv4_10", "block3_5/Conv_1", 27),
        ("wen28", "conv5_6", "block4_3/Conv_1", 27),
        ("iresnet-50", "layer3.13.conv2", "block3_14/conv2", 1 + 2 * 24 + 4),
        ("mobilefacenet-wide", "layers.5.layers.5.layers.1.layers.0", "block2_7/depthwise", 49),
    ],
)
def test_names_as_in_the_released_files(name, source, target, convolutions):
    (names,) = name_maps(name)
    targets = {entry.source: entry.target for entry in names.entries}
    assert targets[f"{source}.weight"] == f"params/{target}/kernel"
    assert sum("conv" in entry.kind for entry in names.entries) == convolutions


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sphereface-20", (7, 6, 512)),
        ("wen28", (5, 4, 512)),
        ("lightcnn-9", (8, 8, 128)),
        ("lenet", (3, 3, 128)),
        ("iresnet-18", (7, 7, 512)),
    ],
)
def test_the_flattened_map_is_the_released_one(name, rows):
    assert flattened_shape(name, models.BACKBONES[name].image_shape) == rows


# Readers


@pytest.mark.parametrize(
    "settings",
    [{}, {"old": True}, {"packed": False}, {"double": True}, {"old": True, "packed": False}],
)
def test_every_form_of_a_caffe_file_reads_the_same(settings, rng):
    layers = [
        (
            "conv+",
            "Convolution",
            [rng.normal(size=(3, 2, 3, 3)).astype(np.float32), np.ones(3, np.float32)],
        ),
        ("relu", "Pooling", []),
    ]
    found = caffe.read(caffe_nets.caffemodel(layers, **settings))
    assert list(found) == ["conv+.weight", "conv+.bias"]
    np.testing.assert_array_equal(found["conv+.weight"], layers[0][2][0])
    assert found["conv+.bias"].shape == ((1, 1, 1, 3) if settings.get("old") else (3,))


def test_fields_of_other_forks_are_stepped_over(rng):
    layers = [("fc5", "InnerProduct", [np.ones((2, 3), np.float32)])]
    strange = (
        caffe_nets.chunk(9999, b"anything")
        + caffe_nets.varint(70 << 3 | 1) + bytes(8)
        + caffe_nets.varint(71 << 3 | 5) + bytes(4)
    )  # fmt: skip
    data = strange + caffe_nets.caffemodel(layers) + strange
    assert list(caffe.read(data)) == ["fc5.weight"]


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats_are_read_as_float32(dtype, tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(3, jnp.dtype(dtype))})
    assert weights.read(path)["x"].dtype == np.float32


# Faults


class Malicious:
    def __reduce__(self):
        return os.system, ("touch malicious-was-here",)


def pickled(path):
    path.write_bytes(pickle.dumps({"conv1_1.weight": Malicious()}))


def zipped_pickle(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"conv1_1.weight": Malicious()}))
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("write", [pickled, zipped_pickle])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("installed", [True, False])
def test_no_pickle_is_executed(write, ending, installed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_nets.stand_in() if installed else None)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net{ending}"
    write(path)
    wanted = "of tensors alone" if installed else "Install torch, or convert the file to .safetens"
    with pytest.raises(InputError, match=wanted):
        weights.load_backbone(path, "tiny-sphereface", fresh("tiny-sphereface"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_old_torch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_nets.stand_in("2.5.1"))
    torch_nets.save({}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"expected torch 2\.10 or newer"):
        weights.read(tmp_path / "net.pt")


def files_of_one_net(tmp_path, rng):
    """The same weights in every format that can be written here."""
    net = sphereface_net(rng)
    (tmp_path / "net.caffemodel").write_bytes(caffe_nets.caffemodel(net.layers))
    yield write_safetensors(tmp_path / "net.safetensors", net.arrays)
    yield tmp_path / "net.caffemodel"


def test_a_truncated_file_loads_nothing(tmp_path, rng):
    like = fresh("tiny-sphereface")
    for path in files_of_one_net(tmp_path, rng):
        whole = path.read_bytes()
        weights.load_backbone(path, "tiny-sphereface", like)
        lengths = {0, 1, 7, 8, 9, 100, len(whole) - 1, len(whole) - 8}
        for length in sorted(lengths | set(np.linspace(2, len(whole) - 2, 25).astype(int))):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=re.escape(str(path))):
                weights.load_backbone(path, "tiny-sphereface", like)


def test_flipped_bits_load_all_or_nothing(tmp_path, rng):
    """Neither format has a checksum: a flip inside a number can only be another number."""
    like = fresh("tiny-sphereface")
    shapes = jax.tree.map(lambda leaf: leaf.shape, like)
    for path in files_of_one_net(tmp_path, rng):
        whole = path.read_bytes()
        places = [*range(12), *rng.integers(0, len(whole), 40), *rng.integers(0, 3000, 40)]
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                variables, report = weights.load_backbone(path, "tiny-sphereface", like)
            except InputError:
                continue
            assert jax.tree.map(jnp.shape, variables) == shapes
            assert len(report.loaded) == len(jax.tree.leaves(like))


def without(arrays, *names):
    return {k: v for k, v in arrays.items() if k not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: without(a, "relu2_3.weight"), r"the file lacks 1: relu2_3\.weight"),
        (lambda a: a | {"conv9.weight": np.ones(1, np.float32)}, r"also has 1: conv9\.weight"),
        (lambda a: a | {"fc5.bias": np.ones(7, np.float32)}, r"fc5.bias .* \[6\], found \[7\]"),
        (lambda a: a | {"fc5.weight": np.ones((6, 231), np.float32)}, "5 x 4 x 12, found 231"),
        (lambda a: a | {"conv2_2.bias": np.full(12, 0.5, np.float32)}, "conv2_2.bias .* zero"),
        (lambda a: a | {"conv1_1.weight": np.ones((8, 1, 3, 3), np.float32)}, r"conv1_1\.weight"),
        (lambda a: a | {"conv1_1.weight": np.ones(8, np.float32)}, r"conv1_1\.weight"),
        (lambda a: a | {"fc5.bias": np.ones(6, np.int32)}, "found int32"),
        (lambda a: a | {"fc5.bias": np.ones(6, bool)}, "expected floats in 'fc5.bias'"),
        (lambda a: a | {"fc5.bias": np.full(6, np.nan, np.float32)}, "expected finite weights"),
        (lambda a: {"layer1.0.bn1.weight": np.ones(4, np.float32)}, "by the names of SphereFace"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, message, tmp_path, rng):
    path = write_safetensors(tmp_path / "net.safetensors", change(sphereface_net(rng).arrays))
    with pytest.raises(InputError, match=message):
        weights.load_backbone(path, "tiny-sphereface", fresh("tiny-sphereface"))


def test_a_file_of_another_net_is_refused(rng, caffe_file):
    path = caffe_file(caffe_nets.normface_lenet(rng))
    with pytest.raises(InputError, match="by the names of SphereFace"):
        weights.load_backbone(path, "tiny-sphereface", fresh("tiny-sphereface"))
    with pytest.raises(InputError, match=r"the file lacks 26: conv3_1\.weight"):
        weights.load_backbone(
            caffe_file(sphereface_net(rng)), "sphereface-20", fresh("tiny-sphereface")
        )


def test_another_feature_size_can_be_left_fresh(rng, caffe_file):
    path, like = caffe_file(sphereface_net(rng)), fresh("tiny-sphereface", 9)["params"]
    like = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), like)
    with pytest.raises(InputError, match=r"fc5.* \[240, 9\], found \[6, 240\]"):
        weights.load_backbone(path, "tiny-sphereface", like)
    params, report = weights.load_backbone(path, "tiny-sphereface", like, fresh=("feature",))
    assert report.fresh == ("params/feature/bias", "params/feature/kernel")
    np.testing.assert_array_equal(params["feature"]["kernel"], like["feature"]["kernel"])
    assert not np.array_equal(params["conv1"]["kernel"], like["conv1"]["kernel"])


def test_a_net_of_other_images_needs_their_shape(rng, caffe_file):
    net = caffe_nets.sphereface(rng, (20, 20, 3), (8, 12), (1, 2), 6, 5 * 5)
    path, like = caffe_file(net), fresh("tiny-sphereface", image_shape=(20, 20, 3))
    with pytest.raises(InputError, match="give the image_shape of the file's net"):
        weights.load_backbone(path, "tiny-sphereface", like)
    variables, _ = weights.load_backbone(path, "tiny-sphereface", like, image_shape=(20, 20, 3))
    kernel = np.asarray(variables["params"]["feature"]["kernel"]).reshape(5, 5, 12, 6)
    expected = net.arrays["fc5.weight"].reshape(6, 12, 5, 5).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [("net.safetensors", "found none"), ("net.h5", r"found the ending '\.h5'")],
)
def test_what_is_no_weight_file_is_refused(name, message, tmp_path):
    if name == "net.h5":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        weights.read(tmp_path / name)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a whole checkpoint in .*, found steps: none"):
        weights.load_backbone(tmp_path, "tiny-sphereface", fresh("tiny-sphereface"))
