"""Depthwise convolution in a form that is fast on a CPU too."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel with its own 3 x 3 kernel; one ring of zeros is padded around.

    Args:
      x: [batch, height, width, channels].
      kernel: [3, 3, 1, channels].
      stride: step between the windows.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels], in the dtype of x.
    """
    # XLA's CPU backend runs a grouped convolution as a plain loop. Nine shifted products are fused
    # into one vectorised sweep: 4 to 20 times faster forward, 10 times or more for x's gradient.
    taps = _wide(kernel).reshape(3, 3, 1, 1, 1, -1)
    total = sum(
        _wide(window) * taps[row, column]
        for (row, column), window in zip(_TAPS, _windows(x, stride), strict=True)
    )
    # Of nine arrays: `sum` of none would be the number 0.
    return cast(jax.Array, total).astype(x.dtype)


_Kept = tuple[jax.Array, jax.Array]
"""Image and kernel, which the backward pass needs."""
_TAPS = [(row, column) for row in range(3) for column in range(3)]


def _wide(x: jax.Array) -> jax.Array:
    """The nine products are summed in float32 at least, as a convolution does it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _windows(x: jax.Array, stride: int) -> Iterator[jax.Array]:
    """What each of the nine taps meets, [batch, rows, columns, channels]."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row, column in _TAPS:
        ends = row + height - (height - 1) % stride, column + width - (width - 1) % stride
        window = (0, row, column, 0), (batch, *ends, channels), (1, stride, stride, 1)
        yield lax.slice(padded, *window)


def _depthwise_fwd(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Kept]:
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_bwd(stride: int, kept: _Kept, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    # Pyright takes a decorator made by `partial` for a function, without JAX's attribute.
    forward = depthwise.fun  # pyright: ignore[reportAttributeAccessIssue]
    _, to_x = jax.vjp(lambda x: forward(x, kernel, stride), x)
    # On a CPU nine sums over batch, rows and columns at once leave the cache at each tap; image by
    # image they are 2 to 4 times faster. A GPU would wait for each image.
    to_kernel = lax.platform_dependent(
        x, slope, cpu=partial(_by_image, stride), default=partial(_at_once, stride)
    )
    return to_x(slope)[0], to_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _at_once(stride: int, x: jax.Array, slope: jax.Array) -> jax.Array:
    """The kernel's gradient, [9, channels]."""
    slope = _wide(slope)
    return jnp.stack([jnp.sum(_wide(w) * slope, (0, 1, 2)) for w in _windows(x, stride)])


def _by_image(stride: int, x: jax.Array, slope: jax.Array) -> jax.Array:
    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        one = (part[None] for part in image)
        return total + _at_once(stride, *one), None

    # The sums of no image are zeros that vary over the same devices as x does.
    return lax.scan(add, _at_once(stride, x[:0], slope[:0]), (x, slope))[0]


depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)
