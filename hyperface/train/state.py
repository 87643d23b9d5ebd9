"""The network, and the state that a run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from hyperface import models
from hyperface.config.experiment import Experiment
from hyperface.errors import InputError
from hyperface.heads import Context, Heads, Objective
from hyperface.train.optim import agents_optimizer, is_frozen, make_optimizer


def takes_batch(backbone: nn.Module) -> bool:
    """Returns whether a backbone has batch statistics: whether its attribute `batch_norm` is True.

    The backbone's `__call__` then takes the arguments `train` (whether to use the batch's
    statistics), `counted` ([batch] bool, False for padding) and `axis_name` (the mapped axis that
    splits the batch).
    """
    return getattr(backbone, "batch_norm", False)


class EmbeddingNetwork(nn.Module):
    """A backbone and the heads that train it.

    Attributes:
      backbone: the network from images [batch, height, width, channels] to features [batch, dim].
      head: the heads, which own the parameters of the loss.
      frozen: patterns of names of layers of the backbone that are not trained, as in
        `Optimizer.frozen`.
    """

    backbone: nn.Module
    head: Heads
    frozen: tuple[str, ...] = ()

    def __call__(
        self, images: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> tuple[jax.Array, Objective]:
        """Returns (features [batch, dim], the losses that the heads compute from them).

        Args:
          images: [batch, height, width, channels] floats in [-1, 1].
          labels: [batch] class ids.
          context: facts of this step that heads need; None uses the defaults.

        Raises:
          InputError: the backbone returns no array of features [batch, dim].
        """
        # A backbone without batch norm does the same in training and evaluation, so it need not
        # accept these keywords.
        settings = {}
        if takes_batch(self.backbone):
            context = context or Context()
            settings = {"train": True, "counted": context.counted, "axis_name": context.axis_name}
        features = self.backbone(images, **settings)
        if getattr(features, "ndim", 0) != 2 or len(features) != len(images):
            raise InputError(
                f"model.backbone: expected features [{len(images)}, dim] of "
                f"{type(self.backbone).__name__}, found {jax.tree.map(jnp.shape, features)}."
            )
        return features, self.head(features, labels, context)

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns un-normalised features [batch, dim]; batch norm uses its moving averages."""
        return self.backbone(images)


class TrainState(struct.PyTreeNode):
    """The state of a run. The position in the data is not part of it: it follows from the step."""

    step: jax.Array
    """Scalar int32, the number of steps that are done."""
    params: Any
    """The parameters, a tree with the entries "backbone" and "head"."""
    batch_stats: Any
    """Moving averages of batch norm and of AdaFace's feature norms; {} if there are none."""
    opt_state: Any
    """The state of the optimiser."""
    key: jax.Array
    """The random key of the run, which stays the same; each step derives its keys from it."""
    distortion: jax.Array
    """[classes] moving average of the bound in NormFace's Proposition 3: the squared distance
    between normalised features and their normalised agent (class weight). NaN for a class that no
    batch has had yet."""
    average: Any
    """Moving average of the parameters; None if the optimiser keeps none."""
    diverged: jax.Array
    """Scalar bool, whether an update was left out because it was not finite. All later updates are
    left out too, until the caller sets this field to False. Every checkpoint has False."""
    network: EmbeddingNetwork = struct.field(pytree_node=False)
    """The module whose parameters these are."""
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    """The rule that updates the parameters; `opt_state` is its state."""
    agents_optimizer: optax.GradientTransformation | None = struct.field(pytree_node=False)
    """The rule by which the backward scan updates the agents, one [dim] row per class. It is None
    if `optimizer` updates them as any other parameter."""
    decay: float = struct.field(pytree_node=False)
    """Decay of the moving average of the parameters; 0 keeps no average."""

    @property
    def variables(self) -> dict[str, Any]:
        """The variables with which the network is trained: "params", and "batch_stats" if any."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """The variables with which the network is scored: averaged parameters if there are any."""
        return self.variables if self.average is None else self.variables | {"params": self.average}


def create_state(
    experiment: Experiment,
    num_classes: int,
    images: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    backbone: Any = None,
) -> TrainState:
    """Returns the state before the first step of a run.

    The state depends only on the arguments; random parameters follow from `experiment.seed`.

    Args:
      experiment: the experiment of the run.
      num_classes: number of people in the training split.
      images: [batch, height, width, channels], the first batch. The radius R of Ring loss is
        initialised with the mean norm of its features.
      labels: [batch] class ids.
      backbone: the variables of a trained backbone to fine-tune: "params", and "batch_stats" if the
        backbone has batch statistics. The heads and R are then initialised from the features of the
        trained backbone. None initialises the backbone at random.

    Raises:
      InputError: a user's module returns no features, or has variables that are neither parameters
        nor batch statistics; or a pattern of `Optimizer.frozen` matches no layer.
    """
    network = make_network(experiment, num_classes)
    optimizer = make_optimizer(experiment.optimizer, experiment.loss, experiment.steps)

    @jax.jit
    def initialise(
        seed_key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        backbone: dict[str, Any] | None,
    ) -> tuple[Any, Any, Any, jax.Array]:
        init_key, key = jax.random.split(seed_key)
        variables = nn.unbox(network.init(init_key, images, labels))
        _check_variables(variables, network)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        if backbone is not None:
            # The heads are initialised again, from the features of the given backbone, because R is
            # the mean norm of the features.
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
        # NaN, since zero would be a distortion that a class can have.
        distortion=jnp.full(num_classes, jnp.nan),
        # A copy, because the step donates the state, and one buffer cannot be donated twice.
        average=jax.tree.map(jnp.copy, params) if experiment.optimizer.average else None,
        diverged=jnp.zeros((), bool),
        network=network,
        optimizer=optimizer,
        agents_optimizer=agents_optimizer(experiment.optimizer, experiment.steps),
        decay=experiment.optimizer.average,
    )


def _named(name: str, tree: Any) -> dict[str, Any]:
    """Returns {name: tree}, or {} for an empty tree, as Flax leaves out modules without arrays."""
    return {name: tree} if tree else {}


def abstract_state(
    experiment: Experiment, num_classes: int, image_shape: tuple[int, int, int]
) -> TrainState:
    """Returns the shapes and dtypes of a run's state; no state is computed.

    Args:
      experiment: the experiment of the run.
      num_classes: number of people in the training split.
      image_shape: (height, width, channels) of an image.

    Raises:
      InputError: a user's module returns no features, or has variables that are neither parameters
        nor batch statistics; or a pattern of `Optimizer.frozen` matches no layer.
    """
    batch = experiment.data.batch_size
    # `eval_shape` also finds a backbone that does not fit, before anything is allocated.
    return jax.eval_shape(
        lambda images, labels: create_state(experiment, num_classes, images, labels),
        jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )


def make_network(experiment: Experiment, num_classes: int) -> EmbeddingNetwork:
    """Returns the backbone and the heads of an experiment as one module.

    Raises:
      InputError: the name of the model is unknown, or its object is not a linen module.
    """
    model = experiment.model
    settings = {"feature_dim": model.feature_dim, "dtype": model.dtype, "remat": model.remat}
    if model.backbone is None:
        backbone = models.create(model.name, **settings)
    else:
        backbone = models.from_object(model.backbone, **settings)
    head = Heads(num_classes, experiment.loss)
    return EmbeddingNetwork(backbone, head, tuple(experiment.optimizer.frozen))


def _check_variables(variables: Any, network: EmbeddingNetwork) -> None:
    """Raises InputError if a module has variables that a `TrainState` does not keep, or if a
    pattern of `Optimizer.frozen` matches no layer."""
    unknown = sorted(set(variables) - {"params", "batch_stats"})
    if unknown:
        raise InputError(
            "model.backbone, loss.custom: expected modules with parameters and batch statistics, "
            f"found the collection {unknown[0]!r}."
        )
    if "backbone" in variables.get("batch_stats", {}) and not takes_batch(network.backbone):
        raise InputError(
            "model.backbone: expected `batch_norm = True` of a module with batch statistics, as "
            f"hyperface.models.Backbone has it, found none in {type(network.backbone).__name__}."
        )
    layers = variables["params"].get("backbone", {})
    for pattern in network.frozen:
        if not any(is_frozen(layer, [pattern]) for layer in layers):
            raise InputError(
                f"optimizer.frozen: expected names of layers of the backbone "
                f"({', '.join(layers)}), found {pattern!r}."
            )
