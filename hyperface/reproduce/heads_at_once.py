"""Small heads over fixed features, trained for many settings and seeds in one mapped program.

What a setting sets (the weights of the terms, the scale, what is normalised) is an array of the
program like the parameters are, so that one program, compiled once, trains all of them.
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
"""The steps are made in so many calls, between which progress is said."""

Params = dict[str, jax.Array]
"""The parameters of a head by name, one array each."""
Number = float | jax.Array
"""A number or, in the mapped program, an array of one number per setting."""

xavier = jax.nn.initializers.glorot_uniform()


class Setting(NamedTuple):
    """The objective, softmax + ring + center + C-contrastive, in numbers."""

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
    """Whether the softmax sees features at unit length: l2-constrained softmax."""
    unit_agents: Number = False
    """Whether it sees agents at unit length; with both it is NormFace's."""


class Carry(NamedTuple):
    """What goes from one step to the next."""

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
      labels: [images] class ids from 0 on.
      seeds: how many, from 0 on.
      steps: of stochastic gradient descent; the rate is a tenth in the last fifth.
      progress: called with steps done and all.

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
    """Parameters before the first step; R is the mean feature norm of the first batch.

    Args:
      key: of the seed.
      data: features and labels, as in `train`.
      classes: rows of agents and centers.
      steps: in all.
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
    """The steps from `start` to `stop` of one setting and seed.

    Args:
      carry: before them.
      key: of the seed.
      setting: the objective.
      start: steps that are done.
      stop: steps that are done after it.
      data: features and labels, as in `train`.
      steps: in all.
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
    """The mean loss of a batch.

    Args:
      params: of a head.
      centers: [classes, dim] of center loss.
      setting: what is minimised.
      batch: [batch, dim] features that the head makes its own of.
      labels: [batch] class ids.
    """
    features, agents = embed(params, batch), params["agents"]
    # Normalised by hand: what a loss normalises is a choice of the program, not a number.
    seen = jnp.where(setting.unit_features, l2_normalize(features), features)
    rows = jnp.where(setting.unit_agents, l2_normalize(agents), agents)
    loss = (
        setting.softmax * losses.softmax(setting.scale * seen, rows, labels, normalize="none")
        + setting.ring * losses.ring(features, params["radius"])
        + setting.center * losses.center(features, centers, labels)
        + setting.c_contrastive
        * losses.c_contrastive(features, agents, labels, margin=setting.margin)
    )
    return jnp.mean(loss)


def embed(params: Params, features: jax.Array) -> jax.Array:
    """A head's features [batch, dim]: a linear layer, PReLU, a linear layer."""
    x = features @ params["inner"] + params["inner_bias"]
    x = jnp.where(x < 0, params["slope"] * x, x)
    return x @ params["outer"] + params["outer_bias"]


def drawn(
    key: jax.Array, place: jax.Array | int, data: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The batch of a step: features [batch, dim] and labels [batch]."""
    which, side = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), place))
    chosen = jax.random.randint(which, (BATCH,), 0, data[1].shape[0])
    mirrored = jax.random.randint(side, (BATCH,), 0, 2)
    return data[0][chosen, mirrored], data[1][chosen]


def _decayed(params: Params) -> dict[str, bool]:
    return {name: name not in ("inner_bias", "outer_bias", "radius") for name in params}


def optimizer(steps: int) -> optax.GradientTransformation:
    """Gradient descent with momentum, a rate that drops once, and decay but of biases and R."""
    rate = optax.piecewise_constant_schedule(RATE, {steps * 4 // 5: 0.1})
    return optax.chain(optax.add_decayed_weights(DECAY, _decayed), optax.sgd(rate, MOMENTUM))
