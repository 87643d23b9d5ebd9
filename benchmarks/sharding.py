"""What it costs to split agents over devices, and what checkpoints and guards cost a run.

    python benchmarks/sharding.py                      8 simulated devices, 65,536 classes
    python benchmarks/sharding.py --only step scaling
    python benchmarks/sharding.py --only paper         10 and 100 million identities, on paper

step: a whole training step of a small network, its agents on every device (pmap, the default, and
shard_map) and split by rows; "ratio" is to the first, from medians, candidates taking turns. What
each device holds is read from the compiled program.

scaling: the step of the head alone, split over processes that are bound to a core each and talk by
gloo; the batch is the same for one and for two.

run: the same network on one device. How long a save holds the training up, as a share of the time
between two saves of the experiment; how much slower steps are while it is written; the checksums'
part of it; and what the guard costs: the same step without its selects and flags in turn with it,
and what looking at the metrics takes the host.

paper: bytes on each accelerator and sent by it, from `hyperface.train.cost` and `.traffic`, which
tests hold against compiled programs.
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
    """Median seconds of each call; they take turns."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def experiment(model: str = "sphereface-mini", *, shard_agents: bool = False):
    """A small network with NormFace's softmax."""
    from hyperface.config.experiment import Data, Experiment, Model, check

    data, net = Data(batch_size=BATCH), Model(name=model, feature_dim=DIM)
    return check(Experiment("timed", 100, data=data, model=net, shard_agents=shard_agents))


def batch(classes: int) -> dict[str, np.ndarray]:
    """Random images with classes from all over."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.standard_normal((BATCH, 112, 96, 3), np.float32),
        "labels": rng.integers(0, classes, BATCH).astype(np.int32),
        "mask": np.ones(BATCH, np.float32),
    }


class Stepped:
    """A step whose state goes on from call to call."""

    def __init__(self, step: Callable, state, data: dict[str, np.ndarray]):
        self._step, self.state, self.data = step, state, data

    def __call__(self) -> dict[str, float]:
        import jax

        self.state, metrics = self._step(self.state, self.data)
        return jax.block_until_ready(metrics)


def step(classes: int, devices: int, rounds: int) -> None:
    """Replicated and split agents on simulated devices."""
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
    """The largest array of examples by classes in a compiled program."""
    sizes = {BATCH, BATCH // devices}
    shapes = {
        tuple(map(int, found.split(","))) for found in re.findall(r"\bf32\[(\d+,\d+)\]", text)
    }
    found = [shape for shape in shapes if sizes & set(shape) and max(shape) > 4 * DIM]
    largest = max(found, key=math.prod, default=())
    whole = any(set(shape) == {BATCH, classes} for shape in found)
    return f"{' x '.join(map(str, largest))}{', all of them' if whole else ''}"


def scaling(classes: int, rounds: int) -> None:
    """The head over one process and over two."""
    found = {processes: spawned(classes, rounds, processes) for processes in (1, 2)}
    print(f"scaling: the head alone, {classes:,} classes, batch {BATCH}, a core a process")
    for processes, seconds in found.items():
        efficiency = found[1] / seconds / processes
        print(f"{processes} processes{seconds:10.4f} s  {efficiency:.0%} of the ideal")


def spawned(classes: int, rounds: int, processes: int) -> float:
    """Seconds of a step, from the first of the processes."""
    if len(os.sched_getaffinity(0)) < processes:
        raise SystemExit(f"scaling: expected {processes} cores, found fewer")
    with socket.socket() as free:
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


def one_process(classes: int, rounds: int, port: int, processes: int, process: int) -> None:
    """Measures as one of several processes, and prints its median."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[process]})
    from hyperface.devices import launchers, processes
    from hyperface.train import parallel
    from hyperface.train.state import create_state

    cluster = launchers.Cluster(f"localhost:{port}", processes, process)
    processes.initialize(cluster if processes > 1 else None)
    from flax import linen as nn

    from hyperface import models

    class Given(nn.Module):
        """Features instead of images."""

        feature_dim: int

        @nn.compact
        def __call__(self, images):
            return nn.Dense(self.feature_dim)(images[:, 0, :, 0])

    models.create = lambda name, feature_dim, **_: Given(feature_dim)
    data = batch(classes)
    make = partial(create_state, experiment(shard_agents=True), classes)
    state = parallel.on_mesh(make, data["images"], data["labels"], split_classes=True)
    share = slice(process * BATCH // processes, (process + 1) * BATCH // processes)
    call = Stepped(
        parallel.mesh_step(split_classes=True), state, {n: x[share] for n, x in data.items()}
    )
    call()
    print(timed({"step": call}, 3 * rounds)["step"])


def run(rounds: int) -> None:
    """Checkpoints, checksums and guards beside the steps."""
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
    call()
    during, alone, saves = [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        for number in range(rounds):
            began = time.perf_counter()
            checkpoints.save(number + 1, call.state, {"log": None})
            saves.append(time.perf_counter() - began)
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
    lost = float(np.median(saves)) + max(0.0, float(np.median(during) - np.median(alone)))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(call.state.params)) / 2**20
    print(f"run: sphereface-mini, {held:.1f} MiB of parameters, a save every {every} steps")
    print(f"{'a step':34}{1000 * one:9.1f} ms")
    print(f"{'a save holds the loop up':34}{1000 * np.median(saves):9.1f} ms")
    print(f"{'ten steps beside it, over alone':34}{np.median(during) / np.median(alone):9.3f}")
    print(f"{'checkpoints, share of the run':34}{lost / (every * one):9.3%}")
    share = summed * len(jax.tree.leaves(call.state)) / len(jax.tree.leaves(arrays))
    print(f"{'checksums, share of the run':34}{share / (every * one):9.3%}")
    print(f"{'looking at metrics, of a step':34}{looked / 100 / one:9.3%}")
    print(f"{'a step with the guard, without':34}{guarded['with'] / guarded['without']:9.3f}")


def unguarded(call: Stepped, device) -> Stepped:
    """The same step without the guard: compiled, and so for good, while it is taken out."""
    import jax
    import jax.numpy as jnp

    from hyperface.train import divergence, parallel

    state = jax.tree.map(jnp.copy, call.state)
    other = Stepped(parallel.data_parallel_step([device]), state, call.data)
    kept = divergence.select_update, divergence.nonfinite_groups
    divergence.select_update = lambda sound, new, old: new
    divergence.nonfinite_groups = lambda tree: jnp.zeros(len(divergence.GROUPS), jnp.int32)
    other()
    divergence.select_update, divergence.nonfinite_groups = kept
    return other


def paper() -> None:
    """Memory and traffic of large heads over many accelerators."""
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
            # What the backbone's gradient takes is the same in both.
            states = (
                found.agents + found.agent_state + found.gradients - sizes.other_params
                for found in (memory, swept)
            )
            cells = (*states, memory.total, swept.total, sent, whole)
            shown = " | ".join(f"{size / 2**30:,.2f} GiB" for size in cells)
            print(f"| {classes:,} | {devices} | {shown} |")


if __name__ == "__main__":
    main()
