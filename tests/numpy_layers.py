"""Layers of Caffe and PyTorch in NumPy, in float64: the oracle of the tests of released weights.

Arrays are laid out as those programs keep them: images [batch, channel, row, column], kernels
[out, in, row, column], dense weights [out, in]. Nothing here is shared with the library.
"""

import numpy as np


def conv(x, weight, bias=None, *, stride=1, pad=0):
    """A convolution as a sum over the places of the kernel."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(float)
    kernel = weight.shape[2:]
    rows, columns = ((x.shape[2 + i] - kernel[i]) // stride + 1 for i in (0, 1))
    out = np.zeros((len(x), len(weight), rows, columns))
    for row, column in np.ndindex(kernel):
        seen = x[:, :, row:, column:][:, :, ::stride, ::stride][:, :, :rows, :columns]
        out += np.einsum("oi,nihw->nohw", weight[:, :, row, column], seen, optimize=True)
    return out if bias is None else out + bias.reshape(-1, 1, 1)


def dense(x, weight, bias=None):
    """An inner product with the flattened input: channel by channel, row by row."""
    out = x.reshape(len(x), -1) @ weight.T.astype(float)
    return out if bias is None else out + bias


def prelu(x, slope):
    """The input where it is positive, else its product with the slope of its channel."""
    slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x > 0, x, slope * x)


def max_pool(x, window=2, *, round_up=True):
    """Maxima of windows two apart; with `round_up` the last ones may reach past the edge."""
    sides = [(side - window) / 2 for side in x.shape[2:]]
    rows, columns = (int(np.ceil(side) if round_up else side) + 1 for side in sides)
    out = np.empty((*x.shape[:2], rows, columns))
    for row, column in np.ndindex(rows, columns):
        seen = x[:, :, 2 * row : 2 * row + window, 2 * column : 2 * column + window]
        out[:, :, row, column] = seen.max(axis=(2, 3))
    return out


def larger_half(x):
    """The larger of channel i and channel i + half."""
    return np.maximum(*np.split(x, 2, axis=1))


def norm(x, weight, bias, mean, variance):
    """PyTorch's batch norm by its running statistics."""
    shape = (-1, *(1,) * (x.ndim - 2))
    scale = weight / np.sqrt(variance.astype(float) + 1e-5)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)
