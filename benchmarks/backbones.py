"""Measures time and memory of each backbone, and of a net with the same layers in Torch.

    pip install -e '.[train,peers]'
    python benchmarks/backbones.py --models sphereface-20 lightcnn-9

The images have the size of the backbone's paper. The columns are:

- "forward": images per second of computing one feature per image.
- "train": images per second of a mean square of the features and its gradient by each parameter.
  Batch normalisation uses the statistics of the batch.
- "ratio": train time, divided by that of Torch in float32.
- "temp": MiB that the train program needs beside its arguments and results, according to XLA.
- "peak": MiB by which a process grows while it trains; on an accelerator, of its memory.

Each measurement is a process of its own, and the candidates take turns, so that a drift of the
machine affects all of them. "plain XLA" is without the options of `hyperface.devices.compiler`. If
a Torch net has another number of parameters than ours, the program stops. On an accelerator "tf32"
rounds the operands of products and convolutions to TF32, and float32 does not. On a CPU both
compute in float32.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from peak_memory import bytes_in_use, peak_bytes

from hyperface.config.backbones import BACKBONES

MODELS = [
    "lenet",
    "wen28",
    "lightcnn-9",
    "sphereface-20",
    "sphereface-64",
    "iresnet-18",
    "iresnet-50",
    "iresnet-100",
    "mobilefacenet",
]


def jax_calls(name: str, batch: int, candidate: str) -> tuple[Callable, Callable, dict]:
    """Builds one of our backbones, for measuring.

    Args:
      name: name of the backbone.
      batch: number of images.
      candidate: one of `CANDIDATES`, whose words set the precision and the options.

    Returns:
      (forward call, train call, {"temp": MiB, "parameters": number}). The calls take no arguments,
      and return when the device is done.
    """
    import jax
    import jax.numpy as jnp

    from hyperface import models
    from hyperface.devices import compiler

    dtype = "bfloat16" if "bfloat16" in candidate else "float32"
    if dtype == "float32":
        # JAX's default on a GPU is TF32, which would make float32 something else than it says.
        products = "tensorfloat32" if "tf32" in candidate else "highest"
        jax.config.update("jax_default_matmul_precision", products)
    model = models.create(name, dtype=dtype, remat="remat" in candidate)
    images = jax.device_put(_images(batch, BACKBONES[name].image_shape))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    options = None if "plain XLA" in candidate else compiler.options()

    def loss(params, images):
        # With mutable statistics flax returns them beside the features.
        settings = {"train": True, "mutable": ["batch_stats"]} if model.batch_norm else {}
        found = model.apply(variables | {"params": params}, images, **settings)
        return jnp.mean((found[0] if model.batch_norm else found) ** 2)

    forward = jax.jit(model.apply, compiler_options=options)
    params = variables["params"]
    step = jax.jit(jax.value_and_grad(loss), compiler_options=options)
    step = step.lower(params, images).compile()
    temp = step.memory_analysis().temp_size_in_bytes
    return (
        lambda: jax.block_until_ready(forward(variables, images)),
        lambda: jax.block_until_ready(step(params, images)),
        {"temp": temp / 2**20, "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))},
    )


def torch_calls(name: str, batch: int, candidate: str) -> tuple[Callable, Callable, dict]:
    """Builds a net with the same layers in Torch, for measuring.

    The arguments and the result are those of `jax_calls`, but the dictionary has no "temp".
    """
    import torch
    import torch_backbones

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if "tf32" in candidate else "highest")
    # Convolutions have a setting of their own, which allows TF32 by default.
    torch.backends.cudnn.allow_tf32 = "tf32" in candidate
    entry = BACKBONES[name]
    net = torch_backbones.create(name, channels=entry.image_shape[2])
    images = torch.tensor(_images(batch, entry.image_shape)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        net.eval()(images[:1])  # Lazy layers create their parameters at the first call.
    net, images = net.to(device), images.to(device)
    if "channels last" in candidate:
        net = net.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    call = torch.compile(net) if "compile" in candidate else net
    bfloat16 = "bfloat16" in candidate

    def features():
        # Parameters stay in float32, as in our backbones with dtype bfloat16.
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            return call(images)

    def finished(result):
        # CUDA calls return before the device is done.
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def forward():
        net.eval()
        with torch.no_grad():
            return finished(features())

    def train():
        net.train()
        net.zero_grad(set_to_none=True)
        loss = features().float().square().mean()
        loss.backward()
        return finished(loss)

    counted = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return forward, train, {"parameters": counted}


def _images(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (batch, *shape)).astype(np.float32)


CANDIDATES: dict[str, Callable] = {
    "hyperface float32": jax_calls,
    "torch float32": torch_calls,
    "torch float32, channels last": torch_calls,
    "torch float32, compile": torch_calls,
    "hyperface float32, plain XLA": jax_calls,
    "hyperface float32, remat": jax_calls,
    "hyperface tf32": jax_calls,
    "torch tf32, channels last": torch_calls,
    "hyperface bfloat16": jax_calls,
    "torch bfloat16, channels last": torch_calls,
}
DEFAULT = [name for name in CANDIDATES if "tf32" not in name]


def worker(candidate: str, name: str, batch: int, calls: int) -> None:
    """Measures one candidate in this process and prints the result as JSON.

    It has "forward" and "train" (seconds of each call), "peak" (MiB), and the dictionary of
    `jax_calls`.

    Args:
      candidate: one of `CANDIDATES`.
      name: name of the backbone.
      batch: number of images.
      calls: number of calls that are timed.
    """
    forward, train, found = CANDIDATES[candidate](name, batch, candidate)

    def seconds(call):
        call()  # Compiles, and is not timed.
        taken = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return taken

    library = "jax" if CANDIDATES[candidate] is jax_calls else "torch"
    # Training first: the peak of a process never falls, and forward needs less.
    before = bytes_in_use(library)
    found["train"] = seconds(train)
    found["peak"] = (peak_bytes(library) - before) / 2**20
    found["forward"] = seconds(forward)
    print(json.dumps(found))


def measure(options: argparse.Namespace, name: str) -> None:
    """Measures all candidates for one backbone and prints their table.

    Args:
      options: the parsed options.
      name: name of the backbone.
    """
    found: dict[str, list[dict]] = {candidate: [] for candidate in options.candidates}
    for _ in range(options.rounds):
        for candidate in found:
            arguments = [candidate, name, str(options.batch), str(options.calls)]
            done = subprocess.run(
                [sys.executable, __file__, "--worker", *arguments],
                env=os.environ,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{candidate} failed:\n{done.stderr}")
            found[candidate].append(json.loads(done.stdout.splitlines()[-1]))
    parameters = {runs[0]["parameters"] for runs in found.values()}
    assert len(parameters) == 1, f"{name}: the nets differ, with {parameters} parameters"

    def median(candidate: str, what: str) -> float:
        return float(np.median([s for run in found[candidate] for s in run[what]]))

    print(f"\n{name}, {parameters.pop():,} parameters, batch {options.batch}: images a second, MiB")
    print(f"{'':31}{'forward':>9}{'train':>8}{'ratio':>7}{'temp':>8}{'peak':>8}")
    for candidate, runs in found.items():
        rates = [options.batch / median(candidate, what) for what in ("forward", "train")]
        ratio = median(candidate, "train") / median("torch float32", "train")
        temp = f"{runs[0]['temp']:8.0f}" if "temp" in runs[0] else f"{'-':>8}"
        # The least of the rounds: whatever else a process allocates only adds to its peak.
        peak = min(run["peak"] for run in runs)
        print(
            f"{candidate:31}{rates[0]:9.1f}{rates[1]:8.1f}{ratio:7.2f}{temp}{peak:8.0f}",
            flush=True,
        )


def main() -> None:
    """Parses the options and measures."""
    if sys.argv[1:2] == ["--worker"]:
        candidate, name, *sizes = sys.argv[2:]
        worker(candidate, name, *map(int, sizes))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--candidates", nargs="+", choices=[*CANDIDATES], default=DEFAULT)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=3)
    options = parser.parse_args()
    if "torch float32" not in options.candidates:
        parser.error("--candidates: expected torch float32 among them, which ratios are to")
    for name in options.models:
        measure(options, name)


if __name__ == "__main__":
    main()
