"""Measures an optimiser's step on the agents: after their whole gradient, or block by block.

    python benchmarks/updates.py --classes 100000 1000000 --rounds 7

Agents are class weights, one row per class. A program computes softmax loss, its gradient by the
features, and a step of SGD with momentum and weight decay on the agents. Agents and momentum are
donated. "whole" computes the whole gradient of the agents and then applies it. "in sweep" is
`losses.weighted_sum_with_update`, which updates each block of agents while the backward pass
computes its gradient. The programs take turns on the same agents and momentum.

"ratio" is the time, divided by that of the first program: the median over the rounds. "CPU" is the
same ratio of processor time, which other programs on the machine disturb less. "temporary" is the
memory of the compiled program beside its arguments and results.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hyperface import losses

SOFTMAX = losses.Softmax(30.0, bounded=True)


def sgd(rows, velocity, gradient):
    """Returns the rows and velocities after a step with momentum 0.9, decay 5e-4 and rate 0.1.

    All arguments are [rows, dim].
    """
    velocity = 0.9 * velocity + gradient + 5e-4 * rows
    return rows - 0.1 * velocity, velocity


def whole(precision, agents, velocity, features, labels):
    """Computes the gradient of all agents first, and then the step.

    Args:
      precision: precision of the products, as in `losses.weighted_sum`.
      agents: [classes, dim].
      velocity: [classes, dim] momentum.
      features: [batch, dim].
      labels: [batch] class ids.

    Returns:
      New agents, new velocity, the loss, and its gradient by the features.
    """
    weights = [jnp.full(labels.shape, 1.0 / labels.size)]

    def mean(features, agents):
        return losses.weighted_sum(
            [SOFTMAX], features, agents, labels, weights, precision=precision
        )

    value, (to_features, to_agents) = jax.value_and_grad(mean, (0, 1))(features, agents)
    return *sgd(agents, velocity, to_agents), value, to_features


def in_sweep(precision, agents, velocity, features, labels):
    """Updates each block of rows as soon as its gradient is known.

    Arguments and result are those of `whole`.
    """
    weights, update = [jnp.full(labels.shape, 1.0 / labels.size)], jax.tree_util.Partial(sgd)

    def mean(features, agents, velocity):
        return losses.weighted_sum_with_update(
            [SOFTMAX], features, agents, velocity, labels, weights, update, precision=precision
        )

    # The loss' "gradients" by agents and velocity are their new values.
    value, (to_features, agents, velocity) = jax.value_and_grad(mean, (0, 1, 2))(
        features, agents, velocity
    )
    return agents, velocity, value, to_features


PROGRAMS = {
    "whole": partial(whole, "float32"),
    "in sweep": partial(in_sweep, "float32"),
    "whole, bf16": partial(whole, "bf16"),
    "in sweep, bf16": partial(in_sweep, "bf16"),
}


def measure(names: list[str], batch: int, dim: int, classes: int, rounds: int) -> None:
    """Measures the programs with these names for one number of classes and prints their table."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((batch, dim)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, classes, batch), jnp.int32)
    agents = jnp.asarray(rng.standard_normal((classes, dim), np.float32))
    velocity = jnp.zeros_like(agents)
    programs = {
        name: jax.jit(PROGRAMS[name], donate_argnums=(0, 1))
        .lower(agents, velocity, features, labels)
        .compile()
        for name in names
    }
    wall, processor = ({name: [] for name in names} for _ in range(2))
    for round_ in range(rounds + 1):
        for name, program in programs.items():
            began = (time.perf_counter(), time.process_time())
            # The arguments are donated, so the results are the next program's arguments.
            agents, velocity, *_ = program(agents, velocity, features, labels)
            jax.block_until_ready(velocity)
            if round_:  # The first round warms up.
                wall[name].append(time.perf_counter() - began[0])
                processor[name].append(time.process_time() - began[1])
    print(f"\n{classes} classes, batch {batch}, dim {dim}, {rounds} rounds")
    print(f"{'':18}{'ms':>9}{'ratio':>8}{'CPU':>8}{'temporary MiB':>15}")
    for name, program in programs.items():
        # Ratios of the same round: a drift of the machine is in both of its times.
        ratios = [np.median(np.divide(times[name], times[names[0]])) for times in (wall, processor)]
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        print(
            f"{name:18}{1e3 * np.median(wall[name]):9.1f}{ratios[0]:8.2f}{ratios[1]:8.2f}"
            f"{memory:15.1f}",
            flush=True,
        )


def main() -> None:
    """Parses the options and prints one table per number of classes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="the first counts as 1"
    )
    options = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for classes in options.classes:
        measure(options.only, options.batch, options.dim, classes, options.rounds)


if __name__ == "__main__":
    main()
