"""Trains small heads on fixed features, for many settings and seeds in one mapped program.

The weights of the terms, the scale and the choice of normalisation are arrays of the program, as
the parameters are. So one program, compiled once, trains all settings.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperface import losses
from hyperface.normalize import l2_norm, l2_normalize

HIDDEN, DIM, BATCH = 128, 128, 64
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
PARTS = 20
"""Number of calls that the steps are split into; progress is reported after each."""

Params = dict[str, jax.Array]
"""The parameters of a head by name, one array each."""
Number = float | jax.Array
"""A number or, in the mapped program, an array of one number per setting."""

xavier = jax.nn.initializers.glorot_uniform()


class Setting(NamedTuple):
    """The numbers of the objective: softmax + ring + center + C-contrastive."""

    softmax: Number = 1.0
    """Weight of the softmax loss."""
    ring: Number = 0.0
    """Weight of Ring loss."""
    center: Number = 0.0
    """Weight of center loss."""
    c_contrastive: Number = 0.0
    """Weight of C-contrastive loss."""
    margin: Number = 1.0
    """Margin of C-contrastive loss."""
    scale: Number = 1.0
    """s on the softmax's similarities."""
    unit_features: Number = False
    """Whether the softmax normalises features: l2-constrained softmax."""
    unit_agents: Number = False
    """Whether the softmax normalises agents; with both it is NormFace's softmax."""


class Carry(NamedTuple):
    """The state that a step passes to the next."""

    params: Params
    centers: jax.Array
    opt_state: optax.OptState


def train(
    settings: Sequence[Setting],
    features: np.ndarray,
    labels: np.ndarray,
    *,
    seeds: int,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Params:
    """Trains every setting with every seed at once.

    A seed sets the first parameters and the batches, the same for all settings. A batch shows
    images or their mirror images.

    Args:
      settings: the objectives.
      features: [images, 2, dim] of images and their mirror images.
      labels: [images] class ids, counted from 0.
      seeds: number of seeds, counted from 0.
      steps: of stochastic gradient descent; the rate drops to a tenth for the last fifth.
      progress: called with the finished steps and the number of all steps.

    Returns:
      The heads' parameters, each array [seeds, settings, ...].
    """
    every = Setting(*(jnp.asarray(values) for values in zip(*settings, strict=True)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    data = jnp.asarray(features), jnp.asarray(labels)
    classes = int(np.max(labels)) + 1
    carry = jax.vmap(lambda key: first(key, data, classes, steps))(keys)
    carry = jax.tree.map(lambda x: jnp.repeat(x[:, None], len(settings), axis=1), carry)
    of_settings = jax.vmap(partial(some_steps, steps=steps), (0, None, 0, None, None, None))
    run = jax.jit(jax.vmap(of_settings, (0, 0, None, None, None, None)), donate_argnums=0)
    bounds = np.linspace(0, steps, PARTS + 1).astype(int)
    for start, stop in itertools.pairwise(bounds):
        carry = jax.block_until_ready(run(carry, keys, every, start, stop, data))
        if progress is not None:
            progress(int(stop), steps)
    return jax.device_get(carry.params)


def first(key: jax.Array, data: tuple[jax.Array, jax.Array], classes: int, steps: int) -> Carry:
    """Returns the state before the first step; R is the mean feature norm of the first batch.

    Args:
      key: of the seed.
      data: features and labels, as in `train`.
      classes: rows of agents and centers.
      steps: number of all steps.
    """
    inner, outer, agents = jax.random.split(jax.random.fold_in(key, 1), 3)
    params = {
        "inner": xavier(inner, (data[0].shape[-1], HIDDEN)),
        "inner_bias": jnp.zeros((1, HIDDEN)),
        "slope": jnp.full((1, HIDDEN), 0.25, jnp.float32),  # A weak type would compile twice.
        "outer": xavier(outer, (HIDDEN, DIM)),
        "outer_bias": jnp.zeros((1, DIM)),
        "agents": xavier(agents, (classes, DIM)),
    }
    batch, _ = drawn(key, 0, data)
    params["radius"] = jnp.mean(l2_norm(embed(params, batch)))
    return Carry(params, jnp.zeros((classes, DIM)), optimizer(steps).init(params))


def some_steps(
    carry: Carry,
    key: jax.Array,
    setting: Setting,
    start: jax.Array,
    stop: jax.Array,
    data: tuple[jax.Array, jax.Array],
    *,
    steps: int,
) -> Carry:
    """Runs the steps from `start` to `stop` of one setting and seed.

    Args:
      carry: the state before them.
      key: of the seed.
      setting: the objective.
      start: number of finished steps.
      stop: number of finished steps afterwards.
      data: features and labels, as in `train`.
      steps: number of all steps.
    """

    def step(place: jax.Array, carry: Carry) -> Carry:
        batch, labels = drawn(key, place, data)
        grads = jax.grad(objective)(carry.params, carry.centers, setting, batch, labels)
        updates, opt_state = optimizer(steps).update(grads, carry.opt_state, carry.params)
        moved = losses.updated_centers(carry.centers, embed(carry.params, batch), labels)
        # optax keeps the structure of the parameters, which its types do not say.
        params = cast(Params, optax.apply_updates(carry.params, updates))
        return Carry(params, moved, opt_state)

    return jax.lax.fori_loop(start, stop, step, carry)


def objective(
    params: Params, centers: jax.Array, setting: Setting, batch: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the mean loss of a batch.

    Args:
      params: of a head.
      centers: [classes, dim] of center loss.
      setting: what is minimised.
      batch: [batch, dim] input features of the head.
      labels: [batch] class ids.
    """
    features, agents = embed(params, batch), params["agents"]
    # `normalize` of a loss is fixed when it is compiled, but here it differs between settings.
    inputs = jnp.where(setting.unit_features, l2_normalize(features), features)
    rows = jnp.where(setting.unit_agents, l2_normalize(agents), agents)
    loss = (
        setting.softmax * losses.softmax(setting.scale * inputs, rows, labels, normalize="none")
        + setting.ring * losses.ring(features, params["radius"])
        + setting.center * losses.center(features, centers, labels)
        + setting.c_contrastive
        * losses.c_contrastive(features, agents, labels, margin=setting.margin)
    )
    return jnp.mean(loss)


def embed(params: Params, features: jax.Array) -> jax.Array:
    """Returns the head's features [batch, dim]: a linear layer, PReLU, a linear layer."""
    x = features @ params["inner"] + params["inner_bias"]
    x = jnp.where(x < 0, params["slope"] * x, x)
    return x @ params["outer"] + params["outer_bias"]


def drawn(
    key: jax.Array, place: jax.Array | int, data: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Samples the batch of a step: features [batch, dim] and labels [batch]."""
    which, side = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), place))
    chosen = jax.random.randint(which, (BATCH,), 0, data[1].shape[0])
    mirrored = jax.random.randint(side, (BATCH,), 0, 2)
    return data[0][chosen, mirrored], data[1][chosen]


def _decayed(params: Params) -> dict[str, bool]:
    return {name: name not in ("inner_bias", "outer_bias", "radius") for name in params}


def optimizer(steps: int) -> optax.GradientTransformation:
    """Returns SGD with momentum, one drop of the rate, and no weight decay of biases and R."""
    rate = optax.piecewise_constant_schedule(RATE, {steps * 4 // 5: 0.1})
    return optax.chain(optax.add_decayed_weights(DECAY, _decayed), optax.sgd(rate, MOMENTUM))
