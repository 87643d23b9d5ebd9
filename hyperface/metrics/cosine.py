"""Scales features to unit length, and computes inner products of features on a device."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics._checks import check_directions, checked_norms
from hyperface.metrics.shapes import Features

Item = TypeVar("Item")

Place = Callable[[np.ndarray], jax.Array]
"""Puts an array on a device, or split by rows over several."""


def unit_features(features: ArrayLike, dtype: np.dtype | type = np.float32) -> Features:
    """Returns features scaled to unit length, computed in float64 and rounded once at the end.

    Args:
      features: [images, dim], of any float type and any norm above zero.
      dtype: type of the result.

    Raises:
      ValueError: the array does not have two axes, a feature is zero or not finite, or all
        features have the same direction.

    Example:
      >>> unit_features([[3.0, 4.0], [0.0, 2.0]])
      array([[0.6, 0.8],
             [0. , 1. ]], dtype=float32)
    """
    # float64, since norms and quotients in float32 would each add a rounding error.
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"expected features of shape [images, dim], found {features.shape}")
    norms = checked_norms(features)
    check_directions(features, norms)
    return (features / norms).astype(dtype, copy=False)


def product(rows: np.ndarray, columns: np.ndarray, place: Place = jnp.asarray) -> jax.Array:
    """Returns the inner products of all rows of one array with all rows of another.

    float64 features give float64 products, even if JAX is configured for float32.

    Args:
      rows: [rows, dim] features.
      columns: [columns, dim] features of the same type.
      place: function that puts `rows` on devices. The default uses JAX's default device. Another
        function may split the rows over several devices; each device then computes the products of
        its rows.

    Returns:
      [rows, columns] inner products.
    """
    # Without enable_x64 JAX would silently round float64 features to float32.
    with jax.enable_x64(rows.dtype == np.float64):
        return _product(place(rows), columns)


@jax.jit
def _product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    # By default accelerators round float32 operands to bfloat16 or TF32.
    return jnp.matmul(rows, columns.T, precision="highest")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items in order; the next item is fetched before the present one is yielded.

    This function is meant for an iterable of arrays that JAX computes asynchronously: the device
    then computes the next array while the caller works on the present one.
    """
    items = iter(items)
    for waiting in items:
        for item in items:
            yield waiting
            waiting = item
        yield waiting
