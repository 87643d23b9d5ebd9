"""Files as other programs write them, for the tests of `hyperface.weights`.

A writer of `.caffemodel` that shares nothing with the library's reader, and nets drawn layer by
layer with the names and settings of the released prototxt files, which compute their features.
"""

import struct

import numpy as np
import numpy_layers


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def chunk(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def blob(array, *, old=False, packed=True, double=False):
    """A BlobProto: today's shape or four sides; numbers packed or one by one."""
    if old:
        sides = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(varint(n << 3) + varint(side) for n, side in enumerate(sides, 1))
    else:
        shape = chunk(7, chunk(1, b"".join(varint(side) for side in array.shape)))
    number, letter, wire = (8, "d", 1) if double else (5, "f", 5)
    if packed:
        return shape + chunk(number, struct.pack(f"<{array.size}{letter}", *array.ravel()))
    key = varint(number << 3 | wire)
    return shape + b"".join(key + struct.pack(f"<{letter}", x) for x in array.ravel())


def caffemodel(layers, *, old=False, **settings):
    """Bytes of a network from (name, type, arrays) of each layer."""
    data = chunk(1, b"a net")
    for name, kind, arrays in layers:
        if old:
            body = varint(5 << 3) + varint(V1_TYPES[kind])
            body = chunk(4, name.encode()) + body
        else:
            body = chunk(1, name.encode()) + chunk(2, kind.encode())
        blobs = [chunk(6 if old else 7, blob(array, old=old, **settings)) for array in arrays]
        data += chunk(2 if old else 100, body + b"".join(blobs))
    return data


V1_TYPES = {"Convolution": 4, "InnerProduct": 14, "Eltwise": 25, "Pooling": 17, "Slice": 33}


class CaffeNet:
    """A network with random weights: the arrays of each layer, and what the layers do in NumPy."""

    def __init__(self, image_shape, rng, *, old=False):
        self._rng, self._old = rng, old
        self._steps = []
        self.layers = []
        self.top, self._channels = "data", image_shape[2]

    @property
    def arrays(self):
        """By the names that `read` gives."""
        roles = ("weight", "bias")
        return {
            f"{name}.{roles[index]}": array
            for name, _, arrays in self.layers
            for index, array in enumerate(arrays)
        }

    def features(self, images):
        """The features of images [batch, channel, row, column]."""
        made = {"data": images}
        for name, layer, inputs in self._steps:
            made[name] = layer(*(made[key] for key in inputs))
        return made[self.top]

    def _layer(self, name, kind, layer, arrays=(), inputs=None):
        self._steps.append((name, layer, inputs or [self.top]))
        if len(arrays):
            self.layers.append((name, kind, arrays))
        self.top = name
        return name

    def conv(self, name, out, kernel=3, stride=1, pad=1, bias=None):
        """`bias`: None is random, a number fills it."""
        fan_in = self._channels * kernel * kernel
        weight = self._normal((out, self._channels, kernel, kernel), fan_in)
        added = self._normal((out,), 10) if bias is None else np.full(out, bias, np.float32)
        self._channels = out

        def layer(x):
            return numpy_layers.conv(x, weight, added, stride=stride, pad=pad)

        return self._layer(name, "Convolution", layer, [weight, added])

    def prelu(self, name):
        slopes = self._rng.uniform(0.1, 0.5, self._channels).astype(np.float32)
        return self._layer(name, "PReLU", lambda x: numpy_layers.prelu(x, slopes), [slopes])

    def pool(self, name, window=2):
        return self._layer(name, "Pooling", lambda x: numpy_layers.max_pool(x, window))

    def add(self, name, before):
        return self._layer(name, "Eltwise", np.add, inputs=[before, self.top])

    def larger_half(self, name):
        self._channels //= 2
        return self._layer(f"etlwise{name}", "Eltwise", numpy_layers.larger_half)

    def dense(self, name, inputs, out):
        weight, added = self._normal((out, inputs), inputs), self._normal((out,), 10)
        self._channels = out
        return self._layer(
            name, "InnerProduct", lambda x: numpy_layers.dense(x, weight, added), [weight, added]
        )

    def _normal(self, shape, fan_in):
        return self._rng.normal(0, fan_in**-0.5, shape).astype(np.float32)


def sphereface(rng, image_shape, widths, blocks, feature_dim, rows, bias=0.0):
    """SphereFace's released names; `bias` of the residual convolutions."""
    net = CaffeNet(image_shape, rng)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        net.conv(f"conv{stage}_1", width, stride=2)
        before = net.prelu(f"relu{stage}_1")
        for block in range(1, count + 1):
            for place in (2 * block, 2 * block + 1):
                net.conv(f"conv{stage}_{place}", width, bias=bias)
                net.prelu(f"relu{stage}_{place}")
            before = net.add(f"res{stage}_{2 * block + 1}", before)
    net.dense("fc5", rows * widths[-1], feature_dim)
    return net


def wen(rng, image_shape, stem, widths, blocks, feature_dim, rows):
    """caffe-face's released names: stages count from the stem."""
    net = CaffeNet(image_shape, rng)
    net.conv("conv1a", stem, pad=0)
    net.prelu("relu1a")
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        place = "1b" if stage == 1 else str(stage)
        net.conv(f"conv{place}", width, pad=0)
        net.prelu(f"relu{place}")
        before = net.pool(f"pool{place}")
        for block in range(1, count + 1):
            for index in (2 * block - 1, 2 * block):
                net.conv(f"conv{stage + 1}_{index}", width, bias=0.0)
                net.prelu(f"relu{stage + 1}_{index}")
            before = net.add(f"res{stage + 1}_{2 * block}", before)
    net.dense("fc5", rows * widths[-1], feature_dim)
    return net


def normface_lenet(rng, feature_dim=3):
    """The MNIST net of NormFace, by its released names."""
    net = CaffeNet((28, 28, 1), rng)
    for stage, (width, window) in enumerate(((32, 2), (64, 2), (128, 3)), 1):
        for plus in ("", "+"):
            net.conv(f"conv{stage}{plus}", width)
            net.prelu(f"prelu{stage}{plus}")
        net.pool(f"pool{stage}", window)
    net.dense("ip1", 1152, feature_dim)
    return net


def plane_lenet(rng):
    """The net of NormFace's Figure 2, by its released names."""
    net = CaffeNet((28, 28, 1), rng)
    for number, width in enumerate((20, 50), 1):
        net.conv(f"conv{number}", width, kernel=5, pad=0)
        net.pool(f"pool{number}")
        net.prelu(f"relu_pool{number}")
    net.dense("ip1", 800, 500)
    net.prelu("relu1")
    net.dense("ip1_dr", 500, 2)
    return net


def lightened_cnn(rng):
    """LightenedCNN-B with the layer messages of its time."""
    net = CaffeNet((128, 128, 1), rng, old=True)
    net.conv("conv1", 96, kernel=5, pad=2)
    net.larger_half("1")
    net.pool("pool1")
    for stage, width in ((2, 96), (3, 192), (4, 128), (5, 128)):
        net.conv(f"conv{stage}a", 2 * net._channels, kernel=1, pad=0)
        net.larger_half(f"{stage}a")
        net.conv(f"conv{stage}", 2 * width)
        net.larger_half(str(stage))
        if stage != 4:
            net.pool(f"pool{stage}")
    net.dense("fc1", 8192, 512)
    net.larger_half("_fc1")
    return net
