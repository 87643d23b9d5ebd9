"""The optimiser: SGD with momentum, coupled weight decay by parameter group, step schedule."""

from typing import Any

import jax
import optax

from hyperface.train.experiment import Loss, Optimizer


def make_optimizer(optimizer: Optimizer, loss: Loss) -> optax.GradientTransformation:
    """SGD as both papers train: decay is added to the gradient before momentum.

    The learning rate multiplies the velocity (optax's and PyTorch's form).

    Returns:
      A gradient transformation over the parameters of `state.EmbeddingNetwork`.
    """
    return optax.chain(
        optax.add_decayed_weights(
            optimizer.weight_decay,
            mask=lambda params: decay_mask(params, decay_scale=loss.softmax.decay_scale),
        ),
        optax.sgd(learning_rate(optimizer), momentum=optimizer.momentum),
    )


def learning_rate(optimizer: Optimizer) -> optax.Schedule:
    """Step -> learning rate: constant, times `factor` from each boundary on."""
    return optax.piecewise_constant_schedule(
        optimizer.learning_rate, dict.fromkeys(optimizer.boundaries, optimizer.factor)
    )


def decay_mask(params: Any, *, decay_scale: bool) -> Any:
    """Which parameters are decayed: all but biases, the radius and, unless asked, the scale.

    Agents are decayed even when normalised: Eq. 4's gradient is orthogonal to them, so every step
    lengthens them, and decay is what holds their length (NormFace, 3.2).
    """
    undecayed = {"bias", "radius"} | (set() if decay_scale else {"scale"})
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in undecayed, params)
