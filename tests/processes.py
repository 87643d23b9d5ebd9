"""Several processes that compute together on the CPU, by gloo."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_processes(
    script: str,
    processes: int,
    devices: int,
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
    timeout: float = 120,
) -> list[str]:
    """What each of several processes printed that run a script of this folder together.

    Args:
      script: its name; it is told its number, how many there are and a port, for `join`.
      processes: how many.
      devices: of each.
      arguments: what else each is told.
      environment: of each.
      timeout: in seconds, until all have ended.
    """
    port, paths = str(free_port()), os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**environment, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": paths}
    started = [
        subprocess.Popen(
            [sys.executable, HERE / script, str(process), str(processes), port, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)
    return outputs


def join(process: str, processes: str, port: str) -> None:
    """What such a script does before anything else of jax is used."""
    from hyperface.train import distributed

    distributed.initialize(
        distributed.cluster_of(
            {},
            coordinator=f"127.0.0.1:{port}",
            processes=int(processes),
            process=int(process),
        )
    )
