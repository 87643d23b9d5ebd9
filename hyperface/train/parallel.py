"""The mapping of the step onto devices; the only module that names them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hyperface import compiler
from hyperface.data.images import warn_of_range
from hyperface.errors import InputError
from hyperface.train.state import TrainState
from hyperface.train.step import Metrics, train_step

AXIS = "batch"


def check_devices(batch_size: int) -> None:
    """Refuses a batch that the local devices cannot split evenly, and several processes.

    Raises:
      InputError: naming both numbers and the nearest sizes that fit.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"expected one process, found {jax.process_count()}: this step is mapped over the "
            "devices of one host."
        )
    check_batch_size(batch_size, jax.local_device_count())


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Refuses a batch that cannot be split evenly.

    Raises:
      InputError: naming both numbers and the nearest sizes that fit.
    """
    if batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        fits = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise InputError(
            f"data.batch-size: expected a multiple of the {num_devices} devices, found "
            f"{batch_size}. Take {fits}."
        )


def replicated(devices: Sequence[jax.Device] | None = None) -> NamedSharding:
    """The sharding of the state that `data_parallel_step` returns: whole on every device.

    A state that starts with it lets the step compile once.
    """
    return NamedSharding(_mesh(devices), PartitionSpec())


def split_rows(array: np.ndarray, devices: Sequence[jax.Device] | None = None) -> jax.Array:
    """Puts an array on the local devices, its first axis split over them.

    A jitted function of it then runs on all of them: what evaluation does with images, and with the
    blocks of a gallery. Where the rows cannot be split evenly, every device takes all.
    """
    mesh = _mesh(devices)
    split = PartitionSpec() if array.shape[0] % mesh.size else PartitionSpec(AXIS)
    return jax.device_put(array, NamedSharding(mesh, split))


def _mesh(devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    devices = list(devices or jax.local_devices())
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def data_parallel_step(
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, Metrics]]:
    """`train_step` over the batch's first axis on all local devices, by `jax.pmap`.

    The state stays un-stacked: it goes in and comes out as one replicated value, and its buffers
    are donated.

    Args:
      devices: the devices to use; all local ones by default.

    Returns:
      (state, host batch) -> (state, metrics). The batch is split evenly in order.
    """
    devices = list(devices or jax.local_devices())
    mapped = jax.pmap(
        partial(train_step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=devices,
        donate_argnums=(0,),
    )

    options = compiler.options(devices[0].platform)
    compiled: dict[Any, Callable] = {}

    def step(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, Metrics]:
        check_batch_size(len(batch["labels"]), len(devices))
        if not compiled:
            warn_of_range(batch["images"])
        split = {name: x.reshape(len(devices), -1, *x.shape[1:]) for name, x in batch.items()}
        key = _signature((state, split))
        if key not in compiled:
            # pmap takes no compiler options itself; what it lowers to does.
            compiled[key] = mapped.lower(state, split).compile(options) if options else mapped
        return compiled[key](state, split)

    return step


def _signature(arguments: Any) -> tuple[Any, ...]:
    """What a compiled step is good for: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def describe_devices() -> list[str]:
    """The devices that `data_parallel_step` uses by default, in words."""
    return [str(device) for device in jax.local_devices()]
