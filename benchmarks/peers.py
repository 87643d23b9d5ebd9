"""Measures normalised softmax with both gradients, against Torch and libraries built on it.

    pip install -e '.[peers]'
    python benchmarks/peers.py --classes 10000 100000

Each measurement is a process of its own, so that no library's memory or threads disturb another's.
The candidates take turns, so that a drift of the machine affects all of them. "ratio" is the time,
divided by that of this library in float32. "peak" is the memory that a process needs beside the
features, the agents (class weights) and the labels; it includes the agents' gradient. Under glibc's
default allocator, half of Torch's time on large arrays is page faults. `--malloc both` measures
that allocator, and one that keeps freed memory.

"as PartialFC" computes in Torch what insightface's PartialFC v2 computes at sample rate 1 in one
process: normalised rows, clamped cosines, softmax in place, a dense one-hot in the backward pass.

Torch and JAX compute on an accelerator if they find one; "peak" is then that of the accelerator.
The TF32 and bfloat16 candidates of Torch and JAX differ from the float32 ones only in the products.
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

SCALE = 30.0
MALLOC = {
    "default": {},
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"},
}
"""Name of an allocator -> environment variables that make glibc behave so."""


def arrays(batch: int, dim: int, classes: int):
    """Returns random features [batch, dim], agents [classes, dim] and labels [batch].

    They are the same in each process.
    """
    rng = np.random.default_rng(0)
    features = rng.standard_normal((batch, dim), np.float32)
    agents = rng.standard_normal((classes, dim), np.float32)
    return features, agents, rng.integers(0, classes, batch)


def jax_call(name: str, features, agents, labels) -> Callable[[], tuple]:
    """Builds a candidate in JAX: the loss of this library, or the plain formula.

    Args:
      name: the candidate, such as "plain JAX float32"; its last word is the precision.
      features: [batch, dim].
      agents: [classes, dim].
      labels: [batch] class ids.

    Returns:
      A function without arguments that returns (mean loss, its gradient by the features, its
      gradient by the agents) when the device is done.
    """
    import jax
    import jax.numpy as jnp
    from classwise import indexed_softmax

    from hyperface import losses

    precision = _precision(name)
    # Without it an accelerator rounds the operands of the plain formula's products.
    jax.config.update("jax_default_matmul_precision", JAX_PRECISIONS.get(precision))

    def mean(f, w):
        if name.startswith("plain JAX"):
            return jnp.mean(indexed_softmax(f, w, labels, SCALE))
        return jnp.mean(losses.softmax(f, w, labels, scale=SCALE, precision=precision))

    step = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
    arguments = (jax.device_put(features), jax.device_put(agents))

    def call():
        value, gradients = jax.block_until_ready(step(*arguments))
        return value, *gradients

    return call


def torch_call(name: str, features, agents, labels) -> Callable[[], tuple]:
    """Builds a candidate in Torch; arguments and result are those of `jax_call`."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = _precision(name)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    f = torch.tensor(features, requires_grad=True, device=device)
    y = torch.tensor(labels, device=device)
    # A parameter, as in a module, so that Torch computes its gradient.
    w = torch.nn.Parameter(torch.tensor(agents, device=device))

    def plain(f, w):
        logits = SCALE * functional.linear(functional.normalize(f), functional.normalize(w))
        return functional.cross_entropy(logits, y)

    if name.startswith("torch eager"):
        loss = plain
    elif name.startswith("torch.compile"):
        loss = torch.compile(plain)
    elif name.startswith("pytorch-metric-learning"):
        from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

        # Its temperature divides the cosines, and the scale multiplies them.
        module = NormalizedSoftmaxLoss(agents.shape[0], agents.shape[1], temperature=1 / SCALE)
        w = module.W  # [dim, classes]
        w.data = torch.tensor(agents.T.copy(), device=device)

        def loss(f, w):
            return module(f, y)
    else:
        loss = _partial_fc(y)

    def call():
        # Without it Torch would add the new gradients to the old ones.
        f.grad = w.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            value = loss(f, w)
        value.backward()
        # CUDA calls return before the device is done.
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach(), f.grad, w.grad

    return call


def _partial_fc(labels):
    import torch
    from torch.nn import functional

    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            # In place, so that there is one array [batch, classes] instead of three.
            logits -= logits.max(dim=1, keepdim=True).values
            logits.exp_()
            logits.div_(logits.sum(dim=1, keepdim=True))
            ctx.save_for_backward(logits)
            return logits.gather(1, labels[:, None]).clamp_min(1e-30).log().mean().neg()

        @staticmethod
        def backward(ctx, grad):
            (probabilities,) = ctx.saved_tensors
            one_hot = torch.zeros_like(probabilities)
            one_hot.scatter_(1, labels[:, None], 1)
            return (probabilities - one_hot).div_(len(labels)) * grad

    def loss(f, w):
        cosines = functional.linear(functional.normalize(f), functional.normalize(w))
        # PartialFC's softmax is float32 where its product is not.
        return Softmax.apply(cosines.float().clamp(-1, 1) * SCALE)

    return loss


def _precision(name: str) -> str:
    """Returns the precision of a candidate, which is the last word of its name."""
    return name.split()[-1]


JAX_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32"}
"""Precision -> JAX's name for it. The others are not set here: `losses.softmax` gets their name."""
CANDIDATES: dict[str, Callable] = {
    **{f"hyperface {p}": jax_call for p in ("float32", "mixed", "tf32", "bf16")},
    **{f"plain JAX {p}": jax_call for p in ("float32", "tf32")},
    **{f"torch eager {p}": torch_call for p in ("float32", "tf32", "bf16")},
    **{f"torch.compile {p}": torch_call for p in ("float32", "tf32", "bf16")},
    "pytorch-metric-learning float32": torch_call,
    **{f"as PartialFC {p}": torch_call for p in ("float32", "tf32", "bf16")},
}
DEFAULT = [name for name in CANDIDATES if "float32" in name or name.startswith("hyperface ")]


TOLERANCES = {"float32": 1e-3, "tf32": 5e-3, "mixed": 2e-2, "bf16": 2e-2}
"""Precision -> largest relative difference to this library in float32, of the loss and of the norm
of its gradient by the features."""


def worker(name: str, batch: int, dim: int, classes: int, calls: int) -> None:
    """Measures one candidate in this process and prints the result as JSON.

    It has "loss", "gradient" (norm of the gradient by the features), "seconds" (of each call) and
    "peak" (MiB).

    Args:
      name: one of `CANDIDATES`.
      batch: number of features.
      dim: number of dimensions.
      classes: number of classes.
      calls: number of calls that are timed.
    """
    library = "jax" if CANDIDATES[name] is jax_call else "torch"
    call = CANDIDATES[name](name, *arrays(batch, dim, classes))
    before = bytes_in_use(library)
    value, to_features, _ = call()
    # The first call compiles, and on an accelerator may try several programs.
    call()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    if library == "torch":
        to_features = to_features.cpu()
    found = {
        "loss": float(value),
        "gradient": float(np.linalg.norm(np.asarray(to_features))),
        "seconds": seconds,
        "peak": (peak_bytes(library) - before) / 2**20,
    }
    print(json.dumps(found))


def measure(options: argparse.Namespace, classes: int, malloc: str) -> None:
    """Measures all candidates for one number of classes and prints their table.

    Args:
      options: the parsed options.
      classes: number of classes.
      malloc: a key of `MALLOC`.
    """
    found: dict[str, list[dict]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name in options.only:
            sizes = [str(n) for n in (options.batch, options.dim, classes, options.calls)]
            done = subprocess.run(
                [sys.executable, __file__, "--worker", name, *sizes],
                env=os.environ | MALLOC[malloc],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    first = found["hyperface float32"][0]
    print(f"\n{classes} classes, batch {options.batch}, dim {options.dim}, malloc {malloc}")
    print(f"{'':32}{'ms':>9}{'ratio':>8}{'peak MiB':>10}")
    medians = {
        name: float(np.median([s for run in runs for s in run["seconds"]]))
        for name, runs in found.items()
    }
    for name, runs in found.items():
        # A candidate that is fast because it computes something else must not be in the table.
        tolerance = TOLERANCES[_precision(name)]
        for key in ("loss", "gradient"):
            assert abs(runs[0][key] / first[key] - 1) < tolerance, (name, key, runs[0], first)
        ratio = medians[name] / medians["hyperface float32"]
        # The least of the rounds: whatever else a process allocates only adds to its peak.
        peak = min(run["peak"] for run in runs)
        print(f"{name:32}{1e3 * medians[name]:9.1f}{ratio:8.2f}{peak:10.0f}", flush=True)


def main() -> None:
    """Parses the options and prints the tables, or measures one candidate as a child process."""
    if sys.argv[1:2] == ["--worker"]:
        name, *sizes = sys.argv[2:]
        worker(name, *map(int, sizes))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--malloc", choices=[*MALLOC, "both"], default="both")
    parser.add_argument("--only", nargs="+", choices=[*CANDIDATES], default=DEFAULT)
    options = parser.parse_args()
    if "hyperface float32" not in options.only:
        parser.error("--only: expected hyperface float32 among them, which ratios are to")
    for classes in options.classes:
        for malloc in MALLOC if options.malloc == "both" else [options.malloc]:
            measure(options, classes, malloc)


if __name__ == "__main__":
    main()
