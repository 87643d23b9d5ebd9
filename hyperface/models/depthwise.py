"""Depthwise convolution in a form that is also fast on a CPU."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel with its own 3 x 3 kernel, with one pixel of zero padding.

    Args:
      x: [batch, height, width, channels].
      kernel: [3, 3, 1, channels].
      stride: distance in pixels between neighbouring windows.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels], in the dtype of x.
    """
    # XLA's CPU backend runs a grouped convolution as a plain loop. It fuses nine shifted products
    # into one vectorised loop, which is 4 to 20 times faster forward, and 10 times or more faster
    # for the gradient of x.
    taps = _wide(kernel).reshape(3, 3, 1, 1, 1, -1)
    total = sum(
        _wide(window) * taps[row, column]
        for (row, column), window in zip(_TAPS, _windows(x, stride), strict=True)
    )
    # `sum` starts at the number 0, so its type is wider than an array.
    return cast(jax.Array, total).astype(x.dtype)


_Kept = tuple[jax.Array, jax.Array]
"""The residuals of the backward pass: x and the kernel."""
_TAPS = [(row, column) for row in range(3) for column in range(3)]
"""The places of the nine kernel elements."""


def _wide(x: jax.Array) -> jax.Array:
    """Returns x in float32 or wider, so that nine products are not added up in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _windows(x: jax.Array, stride: int) -> Iterator[jax.Array]:
    """Yields the pixels that each of the nine kernel elements multiplies.

    There is one array per kernel element, with the shape of the output: [batch, rows, columns,
    channels].
    """
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row, column in _TAPS:
        # Each part ends directly behind the last pixel that the stride reaches.
        ends = row + height - (height - 1) % stride, column + width - (width - 1) % stride
        window = (0, row, column, 0), (batch, *ends, channels), (1, stride, stride, 1)
        yield lax.slice(padded, *window)


def _depthwise_fwd(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Kept]:
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_bwd(stride: int, kept: _Kept, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (to_x, to_kernel), the gradients to x and to the kernel.

    Args:
      stride: as in `depthwise`.
      kept: the residuals, x and the kernel.
      slope: the gradient to the output.
    """
    x, kernel = kept
    # Autodiff of the plain function gives x's gradient. Pyright does not know the attribute,
    # because it takes the decorator made by `partial` for a plain function.
    forward = depthwise.fun  # pyright: ignore[reportAttributeAccessIssue]
    _, to_x = jax.vjp(lambda x: forward(x, kernel, stride), x)
    # Each of the nine sums runs over batch, rows and columns. On a CPU a whole batch does not fit
    # into the cache, and image by image is 2 to 4 times faster. A GPU would wait for each image.
    to_kernel = lax.platform_dependent(
        x, slope, cpu=partial(_by_image, stride), default=partial(_at_once, stride)
    )
    return to_x(slope)[0], to_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _at_once(stride: int, x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns the kernel's gradient [9, channels], summed over the whole batch at once.

    Args:
      stride: as in `depthwise`.
      x: the input of the convolution.
      slope: the gradient of its output.
    """
    slope = _wide(slope)
    return jnp.stack([jnp.sum(_wide(w) * slope, (0, 1, 2)) for w in _windows(x, stride)])


def _by_image(stride: int, x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns what `_at_once` returns, but sums image by image, which is faster on a CPU."""

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        one = (part[None] for part in image)
        return total + _at_once(stride, *one), None

    # The scan starts from the sums over an empty batch. Under shard_map they vary over the same
    # mesh axes as x does, where a plain array of zeros would not.
    return lax.scan(add, _at_once(stride, x[:0], slope[:0]), (x, slope))[0]


depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)
