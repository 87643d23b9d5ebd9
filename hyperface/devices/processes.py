"""The processes that train together: how they join, wait, exchange values and end."""

import itertools
import json
import os
import sys
import time
from typing import NoReturn, Protocol, TypeVar

import jax
from jax._src.distributed import global_state  # jax.distributed shows neither client nor barrier.

from hyperface.devices.launchers import Cluster

PATIENCE = 7 * 24 * 3600
"""Seconds that processes wait for the one that prepares or scores; a lost one is missed sooner."""
GRACE = 1.0
"""Seconds in which the others can say what befell them all, before the coordinator takes them
with it."""

_meetings = itertools.count()
_Json = TypeVar("_Json")


class _Coordinator(Protocol):
    """The methods of jaxlib's client that are used here; jaxlib itself ships no stubs."""

    def key_value_set(self, key: str, value: str) -> None: ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...


class AgreedStop(Exception):
    """An end to which all processes come at the same step, in good order."""


def initialize(cluster: Cluster | None) -> None:
    """Joins the cluster's processes, before anything else of jax is used; nothing for None."""
    if cluster is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        local_device_ids=cluster.devices,
        # Of SLURM and Open MPI jax would take one GPU a process, and leave a node's others idle.
        cluster_detection_method="deactivate",
        # The others wait at their end for process 0, which may score for hours.
        shutdown_timeout_seconds=PATIENCE,
    )


def exit_now(status: int) -> NoReturn:
    """Ends this process at once; the other processes notice that it is gone, and end too.

    An orderly end would wait for them, and they would wait for this one at their next collective.
    """
    if global_state.process_id == 0:
        time.sleep(GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_joined() -> bool:
    """Whether this process is one of several, asked before anything else of jax is used."""
    return global_state.num_processes > 1


def is_multiprocess() -> bool:
    """Says whether several processes train together."""
    return jax.process_count() > 1


def process_slice() -> dict[str, int]:
    """Returns the keywords of `training_batches` that say which slice of a batch we read."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def is_writer() -> bool:
    """Whether this process writes logs and reports: one of all does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point of this name.

    They meet at the coordinator: a collective of the devices has its own, shorter patience.
    """
    if is_multiprocess():
        _meet(f"hyperface/{next(_meetings)}/{name}")


def allgather(name: str, value: _Json) -> list[_Json]:
    """Returns the value that each process brought to the point of this name, in order of process.

    Waits for all processes. Values travel as JSON.
    """
    if not is_multiprocess():
        return [value]
    key = f"hyperface/{next(_meetings)}/{name}"
    client = _client()
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    _meet(key)
    return [
        json.loads(client.blocking_key_value_get(f"{key}/{process}", 60_000))
        for process in range(jax.process_count())
    ]


def broadcast_from_writer(name: str, value: _Json) -> _Json:
    """Returns the value that the writing process brought to this point; waits for all."""
    return allgather(name, value)[0]


def _meet(key: str) -> None:
    _client().wait_at_barrier(key, PATIENCE * 1000)


def _client() -> _Coordinator:
    """Returns the connection to the coordinator, which every one of several processes has."""
    client = global_state.client
    if client is None:
        raise RuntimeError("expected a call of `initialize` before processes meet, found none")
    return client
