"""Maps the training step onto devices: with a whole state on each, or with classes split."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hyperface.data.images import warn_of_range
from hyperface.devices import compiler
from hyperface.devices.mesh import (
    AXIS,
    Device,
    check_batch_size,
    make_mesh,
)
from hyperface.train.class_rows import has_class_rows
from hyperface.train.state import TrainState
from hyperface.train.step import Metrics, train_step


def data_parallel_step(
    devices: Sequence[Device] | None = None,
) -> Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, Metrics]]:
    """Returns `train_step`, mapped by `jax.pmap` over the first axis of the batch.

    The state has no device axis: it is passed and returned as one replicated value. Its buffers are
    donated, so a state must not be used after it was passed to the step.

    Args:
      devices: the devices to use; None takes all local devices.

    Returns:
      A function (state, batch of NumPy arrays) -> (state, metrics by name). Each device gets an
        equal, contiguous part of the batch. The function raises an InputError if the batch cannot
        be split evenly, and a ValueError if shapes differ from those of its first call.
    """
    devices = list(devices or jax.local_devices())
    mapped = jax.pmap(
        partial(train_step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        # None returns the first device's copy. All copies are equal, because the step itself adds
        # gradients and metrics over the axis.
        out_axes=(None, None),
        devices=devices,
        # Without donation the old and the new state would be in memory together.
        donate_argnums=(0,),
    )

    options = compiler.options(devices[0].platform)
    compiled: dict[Any, Callable] = {}

    def step(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, Metrics]:
        check_batch_size(len(batch["labels"]), len(devices))
        # Only for the first batch, because the check reads every pixel.
        if not compiled:
            warn_of_range(batch["images"])
        split = {name: x.reshape(len(devices), -1, *x.shape[1:]) for name, x in batch.items()}
        key = _signature((state, split))
        if key not in compiled:
            _refuse_another(compiled, key)
            # pmap accepts no compiler options, but the lowered program does.
            compiled[key] = mapped.lower(state, split).compile(options) if options else mapped
        return compiled[key](state, split)

    return step


def mesh_step(
    devices: Sequence[Device] | None = None, *, split_classes: bool
) -> Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, Metrics]]:
    """Returns `train_step`, mapped by `jax.shard_map` over the devices of all processes.

    If classes are split, each device computes the similarities of its own agents (class weights) to
    the features of the whole batch. An all-gather brings these features to every device, and a
    reduce-scatter returns the gradient of each feature to the device of its image. The state's
    buffers are donated, so a state must not be used after it was passed to the step.

    Args:
      devices: the devices to use; None takes all devices of all processes.
      split_classes: whether arrays with one row per class, such as agents (class weights), are
        split by rows over the devices. The state must have been built so, by `on_mesh`.

    Returns:
      A function (state from `on_mesh`, this process's share of the batch) -> (state, metrics by
      name). Each share is split evenly over the devices of its process; if this is not possible,
        the function raises an InputError. It raises a ValueError if shapes differ from those of its
        first call. Like a jitted function, it has the attribute `lower`.
    """
    mesh = make_mesh(devices)
    options = compiler.options(mesh.devices.flat[0].platform)

    # Donated for the reason that `data_parallel_step` gives.
    @partial(jax.jit, donate_argnums=0, compiler_options=options)
    def mapped(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        specs = _specs(state, split_classes)
        return jax.shard_map(
            partial(train_step, axis_name=AXIS, split_classes=split_classes),
            mesh=mesh,
            in_specs=(specs, PartitionSpec(AXIS)),
            out_specs=(specs, PartitionSpec()),
            # The step calls its collectives itself. With the check JAX would insert further sums.
            check_vma=False,
        )(state, batch)

    compiled: set[Any] = set()

    def step(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, Metrics]:
        check_batch_size(len(batch["labels"]), mesh.local_mesh.size)
        # Compared before the call, because jit would compile a second time without a message.
        key = _signature((state, batch))
        if key not in compiled:
            _refuse_another(compiled, key)
            warn_of_range(batch["images"])
            compiled.add(key)
        sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        whole = partial(jax.make_array_from_process_local_data, sharding)
        return mapped(state, jax.tree.map(whole, batch))

    step.lower = mapped.lower  # pyright: ignore[reportFunctionMemberAccess]  A function takes it.
    return step


def on_mesh(
    make: Callable[..., TrainState],
    *arguments: Any,
    split_classes: bool,
    devices: Sequence[Device] | None = None,
) -> TrainState:
    """Builds a state for `mesh_step` directly on the devices.

    If classes are split, no device ever has the rows of all classes. If the number of classes is
    not a multiple of the number of devices, padding rows fill the last devices: zeros, and NaN in
    `TrainState.distortion`. Padding rows have no effect.

    Args:
      make: function that builds a state; it is jitted here.
      *arguments: the arguments of `make`: arrays that are the same in every process.
      split_classes: whether arrays with one row per class are split by rows over the devices.
      devices: the devices to use; None takes all devices of all processes.
    """
    like = jax.eval_shape(make, *arguments)
    shapes = shapes_on_mesh(like, split_classes=split_classes, devices=devices)
    # The jitted function returns leaves and not a state. A state contains the optimiser, and
    # another call of `make` may return another optimiser object, which jit would take for another
    # structure.
    leaves, structure = jax.tree.flatten(shapes)
    made = jax.jit(
        lambda *found: jax.tree.leaves(_padded(make(*found), shapes.distortion.size)),
        out_shardings=[leaf.sharding for leaf in leaves],
    )
    return jax.tree.unflatten(structure, made(*arguments))


def shapes_on_mesh(
    state: TrainState, *, split_classes: bool, devices: Sequence[Device] | None = None
) -> TrainState:
    """Returns the shapes, dtypes and shardings of the state that `on_mesh` would build.

    Args:
      state: a state without padding, or its shapes.
      split_classes: whether arrays with one row per class are split by rows over the devices.
      devices: the devices to use; None takes all devices of all processes.
    """
    mesh, rows = make_mesh(devices), state.distortion.size
    if split_classes:
        # Every device must have the same number of rows.
        rows += -rows % mesh.size
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        jax.eval_shape(partial(_padded, rows=rows), state),
        _specs(state, split_classes),
    )


def whole_classes(state: TrainState) -> TrainState:
    """Returns the state without padding rows, so that it is the same for any number of devices.

    If there are no padding rows, the state is returned unchanged. Otherwise the arrays
    [classes, dim] of the result are split by columns (dim) over the devices, because the number of
    classes is not a multiple of the number of devices. Arrays [classes] are copied to every device.
    """
    num_classes = state.network.head.num_classes
    if state.distortion.size == num_classes:
        return state
    # `on_mesh` gave the state its sharding, over a mesh of devices.
    mesh = cast(jax.sharding.Mesh, cast(NamedSharding, state.distortion.sharding).mesh)

    def cut(leaf: jax.Array) -> jax.Array:
        whole = NamedSharding(mesh, PartitionSpec())
        sharding = _by_columns(mesh, leaf.shape[1]) if leaf.ndim > 1 else whole
        return jax.jit(lambda x: x[:num_classes], out_shardings=sharding)(leaf)

    return _with_rows(state, cut)


def with_padding_unseen(state: TrainState) -> TrainState:
    """Returns the state with NaN in the padding rows of `TrainState.distortion`.

    Padding rows follow the row of the last class. NaN marks a class that was in no batch yet, so
    the logged mean of `distortion` leaves out padding rows.
    """
    num_classes, sharding = state.network.head.num_classes, state.distortion.sharding
    # A restored array has zeros in its padding.
    unseen = jax.jit(lambda x: x.at[num_classes:].set(jnp.nan), out_shardings=sharding)
    return state.replace(distortion=unseen(state.distortion))


def _by_columns(mesh: jax.sharding.Mesh, columns: int) -> NamedSharding:
    """Returns a sharding that splits a matrix by columns over as many devices as possible.

    Args:
      mesh: the devices.
      columns: number of columns. It must be a multiple of the number of parts, so further devices
        get copies of the parts.
    """
    parts = math.gcd(columns, mesh.size)
    blocks = jax.sharding.Mesh(mesh.devices.reshape(parts, -1), (AXIS, "copies"))
    return NamedSharding(blocks, PartitionSpec(None, AXIS))


def _with_rows(state: TrainState, change: Callable[[jax.Array], jax.Array]) -> TrainState:
    """Returns the state with `change` applied to every array that has one row per class."""
    loss = state.network.head.loss
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(leaf) if has_class_rows(path, loss) else leaf, state
    )


def _specs(state: TrainState, split_classes: bool) -> Any:
    """Returns the partition of each array of a state, as a tree of the same structure.

    Arrays with one row per class are split by rows if `split_classes` is set. All other arrays are
    replicated.
    """
    loss = state.network.head.loss
    rows = PartitionSpec(AXIS) if split_classes else PartitionSpec()
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: rows if has_class_rows(path, loss) else PartitionSpec(), state
    )


def _padded(state: TrainState, rows: int) -> TrainState:
    """Returns the state with `rows` rows in each array that has one row per class."""
    missing = rows - state.distortion.size
    state = _with_rows(
        state, lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
    )
    # A distortion of zero would count as that of a class; NaN means a class not seen yet.
    unseen = state.distortion.at[rows - missing :].set(jnp.nan)
    return state.replace(distortion=unseen)


def _signature(arguments: Any) -> tuple[Any, ...]:
    """Returns a key for the structure, shapes and dtypes for which a step is compiled."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def _refuse_another(compiled: Collection[Any], key: Any) -> None:
    """Raises ValueError if a step was compiled before, for arguments of another signature.

    Each further compilation would take as long as the first.

    Args:
      compiled: the signatures for which the step was compiled.
      key: the signature of the new arguments.
    """
    for first in compiled:
        differing = [(a, b) for a, b in zip(first[1:], key[1:], strict=False) if a != b]
        before, now = differing[0] if differing else ("one structure", "another")
        raise ValueError(
            f"expected a step to be compiled once, for the shapes of its first batch, found {now} "
            f"in place of {before}. Make another step for another shape."
        )
