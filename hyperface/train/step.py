"""One optimiser step as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperface import theory
from hyperface.config.loss import Loss
from hyperface.heads import Context, Objective
from hyperface.losses import shards
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.train import class_rows, divergence
from hyperface.train.class_rows import has_class_rows, length
from hyperface.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    split_classes: bool = False,
) -> tuple[TrainState, Metrics]:
    """Applies one gradient step of the masked mean loss.

    Under a mapped axis every device sees its part of the batch, and the result is that of the whole
    batch on one device: sums and counts are added over the axis and divided once.

    With a sample rate below 1 only the rows of the agents that take part, and those of their
    momentum, are read and written.

    Where a metric of before the update is not finite the state stays as it was but for `diverged`,
    and so it does in every step from then on, until the caller takes that back: nothing is lost
    while the metrics are under way.

    Args:
      state: the state before the step, the same on every device but for what is split by class.
      batch: "images" [batch, height, width, channels] float32, "labels" [batch], "mask" [batch]
        with 1 for an example and 0 for padding.
      axis_name: the mapped axis that the batch is split over; None on one device.
      split_classes: every array with one row a class is split over that axis too; rows beyond the
        last class are padding.

    Returns:
      The state after the step, and metrics of the whole batch before it: "loss" and each term
      (means over examples), "feature_norm", the heads' scalars, "gradient_norm" and "examples"; and
      after it "parameter_norm" of what took part, which shows whether the new state is finite, and
      with agents "distortion", the mean over the classes seen so far of Proposition 3's bound. And
      "unsound": for `divergence.unsound_names`.
    """
    images, mask = batch["images"], batch["mask"]
    loss, num_classes = state.network.head.loss, state.network.head.num_classes
    counted = mask > 0
    labels = jnp.where(counted, batch["labels"], 0)
    sample_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
    rows = state.distortion.size if split_classes else None
    sample = class_rows.draw(loss, sample_key, labels, num_classes, axis_name, rows)
    context = Context(
        step=state.step,
        counted=counted,
        keys=_example_keys(key, mask.shape[0], axis_name),
        sample=sample,
        axis_name=axis_name,
        split_classes=split_classes,
    )
    params, opt_state = whole = (state.params, state.opt_state)
    if sample is not None:
        params, opt_state = class_rows.take(whole, loss, sample)
    before = params, opt_state

    def loss_sum(params):
        (features, made), updated = state.network.apply(
            state.variables | {"params": params}, images, labels, context, mutable=["batch_stats"]
        )
        return made.total, (features, made, updated.get("batch_stats", {}))

    (total, (features, made, batch_stats)), grads = jax.value_and_grad(loss_sum, has_aux=True)(
        params
    )
    looked_at = {**made.terms, "feature_norm": l2_norm(features)}
    sums = {name: jnp.sum(jnp.where(counted, x, 0.0)) for name, x in looked_at.items()}
    sums["loss"] = total
    split_axis = axis_name if split_classes else None
    grads = _summed_gradients(grads, loss, axis_name, split_axis)
    sums, count = _sum_over_devices((sums, jnp.sum(mask)), axis_name)
    divisor = jnp.maximum(count, 1.0)  # A batch of nothing but padding changes nothing to NaN.
    grads = jax.tree.map(lambda g: g / divisor, grads)
    update = optax.with_extra_args_support(state.optimizer).update
    updates, opt_state = update(grads, opt_state, params, split_axis=split_axis)
    params = _forced(loss, optax.apply_updates(params, updates))

    distortion = _distortion(state, made, labels, counted, axis_name, split_classes)
    metrics = {name: total / divisor for name, total in sums.items()} | made.scalars
    gradient_norm, unsound_gradients = _norm(grads, loss, split_axis)
    metrics |= {"gradient_norm": gradient_norm, "examples": count}
    if made.agent_distances is not None:
        metrics["distortion"] = _mean_seen(distortion, split_axis)
    # Not by the new parameters: that would keep them all beside the old ones.
    finite = jnp.all(jnp.isfinite(jnp.stack([jnp.float32(x) for x in metrics.values()])))
    sound = finite & ~state.diverged
    params, opt_state = divergence.chosen(sound, (params, opt_state), before)
    average = _averaged(state, params)
    metrics["parameter_norm"], unsound_params = _norm(params, loss, split_axis)
    if sample is not None:
        params, opt_state = class_rows.put(whole, (params, opt_state), loss, sample)
    new = (batch_stats, distortion, average)
    old = (state.batch_stats, state.distortion, state.average)
    batch_stats, distortion, average = divergence.chosen(sound, new, old)
    state = state.replace(
        step=state.step + sound.astype(jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        distortion=distortion,
        average=average,
        diverged=~sound,
    )
    return state, metrics | {"unsound": divergence.packed(unsound_gradients, unsound_params)}


def _forced(loss: Loss, params: Any) -> Any:
    """Parameters with the rows of agents whose gradient asks for it back at unit length."""
    for name in loss.forced():
        agents = l2_normalize(params["head"][name]["agents"])
        head = params["head"] | {name: params["head"][name] | {"agents": agents}}
        params = params | {"head": head}
    return params


def _averaged(state: TrainState, params: Any) -> Any:
    """The moving average of the parameters after this step."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(state.decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, state.average, 1.0 - decay)


def _mean_seen(distortion: jax.Array, split_axis: str | None) -> jax.Array:
    """The mean over the classes seen so far, of all devices."""
    seen = ~jnp.isnan(distortion)
    found = (jnp.sum(jnp.where(seen, distortion, 0.0)), jnp.sum(seen))
    known, classes = _sum_over_devices(found, split_axis)
    return known / jnp.maximum(classes, 1)


def _distortion(
    state: TrainState,
    made: Objective,
    labels,
    counted,
    axis_name: str | None,
    split_classes: bool,
) -> jax.Array:
    """The moving average of Proposition 3's bound after this batch."""
    if made.agent_distances is None:
        return state.distortion
    seen = (made.agent_distances, labels, counted)
    if axis_name is not None:
        seen = jax.lax.all_gather(seen, axis_name, tiled=True)
    distances, labels, counted = seen
    if split_classes:
        at = shards.locate(labels, state.distortion.size, axis_name)
        labels, counted = at.row, counted & at.is_here
    return theory.updated_distortion(state.distortion, distances, labels, counted=counted)


def _example_keys(key: jax.Array, batch: int, axis_name: str | None) -> jax.Array:
    """One key an example, from its place in the whole batch: the same for any device count."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(batch))


def _summed_gradients(grads, loss: Loss, axis_name: str | None, split_axis: str | None):
    """Over the devices; a row that is on one of them alone has all of its gradient there."""
    if split_axis is None:
        return _sum_over_devices(grads, axis_name)
    return jax.tree_util.tree_map_with_path(
        lambda path, g: g if has_class_rows(path, loss) else jax.lax.psum(g, axis_name), grads
    )


def _norm(tree, loss: Loss, split_axis: str | None) -> tuple[jax.Array, jax.Array]:
    """The length of the whole tree, parts of which are on other devices; its unsound groups."""
    unsound = _sum_over_devices(divergence.unsound_groups(tree), split_axis)
    return length(tree, loss, split_axis), unsound


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
