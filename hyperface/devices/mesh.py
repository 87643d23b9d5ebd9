"""Meshes and shardings of JAX's devices, and checks of a run against their number and memory."""

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
"""Name of the mesh's only axis, along which batches and rows per class are split."""

_Tree = TypeVar("_Tree")


def check_devices(batch_size: int) -> None:
    """Checks that a batch can be split evenly over the devices of all processes.

    Args:
      batch_size: number of images per step, over all processes.

    Raises:
      InputError: the batch size is no multiple of the number of devices.
    """
    check_batch_size(batch_size, num_devices())


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Checks that a batch can be split evenly over a number of devices.

    Args:
      batch_size: number of images.
      num_devices: number of devices.

    Raises:
      InputError: the batch cannot be split evenly. The message states both numbers, and the nearest
        batch sizes that can be split.
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
    """Returns the memory in bytes of one local device, the smallest if they differ.

    CPU devices do not report their memory. For them the result is the machine's memory divided by
    the number of local devices.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        # All devices store equal parts, so the smallest device is the limit.
        return min(found["bytes_limit"] for found in stats)
    # CPU devices report no memory. All simulated ones share the machine's.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(stats)


def check_classes(num_classes: int) -> None:
    """Checks that there is at least one class per device, to split the agents over the devices.

    Agents are the rows of a classification matrix, one per class.

    Args:
      num_classes: number of classes.

    Raises:
      InputError: there are fewer classes than devices. The message states both numbers.
    """
    if num_classes < num_devices():
        raise InputError(
            f"shard-agents: expected at least one class for each of the {num_devices()} devices, "
            f"found {num_classes}. Leave it out."
        )


def replicated(devices: Sequence[Device] | None = None) -> NamedSharding:
    """Returns the sharding of arrays of which every device has a whole copy.

    The jitted training step returns parameters with this sharding. If the parameters before the
    first step have it too, the step compiles only once.

    Args:
      devices: the devices; None takes those of all processes.
    """
    return NamedSharding(make_mesh(devices), PartitionSpec())


def split_rows(array: np.ndarray, devices: Sequence[Device] | None = None) -> jax.Array:
    """Returns an array that lies on the local devices, with its first axis split over them.

    A jitted function of the array then runs on all of these devices. Evaluation does so with images
    and with blocks of features. If the rows cannot be split evenly, every device gets all of them.

    Args:
      array: [rows, ...].
      devices: the devices; None takes those of this process.
    """
    mesh = make_mesh(devices or jax.local_devices())
    # `device_put` refuses a sharding with uneven parts.
    split = PartitionSpec() if array.shape[0] % mesh.size else PartitionSpec(AXIS)
    return jax.device_put(array, NamedSharding(mesh, split))


def put_whole(tree: _Tree) -> _Tree:
    """Returns a tree of arrays with a whole copy of each array on every local device.

    A jitted function may use such arrays (for example a network's parameters) together with arrays
    from `split_rows` (for example images), and then runs on all local devices.
    """
    return jax.device_put(tree, replicated(jax.local_devices()))


def make_mesh(devices: Sequence[Device] | None) -> jax.sharding.Mesh:
    """Returns a mesh with one axis, named "batch", over the devices.

    Args:
      devices: the devices; None takes those of all processes.
    """
    devices = list(devices or jax.devices())
    # By default `make_mesh` makes the axes explicit: the type of each array then includes a
    # sharding.
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
