"""Several processes that compute together on the CPU, by gloo."""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_processes(
    command: Sequence[str | Path],
    processes: int,
    devices: int,
    *,
    environment: Mapping[str, str] = os.environ,
    timeout: float = 300,
) -> list[str]:
    """What each of several processes printed that run a Python command together, to its end.

    Args:
      command: arguments of the interpreter; each process is told besides, as the launchers are,
        --coordinator, --processes and --process.
      processes: how many.
      devices: of each.
      environment: of each.
      timeout: in seconds, until all have ended.
    """
    started = start(command, processes, devices, environment=environment)
    statuses, outputs = ends(started, timeout)
    assert statuses == [0] * processes, "\n".join(outputs)
    return outputs


def start(
    command: Sequence[str | Path],
    processes: int,
    devices: int,
    *,
    environment: Mapping[str, str] = os.environ,
) -> list[subprocess.Popen]:
    """Starts processes as `in_processes` does, and returns at once."""
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    # A collective holds a thread of XLA's pool until all devices have come to it. With as many
    # threads as cores, collectives of several devices can wait for each other for ever.
    threads = {"NPROC": "16"}
    settings = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": paths} | threads
    environment = {**environment, **settings}
    return [
        subprocess.Popen(
            [sys.executable, *command, *together, "--process", str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def ends(started: Sequence[subprocess.Popen], timeout: float) -> tuple[list[int], list[str]]:
    """Statuses and outputs of processes, once all have ended; none is left after the timeout."""
    try:
        # All pipes are read at once: a process that waits for room in its own holds up the others.
        with ThreadPoolExecutor(len(started)) as pool:
            outputs = list(pool.map(lambda one: one.communicate(timeout=timeout)[0], started))
    finally:
        for process in started:
            process.kill()
    outputs = ["".join(filter(_is_own, output.splitlines(keepends=True))) for output in outputs]
    return [process.returncode for process in started], outputs


def _is_own(line: str) -> bool:
    """Whether a line is not Gloo's, whose threads write into each other's lines."""
    return "[Gloo]" not in line and "is connected to" not in line


def join() -> tuple[int, int, list[str]]:
    """Joins the others, before anything else of jax is used, as a script does that they all run.

    Returns:
      Which process this is, how many there are, and what the script is told besides.
    """
    from hyperface.devices import launchers, processes

    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options, told = parser.parse_known_args()
    processes.initialize(launchers.cluster_of({}, **vars(options)))
    return options.process, options.processes, told
