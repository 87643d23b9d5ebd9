"""All devices of all processes, to embed a split together."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hyperface.evaluate.embed import Devices
from hyperface.train import parallel


class AllDevices(Devices):
    """Each process embeds its share of the batches on all of its devices."""

    def __init__(self) -> None:
        self.num_local = jax.local_device_count()
        self.process, self.processes = jax.process_index(), jax.process_count()

    def put(self, tree: Any) -> Any:
        """Parameters, whole on each device of this process."""
        return parallel.put_whole(jax.device_get(tree))

    def split(self, images: np.ndarray) -> jax.Array:
        """A batch over the devices of this process."""
        return parallel.split_rows(images)

    def gather(self, tree: Any) -> Any:
        """Arrays of each process, one after the other in the order of processes, on the host."""
        return multihost_utils.process_allgather(jax.device_get(tree), tiled=True)

    def whole(self, tree: Any) -> Any:
        """Arrays that may be split over all devices, on the host."""
        return multihost_utils.process_allgather(tree, tiled=True)
