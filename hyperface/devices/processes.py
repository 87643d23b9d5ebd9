"""Lets the processes that train together join, wait for each other, exchange values and end."""

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
"""Number of seconds that processes wait for the process that prepares data or scores. JAX's
heartbeat notices a process that is lost sooner."""
GRACE = 1.0
"""Number of seconds that process 0 waits before it ends, so that others can report their error."""

_meetings = itertools.count()
_Json = TypeVar("_Json")
_joined: Cluster | None = None
"""The cluster that this process has joined; None before and without a cluster."""


class AgreedStop(Exception):
    """Base class of exceptions that all processes raise at the same step.

    If only one process raised an exception and ended, the others would wait for it. Since all
    processes raise this exception at the same step, each of them can end in the normal way.
    """


def initialize(cluster: Cluster | None) -> None:
    """Connects this process with the other processes of a cluster; does nothing for None.

    Call it before any other use of JAX, which would start the devices of this process alone.
    """
    global _joined
    if cluster is None:
        return
    _joined = cluster
    # JAX's default today. It is set here because CPU devices of several processes depend on it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        local_device_ids=cluster.devices,
        # Under SLURM and Open MPI JAX's own detection takes one GPU per process and leaves the
        # others idle.
        cluster_detection_method="deactivate",
        # At their end the other processes wait for process 0, which may score for hours.
        shutdown_timeout_seconds=PATIENCE,
    )


def exit_now(status: int) -> NoReturn:
    """Ends this process at once with an exit status, without Python's normal shutdown.

    It is for an error in only one of several processes. The others notice that this process is
    gone, and end too. A normal shutdown would wait for the other processes, which wait for this
    process at their next collective operation: a deadlock.
    """
    if _joined is not None and _joined.process == 0:
        # Process 0 runs the coordinator. When it is gone, JAX ends the other processes at once.
        time.sleep(GRACE)
    # os._exit does not flush the buffers of Python's streams.
    sys.stdout.flush()
    sys.stderr.flush()
    # The exit handlers of sys.exit would wait for the other processes.
    os._exit(status)


def is_joined() -> bool:
    """Returns whether `initialize` connected this process with other processes.

    Unlike `is_multiprocess`, this function does not start JAX's devices.
    """
    return _joined is not None and _joined.processes > 1


def is_multiprocess() -> bool:
    """Returns whether several processes train together."""
    return jax.process_count() > 1


def process_slice() -> dict[str, int]:
    """Returns {"process": number of this process from 0, "processes": number of all processes}.

    If several processes train together, each of them reads an equal slice of every batch. The
    functions that read batches, such as `training_batches`, take these two values as arguments.
    """
    return {"process": jax.process_index(), "processes": jax.process_count()}


def is_writer() -> bool:
    """Returns whether this process is the one that writes logs and reports: process 0."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has called this function with the same name.

    If there is only one process, the function returns at once. Several processes wait at JAX's
    coordinator and not in a collective operation of the devices, whose timeout may be shorter than
    the time that another process needs, for example for scoring.

    Args:
      name: name of the barrier; it must be the same in all processes.
    """
    if not is_multiprocess():
        return
    # JAX has a public barrier of the devices only. Orbax has one at JAX's coordinator.
    from orbax.checkpoint import multihost

    # The coordinator accepts each key only once, so the keys are numbered.
    key = f"hyperface/{next(_meetings)}/{name}"
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=PATIENCE * 1000)


def allgather(name: str, value: _Json) -> list[_Json]:
    """Waits for all processes, and returns the value of each, in order of process.

    If there is only one process, the result is a list of its value.

    Args:
      name: name of the exchange, for error messages and to tell exchanges apart; it must be the
        same in all processes.
      value: this process's value, which JSON can represent.
    """
    if not is_multiprocess():
        return [value]
    # A process may be hours late, and the collectives below have a shorter timeout.
    wait_for_all(name)
    # Collectives exchange arrays only, so the value's JSON becomes an array of bytes.
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # All processes must give arrays of the same shape, so the lengths are exchanged first.
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    # Padded to a power of two, because each new length compiles another program.
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, lengths, strict=True)]


def broadcast_from_writer(name: str, value: _Json) -> _Json:
    """Waits for all processes, and returns the value of the writing process (process 0).

    Args:
      name: name of the exchange, for error messages and to tell exchanges apart; it must be the
        same in all processes.
      value: this process's value, which JSON can represent. The values of other processes than the
        writing one are not used.
    """
    return allgather(name, value)[0]
