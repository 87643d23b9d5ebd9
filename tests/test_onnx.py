"""ONNX files give the features that ONNX Runtime makes of them, or one line that says why not."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import onnx_nets
import pytest
from caffe_nets import chunk, varint
from flax import traverse_util
from named_backbones import register
from onnx_nets import number

from hyperface import models, weights
from hyperface.errors import InputError

STAGES = ((4, 8, 8, 2), (6, 16, 12, 3))
SHAPE = (20, 26, 3)
MOBILE = {"image_shape": SHAPE, "stem": 8, "stages": STAGES, "last": 16, "feature_dim": 6}
RESIDUAL = {"image_shape": SHAPE, "widths": (4, 6), "blocks": (1, 2), "feature_dim": 6}
NETS = {
    "tiny-mobile": (onnx_nets.mobilefacenet, MOBILE),
    "tiny-wide": (onnx_nets.mobilefacenet, MOBILE | {"groups": 4}),
    "tiny-residual": (onnx_nets.iresnet, RESIDUAL),
}


def makers():
    mobile = {"stem": 8, "stages": STAGES, "last": 16}
    made = {
        "tiny-mobile": partial(models.MobileFaceNet, **mobile),
        "tiny-wide": partial(models.MobileFaceNet, stem_groups=4, **mobile),
        "tiny-residual": partial(models.IResNet, widths=(4, 6), blocks=(1, 2)),
    }
    for name, make in made.items():
        for folded in (False, True):
            ending = "-folded" if folded else ""
            yield name + ending, partial(make, folded=folded)


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch):
    for name, make in makers():
        register(name, make, SHAPE, 9, monkeypatch.setitem)


def make(name, seed=0, **settings):
    write, sizes = NETS[name.removesuffix("-folded")]
    settings = {"folded": name.endswith("-folded")} | settings
    return write(np.random.default_rng(seed), **sizes | settings)


@pytest.fixture
def written(tmp_path):
    def write(data, name="net.onnx"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, *SHAPE)).astype(np.float32)


def load(path, name, feature_dim=6, image_shape=SHAPE):
    model = models.create(name, feature_dim)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    variables, report = weights.load_backbone(path, name, like)
    assert jax.tree.structure(variables) == jax.tree.structure(like)
    return model, variables, report


def features(path, name, pixels):
    model, variables, _ = load(path, name)
    return np.asarray(jax.jit(model.apply)(variables, jnp.asarray((pixels - 127.5) / 128)))


def order(name):
    """The released narrow network takes BGR, and insightface's take RGB."""
    return "bgr" if "mobile" in name else "rgb"


def by_runtime(path, name, pixels):
    """Of the pixels that the released networks take."""
    pixels = pixels[..., ::-1] if order(name) == "bgr" else pixels
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(((pixels - 127.5) / 127.5).transpose(0, 3, 1, 2), np.float32)
    return np.concatenate([session.run(None, {"input.1": image[None]})[0] for image in images])


ALL = [name + ending for name in NETS for ending in ("", "-folded")]
FORMS = [{}, {"released": True}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_files_give_the_runtimes_features(name, form, written, pixels):
    if form and "residual" in name:
        pytest.skip("there is one form of it")
    path = written(make(name, **form).data())
    expected = by_runtime(path, name, pixels)
    assert np.abs(expected).max() > 0.1
    found = features(path, name, pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
def test_batch_normalisation_is_folded_here_or_by_the_exporter(name, written, pixels):
    """Three ways to one network: as it was trained, folded by its exporter, folded at loading."""
    trained = written(make(name).data())
    folded = written(make(name + "-folded").data(), "folded.onnx")
    expected = features(trained, name, pixels)
    for path in (trained, folded):
        found = features(path, name + "-folded", pixels)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    message = "behind Conv '.*', found none: the file has the folded form"
    with pytest.raises(InputError, match=message):
        load(folded, name)


@pytest.mark.parametrize("name", ALL)
def test_the_network_of_a_file_is_recognised(name, written, pixels):
    path = written(make(name).data())
    saved = weights.read_backbone(path)
    assert (saved.model, saved.feature_dim, saved.image_shape) == (name, 6, SHAPE)
    assert saved.trained_on == f"(pixel - 127.5) / 127.5, {order(name)}"
    network = models.create(saved.model, saved.feature_dim)
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    found = network.apply(variables, jnp.asarray((pixels - 127.5) / 128))
    np.testing.assert_allclose(found, features(path, name, pixels), atol=1e-6)


def test_every_form_of_a_graph_reads_the_same(written, pixels):
    name = "tiny-residual-folded"
    net = make(name)
    plain = features(written(net.data()), name, pixels)
    forms = {"typed": net.data(typed=True), "opset": net.data(opset=9)}
    # Newer exporters share equal arrays by Identity, and older ones list arrays as inputs.
    other = make(name)
    op, inputs, outputs, attributes = other.nodes[0]
    renamed = [inputs[0], "same", *inputs[2:]]
    other.nodes[:1] = [("Identity", [inputs[1]], ["same"], {}), (op, renamed, outputs, attributes)]
    other.nodes.append(("Dropout", [other.top], ["dropped"], {"ratio": 0.4}))
    other.top = "dropped"
    listed = b"".join(chunk(11, onnx_nets.value(n, a.shape)) for n, a in other.arrays.items())
    forms["aliases"] = other.data(extra=listed)
    for data in forms.values():
        np.testing.assert_array_equal(features(written(data), name, pixels), plain)


def test_arrays_are_read_by_their_names(written):
    net = make("tiny-mobile", released=True)
    found = weights.read(written(net.data()))
    assert found.keys() == net.arrays.keys()
    np.testing.assert_array_equal(found["w3"], net.arrays["w3"])


def test_a_changed_epsilon_changes_the_features(written, pixels):
    net = make("tiny-residual")
    for op, _, _, attributes in net.nodes:
        if op == "BatchNormalization":
            attributes["epsilon"] = 0.3
    path = written(net.data())
    expected = by_runtime(path, "tiny-residual", pixels)
    for name in ("tiny-residual", "tiny-residual-folded"):
        np.testing.assert_allclose(features(path, name, pixels), expected, rtol=0, atol=1e-4)


# What does not belong


def node_of(net, op, last=False):
    found = [index for index, parts in enumerate(net.nodes) if parts[0] == op]
    return found[-1 if last else 0]


def with_attribute(op, name, value):
    def change(net):
        net.nodes[node_of(net, op)][3][name] = value

    return change


def renamed(op, new):
    def change(net):
        index = node_of(net, op)
        net.nodes[index] = (new, *net.nodes[index][1:])

    return change


def one_more(op):
    def change(net):
        net.add(op, [net.top])

    return change


def beside(net):
    top = net.top
    net.add("Relu", [net.nodes[0][2][0]])
    net.top = top


def swapped(net):
    """The sum adds what the block made to itself."""
    index = node_of(net, "Add")
    op, inputs, outputs, attributes = net.nodes[index]
    net.nodes[index] = (op, [inputs[1], inputs[1]], outputs, attributes)


def reshaped_slope(net):
    name = net.nodes[node_of(net, "PRelu")][1][1]
    net.arrays[name] = net.arrays[name].reshape(-1, 1)


def short_norm(net):
    index = node_of(net, "BatchNormalization")
    for name in net.nodes[index][1][1:]:
        net.arrays[name] = net.arrays[name][:-1]


def as_int8(net):
    net.arrays["w0"] = net.arrays["w0"].astype(np.int8)


def as_infinity(net):
    net.arrays["w0"] = net.arrays["w0"] + np.float32(np.inf)


def other_input(*shape):
    def change(net):
        net.input_shape = list(shape)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("PRelu", "Relu"), "expected PRelu behind '101', found Relu"),
        (renamed("Conv", "ConvInteger"), "expected Conv behind 'input.1', found ConvInteger"),
        (renamed("Conv", "QLinearConv"), "expected Conv behind 'input.1', found QLinearConv"),
        (one_more("LpNormalization"), "expected nothing behind '.*', found LpNormalization"),
        (beside, "1 operators belong to no layer, among them Relu"),
        (swapped, "expected Add behind"),
        (reshaped_slope, r"expected slopes \[8, 1, 1\] in PRelu '102', found \[8, 1\]"),
        (with_attribute("Conv", "strides", [1, 1]), r"expected strides \[2, 2\] in Conv '101'"),
        (with_attribute("Conv", "pads", [0] * 4), r"expected pads \[1, 1, 1, 1\] in Conv '101'"),
        (with_attribute("Conv", "dilations", [2, 2]), r"expected dilations \[1, 1\] in Conv"),
        (with_attribute("Conv", "auto_pad", b"SAME_LOWER"), "expected padding in numbers in Conv"),
        (as_int8, "expected float32 weights, found int8 in 'w0': take the file from before"),
        (as_infinity, "expected finite weights, found NaN or infinity in 'w0'"),
        (other_input(1, 3, "h", "w"), r"of one size, found \[1, 3, 'any', 'any'\]"),
        (other_input(1, 3, 40, 52), r"expected weights of \[1, 5, 7\] in Conv '.*', found \[1, 3"),
        (other_input(1, 1, 20, 26), r"expected weights of \[1, 3, 3\] in Conv '101', found \[3"),
        (other_input(3, 20), r"expected images \[batch, channels, height, width\] of one size"),
    ],
)
def test_a_graph_that_is_not_the_network_loads_nothing(change, message, written):
    net = make("tiny-mobile-folded", released=True)
    change(net)
    path = written(net.data())
    with pytest.raises(InputError, match=message) as caught:
        load(path, "tiny-mobile-folded")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError):
        weights.read_backbone(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (short_norm, "expected arrays of 4 numbers in BatchNormalization '.*', found"),
        (with_attribute("BatchNormalization", "epsilon", 1), "expected a number epsilon in Batch"),
        (with_attribute("BatchNormalization", "training_mode", 1), "expected training_mode 0 in"),
        (with_attribute("Flatten", "axis", 2), "expected axis 1 in Flatten"),
        (with_attribute("Gemm", "alpha", 0.5), r"expected alpha 1\.0 in Gemm '.*', found 0\.5"),
        (with_attribute("Gemm", "transB", 0), "expected 210 inputs in Gemm"),
    ],
)
@pytest.mark.parametrize("ending", ["", "-folded"])
def test_layers_that_compute_something_else_load_nothing(change, message, ending, written):
    net = make("tiny-residual" + ending)
    net.nodes[node_of(net, "Flatten")][3].clear()  # Its axis is 1 by default.
    change(net)
    with pytest.raises(InputError, match=message):
        load(written(net.data()), "tiny-residual" + ending)


def test_numbers_in_another_file_are_refused(written):
    net = make("tiny-mobile-folded")
    outside = chunk(
        5, number(1, 3) + number(2, 1) + chunk(8, b"w") + chunk(13, b"") + number(14, 1)
    )
    with pytest.raises(InputError, match="expected all numbers in one file, found 'w' in another"):
        weights.read(written(net.data(extra=outside)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no graph of operators"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "found a file that cannot be read as one"),
        (chunk(7, b"") + chunk(8, number(2, 11)), "it has no operators with weights"),
        (chunk(7, b"") + chunk(7, b""), "it has two graphs"),
        # A length of 2^62, which only lies.
        (varint(7 << 3 | 2) + varint(2**62) + b"x", f"a field of {2**62} bytes ends behind"),
        (chunk(8, number(2, 11)) + chunk(7, chunk(5, number(1, 2**62) + number(2, 1)
         + chunk(8, b"w") + chunk(9, bytes(8)))), rf"'w' of shape \[{2**62}\] has 2 numbers"),
        (chunk(8, number(2, 11)) + chunk(7, chunk(5, number(1, 1) * 40)), "more than 32 axes"),
        (chunk(8, number(2, 11)) + chunk(7, b"\x08\x01" * 300_000), "more than 200,000 fields"),
        (chunk(8, number(2, 11)) + chunk(7, chunk(15, b"")), "found sparse ones"),
    ],
)  # fmt: skip
def test_foreign_files_are_refused_in_one_line(data, message, written):
    with pytest.raises(InputError, match=re.escape(message) if "\\" not in message else message):
        weights.read(written(data))


@pytest.mark.parametrize("opset", [6, 20, 22])
def test_operators_of_another_set_are_refused(opset, written):
    message = f"expected operator set 7 to 19, found {opset}: export the network again"
    with pytest.raises(InputError, match=message):
        weights.read(written(make("tiny-mobile").data(opset=opset)))
    with pytest.raises(InputError, match="it has no graph of operators"):
        weights.read(written(make("tiny-mobile").data(domain="com.microsoft")))


def test_operators_of_another_domain_do_not_belong(written):
    net = make("tiny-mobile")
    data = net.data().replace(chunk(4, b"PRelu"), chunk(4, b"PRelu") + chunk(7, b"x"), 1)
    with pytest.raises(InputError):
        weights.read(written(data))


def test_a_cut_file_is_refused_wherever_it_is_cut(written, rng):
    data = make("tiny-mobile-folded").data()
    for at in rng.integers(0, len(data), 60):
        with pytest.raises(InputError):
            weights.read_backbone(written(data[:at]))


def test_values_are_made_once_and_before_they_are_read(written):
    net = make("tiny-mobile")
    net.nodes[1], net.nodes[2] = net.nodes[2], net.nodes[1]
    with pytest.raises(InputError, match="reads or computes a value out of order"):
        weights.read(written(net.data()))
    net = make("tiny-mobile")
    net.nodes.append(net.nodes[-1])
    with pytest.raises(InputError, match="reads or computes a value out of order"):
        weights.read(written(net.data()))


def test_other_networks_are_named(written):
    path = written(make("tiny-mobile").data())
    with pytest.raises(InputError, match=r"expected a model that ONNX files fit \(iresnet-18, "):
        load(path, "sphereface-20", 512, (112, 96, 3))
    with pytest.raises(InputError, match="is not the model 'tiny-residual'"):
        load(path, "tiny-residual")
    with pytest.raises(
        InputError, match=r"5 arrays differ: .* expected a shape that becomes \[7\]"
    ):
        load(path, "tiny-mobile", feature_dim=7)
    with pytest.raises(
        InputError, match=r"1 arrays differ: .*expected a shape that becomes \[3, 3, 1, 16"
    ):
        load(path, "tiny-mobile", image_shape=(20, 20, 3))


def test_weights_of_other_formats_are_recognised(written, tmp_path):
    import caffe_nets

    net = caffe_nets.normface_lenet(np.random.default_rng(0))
    saved = weights.read_backbone(written(caffe_nets.caffemodel(net.layers), "a.caffemodel"))
    assert (saved.model, saved.feature_dim, saved.image_shape) == ("lenet-normface", 3, (28, 28, 1))
    other = caffe_nets.caffemodel([("fc9", "InnerProduct", [np.ones((2, 3), np.float32)])])
    with pytest.raises(InputError, match="expected weights by the names of a known network"):
        weights.read_backbone(written(other, "b.caffemodel"))


def test_half_precision_is_read(written, pixels):
    net = make("tiny-mobile-folded")
    net.arrays = {n: a.astype(np.float16) for n, a in net.arrays.items() if a.dtype == np.float32}
    wide = make("tiny-mobile-folded")
    wide.arrays = {n: a.astype(np.float32) for n, a in net.arrays.items()}
    found = [features(written(n.data()), "tiny-mobile-folded", pixels) for n in (net, wide)]
    np.testing.assert_array_equal(*found)
