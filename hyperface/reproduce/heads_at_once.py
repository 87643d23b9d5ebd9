"""Trains small networks ("heads") on fixed features, for many settings and seeds at the same time.

The weights of the loss terms, the scale and the choice of normalisation are inputs of the training
program, as the parameters are. So one program, compiled once and mapped by `jax.vmap`, trains all
settings.
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
"""Number of units of the hidden layer, of dimensions of a feature, and of images per batch."""
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
"""Learning rate, momentum and weight decay of SGD."""
PARTS = 20
"""Number of calls that the steps are split into; progress is reported after each call."""

Params = dict[str, jax.Array]
"""The parameters of a head by name."""
Number = float | jax.Array
"""A number or, inside the mapped program, an array with one number per setting."""

xavier = jax.nn.initializers.glorot_uniform()


class Setting(NamedTuple):
    """The hyper-parameters of one training, whose objective is a weighted sum of four losses.

    Each field is a number. Inside of `train`, which trains many settings at once, a `Setting` may
    have arrays [settings] as fields.
    """

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
    """The scale s, by which the softmax loss multiplies its similarities."""
    unit_features: Number = False
    """Whether the softmax loss normalises features, as l2-constrained softmax does."""
    unit_agents: Number = False
    """Whether the softmax loss normalises agents (class weights). NormFace's softmax normalises
    both features and agents."""


class Carry(NamedTuple):
    """The training state of one head, which each step passes to the next."""

    params: Params
    """Parameters by name. Those of the head's layers are "inner" [input dim, hidden], "inner_bias"
    [1, hidden], "slope" [1, hidden], "outer" [hidden, dim] and "outer_bias" [1, dim]. Those of the
    losses are "agents" [classes, dim] (class weights) and "radius", Ring loss' scalar R."""
    centers: jax.Array
    """[classes, dim] centers of center loss, which have an update rule of their own."""
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
    """Trains one head per setting and seed, all in one compiled program.

    A head is a small network from features to features: a linear layer, a PReLU and a linear layer,
    with class weights for the losses. The seed determines the initial parameters and the batches,
    so all settings share both. For each image of a batch, either the image or its mirror image is
    used, at random.

    Args:
      settings: the hyper-parameters of each objective.
      features: [images, 2, dim] features of each image and of its mirror image.
      labels: [images] class ids, counted from 0.
      seeds: number of seeds, counted from 0.
      steps: number of steps of SGD. The learning rate is a tenth in the last fifth of the steps.
      progress: function that is called with (number of finished steps, number of all steps).

    Returns:
      The parameters of the heads by name, as in `Carry.params`, each array [seeds, settings, ...].
    """
    # One `Setting` whose fields are arrays [settings], over which the program is mapped.
    every = Setting(*(jnp.asarray(values) for values in zip(*settings, strict=True)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    data = jnp.asarray(features), jnp.asarray(labels)
    classes = int(np.max(labels)) + 1
    carry = jax.vmap(lambda key: initial_state(key, data, classes, steps))(keys)
    # One initial state per seed is copied to all settings, so that they differ in nothing else.
    carry = jax.tree.map(lambda x: jnp.repeat(x[:, None], len(settings), axis=1), carry)
    of_settings = jax.vmap(partial(some_steps, steps=steps), (0, None, 0, None, None, None))
    # Donated: the state of all heads would otherwise be in memory twice.
    run = jax.jit(jax.vmap(of_settings, (0, 0, None, None, None, None)), donate_argnums=0)
    bounds = np.linspace(0, steps, PARTS + 1).astype(int)
    for start, stop in itertools.pairwise(bounds):
        carry = jax.block_until_ready(run(carry, keys, every, start, stop, data))
        if progress is not None:
            progress(int(stop), steps)
    return jax.device_get(carry.params)


def initial_state(
    key: jax.Array, data: tuple[jax.Array, jax.Array], classes: int, steps: int
) -> Carry:
    """Returns the state of one head before the first step.

    The radius of Ring loss starts at the mean feature norm of the first batch.

    Args:
      key: the random key of the seed.
      data: features [images, 2, dim] of each image and of its mirror image, and labels [images].
      classes: number of classes: the number of agents (class weights) and of centers.
      steps: number of all steps of the training, on which the learning rate depends.
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
    # Ring loss' R starts at the mean feature norm of the first batch, as in a released code; the
    # paper does not say where.
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
    """Runs the training steps from `start` up to `stop`, for one setting and one seed.

    Args:
      carry: the state before these steps.
      key: the random key of the seed.
      setting: the hyper-parameters of the objective.
      start: number of the first step, counted from 0.
      stop: number of the step before which this function stops.
      data: features [images, 2, dim] of each image and of its mirror image, and labels [images].
      steps: number of all steps of the training, on which the learning rate depends.

    Returns:
      The state after these steps.
    """

    def step(number: jax.Array, carry: Carry) -> Carry:
        batch, labels = drawn(key, number, data)
        grads = jax.grad(objective)(carry.params, carry.centers, setting, batch, labels)
        updates, opt_state = optimizer(steps).update(grads, carry.opt_state, carry.params)
        # Centers follow the class means whatever the weight of center loss is (Wen et al. 2016).
        moved = losses.updated_centers(carry.centers, embed(carry.params, batch), labels)
        # optax keeps the structure of the parameters, which its types do not say.
        params = cast(Params, optax.apply_updates(carry.params, updates))
        return Carry(params, moved, opt_state)

    return jax.lax.fori_loop(start, stop, step, carry)


def objective(
    params: Params, centers: jax.Array, setting: Setting, batch: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the weighted sum of four losses, averaged over a batch, a scalar.

    The losses are softmax, Ring loss, center loss and C-contrastive, and `setting` contains their
    weights.

    Args:
      params: the parameters of a head by name, as in `Carry.params`.
      centers: [classes, dim] centers of center loss, which are constants in the gradient.
      setting: the hyper-parameters of the objective.
      batch: [batch, dim] input features of the head.
      labels: [batch] class ids.
    """
    features, agents = embed(params, batch), params["agents"]
    # The argument `normalize` of a loss is fixed at compilation; here it differs between settings.
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
    """Returns the output features of a head, [batch, dim].

    The head is a linear layer, a PReLU with one slope per unit, and a linear layer.

    Args:
      params: the parameters of the head by name, as in `Carry.params`.
      features: [batch, input dim] features of the fixed network.
    """
    x = features @ params["inner"] + params["inner_bias"]
    x = jnp.where(x < 0, params["slope"] * x, x)
    return x @ params["outer"] + params["outer_bias"]


def drawn(
    key: jax.Array, step: jax.Array | int, data: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Returns a random batch for a step: features [batch, dim] and labels [batch].

    For each example, either the image or its mirror image is used, at random.

    Args:
      key: the random key of the seed.
      step: number of the step, counted from 0.
      data: features [images, 2, dim] of each image and of its mirror image, and labels [images].
    """
    # Folding in 0 here and 1 in `first` keeps the draws of batches and parameters independent.
    which, side = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), step))
    chosen = jax.random.randint(which, (BATCH,), 0, data[1].shape[0])
    mirrored = jax.random.randint(side, (BATCH,), 0, 2)
    return data[0][chosen, mirrored], data[1][chosen]


def _decayed(params: Params) -> dict[str, bool]:
    """Returns name -> whether weight decay applies to the parameter."""
    # Decay of R would pull all feature norms towards zero.
    return {name: name not in ("inner_bias", "outer_bias", "radius") for name in params}


def optimizer(steps: int) -> optax.GradientTransformation:
    """Returns SGD with momentum and weight decay.

    The learning rate drops to a tenth after four fifths of the steps. Biases and the radius R of
    Ring loss are not decayed.

    Args:
      steps: number of all steps.
    """
    rate = optax.piecewise_constant_schedule(RATE, {steps * 4 // 5: 0.1})
    return optax.chain(optax.add_decayed_weights(DECAY, _decayed), optax.sgd(rate, MOMENTUM))
