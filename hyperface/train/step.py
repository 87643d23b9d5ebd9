"""One optimiser step as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperface import theory
from hyperface.heads import Context, Objective
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.objective import Loss
from hyperface.train import sampled
from hyperface.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState, batch: Batch, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """Applies one gradient step of the masked mean loss.

    Under a mapped axis every device sees its part of the batch, and the result is that of the whole
    batch on one device: sums and counts are added over the axis and divided once.

    With a sample rate below 1 only the rows of the agents that take part, and those of their
    momentum, are read and written.

    Args:
      state: the state before the step, the same on every device.
      batch: "images" [batch, height, width, channels] float32, "labels" [batch], "mask" [batch]
        with 1 for an example and 0 for padding.
      axis_name: the mapped axis that the batch is split over; None on one device.

    Returns:
      The state after the step, and metrics of the whole batch before it: "loss" and each term
      (means over examples), "feature_norm", the heads' scalars, "gradient_norm" and "examples"; and
      after it "parameter_norm" of what took part, which shows whether the new state is finite, and
      with agents "distortion", the mean over the classes seen so far of Proposition 3's bound.
    """
    images, mask = batch["images"], batch["mask"]
    loss, num_classes = state.network.head.loss, state.network.head.num_classes
    counted = mask > 0
    labels = jnp.where(counted, batch["labels"], 0)
    sample_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
    sample = sampled.draw(loss, sample_key, labels, num_classes, axis_name)
    context = Context(
        step=state.step,
        counted=counted,
        keys=_example_keys(key, mask.shape[0], axis_name),
        sample=sample,
        axis_name=axis_name,
    )
    params, opt_state = whole = (state.params, state.opt_state)
    if sample is not None:
        params, opt_state = sampled.take(whole, loss, sample)

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
    grads, sums, count = _sum_over_devices((grads, sums, jnp.sum(mask)), axis_name)
    divisor = jnp.maximum(count, 1.0)  # A batch of nothing but padding changes nothing to NaN.
    grads = jax.tree.map(lambda g: g / divisor, grads)
    updates, opt_state = state.optimizer.update(grads, opt_state, params)
    params = _forced(loss, optax.apply_updates(params, updates))

    distortion = _distortion(state, made, labels, counted, axis_name)
    metrics = {name: total / divisor for name, total in sums.items()} | made.scalars
    metrics |= {
        "gradient_norm": optax.tree.norm(grads),
        "parameter_norm": optax.tree.norm(params),
        "examples": count,
    }
    if made.agent_distances is not None:
        seen = ~jnp.isnan(distortion)
        mean = jnp.sum(jnp.where(seen, distortion, 0.0)) / jnp.maximum(jnp.sum(seen), 1)
        metrics["distortion"] = mean
    if sample is not None:
        params, opt_state = sampled.put(whole, (params, opt_state), loss, sample)
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        distortion=distortion,
        average=_averaged(state, params),
    )
    return state, metrics


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


def _distortion(
    state: TrainState, made: Objective, labels, counted, axis_name: str | None
) -> jax.Array:
    """The moving average of Proposition 3's bound after this batch."""
    if made.agent_distances is None:
        return state.distortion
    seen = (made.agent_distances, labels, counted)
    if axis_name is not None:
        seen = jax.lax.all_gather(seen, axis_name, tiled=True)
    distances, labels, counted = seen
    return theory.updated_distortion(state.distortion, distances, labels, counted=counted)


def _example_keys(key: jax.Array, batch: int, axis_name: str | None) -> jax.Array:
    """One key an example, from its place in the whole batch: the same for any device count."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(batch))


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
