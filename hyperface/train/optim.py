"""The optimiser: SGD with momentum, coupled weight decay by parameter group, step schedule."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperface.objective import Loss
from hyperface.train.experiment import Optimizer


def make_optimizer(optimizer: Optimizer, loss: Loss) -> optax.GradientTransformation:
    """SGD as both papers train: decay is added to the gradient before momentum.

    The learning rate multiplies the velocity (optax's and PyTorch's form). Centers under the
    paper's rule move by its alpha of their direction instead, with neither schedule nor momentum.

    Returns:
      A gradient transformation over the parameters of `state.EmbeddingNetwork`.
    """
    network = optax.chain(
        optax.add_decayed_weights(
            optimizer.weight_decay,
            mask=lambda params: decay_mask(params, decay_scale=loss.softmax.decay_scale),
        ),
        optax.sgd(learning_rate(optimizer), momentum=optimizer.momentum),
    )
    if not loss.center.weight or loss.center.rule == "caffe":
        return network
    return optax.partition(
        {"network": network, "centers": optax.sgd(loss.center.rate)},
        lambda params: _by_name(params, lambda name: "centers" if name == "centers" else "network"),
    )


def learning_rate(optimizer: Optimizer) -> optax.Schedule:
    """Step -> learning rate: constant, times `factor` from each boundary on."""
    return optax.piecewise_constant_schedule(
        optimizer.learning_rate, dict.fromkeys(optimizer.boundaries, optimizer.factor)
    )


def decay_mask(params: Any, *, decay_scale: bool) -> Any:
    """Which parameters are decayed: all but biases, centers, radius and, unless asked, the scale.

    Agents are decayed even when normalised: Eq. 4's gradient is orthogonal to them, so every step
    lengthens them, and decay is what holds their length (NormFace, 3.2).
    """
    undecayed = {"bias", "centers", "radius"} | (set() if decay_scale else {"scale"})
    return _by_name(params, lambda name: name not in undecayed)


def _by_name(params: Any, rule: Callable[[str], Any]) -> Any:
    """A tree of what the rule says of each parameter's own name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: rule(path[-1].key), params)
