"""The network that is trained, and everything a run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from hyperface import models
from hyperface.heads import Heads, RingHead, SoftmaxHead
from hyperface.train.experiment import Experiment, Loss
from hyperface.train.optim import make_optimizer


class EmbeddingNetwork(nn.Module):
    """A backbone and the heads that train it."""

    backbone: nn.Module
    head: Heads

    def __call__(
        self, images: jax.Array, labels: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        """Features [batch, dim], loss terms by name [batch], and the heads' scalars by name."""
        features = self.backbone(images)
        return features, *self.head(features, labels, keys)

    def embed(self, images: jax.Array) -> jax.Array:
        """Un-normalised features [batch, dim]."""
        return self.backbone(images)


class TrainState(struct.PyTreeNode):
    """Parameters, optimiser state, random key and step. The data position is the step."""

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    network: EmbeddingNetwork = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    weights: tuple[tuple[str, float], ...] = struct.field(pytree_node=False)


def create_state(
    experiment: Experiment, num_classes: int, images: jax.Array, labels: jax.Array
) -> TrainState:
    """A fresh state, the same for the same seed and first batch.

    Args:
      experiment: the run.
      num_classes: people in the training split.
      images: [batch, height, width, channels], the first batch: Ring loss' R starts at its mean
        feature norm.
      labels: [batch] class ids.
    """
    network = make_network(experiment, num_classes)
    optimizer = make_optimizer(experiment.optimizer, experiment.loss)

    @jax.jit
    def initialise(images, labels):
        init_key, key = jax.random.split(jax.random.key(experiment.seed))
        params = network.init(init_key, images, labels)["params"]
        return params, optimizer.init(params), key

    params, opt_state, key = initialise(images, labels)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=opt_state,
        key=key,
        network=network,
        optimizer=optimizer,
        weights=tuple(experiment.loss.weights().items()),
    )


def abstract_state(
    experiment: Experiment, num_classes: int, image_shape: tuple[int, int, int]
) -> TrainState:
    """The state's shapes and dtypes, with nothing computed: what a checkpoint must match."""
    batch = experiment.data.batch_size
    return jax.eval_shape(
        lambda images, labels: create_state(experiment, num_classes, images, labels),
        jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )


def make_network(experiment: Experiment, num_classes: int) -> EmbeddingNetwork:
    """The experiment's backbone and heads.

    Raises:
      InputError: the model's name is unknown.
    """
    return EmbeddingNetwork(
        backbone=models.create(experiment.model.name, experiment.model.feature_dim),
        head=_make_heads(experiment.loss, num_classes),
    )


def _make_heads(loss: Loss, num_classes: int) -> Heads:
    softmax, ring = loss.softmax, loss.ring
    return Heads(
        softmax=SoftmaxHead(
            num_classes=num_classes,
            normalize=softmax.normalize,
            scale=softmax.scale,
            initial_bound=softmax.initial_bound,
            min_scale=softmax.min_scale,
            use_bias=softmax.bias,
            allow_normalized_bias=softmax.allow_normalized_bias,
            dropout_rate=softmax.dropout,
        ),
        ring=RingHead(initial_radius=ring.initial_radius) if ring.weight else None,
    )
