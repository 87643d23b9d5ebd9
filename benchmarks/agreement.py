"""Compares losses and a training step on this device with the same on the CPU.

    python benchmarks/agreement.py --only float32 bf16

The value and the gradients of a loss are compared with the same loss in float64 on the CPU; tests
show that this equals the plain formula. A training step of `sphereface-mini` with softmax and Ring
loss is compared with the same step in float32 on the CPU, by the update of all parameters.

An error is the length of the difference, divided by the length of the expected array. "!" marks an
error above its tolerance, and the exit status is then 1. The last line is JSON.
"""

import argparse
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from accuracy import problem, value_and_gradients

from hyperface import losses
from hyperface.config.experiment import Experiment, Model, check
from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm
from hyperface.train.state import create_state
from hyperface.train.step import train_step

# Margin 3 has all hinges active: near a hinge a rounded distance would switch it, at any precision.
LOSSES = {
    "softmax, s = 30": partial(losses.softmax, scale=30.0),
    "softmax, s = 64": partial(losses.softmax, scale=64.0),
    "c_contrastive": partial(losses.c_contrastive, margin=3.0),
    "c_triplet": partial(losses.c_triplet, margin=1.0),
    "a_softmax": losses.a_softmax,
    "l_softmax": losses.l_softmax,
    "arcface": partial(losses.margin_softmax, scale=64.0, angular_margin=0.5),
    "cosface": partial(losses.margin_softmax, scale=64.0, cosine_margin=0.35),
    "magface": losses.magface,
}
# A factor of eight lies between the digits of TF32 (10 bits) and those of bfloat16 (7 bits).
TOLERANCES = {
    "float32": {"loss": 3e-5, "step": 1e-3},
    "tf32": {"loss": 4e-3, "step": 3e-2},
    "bf16": {"loss": 3e-2, "step": 2e-1},
}
"""Precision -> the largest allowed relative error of a loss (value and gradients) and of a step."""
PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": None}
"""Precision -> JAX's name for the precision of the backbone's products. For bfloat16 it is not set,
because the backbone then computes in that type."""


def relative(found, truth) -> float:
    """Returns the norm of the difference, divided by the norm of the expected array `truth`."""
    return float(np.linalg.norm(np.subtract(found, truth)) / np.linalg.norm(truth))


def loss_errors(precision: str, batch: int, dim: int, classes: int) -> dict[str, float]:
    """Returns loss -> the largest relative error of its value and gradients on this device.

    Args:
      precision: a key of `TOLERANCES`.
      batch: number of features, which are the "trained" ones of `accuracy.problem`.
      dim: number of dimensions.
      classes: number of classes.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    features, agents, labels = problem(True, batch, dim, classes)
    errors = {}
    for name, loss in LOSSES.items():
        with jax.enable_x64(True), jax.default_device(cpu):
            exact = [jnp.asarray(x, jnp.float64) for x in (features, agents)]
            truth = value_and_gradients(loss, *exact, labels)
        found = value_and_gradients(partial(loss, precision=precision), features, agents, labels)
        # Not Python's max, which drops a NaN.
        errors[name] = float(np.max([relative(*pair) for pair in zip(found, truth, strict=True)]))
    return errors


def update(precision: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the change of all parameters by one training step on JAX's default device.

    Args:
      precision: a key of `TOLERANCES`.
      images: [batch, height, width, channels] float32.
      labels: [batch] class ids, below 40.

    Returns:
      One vector of the changes of all parameters.
    """
    experiment = check(
        Experiment(
            name="agreement",
            steps=1,
            model=Model(
                name="sphereface-mini", dtype="bfloat16" if precision == "bf16" else "float32"
            ),
            loss=Loss(softmax=SoftmaxTerm(), ring=RingTerm(weight=0.01), precision=precision),
        )
    )
    batch = {"images": images, "labels": labels, "mask": np.ones(len(labels), np.float32)}
    # Initialised on the CPU, so that all devices start from the same parameters and only the step
    # differs.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        fresh = create_state(experiment, 40, images, labels)
    with jax.default_matmul_precision(PRODUCTS[precision]):
        target = jax.config.jax_default_device or jax.devices()[0]
        after, _ = jax.jit(train_step)(jax.device_put(fresh, target), batch)
    # The change and not the new parameters, which one step hardly changes: their relative error
    # would be tiny even for a wrong step.
    change = jax.tree.map(np.subtract, *jax.device_get((after.params, fresh.params)))
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)])


def main() -> None:
    """Compares at each requested precision, prints a table, and sets the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*TOLERANCES], default=[*TOLERANCES])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=20_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (32, 112, 92, 1)).astype(np.float32)
    labels = rng.integers(0, 40, 32).astype(np.int32)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        truth = update("float32", images, labels)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    found: dict[str, dict[str, float]] = {}
    for precision in options.only:
        found[precision] = loss_errors(precision, options.batch, options.dim, options.classes)
        found[precision]["step"] = relative(update(precision, images, labels), truth)
    held = True
    print(f"{'':20}" + "".join(f"{precision:>10}" for precision in found))
    for name in [*LOSSES, "step"]:
        kind = "step" if name == "step" else "loss"
        row = ""
        for precision, errors in found.items():
            holds = errors[name] <= TOLERANCES[precision][kind]
            held &= holds
            row += f"{errors[name]:9.0e}{' ' if holds else '!'}"
        print(f"{name:20}{row}", flush=True)
    print(json.dumps({"errors": found, "held": held}))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
