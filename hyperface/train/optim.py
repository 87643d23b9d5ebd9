"""Builds the optimiser: SGD with momentum, one rule per group of parameters, and a schedule."""

from collections.abc import Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperface.config.experiment import Group, Groups, Optimizer
from hyperface.config.loss import Loss
from hyperface.train.class_rows import global_norm

OF_HEADS = ("agents", "scale", "radius", "centers")
"""Names of parameters of heads that form a group of the same name."""
BY_NAME = {"kernel": "kernels", "slope": "slopes", "bias": "biases"}
"""Name of other parameters -> name of their group."""
OF_PARTS = {
    "backbone": (*BY_NAME.values(), "norms", "others"),
    "head": (*OF_HEADS, *BY_NAME.values(), "others"),
}
"""The groups that each part of the network may have. Only a user's own loss has kernels in a head,
and only a user's own module has a parameter of another name."""

_FROZEN = "backbone.frozen"
"""The label of parameters in layers that are not trained."""


class GroupSummary(NamedTuple):
    """The description of a group of parameters that a run prints when it starts."""

    name: str
    """Name of the group, a field of `Groups`, such as "kernels", or "frozen"."""
    parameters: int
    """Number of values in all its parameters."""
    rule: Group
    """Factors of the learning rate and of the weight decay."""
    members: tuple[str, ...] = ()
    """Names of the parameters in the group "others", which no other group fits; () for any other
    group."""

    def __str__(self) -> str:
        rule = f"{self.rule.rate:g} x rate, {self.rule.decay:g} x decay"
        members = f": {', '.join(self.members)}" if self.members else ""
        return f"{self.name} {self.parameters:,} ({rule}{members})"


def make_optimizer(optimizer: Optimizer, loss: Loss, steps: int) -> optax.GradientTransformation:
    """Returns the optimiser of NormFace and Ring loss: SGD with momentum and weight decay.

    Weight decay is added to the gradient before momentum. Each group of parameters, such as kernels
    or biases, has its own factors of learning rate and weight decay (`Groups`).

    The centers of center loss follow another rule if `CenterTerm.rule` is "paper". Each step then
    subtracts `CenterTerm.rate` times `losses.center_direction` from the centers, without schedule
    and momentum.

    Args:
      optimizer: the settings of the optimiser.
      loss: the objective, whose terms own the parameters of the heads.
      steps: number of steps of the run, after which a cosine schedule reaches 0.

    Returns:
      A gradient transformation over the parameters of `state.EmbeddingNetwork`. Its update function
      has the argument `split_axis`: the mapped axis over which arrays with one row per class are
      split, if any.
    """
    frozen_until = {"backbone": optimizer.freeze_backbone, "head": 0}
    chains: dict[Hashable, optax.GradientTransformation] = {
        _label(part, name): _sgd(
            optimizer, getattr(optimizer.groups, name), frozen_until[part], steps
        )
        for part, names in OF_PARTS.items()
        for name in names
    }
    if loss.center.weight and loss.center.rule == "paper":
        # The paper's rule has a rate of its own, which no schedule lowers.
        chains[_label("head", "centers")] = optax.sgd(loss.center.rate)
    if optimizer.frozen:
        # Only then, so that the state of other runs has the tree of earlier versions: Orbax refuses
        # a checkpoint that lacks an entry, even an empty one.
        chains[_FROZEN] = optax.set_to_zero()
    rule = optax.partition(chains, partial(parameter_groups, frozen=optimizer.frozen))
    if optimizer.clip is not None:
        # First in the chain, so that the clipped length is that of the gradient, without the weight
        # decay, which is added later.
        rule = optax.chain(_clipped(optimizer.clip, loss), rule)
    if optimizer.accumulate > 1:
        # Around all other rules, so that clipping and momentum get the mean gradient of several
        # steps.
        several = optax.MultiSteps(rule, optimizer.accumulate)
        # Optax annotates this update by its own state, which is a transformation's all the same.
        update = cast(optax.TransformUpdateExtraArgsFn, several.update)
        rule = optax.GradientTransformationExtraArgs(several.init, update)
    return rule


def agents_optimizer(optimizer: Optimizer, steps: int) -> optax.GradientTransformation | None:
    """Returns the rule by which the backward scan updates the agents, one [dim] row per class.

    Agents are the class weights. The backward scan is the loop over blocks of classes that computes
    their gradient. The result is None if `optimizer.agents_update` is "whole": the
    optimiser then updates the agents as any other parameter, once their whole gradient is known.

    Args:
      optimizer: the settings of the optimiser.
      steps: number of steps of the run, after which a cosine schedule reaches 0.
    """
    if optimizer.agents_update == "whole":
        return None
    return _sgd(optimizer, optimizer.groups.agents, 0, steps)


def _clipped(longest: float, loss: Loss) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.clip_by_global_norm` for gradients that may be split over devices.

    Args:
      longest: largest norm of all gradients together; longer gradients are scaled to it.
      loss: the loss whose heads own the parameters.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, split_axis: str | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = global_norm(updates, loss, split_axis)
        # optax's own clipping knows only the rows of one device.
        short = jax.tree.map(lambda x: jnp.where(norm < longest, x, x / norm * longest), updates)
        return short, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _sgd(
    optimizer: Optimizer, group: Group, first_step: int, steps: int
) -> optax.GradientTransformation:
    """Returns the rule of one group of parameters.

    Args:
      optimizer: the settings of the optimiser.
      group: factors of the group's learning rate and weight decay.
      first_step: number of steps for which the parameters stay fixed.
      steps: number of steps of the run.
    """

    def rate(update: Any) -> Any:
        # Optax counts updates, and the schedule counts steps, of which an update may have several.
        return group.rate * learning_rate(optimizer, steps)(update * optimizer.accumulate)

    def open_gate(update: Any) -> jax.Array:
        return jnp.where(update * optimizer.accumulate >= first_step, 1.0, 0.0)

    descend, momentum = optax.scale_by_learning_rate(rate), optax.trace(optimizer.momentum)
    # Between decay and momentum, so that frozen parameters do not decay and get no velocity.
    gate = [optax.scale_by_schedule(open_gate)] if first_step else []
    inside = optimizer.rate_in_velocity
    return optax.chain(
        optax.add_decayed_weights(group.decay * optimizer.weight_decay),
        *gate,
        # Caffe multiplies by the rate before it adds to the velocity, so that a later, lower rate
        # does not shrink the velocity of earlier steps. PyTorch multiplies after.
        *((descend, momentum) if inside else (momentum, descend)),
    )


def learning_rate(optimizer: Optimizer, steps: int) -> optax.Schedule:
    """Returns a function from the number of steps done to the learning rate.

    The rate rises linearly in the warm-up. It is then constant between the boundaries, or falls as
    half a cosine.

    Args:
      optimizer: the settings, with the highest rate and the schedule.
      steps: number of steps of the run.
    """
    highest, warm_up = optimizer.learning_rate, optimizer.warm_up
    if optimizer.schedule == "cosine":
        falling = optax.cosine_decay_schedule(highest, max(1, steps - warm_up))
    else:
        # Joined schedules count from where they start; boundaries count from the run's start.
        later = {step - warm_up: optimizer.factor for step in optimizer.boundaries}
        falling = optax.piecewise_constant_schedule(highest, later)
    if not warm_up:
        return falling
    # From highest / (warm_up + 1) and not from 0, which would waste the first step.
    rising = optax.linear_schedule(highest / (warm_up + 1), highest, warm_up)
    return optax.join_schedules([rising, falling], [warm_up])


def with_updates(opt_state: Any, updates: int) -> Any:
    """Returns the optimiser's state with its schedules advanced to a number of updates.

    Args:
      opt_state: the state of an optimiser that `make_optimizer` returned.
      updates: number of updates so far, including those that were left out. This
        number determines the learning rate.
    """

    def at(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if getattr(path[-1], "name", None) != "count":
            return leaf
        # With its old sharding, since another one would compile the step again.
        return jax.device_put(np.full(leaf.shape, updates, leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(at, opt_state)


def is_frozen(layer: str, frozen: Sequence[str]) -> bool:
    """Returns whether the name of a layer matches one of the patterns of `Optimizer.frozen`."""
    return any(fnmatchcase(layer, pattern) for pattern in frozen)


def stop_frozen_gradients(params: Any, frozen: Sequence[str]) -> Any:
    """Returns the parameters unchanged, but stops the gradients of frozen layers.

    Args:
      params: the parameters of an `EmbeddingNetwork`.
      frozen: patterns of names of layers of the backbone, as in `Optimizer.frozen`.
    """
    if not frozen:
        return params
    backbone = {
        name: jax.lax.stop_gradient(layer) if is_frozen(name, frozen) else layer
        for name, layer in params["backbone"].items()
    }
    return {**params, "backbone": backbone}


def parameter_groups(params: Mapping[str, Any], frozen: Sequence[str] = ()) -> Any:
    """Returns a tree like the parameters of an `EmbeddingNetwork`, with a text per parameter.

    The text is "part.group", such as "backbone.kernels", and names the group whose factors of
    learning rate and weight decay apply. It is "backbone.frozen" in layers that are not trained.

    The part is "backbone" or "head". The group is a field of `Groups`, determined by the
    parameter's name; it is "others" for an unknown name.

    Args:
      params: the parameters.
      frozen: patterns of names of layers of the backbone, as in `Optimizer.frozen`.
    """

    def walk(node: Mapping[str, Any], part: str) -> dict[str, Any]:
        # A module with a scale is a normalisation, whose bias belongs to the group "norms" too. In
        # a head "scale" is the scale of the logits.
        norm = part == "backbone" and "scale" in node
        return {
            name: walk(child, part)
            if isinstance(child, Mapping)
            else _label(part, "norms" if norm else _group(name, part))
            for name, child in node.items()
        }

    groups = {part: walk(node, part) for part, node in params.items()}
    for name, layer in groups.get("backbone", {}).items():
        if is_frozen(name, frozen):
            groups["backbone"][name] = jax.tree.map(lambda _: _FROZEN, layer)
    return groups


def group_summaries(params: Mapping[str, Any], optimizer: Optimizer) -> list[GroupSummary]:
    """Returns one summary per group of parameters that a network has, in the order of `Groups`.

    Args:
      params: the parameters of an `EmbeddingNetwork`.
      optimizer: the settings, whose `groups` are the factors of each group.
    """
    sizes: dict[str, int] = {}
    unknown: dict[str, None] = {}
    labels = jax.tree.leaves(parameter_groups(params, optimizer.frozen))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for label, (path, leaf) in zip(labels, leaves, strict=True):
        name = label.split(".")[1]
        sizes[name] = sizes.get(name, 0) + leaf.size
        if name == "others":
            unknown[path[-1].key] = None
    summaries = [
        GroupSummary(
            name,
            sizes[name],
            getattr(optimizer.groups, name),
            tuple(unknown) if name == "others" else (),
        )
        for name in Groups.names()
        if name in sizes
    ]
    if "frozen" in sizes:
        summaries.append(GroupSummary("frozen", sizes["frozen"], Group(rate=0.0, decay=0.0)))
    return summaries


def _group(name: str, part: str) -> str:
    """Returns the group of a parameter by its name and its part, "backbone" or "head"."""
    if part == "head" and name in OF_HEADS:
        return name
    return BY_NAME.get(name, "others")


def _label(part: str, group: str) -> str:
    return f"{part}.{group}"
