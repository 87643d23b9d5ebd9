"""Which processes train together, read from options or from what launched them."""

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src.distributed import global_state  # jax.distributed shows neither client nor barrier.

from hyperface.errors import InputError

PORT = 12721
PATIENCE = 7 * 24 * 3600
"""Seconds that processes wait for the one that prepares or scores; a lost one is missed sooner."""
GRACE = 1.0
"""Seconds in which the others can say what befell them all, before the coordinator takes them
with it."""

_meetings = itertools.count()


class AgreedStop(Exception):
    """An end to which all processes come at the same step, in good order."""


class Cluster(NamedTuple):
    """The processes of a run, and which one this is."""

    coordinator: str
    """host:port of process 0."""
    processes: int
    process: int
    devices: tuple[int, ...] | None = None
    """Numbers of its GPUs, where others of the same machine have the rest; None for all."""


def cluster_of(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Cluster | None:
    """The cluster that the options name, else the one that the launcher has set.

    SLURM (`srun`), Open MPI (`mpirun`) and Kubernetes (JobSet) are known by their variables. Under
    Open MPI HYPERFACE_COORDINATOR, and in a JobSet JOBSET_NAME, REPLICATED_JOB_NAME and
    HYPERFACE_PROCESSES, must be set beside their own, as `launch/` shows.

    Args:
      environment: the process's variables.
      coordinator: host:port of process 0.
      processes: of the run.
      process: which one this is.

    Returns:
      None where the run has one process.

    Raises:
      InputError: something is missing, no number, or out of range.

    Example:
      >>> slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4"}
      >>> cluster_of(slurm | {"SLURM_PROCID": "2"})
      Cluster(coordinator='n1:12728', processes=4, process=2, devices=None)
    """
    options = (coordinator, processes, process)
    if any(value is not None for value in options):
        if None in options:
            raise InputError(
                "expected --coordinator, --processes and --process together, found "
                f"{coordinator}, {processes} and {process}."
            )
        return _checked(Cluster(*options))
    for variable, found in (
        ("SLURM_STEP_NODELIST", _slurm),  # Of srun: a batch script alone has one process.
        ("OMPI_COMM_WORLD_RANK", _open_mpi),
        ("JOB_COMPLETION_INDEX", _job_set),
    ):
        if variable in environment:
            return _checked(found(environment))
    return None


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


def abandon(status: int) -> NoReturn:
    """Ends this process at once, alone: the others miss it, and end too.

    An orderly end would wait for them, and they, at their next collective, for this one.
    """
    if global_state.process_id == 0:
        time.sleep(GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_joined() -> bool:
    """Whether this process is one of several, asked before anything else of jax is used."""
    return global_state.num_processes > 1


def are_several() -> bool:
    """Whether other processes take part."""
    return jax.process_count() > 1


def share() -> dict[str, int]:
    """Which share of each batch this process reads: keywords of `training_batches`."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def is_writer() -> bool:
    """Whether this process writes logs and reports: one of all does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point of this name.

    They meet at the coordinator: a collective of the devices has its own, shorter patience.
    """
    if are_several():
        _meet(f"hyperface/{next(_meetings)}/{name}")


def told_by_all(name: str, value: Any) -> list[Any]:
    """What each process has come to the point of this name with, JSON, in order; waits for all."""
    if not are_several():
        return [value]
    key = f"hyperface/{next(_meetings)}/{name}"
    global_state.client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    _meet(key)
    return [
        json.loads(global_state.client.blocking_key_value_get(f"{key}/{process}", 60_000))
        for process in range(jax.process_count())
    ]


def told_by_writer(name: str, value: Any) -> Any:
    """What the process that writes has come to the point of this name with; waits for all."""
    return told_by_all(name, value)[0]


def _meet(key: str) -> None:
    global_state.client.wait_at_barrier(key, PATIENCE * 1000)


def _slurm(environment: Mapping[str, str]) -> Cluster:
    names = environment["SLURM_STEP_NODELIST"]
    # Jobs that share a node have ports of their own.
    port = PORT + _number(environment, "SLURM_JOB_ID") % 4096
    processes = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS"))
    environment = {**environment, "SLURM_NTASKS": processes or ""}
    return Cluster(
        f"{_first_host(names)}:{port}",
        _number(environment, "SLURM_NTASKS"),
        _number(environment, "SLURM_PROCID"),
        _own_devices(
            environment, _tasks_of_a_node(environment), "SLURM_LOCALID", "SLURM_GPUS_ON_NODE"
        ),
    )


def _tasks_of_a_node(environment: Mapping[str, str]) -> int:
    """The most that a node has: 2 of "2(x3),1"."""
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get(
        "SLURM_NTASKS_PER_NODE", "1"
    )
    return max(int(count.partition("(")[0] or 1) for count in counts.split(","))


def _own_devices(
    environment: Mapping[str, str], processes: int, place: str, on_machine: str | None = None
) -> tuple[int, ...] | None:
    """This process's share of a machine's GPUs; None where it has all that it sees.

    Args:
      environment: the process's variables.
      processes: of the machine.
      place: the variable with this one's number among them.
      on_machine: the variable with the number of GPUs.
    """
    if processes == 1:
        return None
    all_of_them = int(environment.get(on_machine, 0)) if on_machine else 0
    seen = len(list(filter(None, environment.get("CUDA_VISIBLE_DEVICES", "").split(","))))
    if seen and (seen < processes or seen < all_of_them):  # The launcher has given it its own.
        return None
    share = max(1, (seen or all_of_them) // processes)
    first = share * _number(environment, place)
    return tuple(range(first, first + share))


def _first_host(names: str) -> str:
    """Of SLURM's short form: "gpu[03-05,9],login" begins with gpu03."""
    head, bracket, rest = names.partition("[")
    if not bracket or "," in head:
        return names.split(",")[0]
    first, _, after = rest.partition("]")
    return head + first.split(",")[0].split("-")[0] + after.split(",")[0]


def _open_mpi(environment: Mapping[str, str]) -> Cluster:
    return Cluster(
        _required(environment, "HYPERFACE_COORDINATOR"),
        _number(environment, "OMPI_COMM_WORLD_SIZE"),
        _number(environment, "OMPI_COMM_WORLD_RANK"),
        _own_devices(
            environment,
            int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)),
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ),
    )


def _job_set(environment: Mapping[str, str]) -> Cluster:
    job_set, job = (_required(environment, n) for n in ("JOBSET_NAME", "REPLICATED_JOB_NAME"))
    return Cluster(
        f"{job_set}-{job}-0-0.{job_set}:{PORT}",
        _number(environment, "HYPERFACE_PROCESSES"),
        _number(environment, "JOB_COMPLETION_INDEX"),
    )


def _checked(cluster: Cluster) -> Cluster | None:
    if cluster.processes < 1 or not 0 <= cluster.process < cluster.processes:
        raise InputError(
            f"expected a process from 0 to processes - 1, found {cluster.process} of "
            f"{cluster.processes}."
        )
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"expected the coordinator as host:port, found {cluster.coordinator!r}.")
    return cluster if cluster.processes > 1 else None


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise InputError(
            f"expected {name} in the environment, found none. Set it, or pass --coordinator, "
            "--processes and --process."
        )
    return environment[name]


def _number(environment: Mapping[str, str], name: str) -> int:
    found = _required(environment, name)
    if not found.isdigit():
        raise InputError(f"expected a whole number in {name}, found {found!r}.")
    return int(found)
