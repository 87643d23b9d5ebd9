"""Shard arithmetic: agents that are split by rows over devices, and a batch that is split as well.

This is the only file of the losses that names a mapped axis. Device k of an axis holds the classes
[k n, (k + 1) n), where n is the number of rows on each device.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from hyperface.rules import AxisName, axes_of, equal_over, is_tracked, vary_over, varying_axes

Tree = TypeVar("Tree")


class Location(NamedTuple):
    """The positions of the agents of some class ids: on which device, and in which row."""

    row: jax.Array
    """Row on this device; 0 where the agent is on another device."""
    is_here: jax.Array
    """bool: the agent is on this device."""
    exists: jax.Array
    """bool: the class id is in [0, classes)."""


def num_shards(axis_name: AxisName | None) -> int:
    """Returns the number of devices over which the classes are split."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def first_class(num_rows: int, axis_name: AxisName | None) -> jax.Array | int:
    """Returns the class id of this device's first row."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_rows


def locate(labels: jax.Array, num_rows: int, axis_name: AxisName | None) -> Location:
    """Returns the positions of the agents of some class ids.

    Args:
      labels: integer class ids of any shape.
      num_rows: number of rows on each device.
      axis_name: mapped axis over which the classes are split; None for one device.
    """
    row = labels - first_class(num_rows, axis_name)
    is_here = (row >= 0) & (row < num_rows)
    exists = (labels >= 0) & (labels < num_rows * num_shards(axis_name))
    # Any row that exists will do for the others, which `is_here` masks; a negative one would wrap.
    return Location(jnp.where(is_here, row, 0), is_here, exists)


def this_device_part(whole_batch: Tree, axis_name: AxisName | None, batch: int) -> Tree:
    """Returns this device's `batch` examples from arrays with the examples of all devices."""
    if axis_name is None:
        return whole_batch
    first = jax.lax.axis_index(axis_name) * batch
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, batch), whole_batch)


class Shards(NamedTuple):
    """The static description of how a problem is split over devices."""

    axis_name: AxisName | None = None
    """Mapped axis over which the agents are split by rows; None on one device."""
    split_batch: bool = False
    """Features, labels and losses are this device's part of the batch, over the same axis."""
    sum_over: AxisName | None = None
    """Mapped axis, or axes, over which the batch is split while the agents are the same. Only an
    update of the agents needs it: elsewhere the caller adds up their gradient."""

    def cast(self, terms: Any, batch: Any, rows: Any) -> tuple[Any, Any, Any]:
        """Casts all arrays to types that vary over the mapped axes that the engine needs.

        If one array varies over another axis, such as the batch over the "data" axis of a mesh, all
        arrays are cast to vary over that axis. Over the axis of the classes the rows vary. If the
        batch is split over this axis, the batch and the terms vary over it too; otherwise they are
        the same on all of its devices.

        Args:
          terms: the hyper-parameters.
          batch: arrays with one row per example.
          rows: arrays with one row per class.
        """
        axes = varying_axes(terms, batch, rows)
        if self.axis_name is None:
            return vary_over(axes, (terms, batch, rows))
        # Under `jax.pmap` and check_vma=False a type names no axes, so there is nothing to cast.
        if not is_tracked(self.axis_name):
            return terms, batch, rows
        of_classes = axes_of(self.axis_name)
        rows = vary_over(axes | of_classes, rows)
        if self.split_batch:
            return *vary_over(axes | of_classes, (terms, batch)), rows
        terms, batch = equal_over(of_classes, (terms, batch))
        return *vary_over(axes - of_classes, (terms, batch)), rows

    def cast_updated(self, batch: Any, rows: Tree) -> Tree:
        """Casts agents to be updated, and their state, to types that vary over the classes' axis.

        They vary over this axis alone. `cast` would make them vary like the batch too. In the
        reverse pass JAX turns such a cast into a sum over the devices, which would add up the
        updated agents.

        Args:
          batch: arrays with one row per example.
          rows: arrays with one row per class.

        Raises:
          ValueError: the batch varies over an axis that `sum_over` does not name.
        """
        of_classes = axes_of(self.axis_name)
        missing = varying_axes(batch) - varying_axes(rows) - of_classes - axes_of(self.sum_over)
        if missing:
            raise ValueError(
                f"expected sum_over to name {sorted(missing)}, over which the batch varies and the "
                f"agents do not, found {self.sum_over!r}"
            )
        if self.axis_name is None or not is_tracked(self.axis_name):
            return rows
        return vary_over(of_classes, rows)

    def all_gather_batch(self, tree: Tree) -> Tree:
        """Returns the whole batch, gathered from all devices if the batch is split."""
        return jax.lax.all_gather(tree, self.axis_name, tiled=True) if self.split_batch else tree

    def reduce_over_axis(self, tree: Tree) -> Tree:
        """Returns the sum over the devices of arrays [batch, ...], which cover the whole batch.

        If the batch is split, each device gets the part of the sum that belongs to its own
        examples.
        """
        if self.axis_name is None:
            return tree
        if self.split_batch:
            # One collective adds and splits, so that no device receives the examples of the others.
            return jax.lax.psum_scatter(tree, self.axis_name, tiled=True)
        return jax.lax.psum(tree, self.axis_name)

    def sum_over_copies(self, tree: Tree) -> Tree:
        """Returns the sum over the devices that have the same agents and other examples."""
        return tree if self.sum_over is None else jax.lax.psum(tree, self.sum_over)

    def sum_over_batch(self, tree: Tree) -> Tree:
        """Returns the sum over all devices that have other examples."""
        tree = self.sum_over_copies(tree)
        return jax.lax.psum(tree, self.axis_name) if self.split_batch else tree

    def gather_examples(self, tree: Tree) -> Tree:
        """Returns arrays [batch, ...] of all devices that have the same agents, in their order."""
        if self.sum_over is None:
            return tree
        # The type must say that the result, and so the updated agents, are the same everywhere.
        to = "invarying" if is_tracked(self.sum_over) else "varying"
        return jax.lax.all_gather(tree, self.sum_over, tiled=True, to=to)

    def merge_shards(self, fold: Any, summary: Tree) -> Tree:
        """Returns the summary over all classes, from the summaries of the devices' own classes.

        The summaries cover the whole batch. If the batch is split, the result covers only this
        device's examples.
        """
        if self.axis_name is None:
            return summary
        devices = jax.lax.axis_size(self.axis_name)
        if self.split_batch:
            # Each device needs the summaries of its own examples; an all_gather would send all.
            each = jax.tree.map(
                lambda s: jax.lax.all_to_all(s, self.axis_name, 0, 0, tiled=True).reshape(
                    devices, -1, *s.shape[1:]
                ),
                summary,
            )
        else:
            # The type must say that the merged value, and so the loss, is the same everywhere.
            to = "invarying" if is_tracked(self.axis_name) else "varying"
            each = jax.lax.all_gather(summary, self.axis_name, to=to)
        merged = jax.tree.map(lambda s: s[0], each)
        # In order of device on every device, so that all of them round alike.
        for device in range(1, devices):
            merged = fold.merge(merged, jax.tree.map(lambda s, d=device: s[d], each))
        return merged
