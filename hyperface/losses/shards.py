"""Computes with agents (class weights) that are split by rows over devices, and with split batches.

All collective operations of the engine are in this file. Device k of an axis has the classes
[k n, (k + 1) n), where n is the number of rows on each device.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from hyperface.rules import AxisName, axes_of, equal_over, is_tracked, vary_over, varying_axes

Tree = TypeVar("Tree")


class Location(NamedTuple):
    """Where the agents (class weights) of some class ids are, as seen from this device.

    All fields have the shape of the class ids.
    """

    row: jax.Array
    """Row on this device; 0 if the agent is on another device, or if there is no such class."""
    is_here: jax.Array
    """bool, whether the agent is on this device."""
    exists: jax.Array
    """bool, whether the class id is in [0, classes), the classes of all devices."""


def num_shards(axis_name: AxisName | None) -> int:
    """Returns the number of devices of a mapped axis, over which classes are split; 1 for None."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def first_row(num_rows: int, axis_name: AxisName | None) -> jax.Array | int:
    """Returns the index, in the whole array, of the first row that this device has.

    The array is split by rows over devices, such as the agents (class weights).

    Args:
      num_rows: number of rows on each device.
      axis_name: mapped axis over which the rows are split; None for one device gives 0.
    """
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_rows


def locate(labels: jax.Array, num_rows: int, axis_name: AxisName | None) -> Location:
    """Returns where the agents (class weights) of some class ids are, as seen from this device.

    Args:
      labels: integer class ids of any shape, among the classes of all devices.
      num_rows: number of agents on each device.
      axis_name: mapped axis over which the classes are split; None for one device.

    Returns:
      Three arrays in the shape of `labels`:

      - `row`: row of the agent on this device; 0 if it is on another device or does not exist
      - `is_here`: bool, whether the agent is on this device
      - `exists`: bool, whether the id is that of a class of any device; False if it is out of range
    """
    row = labels - first_row(num_rows, axis_name)
    is_here = (row >= 0) & (row < num_rows)
    exists = (labels >= 0) & (labels < num_rows * num_shards(axis_name))
    # For agents on other devices any valid row will do, because callers mask it by `is_here`. A
    # negative row would read from the end.
    return Location(jnp.where(is_here, row, 0), is_here, exists)


def this_device_part(tree: Tree, axis_name: AxisName | None, batch: int) -> Tree:
    """Returns this device's examples from arrays with the examples of all devices.

    Args:
      tree: arrays with one row per example of all devices.
      axis_name: mapped axis over which the batch is split; None returns the arrays unchanged.
      batch: number of examples per device.
    """
    if axis_name is None:
        return tree
    first = first_row(batch, axis_name)
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, batch), tree)


def whole_batch(tree: Tree, axis_name: AxisName | None) -> Tree:
    """Returns arrays [batch, ...] with the examples of all devices of a mapped axis.

    Args:
      tree: arrays with this device's examples.
      axis_name: the mapped axis over which the batch is split; None returns the arrays unchanged.
    """
    if axis_name is None:
        return tree
    return jax.lax.all_gather(tree, axis_name, tiled=True)


class Shards(NamedTuple):
    """Describes how agents (class weights) and batch are split over devices."""

    axis_name: AxisName | None = None
    """Mapped axis over which the agents are split by rows; None on one device."""
    split_batch: bool = False
    """Whether features, labels and losses are this device's part of a batch that is split over the
    same axis."""
    sum_over: AxisName | None = None
    """Mapped axis, or axes, over which the batch is split, but not the agents. It is set only if
    the backward scan updates the agents. Otherwise, it is None, and the caller adds the agents'
    gradients over these axes."""

    def cast(self, terms: Any, batch: Any, rows: Any) -> tuple[Any, Any, Any]:
        """Casts arrays to the types of `jax.shard_map` that the class-wise losses need.

        In `jax.shard_map` the type of an array names the axes over which it varies, which means
        that its values may differ between the devices of the axis. If an array varies over another
        axis than that of the classes (`axis_name`), such as the batch over the "data" axis of a
        mesh, all arrays are cast to vary over that axis. `rows` always vary over `axis_name`. With
        `split_batch` the terms and the batch vary over `axis_name` too, and otherwise they are the
        same on all devices of this axis.

        Args:
          terms: the hyper-parameters of the losses.
          batch: arrays with one row per example, such as features.
          rows: arrays with one row per class, such as agents.

        Returns:
          (terms, batch, rows) with the new types.
        """
        axes = varying_axes(terms, batch, rows)
        if self.axis_name is None:
            return vary_over(axes, (terms, batch, rows))
        # Under `jax.pmap`, and with check_vma=False, types name no axes: there is nothing to cast.
        if not is_tracked(self.axis_name):
            return terms, batch, rows
        of_classes = axes_of(self.axis_name)
        rows = vary_over(axes | of_classes, rows)
        if self.split_batch:
            return *vary_over(axes | of_classes, (terms, batch)), rows
        terms, batch = equal_over(of_classes, (terms, batch))
        return *vary_over(axes - of_classes, (terms, batch)), rows

    def cast_updated(self, batch: Any, rows: Tree) -> Tree:
        """Casts agents to be updated, or their state, to types of `jax.shard_map`.

        The types say that the values vary over `axis_name` only. `cast` would make them vary over
        the axes of the batch too. In the reverse pass JAX turns a cast to such an axis into a sum
        over the axis's devices, which would add up the updated agents of these devices.

        Args:
          batch: arrays with one row per example, which show the axes over which the batch varies.
          rows: the agents or their optimiser state, which are returned with the new types.

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
        """Returns arrays [batch, ...] with the examples of all devices along `axis_name`.

        The examples are gathered from the devices if `split_batch` is set. Otherwise, each device
        has all examples already, and the arrays are returned unchanged.
        """
        return jax.lax.all_gather(tree, self.axis_name, tiled=True) if self.split_batch else tree

    def reduce_over_axis(self, tree: Tree) -> Tree:
        """Returns the sum of arrays [batch, ...] over the devices along `axis_name`.

        On each device the arrays have one row per example of the whole batch. If `split_batch` is
        set, a device gets only the rows of the sum for its own examples, and otherwise all rows. If
        `axis_name` is None, the arrays are returned unchanged.
        """
        if self.axis_name is None:
            return tree
        if self.split_batch:
            # One collective adds and splits, so that no device receives the examples of the others.
            return jax.lax.psum_scatter(tree, self.axis_name, tiled=True)
        return jax.lax.psum(tree, self.axis_name)

    def sum_over_copies(self, tree: Tree) -> Tree:
        """Returns the sum of each array over the devices along the axes `sum_over`.

        These devices have copies of the same agents, but different parts of the batch. So the sum
        of their gradients of the agents is that of the whole batch. If `sum_over` is None, the
        arrays are returned unchanged.
        """
        return tree if self.sum_over is None else jax.lax.psum(tree, self.sum_over)

    def sum_over_batch(self, tree: Tree) -> Tree:
        """Returns the sum of each array over the devices along all axes that split the batch.

        These axes are `sum_over`, and `axis_name` if `split_batch` is set. Without such an axis,
        the arrays are returned unchanged.
        """
        tree = self.sum_over_copies(tree)
        return jax.lax.psum(tree, self.axis_name) if self.split_batch else tree

    def gather_examples(self, tree: Tree) -> Tree:
        """Returns arrays [batch, ...] with the examples of all devices of the axes `sum_over`.

        The examples are in the order of the devices. If `sum_over` is None, the arrays are
        unchanged.
        """
        if self.sum_over is None:
            return tree
        # The type must say that the result, and so the updated agents, are the same everywhere.
        to = "invarying" if is_tracked(self.sum_over) else "varying"
        return jax.lax.all_gather(tree, self.sum_over, tiled=True, to=to)

    def merge_shards(self, fold: Any, summary: Tree) -> Tree:
        """Returns the summary over all classes, from the summaries of the devices' own classes.

        Args:
          fold: the reduction over classes that the summaries belong to; its `merge` joins two.
          summary: this device's summary, arrays [batch, ...] for the whole batch.

        Returns:
          The merged summary. If the batch is split, it covers only this device's examples.
        """
        if self.axis_name is None:
            return summary
        devices = jax.lax.axis_size(self.axis_name)
        if self.split_batch:
            # Each device needs only the summaries of its own examples from all other devices; an
            # all_gather would send those of all examples.
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
        # In the same order on every device, so that all devices get equally rounded results.
        for device in range(1, devices):
            merged = fold.merge(merged, jax.tree.map(lambda s, d=device: s[d], each))
        return merged
