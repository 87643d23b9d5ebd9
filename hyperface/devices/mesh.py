"""Meshes and shardings of the devices. No other package names devices."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hyperface.errors import InputError

# jaxlib has no type stubs, so a type checker takes jax.Device for a variable of unknown type.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]
"""One device of JAX: a GPU, a TPU core, or a CPU."""
AXIS = "batch"
"""Name of the mesh's only axis, along which batches and agents are split."""

_Tree = TypeVar("_Tree")


def check_devices(batch_size: int) -> None:
    """Checks that a batch can be split evenly over the devices of all processes.

    Raises:
      InputError: it cannot. The message gives both numbers and the nearest sizes that fit.
    """
    check_batch_size(batch_size, num_devices())


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Checks that a batch can be split evenly over a number of devices.

    Raises:
      InputError: it cannot. The message gives both numbers and the nearest sizes that fit.
    """
    if batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        fits = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise InputError(
            f"data.batch-size: expected a multiple of the {num_devices} devices, found "
            f"{batch_size}. Take {fits}."
        )


def num_devices() -> int:
    """Returns the number of devices of all processes, since all of them compute each step."""
    return jax.device_count()


def device_memory() -> int:
    """Returns the memory in bytes of one local device."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        # All devices store equal parts, so the smallest device is the limit.
        return min(found["bytes_limit"] for found in stats)
    # CPU devices report no memory. All simulated ones share the machine's.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(stats)


def check_classes(num_classes: int) -> None:
    """Checks that there is at least one class per device, for agents that are split by rows.

    Raises:
      InputError: there are fewer classes. The message gives both numbers.
    """
    if num_classes < num_devices():
        raise InputError(
            f"shard-agents: expected at least one class for each of the {num_devices()} devices, "
            f"found {num_classes}. Leave it out."
        )


def replicated(devices: Sequence[Device] | None = None) -> NamedSharding:
    """Returns the sharding that keeps a whole copy of the state on every device.

    `data_parallel_step` returns its state with this sharding. If the first state has it too, the
    step compiles only once.
    """
    return NamedSharding(make_mesh(devices), PartitionSpec())


def split_rows(array: np.ndarray, devices: Sequence[Device] | None = None) -> jax.Array:
    """Puts an array on the local devices, with its first axis split over them.

    A jitted function of the array then runs on all of these devices. Evaluation does so with images
    and with the blocks of a gallery. If the rows cannot be split evenly, every device gets all of
    them.
    """
    mesh = make_mesh(devices or jax.local_devices())
    # `device_put` refuses a sharding with uneven parts.
    split = PartitionSpec() if array.shape[0] % mesh.size else PartitionSpec(AXIS)
    return jax.device_put(array, NamedSharding(mesh, split))


def put_whole(tree: _Tree) -> _Tree:
    """Puts a whole copy of a tree on each local device, for use with arrays of `split_rows`."""
    return jax.device_put(tree, replicated(jax.local_devices()))


def make_mesh(devices: Sequence[Device] | None) -> jax.sharding.Mesh:
    """Returns a mesh of one axis over the devices, by default those of all processes."""
    devices = list(devices or jax.devices())
    # The default of `make_mesh` is explicit axes, with which every array has a sharding type.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def describe_devices() -> list[str]:
    """Returns a text for each local device, for example "cuda:0 (NVIDIA H100)"."""
    return [f"{device} ({device.device_kind})" for device in jax.local_devices()]


def counted(devices: Sequence[str]) -> list[str]:
    """Returns the number of devices of each kind, as texts.

    Args:
      devices: the texts of `describe_devices`.

    Example:
      >>> counted(["cuda:0 (NVIDIA H100)", "cuda:1 (NVIDIA H100)"])
      ['2 x NVIDIA H100']
    """
    kinds = Counter(name.partition("(")[2].rstrip(")") for name in devices)
    return [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
