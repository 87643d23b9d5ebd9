"""Checks the arguments of the losses. Each error says what was expected and what was found.

Values are checked before JAX converts them to 32 bits, because NumPy arrays may have 64 bits.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from hyperface.normalize import at_least_float32


def float_matrix(name: str, x: ArrayLike, axes: str) -> jax.Array:
    """Returns a floating-point matrix in at least float32.

    Args:
      name: name of the argument, for messages.
      x: the argument.
      axes: names of its two axes, such as "batch, dim", for messages.

    Raises:
      TypeError: x is not floating point.
      ValueError: x does not have two axes.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected floating-point {name}, found dtype {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"expected {name} [{axes}], found shape {x.shape}")
    return at_least_float32(x)


def matrices(name: str, features: ArrayLike, rows: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns (features, rows) in the wider of both dtypes, after a check of their shapes.

    Both must be matrices with the same dim.

    Args:
      name: name of the rows, for messages.
      features: [batch, dim].
      rows: [classes, dim].

    Raises:
      TypeError: an array is not floating point.
      ValueError: an array is not a matrix, or the dims differ.
    """
    features = float_matrix("features", features, "batch, dim")
    rows = float_matrix(name, rows, "classes, dim")
    if features.shape[1] != rows.shape[1]:
        raise ValueError(
            f"expected features [batch, dim] and {name} [classes, dim] of one dim, "
            f"found {features.shape} and {rows.shape}"
        )
    # One dtype for both, so that the engine's sums and cotangents have one as well.
    dtype = jnp.promote_types(features.dtype, rows.dtype)
    return features.astype(dtype), rows.astype(dtype)


def scalar(name: str, x: ArrayLike) -> jax.Array:
    """Returns x as a scalar in at least float32; integers are accepted.

    Raises:
      ValueError: x is not a scalar. The message contains `name`.
    """
    x = jnp.asarray(x)
    if x.ndim != 0:
        raise ValueError(f"expected scalar {name}, found shape {x.shape}")
    return at_least_float32(x)


def known(x: ArrayLike) -> np.ndarray | None:
    """Returns the values of x as a NumPy array of its dtype; None if x is traced, as under jit."""
    # The value of a tracer is unknown until the compiled program runs.
    return None if isinstance(x, Tracer) else np.asarray(x)


def integers(name: str, x: ArrayLike) -> np.ndarray | jax.Array:
    """Returns x as an array, after a check that it contains integers; else TypeError.

    The integers may have any width. `name` is for the message.
    """
    # A NumPy array stays one: JAX would cut int64 to int32 before the values are checked.
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    # NumPy makes an empty list floating-point.
    if x.size and not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"expected integer {name}, found dtype {x.dtype}")
    return x


def class_labels(labels: ArrayLike, batch: int, num_classes: int) -> jax.Array:
    """Returns the labels [batch] as int32, after a check that they are in [0, num_classes).

    Under jit the values are unknown, so they are not checked. A label out of range is then returned
    as it is, or as -1 if its dtype is uint32 or has 64 bits.

    Raises:
      TypeError: labels are not integers.
      ValueError: labels are not [batch], or a concrete label is out of range.
    """
    array = one_each("labels", integers("labels", labels), batch, "per feature")
    values = known(array)
    if values is not None:
        wrong = values[(values < 0) | (values >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"expected labels in [0, {num_classes}), one row of agents each, found {wrong[0]}"
            )
    # int32 for all: a shorter type may not hold every class id, and a cut longer one could become a
    # valid id of another class.
    if not isinstance(array, jax.Array):
        return jnp.asarray(array.astype(np.int32))
    if values is not None or (array.dtype.itemsize <= 4 and array.dtype != jnp.uint32):
        return array.astype(jnp.int32)
    return jnp.where((array >= 0) & (array < num_classes), array, -1).astype(jnp.int32)


def group_ids(labels: ArrayLike, batch: int) -> jax.Array:
    """Returns integer labels [batch] that are equal exactly where the given labels are equal.

    The given labels may be integers of any width and value. Labels of NumPy are renumbered from 0,
    so that they fit into int32; a JAX array is returned as it is.

    Raises:
      TypeError: labels are not integers.
      ValueError: labels are not [batch].
    """
    array = one_each("labels", integers("labels", labels), batch, "per feature")
    if isinstance(array, jax.Array):
        return array
    # Each id is replaced by its position among the sorted ids, which fits into int32.
    return jnp.asarray(np.unique(array, return_inverse=True)[1].reshape(array.shape), jnp.int32)


def one_of(name: str, found: str, allowed: Sequence[str]) -> None:
    """Raises ValueError if the text `found` is not one of `allowed`; `name` is for the message."""
    if found not in allowed:
        raise ValueError(f"expected {name} in {tuple(allowed)}, found {found!r}")


def one_each(name: str, x: Any, count: int, each: str) -> Any:
    """Returns x, after a check that its shape is [count]; else ValueError.

    Args:
      name: name of the argument, for messages.
      x: an array.
      count: the expected length.
      each: text for messages, which says per what there is one value, such as "per feature".
    """
    if x.shape != (count,):
        raise ValueError(f"expected {name} [{count}], one {each}, found shape {x.shape}")
    return x


def flags(name: str, x: ArrayLike, count: int, each: str) -> jax.Array:
    """Returns x as an array, after a check that it is bool [count]; else TypeError or ValueError.

    Args:
      name: name of the argument, for messages.
      x: the argument.
      count: the expected length.
      each: text for messages, which says per what there is one value, such as "per feature".
    """
    x = jnp.asarray(x)
    if x.dtype != jnp.bool_:
        raise TypeError(f"expected {name} of dtype bool, found {x.dtype}")
    return one_each(name, x, count, each)


def number(name: str, x: ArrayLike, least: float, most: float) -> ArrayLike:
    """Returns a scalar hyper-parameter, as a Python number if it is not a JAX array.

    A JAX array, concrete or traced, is returned as a JAX array, because a caller may differentiate
    by it.

    Args:
      name: name of the argument, for messages.
      x: the argument.
      least: smallest allowed value.
      most: largest allowed value.

    Raises:
      ValueError: x is not a scalar, or its value is concrete (not traced by jit) and out of range.
    """
    value = known(x)
    if value is not None:
        if value.ndim != 0:
            raise ValueError(f"expected scalar {name}, found shape {value.shape}")
        if not least <= value <= most:
            raise ValueError(f"expected {name} in [{least:g}, {most:g}], found {value}")
        if not isinstance(x, jax.Array):
            return value.item()
    return scalar(name, x)


def no_more_keywords(function: str, unknown: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raises TypeError if a public function was called with unknown keywords.

    Args:
      function: name of the function.
      unknown: the keywords that it does not know, with their values; {} raises nothing.
      allowed: the keywords that all class-wise losses accept, for the message.
    """
    for keyword in unknown:
        raise TypeError(
            f"{function}() got an unexpected keyword argument {keyword!r}; beside its own it takes "
            f"{', '.join(allowed)}"
        )
