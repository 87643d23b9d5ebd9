"""The devices of this machine and of all processes; the only package that names them."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hyperface.errors import InputError

# jaxlib ships no stubs, so a type checker takes jax.Device for a variable and knows nothing of it.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]
"""One device of JAX: a GPU, a TPU core, or a CPU."""
AXIS = "batch"
"""Name of the mesh's only axis, along which batches and agents are split."""

_Tree = TypeVar("_Tree")


def check_devices(batch_size: int) -> None:
    """Refuses a batch that the devices of all processes cannot split evenly.

    Raises:
      InputError: naming both numbers and the nearest sizes that fit.
    """
    check_batch_size(batch_size, num_devices())


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


def num_devices() -> int:
    """Returns the number of devices of all processes, which take part in a step."""
    return jax.device_count()


def device_memory() -> int:
    """Returns the bytes of one local device; simulated CPU devices share the machine's."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        # The smallest device decides, since all hold equal parts.
        return min(found["bytes_limit"] for found in stats)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(stats)


def check_classes(num_classes: int) -> None:
    """Refuses to split fewer classes than there are devices.

    Raises:
      InputError: naming both numbers.
    """
    if num_classes < num_devices():
        raise InputError(
            f"shard-agents: expected at least one class for each of the {num_devices()} devices, "
            f"found {num_classes}. Leave it out."
        )


def replicated(devices: Sequence[Device] | None = None) -> NamedSharding:
    """Returns the sharding of the state that `data_parallel_step` returns: whole on every device.

    A state that starts with it lets the step compile once.
    """
    return NamedSharding(make_mesh(devices), PartitionSpec())


def split_rows(array: np.ndarray, devices: Sequence[Device] | None = None) -> jax.Array:
    """Puts an array on the local devices, its first axis split over them.

    A jitted function of it then runs on all of them: what evaluation does with images, and with the
    blocks of a gallery. Where the rows cannot be split evenly, every device takes all.
    """
    mesh = make_mesh(devices or jax.local_devices())
    # A sharding needs even parts.
    split = PartitionSpec() if array.shape[0] % mesh.size else PartitionSpec(AXIS)
    return jax.device_put(array, NamedSharding(mesh, split))


def put_whole(tree: _Tree) -> _Tree:
    """Puts a tree whole on each local device, beside what `split_rows` puts there."""
    return jax.device_put(tree, replicated(jax.local_devices()))


def make_mesh(devices: Sequence[Device] | None) -> jax.sharding.Mesh:
    """Returns the mesh of these devices, by default of all devices of all processes."""
    devices = list(devices or jax.devices())
    # Automatic axes by name: the default of `make_mesh` is explicit ones.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def describe_devices() -> list[str]:
    """Returns the devices that `data_parallel_step` uses by default, in words."""
    return [f"{device} ({device.device_kind})" for device in jax.local_devices()]


def counted(devices: Sequence[str]) -> list[str]:
    """Returns how many there are of each kind.

    Args:
      devices: as `describe_devices` names them.

    Example:
      >>> counted(["cuda:0 (NVIDIA H100)", "cuda:1 (NVIDIA H100)"])
      ['2 x NVIDIA H100']
    """
    kinds = Counter(name.partition("(")[2].rstrip(")") for name in devices)
    return [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
