"""One optimiser step as a pure function."""

import jax
import jax.numpy as jnp
import optax

from hyperface.normalize import l2_norm
from hyperface.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState, batch: Batch, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """Applies one gradient step of the masked mean loss.

    Under a mapped axis every device sees its part of the batch, and the result is that of the whole
    batch on one device: sums and counts are added over the axis and divided once.

    Args:
      state: the state before the step, the same on every device.
      batch: "images" [batch, height, width, channels] float32, "labels" [batch], "mask" [batch]
        with 1 for an example and 0 for padding.
      axis_name: the mapped axis that the batch is split over; None on one device.

    Returns:
      The state after the step, and metrics of the whole batch before it: "loss" and each term
      (means over examples), "feature_norm", the heads' scalars, "gradient_norm" and "examples";
      and "parameter_norm" after it, which shows whether the new state is finite.
    """
    images, mask = batch["images"], batch["mask"]
    real = mask > 0
    labels = jnp.where(real, batch["labels"], 0)
    keys = _example_keys(state, mask.shape[0], axis_name)

    def loss_sum(params):
        features, terms, scalars = state.network.apply({"params": params}, images, labels, keys)
        sums = {name: jnp.sum(jnp.where(real, loss, 0.0)) for name, loss in terms.items()}
        total = sum(weight * sums[name] for name, weight in state.weights)
        norms = jnp.sum(jnp.where(real, l2_norm(features), 0.0))
        sums = {"loss": total, **sums, "feature_norm": norms}
        return total, (sums, scalars)

    grads, (sums, scalars) = jax.grad(loss_sum, has_aux=True)(state.params)
    grads, sums, count = _sum_over_devices((grads, sums, jnp.sum(mask)), axis_name)
    divisor = jnp.maximum(count, 1.0)  # A batch of nothing but padding changes nothing to NaN.
    grads = jax.tree.map(lambda g: g / divisor, grads)
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {name: total / divisor for name, total in sums.items()} | scalars
    metrics |= {
        "gradient_norm": optax.tree.norm(grads),
        "parameter_norm": optax.tree.norm(params),
        "examples": count,
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def _example_keys(state: TrainState, batch: int, axis_name: str | None) -> jax.Array:
    """One key an example, from its place in the whole batch: the same for any device count."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    key = jax.random.fold_in(state.key, state.step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(batch))


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
