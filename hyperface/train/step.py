"""Defines one optimiser step as a pure function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperface import theory
from hyperface.config.loss import Loss
from hyperface.heads import AgentUpdate, Context, Objective
from hyperface.losses import shards
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.train import class_rows, divergence, in_sweep
from hyperface.train.class_rows import global_norm, has_class_rows
from hyperface.train.optim import stop_frozen_gradients
from hyperface.train.state import TrainState

Batch = dict[str, jax.Array]
"""A batch: "images", "labels" and "mask", see `train_step`."""
Metrics = dict[str, jax.Array]
"""Name -> scalar."""


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    split_classes: bool = False,
) -> tuple[TrainState, Metrics]:
    """Applies one gradient step of the mean loss over the examples that are not padding.

    Under a mapped axis each device gets its part of the batch, and the result is the same as that
    of the whole batch on one device: sums and counts are added over the axis, and then divided.

    If `Experiment.loss.sample_rate` is below 1, each step samples some of the classes. It then
    reads and writes only the agents (class weights) of these classes, and their momentum.

    If the loss, another metric from before the update, or the gradient norm is NaN or infinite, the
    update is left out: the returned state is the given state with `TrainState.diverged` True. Later
    steps leave out their updates too, until the caller sets `diverged` to False. The caller may
    therefore read the metrics some steps later.

    There is one exception. With `Optimizer.agents_update` "in-sweep" a finite loss is enough for
    the agents to be updated, because their update comes before the other gradients are known. If a
    gradient is then NaN or infinite, the old agents are lost, and "parameter_norm" is NaN. The old
    state is also lost if all gradients are finite but a new parameter is not.

    Args:
      state: the state before the step, the same on every device except for arrays split by class.
      batch: "images" [batch, height, width, channels] float32, "labels" [batch], "mask" [batch]
        with 1 for an example and 0 for padding.
      axis_name: the mapped axis over which the batch is split; None on one device.
      split_classes: whether all arrays with one row per class are split over that axis too; rows
        after the last class are padding.

    Returns:
      (state, metrics): the state after the step, and the metrics of the whole batch, by name.

      Metrics from before the update: "loss", each term of the loss by its name, and "feature_norm"
      are means over the examples. "gradient_norm" is the norm of all gradients together, and
      "examples" the number of examples. The heads add their scalars, such as a learned scale.

      Metrics from after the update: "parameter_norm" is the norm of all updated parameters
      together. "nonfinite" is an int32 whose bits say which groups of gradients and of parameters
      are not finite; `divergence.nonfinite_names` returns their names. Only if there are agents,
      "distortion" is the bound in NormFace's Proposition 3. The bound of a class is the moving
      average of the squared distance between its normalised features and its normalised agent;
      "distortion" is the mean over the classes that a batch has had so far.
    """
    loss, mask = state.network.head.loss, batch["mask"] > 0
    split_axis = axis_name if split_classes else None
    # Class 0 is always in range. A label of padding need not be, and would make the loss NaN.
    labels = jnp.where(mask, batch["labels"], 0)
    context = _context(state, labels, mask, axis_name, split_classes=split_classes)
    full_state = (state.params, state.opt_state)
    params, opt_state = class_rows.gather_rows(full_state, loss, context.sample)
    count = _sum_over_devices(jnp.sum(batch["mask"]), axis_name)
    # At least 1, because 0 / 0 would make all parameters NaN after a batch that is only padding.
    divisor = jnp.maximum(count, 1.0)
    # For agents that the backward scan updates, a scalar stands in for their momentum below.
    opt_state, velocities = in_sweep.take(state, opt_state)
    updates = in_sweep.updates_of(state, opt_state, velocities, divisor)
    forward, pull = _forward(state, params, updates, batch["images"], labels, context)
    params, _ = in_sweep.take(state, params)
    previous = (params, opt_state)

    metrics, distortion = _measured(state, forward, labels, mask, context, divisor)
    metrics["examples"] = count
    # A cotangent of zero is how the scan learns that it must not update the agents.
    may_update = divergence.all_finite(metrics) & ~state.diverged
    pulled = pull(may_update.astype(jnp.float32) if updates else jnp.float32(1.0))
    grads, agents, velocities = _mean_gradients(state, pulled, divisor, axis_name, split_axis)
    params, opt_state = _updated(state, grads, params, opt_state, split_axis)

    metrics["gradient_norm"] = global_norm(grads, loss, split_axis)
    # Only the gradients decide, and not the new parameters: to test these before the selection, the
    # old and the new ones would have to be in memory together.
    is_finite = may_update & jnp.isfinite(metrics["gradient_norm"])
    params, opt_state = divergence.select_update(is_finite, (params, opt_state), previous)
    params = in_sweep.put(state, params, agents)
    opt_state = in_sweep.put(state, opt_state, velocities)
    # The agents were updated in the backward scan, and the rest was not: the state is lost.
    is_torn = may_update & ~is_finite if updates else False
    metrics |= _measured_after(grads, params, is_torn, loss, split_axis)
    after = (forward.batch_stats, distortion, _averaged(state, params))
    before = (state.batch_stats, state.distortion, state.average)
    # A batch whose update is left out must not change the moving averages.
    batch_stats, distortion, average = divergence.select_update(is_finite, after, before)
    part = (params, opt_state)
    params, opt_state = class_rows.scatter_rows(full_state, part, loss, context.sample)
    return state.replace(
        # A step that is left out is not counted, so that the host may give its number again.
        step=state.step + is_finite.astype(jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        distortion=distortion,
        average=average,
        diverged=~is_finite,
    ), metrics


class _Forward(NamedTuple):
    """The values that the network computes from a batch."""

    features: jax.Array
    """[batch, dim]."""
    objective: Objective
    """The losses that the heads compute."""
    batch_stats: Any
    """The updated moving averages of batch norm and of feature norms."""


def _forward(
    state: TrainState,
    params: Any,
    updates: dict[str, AgentUpdate],
    images: jax.Array,
    labels: jax.Array,
    context: Context,
) -> tuple[_Forward, Callable[[jax.Array], tuple[Any, Any]]]:
    """Computes the network's values, and returns them with the reverse pass.

    Args:
      state: the state before the step.
      params: the parameters, with the sampled rows only.
      updates: head -> the update of its agents in the backward scan.
      images: [batch, height, width, channels].
      labels: [batch] class ids.
      context: the facts of this step that heads need.

    Returns:
      (values, pull). `pull` is a function from the cotangent of the total loss, a scalar, to
      (gradients with respect to `params`, states). For agents with an update, the new agents are in
      place of their gradient, and `states` has their new state.
    """

    def total(params: Any, states: Any) -> tuple[jax.Array, _Forward]:
        trained = stop_frozen_gradients(params, state.network.frozen)
        variables = state.variables | {"params": trained}
        given = {head: update._replace(state=states[head]) for head, update in updates.items()}
        (features, objective), updated = state.network.apply(
            variables,
            images,
            labels,
            context._replace(agent_updates=given),
            mutable=["batch_stats"],
        )
        return objective.total, _Forward(features, objective, updated.get("batch_stats", {}))

    states = {head: update.state for head, update in updates.items()}
    _, pull, forward = jax.vjp(total, params, states, has_aux=True)
    return forward, pull


def _measured(
    state: TrainState,
    forward: _Forward,
    labels: jax.Array,
    mask: jax.Array,
    context: Context,
    divisor: jax.Array,
) -> tuple[Metrics, jax.Array]:
    """Returns the metrics from before the update, and the moving averages of the distortion.

    Args:
      state: the state before the step.
      forward: the values that the network has computed.
      labels: [batch] class ids.
      mask: [batch] bool, True for an example.
      context: the facts of this step.
      divisor: number of examples of the whole batch.

    Returns:
      (metrics, distortion [classes]).
    """
    objective, axis_name = forward.objective, context.axis_name
    logged = objective.terms | {"feature_norm": l2_norm(forward.features)}
    sums = {name: jnp.sum(jnp.where(mask, x, 0.0)) for name, x in logged.items()}
    # The heads have already left padding out of the total.
    sums["loss"] = objective.total
    # Added over the devices and then divided by their common count. A mean of the devices' means
    # would be wrong if they have different numbers of padding examples.
    sums = _sum_over_devices(sums, axis_name)
    metrics = {name: total / divisor for name, total in sums.items()} | objective.scalars
    distortion = _distortion(state, objective, labels, mask, axis_name, context.split_classes)
    if objective.agent_distances is not None:
        metrics["distortion"] = _mean_seen(distortion, axis_name if context.split_classes else None)
    return metrics, distortion


def _context(
    state: TrainState,
    labels: jax.Array,
    mask: jax.Array,
    axis_name: str | None,
    *,
    split_classes: bool,
) -> Context:
    """Returns the facts of this step that heads need, such as its random keys.

    Args:
      state: the state before the step.
      labels: [batch] class ids.
      mask: [batch] bool, True for an example.
      axis_name: as in `train_step`.
      split_classes: as in `train_step`.
    """
    head = state.network.head
    # The keys follow from the run's key and the step, so that a resumed run draws the same numbers.
    sample_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
    rows = state.distortion.size if split_classes else None
    return Context(
        step=state.step,
        counted=mask,
        keys=_example_keys(key, mask.shape[0], axis_name),
        sample=class_rows.sample(head.loss, sample_key, labels, head.num_classes, axis_name, rows),
        axis_name=axis_name,
        split_classes=split_classes,
    )


def _updated(
    state: TrainState, grads: Any, params: Any, opt_state: Any, split_axis: str | None
) -> tuple[Any, Any]:
    """Returns (params, opt_state) after the optimiser's update.

    Args:
      state: the state before the step.
      grads: gradients of the mean loss.
      params: the parameters before the update.
      opt_state: the optimiser's state before the update.
      split_axis: the mapped axis over which arrays with one row per class are split, or None.
    """
    update = optax.with_extra_args_support(state.optimizer).update
    steps, opt_state = update(grads, opt_state, params, split_axis=split_axis)
    params = optax.apply_updates(params, steps)
    # Agents that the backward scan updates have unit length already.
    if state.agents_optimizer is None:
        # After the update, as in the released codes.
        params = _with_unit_agents(state.network.head.loss, params)
    return params, opt_state


def _with_unit_agents(loss: Loss, params: Any) -> Any:
    """Scales the agents of some heads to unit length: those whose loss sets `forced`.

    The released codes overwrite the agents in this way. With the exact gradient it is not needed.
    """
    for name in loss.forced():
        agents = l2_normalize(params["head"][name]["agents"])
        head = params["head"] | {name: params["head"][name] | {"agents": agents}}
        params = params | {"head": head}
    return params


def _averaged(state: TrainState, params: Any) -> Any:
    """Returns the moving average of the parameters after this step; None if the run keeps none."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    # The average starts as a copy of the random first parameters. A low decay in the first steps
    # forgets them soon.
    decay = jnp.minimum(state.decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, state.average, 1.0 - decay)


def _mean_seen(distortion: jax.Array, split_axis: str | None) -> jax.Array:
    """Returns the mean over all classes that a batch has had so far, a scalar.

    Args:
      distortion: [classes] one value per class of this device; NaN for a class not seen yet.
      split_axis: the mapped axis over which classes are split; None if every device has all.
    """
    seen = ~jnp.isnan(distortion)
    found = (jnp.sum(jnp.where(seen, distortion, 0.0)), jnp.sum(seen))
    known, classes = _sum_over_devices(found, split_axis)
    return known / jnp.maximum(classes, 1)


def _distortion(
    state: TrainState,
    objective: Objective,
    labels: jax.Array,
    mask: jax.Array,
    axis_name: str | None,
    split_classes: bool,
) -> jax.Array:
    """Returns the moving average per class of Proposition 3's bound, after this batch.

    Args:
      state: the state before the step.
      objective: the losses of the heads, with the distances of the examples to their agents.
      labels: [batch] class ids.
      mask: [batch] bool, True for an example.
      axis_name: as in `train_step`.
      split_classes: as in `train_step`.
    """
    if objective.agent_distances is None:
        return state.distortion
    examples = (objective.agent_distances, labels, mask)
    # A class may have examples on several devices, and all devices must compute the same average.
    if axis_name is not None:
        examples = jax.lax.all_gather(examples, axis_name, tiled=True)
    distances, labels, mask = examples
    if split_classes:
        at = shards.locate(labels, state.distortion.size, axis_name)
        # Each device keeps the average of its own classes, and masks the others.
        labels, mask = at.row, mask & at.is_here
    return theory.updated_distortion(state.distortion, distances, labels, counted=mask)


def _example_keys(key: jax.Array, batch: int, axis_name: str | None) -> jax.Array:
    """Returns one key per example.

    A key depends on the example's place in the whole batch, so that it is the same for any number
    of devices.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(batch))


def _mean_gradients(
    state: TrainState,
    pulled: tuple[Any, Any],
    divisor: jax.Array,
    axis_name: str | None,
    split_axis: str | None,
) -> tuple[Any, Any, Any]:
    """Returns the gradients of the mean loss, and what the backward scan has updated.

    Args:
      state: the state before the step.
      pulled: what the reverse pass has returned on this device.
      divisor: number of examples of the whole batch.
      axis_name: the mapped axis over which the batch is split, or None.
      split_axis: the same axis if arrays with one row per class are split over it; otherwise, None.

    Returns:
      (gradients, agents, velocities). The last two are those of the heads whose agents the backward
      scan has updated. Their gradient was never in memory, and its norm stands in for it.
    """
    # For these agents the reverse pass has returned new rows in place of gradients.
    grads, agents = in_sweep.take(state, pulled[0])
    grads = _summed_gradients(grads, state.network.head.loss, axis_name, split_axis)
    grads = jax.tree.map(lambda g: g / divisor, grads)
    grads = in_sweep.put(state, grads, in_sweep.gradient_norms(pulled[1]))
    return grads, agents, in_sweep.velocities(pulled[1])


def _summed_gradients(grads: Any, loss: Loss, axis_name: str | None, split_axis: str | None) -> Any:
    """Adds gradients over the devices, except those of arrays that are split by class.

    Args:
      grads: the gradients on this device.
      loss: the loss whose heads own the parameters.
      axis_name: the mapped axis over which the batch is split, or None.
      split_axis: the same axis if arrays with one row per class are split over it; otherwise, None.
    """
    if split_axis is None:
        return _sum_over_devices(grads, axis_name)
    # The device of a class row has the gradient of the whole batch for it. Rows at the same place
    # on two devices are of different classes, so adding them would be wrong.
    return jax.tree_util.tree_map_with_path(
        lambda path, g: g if has_class_rows(path, loss) else jax.lax.psum(g, axis_name), grads
    )


def _measured_after(
    grads: Any, params: Any, is_torn: jax.Array | bool, loss: Loss, split_axis: str | None
) -> Metrics:
    """Returns the metrics from after the update, "parameter_norm" and "nonfinite".

    Args:
      grads: the gradients.
      params: the parameters after the update, or those before it if it was left out.
      is_torn: scalar bool, whether only the agents were updated. Then the norm is NaN.
      loss: the loss whose heads own the parameters.
      split_axis: the mapped axis over which arrays with one row per class are split, or None.
    """
    # If the update itself overflows, only this norm shows it.
    norm = global_norm(params, loss, split_axis)
    # Only split rows differ between devices, so that only then the flags have to be added.
    groups = divergence.nonfinite_groups(grads), divergence.nonfinite_groups(params)
    return {
        "parameter_norm": jnp.where(is_torn, jnp.nan, norm),
        "nonfinite": divergence.encode_groups(*_sum_over_devices(groups, split_axis)),
    }


def _sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    """Adds each array of a tree over the devices of a mapped axis; None returns the tree."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
