"""Features of a whole split, with the mirror image merged in."""

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
"""[batch, height, width, channels], on devices or still on the host."""
Mirror = Literal["none", "sum", "max", "concat"]
MIRROR_STEPS = {
    "none": "no mirror image",
    "sum": "features of image and mirror image merged by sum",
    "max": "features of image and mirror image merged by max",
    "concat": "features of image and mirror image concatenated",
}
"""What is printed of each merge."""
PIXEL_STEP = "(pixel - 127.5) / 128"
"""What a network is fed."""


class Devices:
    """What embeds a split together: here one device; `train.together.AllDevices` is all there are.

    Every process calls the same methods in the same order.
    """

    num_local: int = 1
    """Devices of this process: a batch is a multiple of them."""
    process: int = 0
    """Which one this is, of"""
    processes: int = 1

    def put(self, tree: Any) -> Any:
        """Returns the parameters, replicated on each device of this process."""
        # By way of the host, whatever sharding the parameters have.
        return jax.device_put(jax.device_get(tree))

    def split(self, images: np.ndarray) -> Images:
        """Returns a batch over the devices of this process."""
        return jnp.asarray(images)

    def gather(self, tree: Any) -> Any:
        """Returns the arrays of all processes on the host, joined in the order of the processes."""
        return jax.device_get(tree)

    def whole(self, tree: Any) -> Any:
        """Returns whole arrays on the host; they may be split over all devices."""
        return jax.device_get(tree)


ONE_DEVICE = Devices()


class Embeddings(NamedTuple):
    """Features of examples in stored order."""

    features: np.ndarray
    """[examples, dim] float32, mirror merged, un-normalised."""
    norms: np.ndarray
    """[examples] norm of the feature of the image itself."""
    labels: np.ndarray
    """[examples] int32."""


def embedder(
    apply: Callable[[Any, jax.Array], jax.Array], mirror: Mirror = "sum"
) -> Callable[[Any, Images], tuple[jax.Array, jax.Array]]:
    """Returns the function of `merged`, jitted with this library's compiler options."""
    return jax.jit(merged(apply, mirror), compiler_options=compiler.options())


def merged(
    apply: Callable[[Any, jax.Array], jax.Array], mirror: Mirror = "sum"
) -> Callable[[Any, Images], tuple[jax.Array, jax.Array]]:
    """Returns a function (parameters, images) -> (merged features, norms before the merge).

    Args:
      apply: (parameters, images [batch, height, width, channels]) -> features [batch, dim].
      mirror: "none"; "sum" of the features of image and mirror image (NormFace, 5.1); "max", the
        larger of both, element by element, as in NormFace's released network; or "concat",
        [batch, 2 dim].
    """

    def embed(params: Any, images: Any) -> tuple[jax.Array, jax.Array]:
        features = apply(params, images)
        # Before the merge, since the norms are those of the image itself.
        norms = l2_norm(features)
        if mirror == "none":
            return features, norms
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
    """Runs an `embedder` over padded batches and drops the padding.

    Every process comes to the same features: those that one process would make of all batches.

    Args:
      embed: the jitted function; every batch has one shape, so it compiles once.
      params: its parameters.
      batches: dicts of "images", "labels" and "mask", as `evaluation_batches` makes them; of
        several processes, each has its share.
      devices: what runs it.
    """
    parts, params = [], devices.put(params)
    for batch in batches:
        # The first batch only: the check reads every pixel.
        if not parts:
            warn_of_range(batch["images"])
        found = embed(params, devices.split(batch["images"]))
        *columns, mask = devices.gather((*found, batch["labels"], batch["mask"]))
        # The mask and not a count: several processes pad batches in the middle of the whole.
        parts.append([column[mask > 0] for column in columns])
    return Embeddings(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class AllDevices(Devices):
    """Each process embeds its share of the batches on all of its devices."""

    def __init__(self) -> None:
        self.num_local = jax.local_device_count()
        self.process, self.processes = jax.process_index(), jax.process_count()

    def put(self, tree: Any) -> Any:
        """Returns the parameters, replicated on each device of this process."""
        return mesh.put_whole(jax.device_get(tree))

    def split(self, images: np.ndarray) -> Images:
        """Returns a batch over the devices of this process."""
        return mesh.split_rows(images)

    def gather(self, tree: Any) -> Any:
        """Returns the arrays of all processes on the host, joined in the order of the processes."""
        # From the host: each process holds its own arrays, not shards of one.
        return multihost_utils.process_allgather(jax.device_get(tree), tiled=True)

    def whole(self, tree: Any) -> Any:
        """Returns whole arrays on the host; they may be split over all devices."""
        return multihost_utils.process_allgather(tree, tiled=True)
