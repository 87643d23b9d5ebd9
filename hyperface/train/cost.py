"""Estimates the memory and the traffic of a run per device, before anything is compiled.

The estimates follow from the shapes of the run's arrays. "Agents" are the rows of a classification
matrix, one per class.
"""

from typing import Any, NamedTuple

import jax

from hyperface.errors import InputError
from hyperface.losses.block_sizes import block_bytes, one_block_bytes
from hyperface.train import in_sweep
from hyperface.train.class_rows import has_class_rows
from hyperface.train.optim import stop_frozen_gradients
from hyperface.train.state import TrainState, takes_batch

LIVE_BLOCKS = 3
"""Number of arrays [batch, classes of a block] that a scan over blocks of classes has in memory:
similarities, exponentials and slopes."""


BLOCKS_OF_ROWS = 3
"""Number of arrays [classes of a block, dim] that a scan has in memory if it updates the agents:
agents, momentum and gradient."""


class Sizes(NamedTuple):
    """Sizes of a run, in bytes if no other unit is named."""

    num_classes: int
    """Number of people in the training split."""
    batch_size: int
    """Number of images per step, over all devices."""
    class_params: int
    """Size of the parameters of one class: agents, biases and centers."""
    class_state: int
    """Size of the other state of one class: optimiser state, moving average, and its entry of
    `TrainState.distortion`."""
    other_state: int
    """Size of all state that does not grow with the classes: the backbone, its optimiser state and
    moving averages."""
    other_params: int
    """Size of the parameters that do not grow with the classes, which their gradient has too."""
    activations: int
    """Size of the activations of one image that are stored for the backward pass."""
    sample_rate: float = 1.0
    """Share of the classes that take part in a step, above 0 and up to 1."""
    memory_budget: int = 0
    """Largest size of the similarities [batch, classes] that the loss stores for its backward
    pass."""
    agents_in_sweep: int = 0
    """The part of `class_params` that is updated inside of the backward scan, the loop over blocks
    of classes that computes the gradient. This part's gradient is never stored as a whole. 0 if the
    optimiser updates all parameters after the scan."""


class Memory(NamedTuple):
    """The memory that a training step needs on one device, by part, in bytes."""

    agents: int
    """Parameters with one row per class: agents (class weights), biases and centers."""
    agent_state: int
    """Optimiser state and moving average of these parameters, and `TrainState.distortion`."""
    gradients: int
    """Gradients of all parameters."""
    backbone: int
    """All state that does not grow with the classes."""
    activations: int
    """Activations of this device's images."""
    similarities: int
    """Arrays [batch, classes] of the loss, or blocks of them."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name.replace('_', ' ')} {_mebibytes(size)}"
            for name, size in zip(self._fields, self, strict=True)
        )
        return f"about {_mebibytes(self.total)} a device: {parts}"


def memory_estimate(sizes: Sizes, num_devices: int, *, shard_agents: bool) -> Memory:
    """Estimates the memory of a training step on each device.

    The estimate is rough: in the tested runs, the memory that XLA takes is at most 1.3 times larger
    or smaller (`tests/test_memory.py`).

    Args:
      sizes: the sizes of the run.
      num_devices: number of devices that train together.
      shard_agents: whether agents (class weights) are split over the devices. Each device then
        gets the features of the whole batch.

    Example:
      >>> run = Sizes(10**7, 1024, 2048, 2052, 200 * 2**20, 100 * 2**20, 25 * 2**20)
      >>> print(memory_estimate(run, 8, shard_agents=True).agents / 2**20)
      2441.40625
    """
    # Rounded up, because padding gives every device the same number of rows.
    rows = -(-sizes.num_classes // num_devices) if shard_agents else sizes.num_classes
    images = -(-sizes.batch_size // num_devices)
    agents = rows * sizes.class_params
    # The backward scan consumes the gradient of the agents that it updates, block by block.
    with_gradient = rows * (sizes.class_params - sizes.agents_in_sweep)
    similarities = 4 * rows * (sizes.batch_size if shard_agents else images)
    if similarities > max(sizes.memory_budget, one_block_bytes()):
        # Too many to be stored: the scan has one block of them at a time, and computes each block
        # again in the backward pass.
        similarities = min(similarities, block_bytes())
    # One block of rows, of their momentum and of their gradient.
    swept = rows * sizes.agents_in_sweep
    if swept > one_block_bytes():
        swept = block_bytes()
    return Memory(
        agents=agents,
        agent_state=rows * sizes.class_state,
        # Rows that are not sampled have no gradient.
        gradients=round(with_gradient * sizes.sample_rate)
        + BLOCKS_OF_ROWS * swept
        + sizes.other_params,
        backbone=sizes.other_state,
        activations=images * sizes.activations,
        similarities=LIVE_BLOCKS * similarities,
    )


def devices_that_do(sizes: Sizes, limit: int) -> int | None:
    """Returns the smallest number of devices whose memory is enough to train with split agents.

    With split agents (class weights) each device has only a part of the rows. A number of devices
    is possible if it divides the batch size and is at most the number of classes. The result is
    None if no possible number is enough.

    Args:
      sizes: the sizes of the run.
      limit: memory of one device in bytes.
    """
    for devices in range(1, sizes.batch_size + 1):
        # A run refuses both, so such a number would be bad advice.
        if sizes.batch_size % devices or devices > sizes.num_classes:
            continue
        if memory_estimate(sizes, devices, shard_agents=True).total <= limit:
            return devices
    return None


def check_memory(sizes: Sizes, num_devices: int, limit: int, *, shard_agents: bool) -> Memory:
    """Raises an error if a run does not fit into the memory of a device.

    Args:
      sizes: the sizes of the run.
      num_devices: number of devices that train together.
      limit: memory of one device in bytes.
      shard_agents: whether agents (class weights) are split over the devices.

    Returns:
      The estimate.

    Raises:
      InputError: the run does not fit. The message states the parts of the memory. It also states
        the number of devices that would be enough with split agents, if there is one.
    """
    found = memory_estimate(sizes, num_devices, shard_agents=shard_agents)
    if found.total <= limit:
        return found
    enough = devices_that_do(sizes, limit)
    if enough is None:
        advice = f"No number of devices that splits {sizes.batch_size} images does: take fewer."
    elif shard_agents:
        advice = f"{enough} devices would do."
    else:
        advice = f"--shard-agents on {enough} devices would do."
    raise InputError(
        f"expected a run that fits into {_mebibytes(limit)} a device, found {sizes.num_classes:,} "
        f"classes on {num_devices}, which need {found}. {advice}"
    )


def run_sizes(state: TrainState, batch_size: int, image_shape: tuple[int, ...]) -> Sizes:
    """Returns the sizes of a run from the shapes of its state; nothing is computed.

    Args:
      state: the state of the run, or its shapes.
      batch_size: number of images per step, over all devices.
      image_shape: (height, width, channels) of an image.
    """
    head, loss = state.network.head, state.network.head.loss
    params, of_classes = _bytes(state.params, loss)
    whole, all_of_classes = _bytes(state, loss)
    return Sizes(
        num_classes=head.num_classes,
        batch_size=batch_size,
        class_params=of_classes // head.num_classes,
        class_state=(all_of_classes - of_classes) // head.num_classes,
        other_state=whole,
        other_params=params,
        activations=_activation_bytes(state, image_shape),
        sample_rate=loss.sample_rate,
        memory_budget=loss.memory_budget * 2**20,
        agents_in_sweep=_swept_bytes(state) // head.num_classes,
    )


def _bytes(tree: Any, loss: Any) -> tuple[int, int]:
    """Returns (others, per class): the bytes of leaves without and with one row per class."""
    sizes = [0, 0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sizes[has_class_rows(path, loss)] += leaf.size * leaf.dtype.itemsize
    return sizes[0], sizes[1]


def _swept_bytes(state: TrainState) -> int:
    """Returns the bytes of the agents that the backward scan updates."""
    _, agents = in_sweep.take(state, state.params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in agents.values())


def _activation_bytes(state: TrainState, image_shape: tuple[int, ...]) -> int:
    """Returns the bytes of activations that the backward pass of the backbone needs per image.

    Args:
      state: the state of the run, or its shapes.
      image_shape: (height, width, channels) of an image.
    """
    backbone = state.network.backbone
    mode: dict[str, Any] = {"train": True} if takes_batch(backbone) else {}
    variables = {
        name: tree["backbone"] for name, tree in state.variables.items() if "backbone" in tree
    }

    def kept(variables: dict[str, Any], images: jax.Array) -> Any:
        def features(params: Any) -> Any:
            # Nothing is stored for frozen layers at the start of the network.
            tree = stop_frozen_gradients({"backbone": params}, state.network.frozen)
            return backbone.apply(
                variables | {"params": tree["backbone"]}, images, **mode, mutable=["batch_stats"]
            )[0]

        return jax.vjp(features, variables["params"])[1]

    def size(images: int) -> int:
        shape = jax.ShapeDtypeStruct((images, *image_shape), "float32")
        residuals = jax.tree.leaves(jax.eval_shape(kept, variables, shape))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)

    # Two images less one: the difference leaves out residuals that do not grow with the batch, such
    # as the kernels.
    return size(2) - size(1)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


class Traffic(NamedTuple):
    """The bytes that one device sends in a step, by kind. The device receives as many bytes."""

    backbone: int
    """For the sum over devices of the gradients of the backbone."""
    agents: int
    """For the sum over devices of the gradients of the agents (class weights); 0 if each device has
    only a part of the agents (split agents)."""
    features: int
    """For gathering the features, for fetching the agents of the examples' own classes, and for
    returning the gradient of the features; 0 if agents are not split."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self)


def traffic(
    sizes: Sizes, feature_dim: int, num_devices: int, *, shard_agents: bool, terms: int = 1
) -> Traffic:
    """Estimates the bytes that each device sends in a step.

    The devices are assumed to form a ring, along which collectives send their data.

    For an array of s bytes, a device sends s (n-1)/n bytes in an all-gather or a reduce-scatter,
    and twice as many in an all-reduce. The estimate leaves out a few numbers per example, such as
    metrics.

    Args:
      sizes: the sizes of the run.
      feature_dim: number of values of a feature, which is sent in float32.
      num_devices: n, the number of devices.
      shard_agents: whether agents (class weights) are split over the devices.
      terms: number of terms of the loss that have agents; terms that share their agents count once.

    Example:
      >>> run = Sizes(10**7, 1024, 2048, 2052, 200 * 2**20, 100 * 2**20, 25 * 2**20)
      >>> split = traffic(run, 512, 8, shard_agents=True)
      >>> whole = traffic(run, 512, 8, shard_agents=False)
      >>> print(split.features / 2**20, whole.agents / 2**20)
      5.25 34179.6875
    """

    def sent(size: float) -> int:
        return round(size * (num_devices - 1) / num_devices)

    features = 4 * sizes.batch_size * feature_dim
    agents = sizes.num_classes * sizes.class_params * sizes.sample_rate
    return Traffic(
        backbone=2 * sent(sizes.other_params),
        agents=0 if shard_agents else 2 * sent(agents),
        features=(2 + terms) * sent(features) if shard_agents else 0,
    )
