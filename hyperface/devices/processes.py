"""The processes that train together: how they join, wait, exchange values and end."""

import itertools
import json
import os
import sys
import time
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from hyperface.devices.launchers import Cluster

PATIENCE = 7 * 24 * 3600
"""Seconds that processes wait for the one that prepares or scores; the loss of a process is noticed
sooner."""
GRACE = 1.0
"""Seconds that other processes have to report an error before process 0 ends them."""

_meetings = itertools.count()
_Json = TypeVar("_Json")
_joined: Cluster | None = None
"""The cluster that this process is one of."""


class AgreedStop(Exception):
    """An exception that all processes raise at the same step, so that each can end in order."""


def initialize(cluster: Cluster | None) -> None:
    """Joins the cluster's processes, before anything else of jax is used; nothing for None."""
    global _joined
    if cluster is None:
        return
    _joined = cluster
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        local_device_ids=cluster.devices,
        # Under SLURM and Open MPI jax would take one GPU per process, and leave others idle.
        cluster_detection_method="deactivate",
        # The others wait at their end for process 0, which may score for hours.
        shutdown_timeout_seconds=PATIENCE,
    )


def exit_now(status: int) -> NoReturn:
    """Ends this process at once; the other processes notice that it is gone, and end too.

    An orderly end would wait for them, and they would wait for this one at their next collective.
    """
    if _joined is not None and _joined.process == 0:
        # Process 0 holds the coordinator: without it the others end before they report.
        time.sleep(GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, whose exit handlers would wait for the other processes.
    os._exit(status)


def is_joined() -> bool:
    """Returns whether this process joined others; it may be asked before jax has devices."""
    return _joined is not None and _joined.processes > 1


def is_multiprocess() -> bool:
    """Returns whether several processes train together."""
    return jax.process_count() > 1


def process_slice() -> dict[str, int]:
    """Returns the keywords of `training_batches` that say which slice of a batch we read."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def is_writer() -> bool:
    """Returns whether this process writes logs and reports: one of all does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point of this name.

    They meet at the coordinator: a collective of the devices has its own, shorter patience.
    """
    if not is_multiprocess():
        return
    # Orbax has the public barrier at jax's coordinator; jax itself shows only one of the devices.
    from orbax.checkpoint import multihost

    # Numbered, since the key of a barrier must be a new one each time.
    key = f"hyperface/{next(_meetings)}/{name}"
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=PATIENCE * 1000)


def allgather(name: str, value: _Json) -> list[_Json]:
    """Returns the value that each process brought to the point of this name, in order of process.

    Waits for all processes. Values travel as JSON.
    """
    if not is_multiprocess():
        return [value]
    # The long wait is here: the collectives below have a shorter patience.
    wait_for_all(name)
    # As bytes, since only arrays travel.
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Every process must bring an array of one shape, so the lengths are told first.
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    # A power of two, so that values of many lengths need few compiled programs.
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, lengths, strict=True)]


def broadcast_from_writer(name: str, value: _Json) -> _Json:
    """Returns the value that the writing process brought to this point; waits for all."""
    return allgather(name, value)[0]
