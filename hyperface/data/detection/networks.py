"""Defines the three networks of MTCNN as pure functions of weights and pixels.

Each takes images [batch, height, width, 3] float32 in RGB order, scaled by (pixel - 127.5) / 128.
P-net slides a window of 12 x 12 pixels over an image. R-net and O-net get single windows of 24 x 24
and 48 x 48 pixels. Corrections of a box are fractions of the window's side.

References:
  K. Zhang, Z. Zhang, Z. Li, Y. Qiao. Joint face detection and alignment using multitask cascaded
  convolutional networks. IEEE SPL 23(10), 2016.
"""

import jax
import jax.numpy as jnp
from jax import lax

Weights = dict[str, jax.Array]
"""Name -> array of a network: LAYER/kernel and LAYER/bias, and LAYER/slope for its PReLU."""

PNET_SIDE, RNET_SIDE, ONET_SIDE = 12, 24, 48
"""Side of each network's window in pixels."""
STRIDE = 2
"""Distance between neighbouring windows of P-net in pixels."""


def _layer(name: str, *kernel: int, prelu: bool = True) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays of a layer, by name.

    Args:
      name: name of the layer.
      *kernel: shape of its kernel: (height, width, inputs, outputs), or (inputs, outputs).
      prelu: whether a PReLU follows the layer.
    """
    arrays = {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}
    # The PReLU of a convolution has one slope per channel, shared by all places.
    slope = (1, 1, kernel[-1]) if len(kernel) == 4 else kernel[-1:]
    return arrays | ({f"{name}/slope": slope} if prelu else {})


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "pnet": {
        **_layer("conv1", 3, 3, 3, 10),
        **_layer("conv2", 3, 3, 10, 16),
        **_layer("conv3", 3, 3, 16, 32),
        **_layer("box", 1, 1, 32, 4, prelu=False),
        **_layer("face", 1, 1, 32, 2, prelu=False),
    },
    "rnet": {
        **_layer("conv1", 3, 3, 3, 28),
        **_layer("conv2", 3, 3, 28, 48),
        **_layer("conv3", 2, 2, 48, 64),
        **_layer("dense", 576, 128),
        **_layer("box", 128, 4, prelu=False),
        **_layer("face", 128, 2, prelu=False),
    },
    "onet": {
        **_layer("conv1", 3, 3, 3, 32),
        **_layer("conv2", 3, 3, 32, 64),
        **_layer("conv3", 3, 3, 64, 64),
        **_layer("conv4", 2, 2, 64, 128),
        **_layer("dense", 1152, 256),
        **_layer("box", 256, 4, prelu=False),
        **_layer("points", 256, 10, prelu=False),
        **_layer("face", 256, 2, prelu=False),
    },
}
"""Shape of each array of each network, in the order in which the released files list them."""


def pnet(weights: Weights, images: jax.Array) -> jax.Array:
    """Computes the probability of a face in every window of 12 x 12 pixels, with stride 2.

    Args:
      weights: the arrays of P-net by name, with the shapes in SHAPES["pnet"].
      images: [batch, height, width, 3] float32 RGB, scaled by (pixel - 127.5) / 128.

    Returns:
      [batch, (height - 10) // 2, (width - 10) // 2, 5], one vector per window: the probability of a
      face, and by how much the left, top, right and bottom side of the window should be moved, as
      fractions of the window's side.
    """
    x = _pool(_conv(weights, "conv1", images), 2, "SAME")
    x = _conv(weights, "conv3", _conv(weights, "conv2", x))
    return jnp.concatenate([_probability(weights, x), _linear(weights, "box", x)], axis=-1)


def rnet(weights: Weights, windows: jax.Array) -> jax.Array:
    """Computes the probability of a face in windows of 24 x 24 pixels.

    Args:
      weights: the arrays of R-net by name, with the shapes in SHAPES["rnet"].
      windows: [batch, 24, 24, 3] float32 RGB, scaled by (pixel - 127.5) / 128.

    Returns:
      [batch, 5]: the probability of a face, and by how much the left, top, right and bottom side of
      the window should be moved, as fractions of the window's side.
    """
    x = _pool(_conv(weights, "conv1", windows), 3, "SAME")
    x = _pool(_conv(weights, "conv2", x), 3, "VALID")
    x = _dense(weights, _conv(weights, "conv3", x))
    return jnp.concatenate([_probability(weights, x), _linear(weights, "box", x)], axis=-1)


def onet(weights: Weights, windows: jax.Array) -> jax.Array:
    """Computes the probability of a face and five landmarks in windows of 48 x 48 pixels.

    Args:
      weights: the arrays of O-net by name, with the shapes in SHAPES["onet"].
      windows: [batch, 48, 48, 3] float32 RGB, scaled by (pixel - 127.5) / 128.

    Returns:
      [batch, 15], in this order:

      - the probability of a face
      - by how much the left, top, right and bottom side of the window should be moved
      - the x of five points: left eye, right eye, nose, left and right corner of the mouth
      - the y of the same points

      All but the probability are fractions of the window's side; points are measured from its left
      and top edge.
    """
    x = _pool(_conv(weights, "conv1", windows), 3, "SAME")
    x = _pool(_conv(weights, "conv2", x), 3, "VALID")
    x = _pool(_conv(weights, "conv3", x), 2, "SAME")
    x = _dense(weights, _conv(weights, "conv4", x))
    outputs = [_linear(weights, name, x) for name in ("box", "points")]
    return jnp.concatenate([_probability(weights, x), *outputs], axis=-1)


def _conv(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """Applies the convolution of this name, without padding, and its PReLU to x."""
    kernel = weights[f"{name}/kernel"]
    x = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return _prelu(weights, name, x + weights[f"{name}/bias"].reshape(1, 1, 1, -1))


def _dense(weights: Weights, x: jax.Array) -> jax.Array:
    """Applies the dense layer "dense" to a feature map, and its PReLU."""
    # The weights come from a program that stores the columns of a feature map first.
    x = x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)
    return _prelu(weights, "dense", _linear(weights, "dense", x))


def _linear(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """Applies the dense layer, or the 1 x 1 convolution, of this name to x, without PReLU."""
    kernel = weights[f"{name}/kernel"]
    bias = weights[f"{name}/bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    # A convolution of 1 x 1 and a dense layer are the same product.
    return x @ kernel.reshape(kernel.shape[-2:]) + bias


def _prelu(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """Applies the PReLU of the layer of this name to x: max(x, 0) + slope min(x, 0)."""
    slope = weights[f"{name}/slope"].reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.maximum(x, 0.0) + slope * jnp.minimum(x, 0.0)


def _pool(x: jax.Array, side: int, padding: str) -> jax.Array:
    """Applies max pooling with windows of `side` x `side` and stride 2.

    Args:
      x: [batch, height, width, channels].
      side: side of a window.
      padding: "SAME" also pools windows that reach past the edge, and "VALID" does not.
    """
    window, strides = (1, side, side, 1), (1, 2, 2, 1)
    # Padding is -inf, which is never the maximum; 0 would be one among negative values.
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _probability(weights: Weights, x: jax.Array) -> jax.Array:
    """Returns the probability of a face: the second output of the softmax over (no face, face)."""
    logits = _linear(weights, "face", x)
    # The softmax of two logits is the sigmoid of their difference, which cannot overflow.
    return jax.nn.sigmoid(logits[..., 1:] - logits[..., :1])
