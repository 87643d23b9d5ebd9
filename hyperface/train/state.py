"""The network that is trained, and everything a run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from hyperface import models
from hyperface.config.experiment import Experiment
from hyperface.heads import Context, Heads, Objective
from hyperface.train.optim import make_optimizer


class EmbeddingNetwork(nn.Module):
    """A backbone and the heads that train it."""

    backbone: nn.Module
    head: Heads

    def __call__(
        self, images: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> tuple[jax.Array, Objective]:
        """Features [batch, dim], and what the heads make of them."""
        settings = {}
        if getattr(self.backbone, "batch_norm", False):
            context = context or Context()
            settings = {"train": True, "counted": context.counted, "axis_name": context.axis_name}
        features = self.backbone(images, **settings)
        return features, self.head(features, labels, context)

    def embed(self, images: jax.Array) -> jax.Array:
        """Un-normalised features [batch, dim]; batch norm uses its moving averages."""
        return self.backbone(images)


class TrainState(struct.PyTreeNode):
    """Everything a run carries on. The data position is the step."""

    step: jax.Array
    params: Any
    batch_stats: Any
    """Moving averages of batch norm and of AdaFace's feature norms; empty where there are none."""
    opt_state: Any
    key: jax.Array
    distortion: jax.Array
    """[classes] moving average of Proposition 3's bound; NaN for a class not seen yet."""
    average: Any
    """Moving average of the parameters; None where the optimiser keeps none."""
    diverged: jax.Array
    """Whether an update was left out because it was not finite, as all after it then are. Not
    saved: never so in a checkpoint."""
    network: EmbeddingNetwork = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    decay: float = struct.field(pytree_node=False)
    """Of the moving average."""

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is trained with."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """What the network is scored with: the average of the parameters where there is one."""
        return self.variables if self.average is None else self.variables | {"params": self.average}


def create_state(
    experiment: Experiment,
    num_classes: int,
    images: jax.Array,
    labels: jax.Array,
    backbone: Any = None,
) -> TrainState:
    """A fresh state, the same for the same seed, first batch and backbone.

    Args:
      experiment: the run.
      num_classes: people in the training split.
      images: [batch, height, width, channels], the first batch: Ring loss' R starts at its mean
        feature norm.
      labels: [batch] class ids.
      backbone: "params", and "batch_stats" where it has them, to start the backbone from, where a
        net is fine-tuned; the heads, and R with them, start from its features.
    """
    network = make_network(experiment, num_classes)
    optimizer = make_optimizer(experiment.optimizer, experiment.loss)

    @jax.jit
    def initialise(seed_key, images, labels, backbone):
        init_key, key = jax.random.split(seed_key)
        variables = network.init(init_key, images, labels)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        if backbone is not None:
            features = network.backbone.apply(backbone, images)
            head = network.head.init(init_key, features, labels)
            params = params | {"backbone": backbone["params"]} | _named("head", head.get("params"))
            batch_stats = _named("backbone", backbone.get("batch_stats"))
            batch_stats |= _named("head", head.get("batch_stats"))
        return params, batch_stats, optimizer.init(params), key

    # The seed comes as an argument, so that runs of other seeds find the program compiled.
    seed_key = jax.random.key(experiment.seed)
    params, batch_stats, opt_state, key = initialise(seed_key, images, labels, backbone)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        key=key,
        distortion=jnp.full(num_classes, jnp.nan),
        average=jax.tree.map(jnp.copy, params) if experiment.optimizer.average else None,
        diverged=jnp.zeros((), bool),
        network=network,
        optimizer=optimizer,
        decay=experiment.optimizer.average,
    )


def _named(name: str, tree: Any) -> dict[str, Any]:
    return {name: tree} if tree else {}


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
    model = experiment.model
    return EmbeddingNetwork(
        backbone=models.create(model.name, model.feature_dim, dtype=model.dtype, remat=model.remat),
        head=Heads(num_classes, experiment.loss),
    )
