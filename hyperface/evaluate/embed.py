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
    """The devices that compute features of images, and how data is moved to and from them.

    This class uses one device: the default device of a single process. Its subclass `AllDevices`
    uses all devices of all processes; with `AllDevices`, all processes must call the same methods
    in the same order.
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
        """Returns a pytree of arrays as NumPy arrays of the same shapes.

        `AllDevices` gathers the rows of all processes instead.
        """
        return jax.device_get(tree)

    def whole(self, tree: Any) -> Any:
        """Returns a pytree of arrays as NumPy arrays of the same shapes, even if they are sharded.

        In this class, `whole` and `gather` do the same. They differ in `AllDevices`.
        """
        return jax.device_get(tree)


ONE_DEVICE = Devices()


class Embeddings(NamedTuple):
    """The features of a split of a data set (such as "test"), in the stored order of examples."""

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

    It takes images [batch, height, width, channels]. The features [batch, dim] are merged with
    those of the mirror images. The norms [batch] are those of the features before the merge.

    Args:
      apply: function (parameters, images [batch, height, width, channels]) -> features
        [batch, dim].
      mirror: how the features of an image and of its mirror image are merged: "none" (no mirror
        image), "sum", "max" (element-wise) or "concat", which doubles dim.
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
      A function (parameters, images) -> (features, norms). `features` are the merged features
      [batch, dim], or [batch, 2 dim] for "concat". `norms` [batch] are the norms of the features of
      the images themselves, before the merge.
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
    """Computes the features of all examples of a split of a data set, such as its test split.

    Rows that only pad a batch are left out. With several processes, each process calls this
    function with its own rows of each batch. Every process gets the features of all examples, in
    the order that a single process would return.

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
        """Returns a pytree of parameters, with a copy of each array on each local device."""
        return mesh.put_whole(jax.device_get(tree))

    def split(self, images: np.ndarray) -> Images:
        """Returns images [batch, height, width, channels], divided among this process's devices.

        Each device gets equally many images. If the batch size is not a multiple of the number of
        devices, each device gets the whole batch. The results are then correct too, but take as
        long as on one device.
        """
        return mesh.split_rows(images)

    def gather(self, tree: Any) -> Any:
        """Returns a pytree of NumPy arrays that contain the rows of all processes.

        The rows are joined along the first axis, in the order of the processes.

        Args:
          tree: pytree of arrays [rows, ...] of this process alone; each process has other rows. For
            global arrays, which are sharded over the devices of all processes, use `whole`.
        """
        # Each process has arrays of its own here, where `whole` gets shards of one array.
        return multihost_utils.process_allgather(jax.device_get(tree), tiled=True)

    def whole(self, tree: Any) -> Any:
        """Returns a pytree of global arrays as NumPy arrays of the same shapes, in each process.

        Args:
          tree: pytree of global arrays, which may be sharded over the devices of all processes. If
            each process has arrays of its own instead, use `gather`.
        """
        return multihost_utils.process_allgather(tree, tiled=True)
