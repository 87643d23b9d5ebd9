"""Measures the cost of splitting agents over devices, and of checkpoints and guards in a run.

    python benchmarks/sharding.py                      8 simulated devices, 65,536 classes
    python benchmarks/sharding.py --only step scaling
    python benchmarks/sharding.py --only paper         10 and 100 million identities, on paper

Agents are class weights, one row per class. The parts are:

- step: a whole training step of a small network. Its agents are on every device (pmap, the default,
  and shard_map), or split by rows. "ratio" is the median time, divided by that of the first row;
  the candidates take turns. The memory of each device is read from the compiled program.
- scaling: the step of the head alone, split over processes that communicate by gloo. Each process
  is bound to one core, and the batch has the same size for one process and for two.
- run: the same network on one device. It measures how long a save stops the training, as a share of
  the time between two saves, and how much slower steps are while the file is written. It also
  measures the time of the checksums, and the time in which the host checks the metrics. The guard
  skips updates that are not finite; its cost is the time of a step with it and without it.
- paper: the bytes on each accelerator and the bytes that it sends, by the formulas of
  `hyperface.train.cost`. Tests compare these with compiled programs.
"""

import argparse
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

PARTS = ("step", "scaling", "run", "paper")
BATCH, DIM = 64, 128
"""Images per step, and dimensions of a feature."""


def main() -> None:
    """Parses the options and runs the parts, each of which prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", type=int, default=65_536)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--process", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        port, processes, process = map(int, options.process)
        one_process(options.classes, options.rounds, port, processes, process)
        return
    if "scaling" in options.only:  # Before jax takes the cores here.
        scaling(options.classes, options.rounds)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    if "step" in options.only:
        step(options.classes, options.devices, options.rounds)
    if "run" in options.only:
        run(options.rounds)
    if "paper" in options.only:
        paper()


def timed(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each call, by its name; in each round all are called once."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def experiment(model: str = "sphereface-mini", *, shard_agents: bool = False):
    """Returns an experiment with NormFace's softmax, by default on a small network.

    Args:
      model: name of the backbone.
      shard_agents: whether agents are split by rows over the devices.
    """
    from hyperface.config.experiment import Data, Experiment, Model, check

    data, net = Data(batch_size=BATCH), Model(name=model, feature_dim=DIM)
    return check(Experiment("timed", 100, data=data, model=net, shard_agents=shard_agents))


def batch(classes: int) -> dict[str, np.ndarray]:
    """Returns a batch of random images, with random labels below `classes`."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.standard_normal((BATCH, 112, 96, 3), np.float32),
        "labels": rng.integers(0, classes, BATCH).astype(np.int32),
        "mask": np.ones(BATCH, np.float32),
    }


class Stepped:
    """A training step as a function without arguments, whose state passes from call to call.

    Args:
      step: a function (state, batch) -> (new state, metrics).
      state: the state before the first call.
      data: the batch, which is the same at each call.
    """

    def __init__(self, step: Callable, state, data: dict[str, np.ndarray]):
        self._step, self.state, self.data = step, state, data

    def __call__(self) -> dict[str, float]:
        import jax

        self.state, metrics = self._step(self.state, self.data)
        return jax.block_until_ready(metrics)


def step(classes: int, devices: int, rounds: int) -> None:
    """Measures a training step with replicated and with split agents, and prints the table.

    Args:
      classes: number of classes.
      devices: number of simulated devices.
      rounds: number of rounds in which each step is timed once.
    """
    import jax

    from hyperface.devices import mesh
    from hyperface.train import parallel
    from hyperface.train.state import create_state

    data = batch(classes)
    make = partial(create_state, experiment(), classes)
    calls, held = {}, {}
    for name, split in (("pmap", None), ("shard_map", False), ("shard_map, agents split", True)):
        if split is None:
            state = jax.device_put(make(data["images"], data["labels"]), mesh.replicated())
            calls[name] = Stepped(parallel.data_parallel_step(), state, data)
        else:
            mapped = parallel.mesh_step(split_classes=split)
            state = parallel.on_mesh(make, data["images"], data["labels"], split_classes=split)
            # For the memory that XLA plans, and for the shapes of the program's arrays.
            compiled = mapped.lower(state, data).compile()
            held[name] = (compiled.memory_analysis(), compiled.as_text())
            calls[name] = Stepped(mapped, state, data)
        calls[name]()
    found = timed(calls, rounds)
    base = next(iter(found.values()))
    print(f"step: {classes:,} classes, {DIM} dimensions, batch {BATCH}, {devices} devices")
    print(f"{'':28}{'s':>8}{'ratio':>8}{'state':>10}{'temporary':>11}  similarities at once")
    for name, seconds in found.items():
        line = f"{name:28}{seconds:8.3f}{seconds / base:8.2f}"
        if name in held:
            memory, text = held[name]
            sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
            line += "".join(f"{size / 2**20:7.1f} MiB" for size in sizes)
            line += f"  {similarities(text, classes, devices)}"
        print(line)


def similarities(text: str, classes: int, devices: int) -> str:
    """Returns the size of the largest array of similarities in a compiled program, as text.

    A similarity belongs to an example and a class. "all of them" is added if one array has all.

    Args:
      text: the compiled program as text.
      classes: number of classes.
      devices: number of devices that share the batch.
    """
    # One side of such an array is the batch, or a device's share of it. The other side is long: an
    # array [batch, dim] of features is no array of similarities.
    sizes = {BATCH, BATCH // devices}
    shapes = {
        tuple(map(int, found.split(","))) for found in re.findall(r"\bf32\[(\d+,\d+)\]", text)
    }
    found = [shape for shape in shapes if sizes & set(shape) and max(shape) > 4 * DIM]
    largest = max(found, key=math.prod, default=())
    whole = any(set(shape) == {BATCH, classes} for shape in found)
    return f"{' x '.join(map(str, largest))}{', all of them' if whole else ''}"


def scaling(classes: int, rounds: int) -> None:
    """Measures the head's step with one process and with two, and prints the efficiency.

    Args:
      classes: number of classes.
      rounds: as in `step`.
    """
    found = {processes: spawned(classes, rounds, processes) for processes in (1, 2)}
    print(f"scaling: the head alone, {classes:,} classes, batch {BATCH}, a core a process")
    for processes, seconds in found.items():
        # Twice the cores do the same work ideally in half of the time.
        efficiency = found[1] / seconds / processes
        print(f"{processes} processes{seconds:10.4f} s  {efficiency:.0%} of the ideal")


def spawned(classes: int, rounds: int, processes: int) -> float:
    """Starts processes that train together, and returns the median seconds of the first one's step.

    Args:
      classes: number of classes.
      rounds: as in `step`.
      processes: number of processes; each needs a core.
    """
    if len(os.sched_getaffinity(0)) < processes:
        raise SystemExit(f"scaling: expected {processes} cores, found fewer")
    with socket.socket() as free:
        # Port 0 asks the system for a free port, which the coordinator takes afterwards.
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--classes", str(classes), "--rounds", str(rounds)]
    started = [
        subprocess.Popen(
            [*command, "--process", str(port), str(processes), str(process)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    shown = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("scaling: a process failed")
    return float(shown[0].split()[-1])


def one_process(classes: int, rounds: int, port: int, count: int, process: int) -> None:
    """Measures the head's step as one of several processes, and prints its median seconds.

    Args:
      classes: number of classes.
      rounds: as in `step`.
      port: port of the coordinator on this machine.
      count: number of processes.
      process: number of this process, from 0.
    """
    # Before JAX is loaded, which starts as many threads as it has cores.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[process]})
    from hyperface.devices import launchers, processes
    from hyperface.train import parallel
    from hyperface.train.state import create_state

    cluster = launchers.Cluster(f"localhost:{port}", count, process)
    processes.initialize(cluster if count > 1 else None)
    from flax import linen as nn

    from hyperface import models

    class Given(nn.Module):
        """A backbone of one linear layer, so that nearly all time is spent in the head."""

        feature_dim: int

        @nn.compact
        def __call__(self, images):
            return nn.Dense(self.feature_dim)(images[:, 0, :, 0])

    # `create_state` builds the backbone by this function.
    models.create = lambda name, feature_dim, **_: Given(feature_dim)
    data = batch(classes)
    make = partial(create_state, experiment(shard_agents=True), classes)
    state = parallel.on_mesh(make, data["images"], data["labels"], split_classes=True)
    share = slice(process * BATCH // count, (process + 1) * BATCH // count)
    call = Stepped(
        parallel.mesh_step(split_classes=True), state, {n: x[share] for n, x in data.items()}
    )
    call()
    print(timed({"step": call}, 3 * rounds)["step"])


def run(rounds: int) -> None:
    """Measures checkpoints, checksums and the guard beside the steps, and prints the table.

    Args:
      rounds: number of saves that are timed.
    """
    import jax

    from hyperface.devices import mesh
    from hyperface.experiments.faces_softmax import EXPERIMENT
    from hyperface.train import parallel
    from hyperface.train.checkpoint.integrity import checksums
    from hyperface.train.checkpoint.manager import Checkpoints
    from hyperface.train.divergence import check_finite
    from hyperface.train.state import create_state

    classes, (device, *_) = 541, jax.devices()
    data = batch(classes)
    state = create_state(experiment(), classes, data["images"], data["labels"])
    state = jax.device_put(state, mesh.replicated([device]))
    call = Stepped(parallel.data_parallel_step([device]), state, data)
    call()  # Compiles, and is not timed.
    during, alone, saves = [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        for number in range(rounds):
            began = time.perf_counter()
            checkpoints.save(number + 1, call.state, {"log": None})
            saves.append(time.perf_counter() - began)
            # The first ten steps run while the checkpoint is written, and the next ten after it.
            for times in (during, alone):
                began = time.perf_counter()
                for _ in range(10):
                    call()
                times.append(time.perf_counter() - began)
                checkpoints.wait()
    arrays = {"params": call.state.params}
    summed = timed({"sums": lambda: checksums(arrays)}, rounds)["sums"]
    values = {name: float(value) for name, value in call().items()}
    looked = timed({"at": lambda: [check_finite(1, values) for _ in range(100)]}, rounds)["at"]
    guarded = timed({"with": call, "without": unguarded(call, device)}, 8 * rounds)
    every, one = EXPERIMENT.checkpoint_every, float(np.median(alone)) / 10
    # A save costs the time in which it stops the loop, and the slower steps while it is written.
    lost = float(np.median(saves)) + max(0.0, float(np.median(during) - np.median(alone)))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(call.state.params)) / 2**20
    print(f"run: sphereface-mini, {held:.1f} MiB of parameters, a save every {every} steps")
    print(f"{'a step':34}{1000 * one:9.1f} ms")
    print(f"{'a save holds the loop up':34}{1000 * np.median(saves):9.1f} ms")
    print(f"{'ten steps beside it, over alone':34}{np.median(during) / np.median(alone):9.3f}")
    print(f"{'checkpoints, share of the run':34}{lost / (every * one):9.3%}")
    # Checksums of the parameters alone were timed. Momentum has as many arrays again.
    share = summed * len(jax.tree.leaves(call.state)) / len(jax.tree.leaves(arrays))
    print(f"{'checksums, share of the run':34}{share / (every * one):9.3%}")
    print(f"{'looking at metrics, of a step':34}{looked / 100 / one:9.3%}")
    print(f"{'a step with the guard, without':34}{guarded['with'] / guarded['without']:9.3f}")


def unguarded(call: Stepped, device) -> Stepped:
    """Returns the same step without the guard, which skips updates that are not finite.

    Args:
      call: the step with the guard.
      device: the device of the step.
    """
    import jax
    import jax.numpy as jnp

    from hyperface.train import divergence, parallel

    state = jax.tree.map(jnp.copy, call.state)
    other = Stepped(parallel.data_parallel_step([device]), state, call.data)
    # The guard is replaced only while the step is compiled: the compiled program keeps what it was
    # traced with.
    kept = divergence.select_update, divergence.nonfinite_groups
    divergence.select_update = lambda sound, new, old: new
    divergence.nonfinite_groups = lambda tree: jnp.zeros(len(divergence.GROUPS), jnp.int32)
    other()
    divergence.select_update, divergence.nonfinite_groups = kept
    return other


def paper() -> None:
    """Prints a Markdown table with memory and traffic of large heads over many accelerators."""
    from dataclasses import replace

    from hyperface import experiments
    from hyperface.config.experiment import check
    from hyperface.train.cost import memory_estimate, run_sizes, traffic
    from hyperface.train.state import abstract_state

    chosen = experiments.load("ms1mv3-iresnet50-arcface")
    shape, per_device = (112, 112, 3), 64
    print(f"paper: {chosen.model.name}, {chosen.model.feature_dim} dimensions, float32, ", end="")
    print(f"{per_device} images an accelerator, a step")
    optimizer = replace(chosen.optimizer, agents_update="in-sweep")
    runs = [chosen, check(replace(chosen, optimizer=optimizer))]
    # "state" is agents, momentum and the agents' gradient.
    print("| identities | accelerators | state | in sweep | all memory | in sweep | sent ", end="")
    print("| with whole agents |")
    print(f"|{'---:|' * 8}")
    for classes in (10**7, 10**8):
        for devices in (8, 64, 512):
            images = per_device * devices
            every = [run_sizes(abstract_state(r, classes, shape), images, shape) for r in runs]
            memory, swept = (memory_estimate(sizes, devices, shard_agents=True) for sizes in every)
            sizes = every[0]
            sent, whole = (
                traffic(sizes, chosen.model.feature_dim, devices, shard_agents=split).total
                for split in (True, False)
            )
            # The backbone's gradient is subtracted, since "state" is that of the agents alone.
            states = (
                found.agents + found.agent_state + found.gradients - sizes.other_params
                for found in (memory, swept)
            )
            cells = (*states, memory.total, swept.total, sent, whole)
            shown = " | ".join(f"{size / 2**30:,.2f} GiB" for size in cells)
            print(f"| {classes:,} | {devices} | {shown} |")


if __name__ == "__main__":
    main()
