"""The optimiser: SGD with momentum, rules by group of parameters, a step schedule."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperface.config.experiment import Group, Groups, Optimizer
from hyperface.config.loss import Loss
from hyperface.train.class_rows import global_norm

OF_HEADS = ("agents", "scale", "radius", "centers")
BY_NAME = {"kernel": "kernels", "slope": "slopes", "bias": "biases"}
OF_PARTS = {"backbone": (*BY_NAME.values(), "norms"), "head": (*OF_HEADS, "biases")}


class GroupSummary(NamedTuple):
    """One line of what a run prints at its start."""

    name: str
    parameters: int
    rule: Group

    def __str__(self) -> str:
        rule = f"{self.rule.rate:g} x rate, {self.rule.decay:g} x decay"
        return f"{self.name} {self.parameters:,} ({rule})"


def make_optimizer(optimizer: Optimizer, loss: Loss) -> optax.GradientTransformation:
    """SGD as both papers train: decay is added to the gradient before momentum.

    Each group of parameters has multipliers of its own (`Groups`). Centers under the paper's rule
    move by its alpha of their direction instead, with neither schedule nor momentum.

    Returns:
      A gradient transformation over the parameters of `state.EmbeddingNetwork`. Its update takes
      `split_axis`, the mapped axis over which what has one row a class is split, where it is.
    """
    frozen_until = {"backbone": optimizer.freeze_backbone, "head": 0}
    chains = {
        _label(part, name): _sgd(optimizer, getattr(optimizer.groups, name), frozen_until[part])
        for part, names in OF_PARTS.items()
        for name in names
    }
    if loss.center.weight and loss.center.rule == "paper":
        chains[_label("head", "centers")] = optax.sgd(loss.center.rate)
    steps = optax.partition(chains, parameter_groups)
    if optimizer.clip is not None:
        steps = optax.chain(_clipped(optimizer.clip, loss), steps)
    if optimizer.accumulate > 1:
        several = optax.MultiSteps(steps, optimizer.accumulate)
        steps = optax.GradientTransformationExtraArgs(several.init, several.update)
    return steps


def _clipped(longest: float, loss: Loss) -> optax.GradientTransformationExtraArgs:
    """optax.clip_by_global_norm, of a gradient that may be split over devices too."""

    def update(updates, state, params=None, *, split_axis: str | None = None, **_: Any):
        norm = global_norm(updates, loss, split_axis)
        short = jax.tree.map(lambda x: jnp.where(norm < longest, x, x / norm * longest), updates)
        return short, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _sgd(optimizer: Optimizer, group: Group, first_step: int) -> optax.GradientTransformation:
    """The rule of one group, whose parameters stay as they are before `first_step`."""

    def rate(update: jax.Array) -> jax.Array:
        # Updates are counted, not the batches that they were gathered from.
        return group.rate * learning_rate(optimizer)(update * optimizer.accumulate)

    def open_gate(update: jax.Array) -> jax.Array:
        return jnp.where(update * optimizer.accumulate >= first_step, 1.0, 0.0)

    descend, momentum = optax.scale_by_learning_rate(rate), optax.trace(optimizer.momentum)
    gate = [optax.scale_by_schedule(open_gate)] if first_step else []
    inside = optimizer.rate_in_velocity
    return optax.chain(
        optax.add_decayed_weights(group.decay * optimizer.weight_decay),
        *gate,
        *((descend, momentum) if inside else (momentum, descend)),
    )


def learning_rate(optimizer: Optimizer) -> optax.Schedule:
    """Step -> learning rate: constant, times `factor` from each boundary on."""
    return optax.piecewise_constant_schedule(
        optimizer.learning_rate, dict.fromkeys(optimizer.boundaries, optimizer.factor)
    )


def with_updates(opt_state: Any, updates: int) -> Any:
    """The optimiser's state with its schedules where they are after this many updates.

    Args:
      opt_state: of an optimiser of `make_optimizer`.
      updates: made, or left out.
    """

    def at(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if getattr(path[-1], "name", None) != "count":
            return leaf
        return jax.device_put(np.full(leaf.shape, updates, leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(at, opt_state)


def parameter_groups(params: Mapping[str, Any]) -> Any:
    """The tree of "part.group" labels of an `EmbeddingNetwork`'s parameters.

    Part is "backbone" or "head", group a field of `Groups`.

    Raises:
      ValueError: a parameter's name is of no group.
    """

    def walk(node: Mapping[str, Any], part: str) -> dict[str, Any]:
        norm = part == "backbone" and "scale" in node  # BatchNorm's scale and bias
        return {
            name: walk(child, part)
            if isinstance(child, Mapping)
            else _label(part, "norms" if norm else _group(name, part))
            for name, child in node.items()
        }

    return {part: walk(node, part) for part, node in params.items()}


def group_summaries(params: Mapping[str, Any], optimizer: Optimizer) -> list[GroupSummary]:
    """The groups that a network has, with their sizes and rules, in order of `Groups`."""
    sizes: dict[str, int] = {}
    labels = jax.tree.leaves(parameter_groups(params))
    for label, leaf in zip(labels, jax.tree.leaves(params), strict=True):
        name = label.split(".")[1]
        sizes[name] = sizes.get(name, 0) + leaf.size
    return [
        GroupSummary(name, sizes[name], getattr(optimizer.groups, name))
        for name in Groups.names()
        if name in sizes
    ]


def _group(name: str, part: str) -> str:
    if part == "head" and name in OF_HEADS:
        return name
    if name not in BY_NAME:
        raise ValueError(f"expected a parameter named {sorted(BY_NAME)}, found {name!r}")
    return BY_NAME[name]


def _label(part: str, group: str) -> str:
    return f"{part}.{group}"
