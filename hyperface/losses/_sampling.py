"""Draws the classes that take part in a step of a class-wise loss (Partial FC)."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.losses import _checks
from hyperface.losses.shards import locate, num_shards
from hyperface.rules import AxisName, automatic, per_example, vary_alike
from hyperface.shapes import Labels


class Sample(NamedTuple):
    """The classes that take part in one step, as a list of places.

    A place is an index into this list. A loss is then computed over places instead of classes.
    There are `size` places per device: one for each class drawn at random, and one for the own
    class of each example.
    """

    rows: jax.Array
    """[size] int32 row of each place's class in this device's agents (class weights). No two places
    whose `present` is True have the same row."""
    present: jax.Array
    """[size] bool, False for a place that would repeat a class, or whose class is on another
    device."""
    labels: jax.Array
    """[batch] int32 place of each example's own class, counted over the places of all devices;
    -1 for a label out of range."""


def sample_classes(
    key: jax.Array,
    labels: Labels,
    num_classes: int,
    *,
    rate: float,
    axis_name: AxisName | None = None,
) -> Sample:
    """Draws the classes that take part in a step: Partial FC (An et al. 2021 and 2022).

    The classes of the batch always take part. In addition a share of all classes is drawn, the same
    number at every step. Losses, gradients and cost are those of a data set that has only these
    classes. The agents (class weights) of other classes are not read, and get no gradient.

    The sampling is stratified. The class ids are rotated by a random offset and divided into
    equal intervals, and one class is drawn from each interval. So every class is drawn with
    probability `rate`, and no sort of all classes is needed.

    Args:
      key: a random key, the same on every device.
      labels: [batch] integer class ids among the classes of all devices, the same on every device.
      num_classes: number of agents on this device.
      rate: share of the classes that are drawn at random, above 0 and up to 1.
      axis_name: the mapped axis over which the agents are split by rows; None if this device has
        all agents.

    Returns:
      A `Sample`. Pass `agents[sample.rows]`, `sample.labels` and `present=sample.present` to any
      class-wise loss, with the same `axis_name`.

    Raises:
      TypeError: labels are not integers.
      ValueError: labels are not a vector, rate is not in (0, 1], or a label is out of range
        (values that jit traces are not checked).

    Example:
      >>> import jax
      >>> from hyperface import losses
      >>> agents, labels = jax.random.normal(jax.random.key(0), (1000, 8)), jax.numpy.array([7, 7])
      >>> sample = losses.sample_classes(jax.random.key(1), labels, 1000, rate=0.1)
      >>> print(sample.rows.shape, sample.rows[sample.labels])
      (102,) [7 7]
      >>> features = agents[labels]
      >>> loss = losses.softmax(
      ...     features, agents[sample.rows], sample.labels, scale=9.0, present=sample.present
      ... )

    References:
      An et al., Partial FC: Training 10 Million Identities on a Single Machine, ICCVW 2021.
      An et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition
      CNNs by Partial FC, CVPR 2022.
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"expected a rate above 0 and up to 1, found {rate}")
    batch = np.size(labels)
    labels = _checks.class_labels(labels, batch, num_shards(axis_name) * num_classes)
    size = max(1, math.ceil(rate * num_classes))

    def split(first_axis: Any) -> Any:
        specs: list[Any] = [per_example(None), per_example(None), per_example(first_axis)]
        return Sample(*specs)

    return automatic(
        partial(_sample, size=size, num_classes=num_classes, axis_name=axis_name),
        key,
        labels,
        split=split,
        like=labels,
    )


def _sample(
    key: jax.Array,
    labels: jax.Array,
    *,
    size: int,
    num_classes: int,
    axis_name: AxisName | None,
) -> Sample:
    """Returns the sample of drawn classes and of the batch's own classes.

    Args:
      key: a random key, the same on every device.
      labels: [batch] checked labels, -1 for one out of range.
      size: number of classes to draw on this device.
      num_classes: number of agents on this device.
      axis_name: the mapped axis over which the agents are split, or None.
    """
    batch = labels.size
    shard = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    # All devices have the same key. Without the fold_in all would draw the same rows.
    drawn = _drawn(jax.random.fold_in(key, shard), num_classes, size)
    place = jnp.arange(batch, dtype=jnp.int32)
    # Examples of the same class use the place of the first of them.
    first = first_alike(labels)
    at = locate(labels, num_classes, axis_name)
    # Classes of other devices become `num_classes`, which is no row, so that they match no draw.
    ordered = jnp.sort(jnp.where(at.is_here, at.row, num_classes))
    rows = jnp.concatenate([drawn, at.row])
    # A drawn class that is also in the batch counts only at the place for the batch.
    present = jnp.concatenate([~_contains(ordered, drawn), at.is_here & (first == place)])
    # A label out of range stays out of range, so that its loss is NaN as in all losses.
    places = labels // num_classes * rows.size + drawn.size + first
    return Sample(rows, present, jnp.where(at.exists, places, -1))


def first_alike(labels: jax.Array) -> jax.Array:
    """Returns for each label [batch] the position of the first equal label."""
    if not labels.size:
        return jnp.zeros(0, jnp.int32)
    return jnp.argmax(labels[:, None] == labels[None, :], axis=1).astype(jnp.int32)


def _contains(ordered: jax.Array, values: jax.Array) -> jax.Array:
    """Returns whether each value is among ordered numbers; both are vectors of integers."""
    if not ordered.size:
        return jnp.zeros(values.shape, bool)
    # searchsorted is a scan, whose carry must keep its type, so both must vary over the same axes.
    ordered, values = vary_alike(ordered, values)
    # For a value above all others it returns the size, which is no valid index.
    nearest = ordered[jnp.minimum(jnp.searchsorted(ordered, values), ordered.size - 1)]
    return nearest == values


def _drawn(key: jax.Array, classes: int, count: int) -> jax.Array:
    """Returns `count` distinct random numbers from 0 to classes - 1, unsorted, [count] int32.

    Each number has the same probability.
    """
    offset_key, key = jax.random.split(key)
    # By NumPy in int64, because for many classes the product exceeds int32.
    edges = (np.arange(count + 1) * classes // count).astype(np.int32)
    inside = jax.random.randint(key, (count,), 0, np.diff(edges), jnp.int32)
    offset = jax.random.randint(offset_key, (), 0, classes, jnp.int32)
    return (jnp.asarray(edges[:-1]) + inside + offset) % classes
