"""Argument checks shared by the losses; each says what was expected and what was found."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperface.normalize import at_least_float32


def float_matrix(name: str, x: ArrayLike, axes: str) -> jax.Array:
    """A real floating-point [rows, columns] array in at least float32."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected floating-point {name}, found dtype {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"expected {name} [{axes}], found shape {x.shape}")
    return at_least_float32(x)


def same_dim(name: str, features: jax.Array, rows: jax.Array) -> None:
    """Features [batch, dim] and rows [classes, dim] of one dim."""
    if features.shape[1] != rows.shape[1]:
        raise ValueError(
            f"expected features [batch, dim] and {name} [classes, dim] of one dim, "
            f"found {features.shape} and {rows.shape}"
        )


def scalar(name: str, x: ArrayLike) -> jax.Array:
    """A scalar in at least float32; integers are accepted."""
    x = jnp.asarray(x)
    if x.ndim != 0:
        raise ValueError(f"expected scalar {name}, found shape {x.shape}")
    return at_least_float32(x)


def integers(name: str, x: ArrayLike) -> jax.Array:
    """An array of integers."""
    x = x if isinstance(x, jax.Array) else jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"expected integer {name}, found dtype {x.dtype}")
    return x


def class_labels(labels: ArrayLike, batch: int, num_classes: int) -> jax.Array:
    """int32 labels [batch]; known values outside the class range are refused at once."""
    labels = one_each("labels", integers("labels", labels), batch, "a feature")
    if not isinstance(labels, jax.core.Tracer):
        values = np.asarray(labels)
        wrong = values[(values < 0) | (values >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"expected labels in [0, {num_classes}), one row of agents each, found {wrong[0]}"
            )
    return labels.astype(jnp.int32)  # A shorter type could not hold every class id.


def one_of(name: str, found: str, known: Sequence[str]) -> None:
    """A word of a closed list."""
    if found not in known:
        raise ValueError(f"expected {name} in {tuple(known)}, found {found!r}")


def one_each(name: str, x: jax.Array, count: int, of: str) -> jax.Array:
    """An array [count]."""
    if x.shape != (count,):
        raise ValueError(f"expected {name} [{count}], one {of}, found shape {x.shape}")
    return x


def flags(name: str, x: ArrayLike, count: int, of: str) -> jax.Array:
    """A bool array [count]."""
    x = jnp.asarray(x)
    if x.dtype != jnp.bool_:
        raise TypeError(f"expected {name} of dtype bool, found {x.dtype}")
    return one_each(name, x, count, of)


def number(name: str, x: ArrayLike, least: float, most: float) -> ArrayLike:
    """A scalar; a known one outside [least, most] is refused at once."""
    if isinstance(x, int | float) and not least <= x <= most:
        raise ValueError(f"expected {name} in [{least:g}, {most:g}], found {x}")
    return x if isinstance(x, int | float) else scalar(name, x)
