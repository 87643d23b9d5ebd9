"""Computes the features of all images of a split, merged with those of the mirror images."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from hyperface.data.images import warn_of_range
from hyperface.devices import compiler, mesh
from hyperface.normalize import l2_norm

Images = jax.Array | np.ndarray
"""Images [batch, height, width, channels], on devices or on the host."""
Mirror = Literal["none", "sum", "max", "concat"]
"""How the features of an image and of its mirror image are merged."""
MIRROR_STEPS = {
    "none": "no mirror image",
    "sum": "features of image and mirror image merged by sum",
    "max": "features of image and mirror image merged by max",
    "concat": "features of image and mirror image concatenated",
}
"""Way to merge features -> the words for it in the text of a report that describes the
computation."""
PIXEL_STEP = "(pixel - 127.5) / 128"
"""Words, in the text of a report that describes the computation, for the pixel values of a
network."""


class Devices:
    """The devices that compute a split's features, and how data is moved to and from them.

    This class uses one device: the default device of a single process. Its subclass `AllDevices`
    uses all devices of all processes. Then all processes must call the same methods in the same
    order.
    """

    num_local: int = 1
    """Number of devices of this process. The caller makes the batch size a multiple of it, so that
    a batch can be divided evenly."""
    process: int = 0
    """Number of this process, from 0."""
    processes: int = 1
    """Number of processes."""

    def put(self, tree: Any) -> Any:
        """Returns a pytree of parameters on the default device."""
        # Through the host, since the parameters may have any sharding.
        return jax.device_put(jax.device_get(tree))

    def split(self, images: np.ndarray) -> Images:
        """Returns a batch of images [batch, height, width, channels] on the device.

        `AllDevices` divides the batch among its devices instead.
        """
        return jnp.asarray(images)

    def gather(self, tree: Any) -> Any:
        """Returns a pytree of arrays as NumPy arrays."""
        return jax.device_get(tree)

    def whole(self, tree: Any) -> Any:
        """Returns a pytree of whole NumPy arrays, even if the given arrays are sharded."""
        return jax.device_get(tree)


ONE_DEVICE = Devices()


class Embeddings(NamedTuple):
    """The features of a split, in the order in which its examples are stored."""

    features: np.ndarray
    """[examples, dim] float32. Each feature is merged with that of the mirror image (unless the
    merge is "none"), and is not normalised. "concat" doubles dim."""
    norms: np.ndarray
    """[examples] norm of the feature of the image itself, before the merge."""
    labels: np.ndarray
    """[examples] int32 class ids."""


def embedder(
    apply: Callable[[Any, jax.Array], jax.Array], mirror: Mirror = "sum"
) -> Callable[[Any, Images], tuple[jax.Array, jax.Array]]:
    """Returns a jitted function (parameters, images) -> (features, norms) for `embed_split`.

    The returned function is that of `merged`, compiled with this library's compiler options.

    Args:
      apply: function (parameters, images [batch, height, width, channels]) -> features
        [batch, dim].
      mirror: how the features of an image and of its mirror image are merged: "none" (no mirror
        image), "sum", "max" (element-wise) or "concat".
    """
    return jax.jit(merged(apply, mirror), compiler_options=compiler.options())


def merged(
    apply: Callable[[Any, jax.Array], jax.Array], mirror: Mirror = "sum"
) -> Callable[[Any, Images], tuple[jax.Array, jax.Array]]:
    """Returns a function that computes features of images, merged with those of mirror images.

    Args:
      apply: function (parameters, images [batch, height, width, channels]) -> features
        [batch, dim].
      mirror: one of:

        - "none": no mirror image
        - "sum": the sum of both features (NormFace, section 5.1)
        - "max": the element-wise maximum, as in the network that the NormFace authors published
        - "concat": both features one behind the other, [batch, 2 dim]

    Returns:
      A function (parameters, images) -> (merged features, norms [batch] before the merge).
    """

    def embed(params: Any, images: Any) -> tuple[jax.Array, jax.Array]:
        features = apply(params, images)
        # Before the merge: the norm of a sum of two features would say little about the image.
        norms = l2_norm(features)
        if mirror == "none":
            return features, norms
        # The third axis is the width, so this swaps left and right.
        mirrored = apply(params, images[:, :, ::-1])
        if mirror == "sum":
            return features + mirrored, norms
        if mirror == "max":
            return jnp.maximum(features, mirrored), norms
        return jnp.concatenate([features, mirrored], axis=1), norms

    return embed


def embed_split(
    embed: Callable[[Any, Images], tuple[jax.Array, jax.Array]],
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    devices: Devices = ONE_DEVICE,
) -> Embeddings:
    """Computes the features of all examples of a split; rows that only pad a batch are left out.

    With several processes, each process calls this function with its own share of each batch. Every
    process gets the features of all examples, in the order that a single process would return.

    Args:
      embed: function (parameters, images) -> (features [batch, dim], norms [batch]), as `embedder`
        returns it. All batches should have one shape, so that it compiles only once.
      params: the parameters of the network.
      batches: dictionaries, as `evaluation_batches` yields them, of "images" [batch, height, width,
        channels], "labels" [batch] and "mask" [batch], which is 1 for an example and 0 for padding.
      devices: the devices that embed the batches.
    """
    parts, params = [], devices.put(params)
    for batch in batches:
        # Only the first batch is checked, because the check reads every pixel.
        if not parts:
            warn_of_range(batch["images"])
        found = embed(params, devices.split(batch["images"]))
        *columns, mask = devices.gather((*found, batch["labels"], batch["mask"]))
        # Rows are selected by the mask and not cut off at the end: the joined batch of several
        # processes has the padding of each process in the middle.
        parts.append([column[mask > 0] for column in columns])
    return Embeddings(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class AllDevices(Devices):
    """All devices of all processes. Each process computes the features of its share of a batch."""

    def __init__(self) -> None:
        self.num_local = jax.local_device_count()
        self.process, self.processes = jax.process_index(), jax.process_count()

    def put(self, tree: Any) -> Any:
        """Returns a pytree of parameters, replicated on each device of this process."""
        return mesh.put_whole(jax.device_get(tree))

    def split(self, images: np.ndarray) -> Images:
        """Returns a batch of images whose rows are divided among the devices of this process.

        If the number of rows is not a multiple of the number of devices, nothing is divided: each
        device gets the whole batch. This is correct, but not faster than one device.
        """
        return mesh.split_rows(images)

    def gather(self, tree: Any) -> Any:
        """Returns NumPy arrays with the rows of all processes, in the order of the processes.

        Args:
          tree: pytree of arrays that belong to this process alone. Each process has other rows.
            `whole` is for arrays that are one global array of all processes.
        """
        # Each process has arrays of its own here, where `whole` gets shards of one array.
        return multihost_utils.process_allgather(jax.device_get(tree), tiled=True)

    def whole(self, tree: Any) -> Any:
        """Returns a pytree of whole NumPy arrays.

        Args:
          tree: pytree of global arrays, which may be sharded over the devices of all processes.
            `gather` is for arrays of which each process has its own.
        """
        return multihost_utils.process_allgather(tree, tiled=True)
