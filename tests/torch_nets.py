"""PyTorch's files and networks, without torch: a stand-in for its loading, and nets in NumPy.

The nets have the names of the released state dictionaries, and compute their features.
"""

import pickle
import types
import zipfile

import numpy as np
import numpy_layers


class Tensor:
    """What the library asks of a tensor."""

    def __init__(self, array):
        self._array = array

    def numel(self):
        return self._array.size

    def element_size(self):
        return self._array.itemsize

    def detach(self):
        return self

    def is_floating_point(self):
        return self._array.dtype.kind == "f"

    def float(self):
        return Tensor(self._array.astype(np.float32))

    def numpy(self):
        return self._array


def save(content, path):
    """Writes nested dictionaries of arrays into a zip file that `stand_in().load` reads."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in _flat(content).items():
            with archive.open(f"archive/{name}", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _flat(content, above=""):
    flat = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{name}/")
        else:
            flat[above + name] = value
    return flat


def stand_in(version="2.10.0"):
    """A module that takes the place of torch: it loads tensors alone, and only when asked so."""

    def load(path, *, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        if not zipfile.is_zipfile(path):
            raise pickle.UnpicklingError("Weights only load failed")
        content = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                *above, last = name.removeprefix("archive/").split("/")
                if last == "data.pkl":
                    raise pickle.UnpicklingError("Weights only load failed")
                inside = content
                for key in above:
                    inside = inside.setdefault(key, {})
                with archive.open(name) as member:
                    inside[last] = Tensor(np.lib.format.read_array(member, allow_pickle=False))
        return content

    module = types.ModuleType("torch")
    module.__version__, module.load = version, load
    return module


class Layers:
    """Makes layers with random parameters, which `state` has by PyTorch's names."""

    def __init__(self, rng):
        self._rng = rng
        self.state = {}

    def conv(self, name, before, width, kernel=3, stride=1, *, bias=None):
        """Padded so that a stride of 1 keeps the size. `bias`: None is random, False none."""
        weight = self._normal(f"{name}.weight", (width, before, kernel, kernel))
        added = None
        if bias is not False:
            added = self._uniform(f"{name}.bias", width, -0.3, 0.3)
            added *= 1 if bias is None else bias
        pad = kernel // 2
        return lambda x: numpy_layers.conv(x, weight, added, stride=stride, pad=pad)

    def dense(self, name, inputs, out, *, bias=True):
        weight = self._normal(f"{name}.weight", (out, inputs))
        added = self._uniform(f"{name}.bias", out, -0.3, 0.3) if bias else None
        return lambda x: numpy_layers.dense(x, weight, added)

    def prelu(self, name, channels=1):
        slope = self._uniform(f"{name}.weight", channels, 0.1, 0.5)
        return lambda x: numpy_layers.prelu(x, slope)

    def norm(self, name, channels, *, scaled=True):
        arrays = (
            self._uniform(f"{name}.weight", channels, 0.5, 1.5),
            self._uniform(f"{name}.bias", channels, -0.3, 0.3),
            self._uniform(f"{name}.running_mean", channels, -0.3, 0.3),
            self._uniform(f"{name}.running_var", channels, 0.5, 2.0),
        )
        if not scaled:
            arrays[0][:] = 1.0
        self.state[f"{name}.num_batches_tracked"] = np.int64(7)
        return lambda x: numpy_layers.norm(x, *arrays)

    def _normal(self, name, shape):
        std = np.prod(shape[1:]) ** -0.5
        self.state[name] = self._rng.normal(0, std, shape).astype(np.float32)
        return self.state[name]

    def _uniform(self, name, size, low, high):
        self.state[name] = self._rng.uniform(low, high, size).astype(np.float32)
        return self.state[name]


def sphereface(rng):
    """sphere20a's names; the frozen biases are zero, as in Caffe's release."""
    layers, before, stages = Layers(rng), 3, []
    for stage, (width, blocks) in enumerate(((8, 1), (12, 2)), 1):
        units = []
        for index in range(1, 2 * blocks + 2):
            first = index == 1
            conv = layers.conv(
                f"conv{stage}_{index}",
                before if first else width,
                width,
                stride=2 if first else 1,
                bias=None if first else 0,
            )
            units.append((conv, layers.prelu(f"relu{stage}_{index}", width)))
        stages.append(units)
        before = width
    feature = layers.dense("fc5", 5 * 4 * 12, 6)
    layers.dense("fc6", 6, 9)

    def features(x):
        for (conv, relu), *rest in stages:
            x = relu(conv(x))
            for (conv1, relu1), (conv2, relu2) in zip(rest[::2], rest[1::2], strict=True):
                x = x + relu2(conv2(relu1(conv1(x))))
        return feature(x)

    return layers.state, features


def lightcnn(rng):
    """LightCNN-9's names."""
    layers = Layers(rng)
    steps = [layers.conv("features.0.filter", 1, 96, 5), "larger", "pool"]
    for place, before, after in ((2, 48, 96), (4, 96, 192), (6, 192, 128), (7, 128, 128)):
        steps += [layers.conv(f"features.{place}.conv_a.filter", before, 2 * before, 1), "larger"]
        steps += [layers.conv(f"features.{place}.conv.filter", before, 2 * after), "larger"]
        steps += [] if place == 6 else ["pool"]
    steps += [layers.dense("fc1.filter", 8192, 512), "larger"]
    layers.dense("fc2", 256, 5)
    others = {"larger": numpy_layers.larger_half, "pool": numpy_layers.max_pool}

    def features(x):
        for step in steps:
            x = others.get(step, step)(x)
        return x

    return layers.state, features


def iresnet(rng):
    """InsightFace's names."""
    layers = Layers(rng)

    def block(name, before, width, stride):
        norm1, norm2 = layers.norm(f"{name}.bn1", before), layers.norm(f"{name}.bn2", width)
        norm3, prelu = layers.norm(f"{name}.bn3", width), layers.prelu(f"{name}.prelu", width)
        conv1 = layers.conv(f"{name}.conv1", before, width, bias=False)
        conv2 = layers.conv(f"{name}.conv2", width, width, stride=stride, bias=False)
        if stride == 1:
            return lambda x: norm3(conv2(prelu(norm2(conv1(norm1(x)))))) + x
        shortcut = layers.conv(f"{name}.downsample.0", before, width, 1, stride, bias=False)
        norm = layers.norm(f"{name}.downsample.1", width)
        return lambda x: norm3(conv2(prelu(norm2(conv1(norm1(x)))))) + norm(shortcut(x))

    steps = [layers.conv("conv1", 3, 4, bias=False), layers.norm("bn1", 4)]
    steps += [layers.prelu("prelu", 4)]
    before = 4
    for stage, (width, blocks) in enumerate(((4, 1), (6, 2), (8, 1), (8, 1)), 1):
        for index in range(blocks):
            steps.append(block(f"layer{stage}.{index}", before, width, 1 if index else 2))
            before = width
    steps += [layers.norm("bn2", 8), layers.dense("fc", 2 * 3 * 8, 6)]
    steps += [layers.norm("features", 6, scaled=False)]

    def features(x):
        for step in steps:
            x = step(x)
        return x

    return layers.state, features


def lenet(rng):
    """Ring loss' MNIST net: one slope a layer."""
    layers, steps, before = Layers(rng), [], 1
    for stage, width in enumerate((32, 64, 128), 1):
        for place in (1, 2):
            steps.append(layers.conv(f"conv{stage}_{place}", before, width, 5))
            steps.append(layers.prelu(f"prelu{stage}_{place}"))
            before = width
        steps.append(lambda x: numpy_layers.max_pool(x, round_up=False))
    steps.append(layers.dense("fc1", 1152, 2, bias=False))
    layers.state["ringloss.radius"] = np.ones(1, np.float32)

    def features(x):
        for step in steps:
            x = step(x)
        return x

    return layers.state, features
