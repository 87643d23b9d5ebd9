"""Convolutions whose gradients XLA computes slowly on a CPU, with faster gradient rules."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from hyperface.rules import vary_alike

_Kept = tuple[jax.Array, jax.Array]
"""The residuals of a backward pass: x and the kernel."""


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 1 x 1 kernel, which is a matrix product.

    Args:
      x: [..., inputs].
      kernel: [inputs, outputs].

    Returns:
      [..., outputs].
    """
    return cast(jax.Array, _product(*vary_alike(x, kernel)))


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_fwd(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Kept]:
    return x @ kernel, (x, kernel)


def _product_bwd(kept: _Kept, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    # XLA's CPU backend transposes the first operand of this product, and computes the operand
    # within that slow loop. x is stored already. Autodiff would make the slope the first operand,
    # and the slope still has to be computed.
    rows, slopes = (part.reshape(-1, part.shape[-1]) for part in (x, slope))
    to_kernel = lax.dot_general(rows, slopes, (((0,), (0,)), ((), ())))
    return (slope @ kernel.T).astype(x.dtype), to_kernel.astype(kernel.dtype)


_product.defvjp(_product_fwd, _product_bwd)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel with its own 3 x 3 kernel, with one pixel of zero padding.

    Args:
      x: [batch, height, width, channels].
      kernel: [3, 3, 1, channels].
      stride: distance in pixels between neighbouring windows.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels], in the dtype of x.
    """
    return cast(jax.Array, _depthwise(*vary_alike(x, kernel), stride))


_TAPS = [(row, column) for row in range(3) for column in range(3)]
"""The places of the nine kernel elements."""


def _padded(x: jax.Array) -> jax.Array:
    """Returns x with one pixel of zeros around each map."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _wide(x: jax.Array) -> jax.Array:
    """Returns x in float32 or wider, so that products are not added up in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _windows(padded: jax.Array, stride: int) -> Iterator[jax.Array]:
    """Yields the pixels that each of the nine kernel elements multiplies.

    There is one array per kernel element, with the shape of the output: [batch, rows, columns,
    channels].
    """
    batch, height, width, channels = padded.shape
    # The first pixels of the last window, so that each part ends directly behind the last pixel
    # that the stride reaches.
    bottom, right = height - 3 - (height - 3) % stride, width - 3 - (width - 3) % stride
    for row, column in _TAPS:
        ends = (batch, bottom + row + 1, right + column + 1, channels)
        yield lax.slice(padded, (0, row, column, 0), ends, (1, stride, stride, 1))


def _convolved(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the convolution of maps that have their padding already."""
    # XLA's CPU backend runs a grouped convolution as a plain loop. It fuses nine shifted products
    # into one vectorised loop, which is 4 to 20 times faster.
    taps = _wide(kernel).reshape(3, 3, 1, 1, 1, -1)
    total = sum(
        _wide(window) * taps[row, column]
        for (row, column), window in zip(_TAPS, _windows(padded, stride), strict=True)
    )
    # `sum` starts at the number 0, so its type is wider than an array.
    return cast(jax.Array, total).astype(padded.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _convolved(_padded(x), kernel, stride)


def _depthwise_fwd(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Kept]:
    # The padded maps are kept instead of x, because they are in memory for the forward pass anyway.
    padded = _padded(x)
    return _convolved(padded, kernel, stride), (padded, kernel)


def _depthwise_bwd(stride: int, kept: _Kept, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (to_x, to_kernel), the gradients to x and to the kernel.

    Args:
      stride: as in `depthwise`.
      kept: the residuals, padded x and the kernel.
      slope: the gradient to the output.
    """
    padded, kernel = kept
    # The gradient of x is a convolution of the slopes with the kernel turned by 180 degrees. A
    # stride skips windows; zeros between the slopes stand for them. Autodiff would add nine padded
    # arrays in memory, which takes three times as long.
    ends = ((side - 3) % stride for side in padded.shape[1:3])
    spread = [(0, 0, 0), *((0, end, stride - 1) for end in ends), (0, 0, 0)]
    spread_slope = _padded(lax.pad(slope, jnp.zeros((), slope.dtype), spread))
    to_x = _convolved(spread_slope, kernel[::-1, ::-1], 1)
    # Image by image on a CPU only: on a GPU each image would wait for the one before.
    to_kernel = lax.platform_dependent(
        padded, slope, cpu=partial(_by_image, stride), default=partial(_at_once, stride)
    )
    return to_x, to_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _at_once(stride: int, padded: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns the kernel's gradient [9, channels], summed over the whole batch at once.

    Args:
      stride: as in `depthwise`.
      padded: the input of the convolution, with its padding.
      slope: the gradient of its output.
    """
    slope = _wide(slope)
    return jnp.stack([jnp.sum(_wide(w) * slope, (0, 1, 2)) for w in _windows(padded, stride)])


def _by_image(stride: int, padded: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns what `_at_once` returns, but sums image by image, which is faster on a CPU.

    The maps of a whole batch do not fit into the cache. One reduction with nine results adds up the
    rows of an image. It is one loop over its columns and channels, where nine reductions would
    first store the nine windows.
    """

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        maps, slopes = image
        pairs = ((_wide(w[0]), _wide(slopes)) for w in _windows(maps[None], stride))
        products = tuple(window * slope for window, slope in pairs)
        zeros = (jnp.zeros((), products[0].dtype),) * len(products)
        sums = lax.reduce(products, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0,))
        return total + jnp.stack(sums), None

    # Under shard_map the start of the scan must vary over the same mesh axes as the slopes, where a
    # plain array of zeros would not.
    start = jnp.zeros_like(_wide(slope), shape=(9, *slope.shape[2:]))
    return lax.scan(add, start, (padded, slope))[0].sum(1)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)
