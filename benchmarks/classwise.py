"""Measures class-wise losses with both gradients, and plain formulas under the same compiler.

    python benchmarks/classwise.py --classes 10000 100000 [--devices 8]

An agent is the class weight of one class. Softmax is compared with the fastest of four plain
programs, which is named below each table:

- "indexed": unit vectors by a reciprocal square root, logsumexp minus the indexed target;
- "one-hot": the same, but a mask selects the target, as in `hyperface.reference`;
- "optax": optax's cross-entropy of the inner products of divided vectors;
- "scaled logits": inverse norms of the agents applied to the logits, so that no unit agents exist.

"ratio" is the time, divided by that of another row. For softmax this is the fastest plain program,
for C-contrastive its plain formula, and for two terms softmax alone. It is nan if that other row is
not measured.
All times are medians within one run. The candidates take turns, so that a drift of the machine
affects all of them. "floor" is the time of the three matrix products that an exact method needs,
and nothing else. "temporary" is the memory of the compiled program beside its inputs and outputs.

`--only` measures some rows without the steps. At 1,000,000 classes all rows together need about
17 GiB; on a machine with little more, the plain programs would wait for memory.

The last rows are optimiser steps: value, gradients, and SGD with momentum and weight decay on the
agents, whose buffers are donated. "sampled" draws a tenth of the classes; its ratio is to the full
step. With several simulated devices, "sharded" splits the agents by rows over them; its ratio is to
softmax on one device.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hyperface import losses, reference

SCALE = 30.0


def unit(x):
    """Returns the rows scaled to unit length; JAX derives the gradient of this formula."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-12)


def indexed_softmax(features, agents, labels, scale=SCALE):
    """Returns the softmax loss [batch] as logsumexp minus the target, which an index selects."""
    logits = scale * (unit(features) @ unit(agents).T)
    target = logits[jnp.arange(labels.size), labels]
    return jax.nn.logsumexp(logits, axis=1) - target


def optax_softmax(features, agents, labels, scale=SCALE):
    """Returns the softmax loss [batch] by optax, for vectors that are divided by their norms."""
    x, w = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (features, agents))
    return optax.softmax_cross_entropy_with_integer_labels(scale * (x @ w.T), labels)


def scaled_logits_softmax(features, agents, labels, scale=SCALE):
    """Returns the softmax loss [batch]; the columns of the logits are divided by agents' norms."""
    # Without an array of unit agents, which is as large as the agents.
    inverse = jax.lax.rsqrt(jnp.sum(agents * agents, axis=1) + 1e-12)
    logits = (scale * unit(features)) @ agents.T * inverse
    target = logits[jnp.arange(labels.size), labels]
    return jax.nn.logsumexp(logits, axis=1) - target


PLAIN_SOFTMAX = {
    "plain, indexed": indexed_softmax,
    "plain, one-hot": partial(reference.softmax, scale=SCALE),
    "plain, optax": optax_softmax,
    "plain, scaled logits": scaled_logits_softmax,
}


def plain_c_contrastive(features, agents, labels, margin=1.0):
    """Returns C-contrastive loss [batch] (NormFace, Eq. 10) from all distances and a mask."""
    distance = 2 - 2 * unit(features) @ unit(agents).T
    own = labels[:, None] == jnp.arange(agents.shape[0])[None, :]
    return jnp.sum(jnp.where(own, distance, jnp.maximum(0.0, margin - distance)), axis=1)


def mean_of(loss):
    """Returns the function (features, agents, labels) -> batch mean of a loss per example."""
    return lambda features, agents, labels: jnp.mean(loss(features, agents, labels))


def summed(*terms):
    """Returns the function (features, agents, labels) -> batch mean of the sum of loss terms.

    `losses.weighted_sum` computes all terms and their sum in one pass over the classes.
    """

    def mean(features, agents, labels):
        weights = jnp.full(labels.shape, 1.0 / labels.size)
        return losses.weighted_sum(terms, features, agents, labels, [weights] * len(terms))

    return mean


# Random unit vectors of many dimensions are nearly orthogonal: margin 1 (cosine 0.5) leaves all
# hinges inactive, as in a trained net nearly all are; margin 3 (cosine -0.5) has all active.
# Name -> (row that counts as 1, mean loss).
FASTEST = "the fastest plain softmax"
CANDIDATES = {
    **{name: (FASTEST, mean_of(loss)) for name, loss in PLAIN_SOFTMAX.items()},
    "softmax": (FASTEST, mean_of(partial(losses.softmax, scale=SCALE))),
    "softmax, 256 MiB kept": (
        FASTEST,
        mean_of(partial(losses.softmax, scale=SCALE, memory_budget=256 * 2**20)),
    ),
    "softmax, 2 GiB kept": (
        FASTEST,
        mean_of(partial(losses.softmax, scale=SCALE, memory_budget=2**31)),
    ),
    "softmax, mixed": (
        FASTEST,
        mean_of(partial(losses.softmax, scale=SCALE, precision="mixed")),
    ),
    "softmax, bf16": (
        FASTEST,
        mean_of(partial(losses.softmax, scale=SCALE, precision="bf16")),
    ),
    "softmax + c_contrastive": (
        "softmax",
        summed(losses.Softmax(SCALE, bounded=True), losses.CContrastive(1.0)),
    ),
    "plain c_contrastive": ("plain c_contrastive", mean_of(plain_c_contrastive)),
    "c_contrastive": ("plain c_contrastive", mean_of(losses.c_contrastive)),
    "summed, inactive": ("plain c_contrastive", summed(losses.CContrastive(1.0))),
    "summed, active": ("plain c_contrastive", summed(losses.CContrastive(3.0))),
}


OTHERS = {
    "floor": FASTEST,
    "softmax, sharded": "softmax",
    "step, full": "step, full",
    "step, sampled": "step, full",
}


def compiled(mean, features, agents, labels):
    """Compiles the value and the gradients of a mean loss.

    Args:
      mean: a function (features, agents, labels) -> scalar.
      features: [batch, dim].
      agents: [classes, dim].
      labels: [batch] class ids.

    Returns:
      The program, and its memory in bytes beside inputs and outputs.
    """
    gradients = jax.value_and_grad(mean, argnums=(0, 1))
    program = jax.jit(gradients).lower(features, agents, labels).compile()
    return program, program.memory_analysis().temp_size_in_bytes


def floor(features, agents):
    """Compiles the three products that any exact method needs: the logits, and both gradients.

    The logits serve as the gradient of the logits, since only the time of the products matters.
    """

    def products(f, w):
        slope = f @ w.T
        return slope @ w, slope.T @ f

    return jax.jit(products).lower(features, agents).compile()


def agents_step(rate, agents, velocity, features, labels, key):
    """Runs the part of a training step that concerns the agents, on all rows or a sample of them.

    Args:
      rate: share of the classes that is sampled; 1 takes all.
      agents: [classes, dim].
      velocity: [classes, dim] momentum of SGD.
      features: [batch, dim].
      labels: [batch] class ids.
      key: random key of the sample.

    Returns:
      New agents, new velocity, the mean loss, and its gradient by the features.
    """
    rows, present, row_labels = jnp.arange(0), None, labels
    if rate < 1:
        rows, present, row_labels = losses.sample_classes(key, labels, len(agents), rate=rate)
    part = (agents, velocity) if rate == 1 else (agents[rows], velocity[rows])

    def mean(features, agents):
        return jnp.mean(losses.softmax(features, agents, row_labels, scale=SCALE, present=present))

    value, (to_features, to_agents) = jax.value_and_grad(mean, argnums=(0, 1))(features, part[0])
    v = 0.9 * part[1] + to_agents + 5e-4 * part[0]
    new = (part[0] - 0.1 * v, v)
    if rate < 1:
        # A row that is no class of the sample gets an index beyond the last, which "drop" ignores.
        place = jnp.where(present, rows, len(agents))
        new = [
            whole.at[place].set(x, mode="drop")
            for whole, x in zip((agents, velocity), new, strict=True)
        ]
    return *new, value, to_features


def sharded_mean(devices):
    """Returns the jitted value and gradients of softmax with split agents, and their sharding.

    Args:
      devices: the devices over which the rows of the agents are split.
    """
    mesh = jax.make_mesh(
        (len(devices),), ("classes",), axis_types=(AxisType.Auto,), devices=devices
    )
    loss = partial(losses.softmax, scale=SCALE, axis_name="classes")

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("classes"), PartitionSpec()),
        out_specs=(PartitionSpec(), (PartitionSpec(), PartitionSpec("classes"))),
        check_vma=False,
    )
    def step(features, agents, labels):
        return jax.value_and_grad(mean_of(loss), argnums=(0, 1))(features, agents, labels)

    return jax.jit(step), NamedSharding(mesh, PartitionSpec("classes"))


def stepping(rate, agents, features, labels):
    """Returns a function without arguments that runs one more step each time it is called."""
    step = jax.jit(partial(agents_step, rate), donate_argnums=(0, 1))
    # A copy, because the buffers are donated to the step and other candidates need the agents.
    state = [agents + 0, jnp.zeros_like(agents)]
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def call():
        *state[:], value, to_features = step(*state, features, labels, next(keys))
        return state, value, to_features

    return call


def measure(batch: int, dim: int, classes: int, rounds: int, only: list[str] | None) -> None:
    """Measures all rows for one number of classes and prints their table.

    Args:
      batch: number of features.
      dim: number of dimensions.
      classes: number of classes.
      rounds: number of rounds in which each row is timed once.
      only: names of the rows to measure; None measures all.
    """
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((batch, dim)), jnp.float32)
    agents = jnp.asarray(rng.standard_normal((classes, dim)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, classes, batch), jnp.int32)
    programs = {
        name: compiled(mean, features, agents, labels)
        for name, (_, mean) in CANDIDATES.items()
        if only is None or name in only
    }
    calls = {n: partial(p, features, agents, labels) for n, (p, _) in programs.items()}
    calls["floor"] = partial(floor(features, agents), features, agents)
    if jax.device_count() > 1:
        step, rows = sharded_mean(jax.devices())
        everywhere = NamedSharding(rows.mesh, PartitionSpec())
        shards = jax.device_put((features, agents, labels), (everywhere, rows, everywhere))
        calls["softmax, sharded"] = partial(step, *shards)
    for name, rate in (("step, full", 1.0), ("step, sampled", 0.1)) if only is None else ():
        calls[name] = stepping(rate, agents, features, labels)
    times = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        # All candidates in each round: a slower minute of the machine then concerns all of them.
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if round_:  # The first round warms up.
                times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    ratio, fastest = ratios(median)
    print(f"\n{classes} classes, batch {batch}, dim {dim}, {rounds} rounds")
    print(f"{'':24}{'ms':>9}{'ratio':>9}{'x floor':>9}{'temporary MiB':>15}")
    for name, seconds in median.items():
        memory = programs[name][1] / 2**20 if name in programs else float("nan")
        print(
            f"{name:24}{1e3 * seconds:9.1f}{ratio[name]:9.2f}"
            f"{seconds / median['floor']:9.2f}{memory:15.1f}",
            flush=True,
        )
    if fastest is not None:
        print(f"Fastest plain softmax: {fastest!r}.", flush=True)


def ratios(median: dict[str, float]) -> tuple[dict[str, float], str | None]:
    """Divides the time of each row by that of its base row.

    Args:
      median: row -> median seconds.

    Returns:
      Row -> ratio, which is nan if the base row is not in `median`; and the name of the fastest
      plain softmax, or None if there is no plain softmax in `median`.
    """
    plain = PLAIN_SOFTMAX.keys() & median.keys()
    fastest = min(plain, key=median.__getitem__, default=None)
    found = {}
    for name, seconds in median.items():
        base = CANDIDATES[name][0] if name in CANDIDATES else OTHERS[name]
        found[name] = seconds / median.get(fastest if base == FASTEST else base, float("nan"))
    return found, fastest


def main() -> None:
    """Parses the options and prints one table per number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="simulated, on a CPU")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to measure; all by default")
    options = parser.parse_args()
    unknown = set(options.only or ()) - CANDIDATES.keys()
    if unknown:
        parser.error(
            f"--only: expected rows of {', '.join(CANDIDATES)}, found {', '.join(unknown)}"
        )
    # Before the first use of JAX, which then fixes the number of devices.
    jax.config.update("jax_num_cpu_devices", options.devices)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for classes in options.classes:
        measure(options.batch, options.dim, classes, options.rounds, options.only)


if __name__ == "__main__":
    main()
