"""ONNX files as other programs write them, for the tests of `hyperface.weights`.

A writer of the wire format that shares nothing with the library's reader, and networks drawn
operator by operator in the layout that PyTorch's exporter gives them.
"""

import struct

import numpy as np
from caffe_nets import chunk, varint

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10, "float64": 11}


def number(field, value):
    return varint(field << 3) + varint(value & 2**64 - 1)


def tensor(name, array, *, typed=False):
    """A TensorProto, with its numbers as bytes or in the field of their type."""
    kind = TYPES[array.dtype.name]
    data = b"".join(number(1, side) for side in array.shape) + number(2, kind)
    if typed:
        data += chunk({1: 4, 7: 7, 11: 10}[kind], typed_numbers(array))
    else:
        data += chunk(9, array.tobytes())
    return data + chunk(8, name.encode())


def typed_numbers(array):
    if array.dtype.kind == "i":
        return b"".join(varint(int(x) & 2**64 - 1) for x in array.ravel())
    return array.tobytes()


def attribute(name, value):
    data = chunk(1, name.encode())
    if isinstance(value, float):
        return data + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if isinstance(value, int):
        return data + number(3, value) + number(20, 2)
    if isinstance(value, bytes):
        return data + chunk(4, value) + number(20, 3)
    if isinstance(value, np.ndarray):
        return data + chunk(5, tensor("", value)) + number(20, 4)
    return data + b"".join(number(8, x) for x in value) + number(20, 7)


def node(op, inputs, outputs, attributes, domain=""):
    data = b"".join(chunk(1, name.encode()) for name in inputs)
    data += b"".join(chunk(2, name.encode()) for name in outputs)
    data += chunk(3, f"{op}_{outputs[0]}".encode()) + chunk(4, op.encode())
    data += b"".join(chunk(5, attribute(*item)) for item in attributes.items())
    return data + (chunk(7, domain.encode()) if domain else b"")


def value(name, shape):
    """A ValueInfoProto; None and texts are sides of any size."""
    dims = b""
    for side in shape:
        dims += chunk(1, number(1, side) if isinstance(side, int) else chunk(2, str(side).encode()))
    return chunk(1, name.encode()) + chunk(2, chunk(1, number(1, 1) + chunk(2, dims)))


class OnnxNet:
    """A network with random weights, and the bytes of its file.

    Args:
      image_shape: [height, width, channels].
      rng: draws the weights.
      folded: whether batch normalisation is folded into the operator in front of it.
    """

    def __init__(self, image_shape, rng, *, folded):
        self.folded, self._rng = folded, rng
        height, width, self.channels = image_shape
        self.input_shape = [1, self.channels, height, width]
        self.nodes, self.arrays = [], {}
        self.top, self._made = "input.1", 100

    def data(self, *, opset=11, typed=False, extra=b"", domain=""):
        """Bytes of the file."""
        graph = b"".join(chunk(1, node(*parts)) for parts in self.nodes) + chunk(2, b"torch-jit")
        graph += b"".join(chunk(5, tensor(n, a, typed=typed)) for n, a in self.arrays.items())
        graph += chunk(11, value("input.1", self.input_shape))
        graph += chunk(12, value(self.top, [1, self.channels]))
        sets = chunk(8, chunk(1, domain.encode()) + number(2, opset))
        return number(1, 6) + chunk(2, b"pytorch") + chunk(7, graph + extra) + sets

    def add(self, op, inputs, arrays=(), **attributes):
        """One operator, which becomes the top; its arrays are further inputs."""
        names = []
        for array in arrays:
            names.append(f"w{len(self.arrays)}")
            self.arrays[names[-1]] = array
        self._made += 1
        self.top = str(self._made)
        self.nodes.append((op, [*inputs, *names], [self.top], attributes))
        return self.top

    def conv(self, out, kernel=1, stride=1, groups=1, pad=None, norm=True):
        """A convolution with the batch normalisation behind it."""
        inputs = self.channels // groups
        weight = self._normal((out, inputs, *np.broadcast_to(kernel, 2)))
        self.channels = out
        pad = kernel // 2 if pad is None else pad
        window = {
            "dilations": [1, 1],
            "group": groups,
            "kernel_shape": list(weight.shape[2:]),
            "pads": [pad] * 4,
            "strides": [stride] * 2,
        }
        return self._with_norm("Conv", weight, norm, window)

    def dense(self, inputs, out, op="Gemm", scaled=True, bias=True):
        """A linear layer with the batch normalisation behind it, which no exporter folds."""
        weight = self._normal((out, inputs))
        self.channels = out
        if op == "MatMul":
            self.add("MatMul", [self.top], [np.ascontiguousarray(weight.T)])
        else:
            arrays = [weight, *([self._normal((out,))] if bias else [])]
            self.add("Gemm", [self.top], arrays, alpha=1.0, beta=1.0, transB=1)
        return self.norm(scaled=scaled)

    def norm(self, scaled=True):
        """A batch normalisation that stands alone."""
        return self.add("BatchNormalization", [self.top], self._norm(scaled), epsilon=1e-5)

    def prelu(self):
        slope = self._rng.uniform(0.1, 0.5, (self.channels, 1, 1)).astype(np.float32)
        return self.add("PRelu", [self.top], [slope])

    def flatten(self, *, by_shape):
        """Flatten, or the operators of a view(batch, -1)."""
        if not by_shape:
            return self.add("Flatten", [self.top], axis=1)
        before = self.top
        one = self.add("Gather", [self.add("Shape", [before]), self._constant(0)], axis=0)
        parts = [self.add("Unsqueeze", [one], axes=[0]), self._constant([-1])]
        return self.add("Reshape", [before, self.add("Concat", parts, axis=0)])

    def _constant(self, number):
        return self.add("Constant", [], value=np.array(number, np.int64))

    def _with_norm(self, op, weight, norm, window):
        if not norm:
            return self.add(op, [self.top], [weight], **window)
        if not self.folded:
            self.add(op, [self.top], [weight], **window)
            return self.norm()
        scale, term, mean, variance = self._norm()
        factor = scale / np.sqrt(variance + np.float32(1e-5))
        arrays = [weight * factor[:, None, None, None], term - mean * factor]
        return self.add(op, [self.top], arrays, **window)

    def _norm(self, scaled=True):
        scale = self._rng.uniform(0.5, 1.5, self.channels) if scaled else np.ones(self.channels)
        term, mean = self._rng.uniform(-0.3, 0.3, (2, self.channels))
        variance = self._rng.uniform(0.5, 2, self.channels)
        return [part.astype(np.float32) for part in (scale, term, mean, variance)]

    def _normal(self, shape):
        return self._rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)


def mobilefacenet(
    rng, *, folded, image_shape, stem, stages, last, feature_dim, groups=None, released=False
):
    """MobileFaceNet.

    Args:
      released: as the file of a JavaScript package has it: the last layer is a convolution, folded
        too, and a Reshape ends the graph; else as insightface's exporter makes it, with MatMul.
    """
    net = OnnxNet(image_shape, rng, folded=folded)
    net.conv(stem, 3, stride=2)
    net.prelu()
    net.conv(stem, 3, groups=groups or stem)
    net.prelu()
    for width, first_expansion, expansion, blocks in stages:
        for block in range(blocks):
            before, inside = net.top, expansion if block else first_expansion
            net.conv(inside)
            net.prelu()
            net.conv(inside, 3, stride=1 if block else 2, groups=inside)
            net.prelu()
            net.conv(width)
            if block:
                net.add("Add", [before, net.top])
    net.conv(last)
    net.prelu()
    height, width = image_shape[:2]
    for _ in range(len(stages) + 1):
        height, width = -(-height // 2), -(-width // 2)
    net.conv(last, (height, width), groups=last, pad=0)
    if released:
        net.conv(feature_dim)
        net.arrays["shape"] = np.array([1, -1])
        net.add("Reshape", [net.top, "shape"])
    else:
        net.flatten(by_shape=True)
        net.dense(last, feature_dim, op="MatMul")
    return net


def iresnet(rng, *, folded, image_shape, widths, blocks, feature_dim):
    """insightface's residual net: batch normalisation behind a convolution is folded or not."""
    net = OnnxNet(image_shape, rng, folded=folded)
    net.input_shape[0] = "None"  # The exporter leaves the batch free.
    net.conv(widths[0], 3)
    net.prelu()
    height, width = image_shape[:2]
    for channels, count in zip(widths, blocks, strict=True):
        height, width = -(-height // 2), -(-width // 2)
        for block in range(count):
            before, inputs = net.top, net.channels
            net.norm()
            net.conv(channels, 3)
            net.prelu()
            branch = net.conv(channels, 3, stride=1 if block else 2)
            if not block:
                net.top, net.channels = before, inputs
                before = net.conv(channels, stride=2)
            net.add("Add", [branch, before])
    net.norm()
    net.flatten(by_shape=False)
    net.dense(height * width * channels, feature_dim, scaled=False)
    return net
