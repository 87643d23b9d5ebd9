"""Measures the relative error of softmax loss and its gradients in lower precisions.

    python benchmarks/accuracy.py

The plain formula and the losses of this library are compared with float64. An agent is the class
weight of one class. "Random" features are far from every agent. "Trained" features have cosine 0.7
to the agent of their own class, as at the end of training. There the target is nearly the whole
denominator of the plain formula. Float32 then has no digits left for the other classes, so the
plain gradient is wrong while the loss looks right.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hyperface import losses, reference

METHODS = {
    "plain float32": reference.softmax,
    "float32": losses.softmax,
    "tf32": partial(losses.softmax, precision="tf32"),
    "mixed": partial(losses.softmax, precision="mixed"),
    "bf16": partial(losses.softmax, precision="bf16"),
}


def problem(trained: bool, batch: int, dim: int, classes: int):
    """Returns random features [batch, dim] and agents [classes, dim], float32, and labels [batch].

    Args:
      trained: whether each feature has cosine 0.7 to its own agent; if not, it is independent.
      batch: number of features.
      dim: number of dimensions.
      classes: number of agents.
    """
    rng = np.random.default_rng(0)
    agents = rng.standard_normal((classes, dim))
    labels = rng.integers(0, classes, batch)
    features = rng.standard_normal((batch, dim))
    if trained:
        own = agents[labels] / np.linalg.norm(agents[labels], axis=1, keepdims=True)
        # In many dimensions random unit vectors are nearly orthogonal, so this sum has length 1 and
        # cosine 0.7 but for a few percent.
        noise = features / np.linalg.norm(features, axis=1, keepdims=True)
        features = 0.7 * own + np.sqrt(1 - 0.7**2) * noise
    return features.astype(np.float32), agents.astype(np.float32), labels.astype(np.int32)


def value_and_gradients(loss, features, agents, labels):
    """Returns the mean loss and its gradients by features and agents, as float64 NumPy arrays.

    Args:
      loss: a function (features, agents, labels) -> losses [batch].
      features: [batch, dim].
      agents: [classes, dim].
      labels: [batch] class ids.
    """
    mean = jax.value_and_grad(lambda f, w: jnp.mean(loss(f, w, labels)), argnums=(0, 1))
    value, gradients = jax.jit(mean)(features, agents)
    return [np.asarray(x, np.float64) for x in (value, *gradients)]


def main() -> None:
    """Measures all cases and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    options = parser.parse_args()
    print(f"{options.classes} classes, batch {options.batch}, dim {options.dim}")
    print(f"{'':24}{'method':16}{'loss':>10}{'to features':>14}{'to agents':>12}")
    for trained in (False, True):
        arguments = problem(trained, options.batch, options.dim, options.classes)
        for scale in (30.0, 64.0):
            with jax.enable_x64(True):
                exact = [jnp.asarray(x, jnp.float64) for x in arguments[:2]]
                # By the library's own loss: tests in float64 show that it equals the plain formula.
                truth = value_and_gradients(
                    partial(losses.softmax, scale=scale), *exact, arguments[2]
                )
            for name, loss in METHODS.items():
                found = value_and_gradients(partial(loss, scale=scale), *arguments)
                errors = [
                    np.linalg.norm(a - b) / np.linalg.norm(b)
                    for a, b in zip(found, truth, strict=True)
                ]
                case = f"{'trained' if trained else 'random'}, s = {scale:g}"
                print(
                    f"{case:24}{name:16}{errors[0]:10.0e}{errors[1]:14.0e}{errors[2]:12.0e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
