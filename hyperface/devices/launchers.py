"""Finds out which processes train together, from options or from the launcher's environment."""

from collections.abc import Mapping
from typing import NamedTuple

from hyperface.errors import InputError

PORT = 12721
"""Port of process 0 if this library chooses it; under SLURM, the lowest of a range of ports."""


class Cluster(NamedTuple):
    """The processes of a run, and the position of this process among them."""

    coordinator: str
    """host:port of process 0."""
    processes: int
    """Number of processes."""
    process: int
    """Number of this process, from 0."""
    devices: tuple[int, ...] | None = None
    """Numbers of the GPUs that this process uses, if it shares its machine with other processes of
    the run; None uses all that it sees."""


def cluster_of(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Cluster | None:
    """Returns the cluster that the options describe or, without options, the launcher's variables.

    SLURM (`srun`), Open MPI (`mpirun`) and Kubernetes (JobSet) are recognised by the environment
    variables that they set. Open MPI needs HYPERFACE_COORDINATOR in addition. A JobSet needs
    JOBSET_NAME, REPLICATED_JOB_NAME and HYPERFACE_PROCESSES in addition, as the launcher of
    `hyperface cluster kubernetes` sets them.

    Args:
      environment: the process's environment variables.
      coordinator: the user's option: host:port of process 0; None if it was not given.
      processes: the user's option: number of processes of the run; None if it was not given.
      process: the user's option: number of this process, from 0; None if it was not given.

    Returns:
      The cluster; None if neither the options nor the variables name one, so that this process runs
      alone.

    Raises:
      InputError: a value is missing, is not a number, or is out of range.

    Example:
      >>> slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4"}
      >>> cluster_of(slurm | {"SLURM_PROCID": "2"})
      Cluster(coordinator='n1:12728', processes=4, process=2, devices=None)
    """
    if coordinator is not None and processes is not None and process is not None:
        return _checked(Cluster(coordinator, processes, process))
    if any(value is not None for value in (coordinator, processes, process)):
        raise InputError(
            "expected --coordinator, --processes and --process together, found "
            f"{coordinator}, {processes} and {process}."
        )
    for variable, found in (
        # Only srun sets this variable. A batch script without srun is a single process.
        ("SLURM_STEP_NODELIST", _slurm),
        ("OMPI_COMM_WORLD_RANK", _open_mpi),
        ("JOB_COMPLETION_INDEX", _job_set),
    ):
        if variable in environment:
            return _checked(found(environment))
    return None


def _slurm(environment: Mapping[str, str]) -> Cluster:
    """Returns the cluster from the variables that SLURM's srun sets."""
    names = environment["SLURM_STEP_NODELIST"]
    # Two jobs on one node must not use the same port, so it depends on the job.
    port = PORT + _number(environment, "SLURM_JOB_ID") % 4096
    processes = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS"))
    # A step may have fewer tasks than its job.
    environment = {**environment, "SLURM_NTASKS": processes or ""}
    return Cluster(
        f"{_first_host(names)}:{port}",
        _number(environment, "SLURM_NTASKS"),
        _number(environment, "SLURM_PROCID"),
        _own_devices(
            environment, _tasks_of_this_node(environment), "SLURM_LOCALID", "SLURM_GPUS_ON_NODE"
        ),
    )


def _tasks_of_this_node(environment: Mapping[str, str]) -> int:
    """Returns the number of SLURM's tasks on this node.

    SLURM lists them by node in a short form: "2(x3),1" means 2 tasks on each of the nodes 0 to 2,
    and 1 on node 3.
    """
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if not listed:
        return int(environment.get("SLURM_NTASKS_PER_NODE") or 1)
    counts = []
    for count in listed.split(","):
        tasks, _, nodes = count.partition("(x")
        counts += [int(tasks)] * int(nodes.rstrip(")") or 1)
    node = _number(environment, "SLURM_NODEID")
    if node >= len(counts):
        raise InputError(
            f"expected a node below {len(counts)} in SLURM_NODEID, since "
            f"SLURM_STEP_TASKS_PER_NODE is {listed}, found {node}."
        )
    return counts[node]


def _own_devices(
    environment: Mapping[str, str], processes: int, place: str, on_machine: str | None = None
) -> tuple[int, ...] | None:
    """Returns the numbers of the GPUs that this process uses; None uses all that it sees.

    Args:
      environment: the process's environment variables.
      processes: number of the run's processes on this machine.
      place: name of the variable with this process's number among those on this machine.
      on_machine: name of the variable with the machine's number of GPUs, if there is one.
    """
    if processes == 1:
        return None
    all_of_them = int(environment.get(on_machine, 0)) if on_machine else 0
    seen = len(list(filter(None, environment.get("CUDA_VISIBLE_DEVICES", "").split(","))))
    # The process sees only some of the machine's GPUs, so the launcher has split them already.
    if seen and (seen < processes or seen < all_of_them):
        return None
    share = max(1, (seen or all_of_them) // processes)
    first = share * _number(environment, place)
    return tuple(range(first, first + share))


def _first_host(names: str) -> str:
    """Returns the first host in SLURM's short list of hosts: gpu03 in "gpu[03-05,9],login"."""
    head, bracket, rest = names.partition("[")
    # With a comma in front of the bracket, the bracket belongs to a later host.
    if not bracket or "," in head:
        return names.split(",")[0]
    first, _, after = rest.partition("]")
    return head + first.split(",")[0].split("-")[0] + after.split(",")[0]


def _open_mpi(environment: Mapping[str, str]) -> Cluster:
    """Returns the cluster from the variables that Open MPI's mpirun sets."""
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
    """Returns the cluster from the variables of a Kubernetes JobSet."""
    job_set, job = (_required(environment, n) for n in ("JOBSET_NAME", "REPLICATED_JOB_NAME"))
    return Cluster(
        # The host name that a JobSet gives to the first pod of its first job.
        f"{job_set}-{job}-0-0.{job_set}:{PORT}",
        _number(environment, "HYPERFACE_PROCESSES"),
        _number(environment, "JOB_COMPLETION_INDEX"),
    )


def _checked(cluster: Cluster) -> Cluster | None:
    """Returns the cluster after checks of its numbers; None for a cluster of one process."""
    if cluster.processes < 1 or not 0 <= cluster.process < cluster.processes:
        raise InputError(
            f"expected a process from 0 to processes - 1, found {cluster.process} of "
            f"{cluster.processes}."
        )
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"expected the coordinator as host:port, found {cluster.coordinator!r}.")
    # A single process trains in the same way as without a launcher.
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
