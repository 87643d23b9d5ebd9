"""The settings of a run as frozen dataclasses, which are checked before JAX is loaded.

An experiment file defines one `Experiment`. It is one of `hyperface/experiments/`, or the user's
own. Every field can be changed on the command line by its dotted name, except for fields that hold
an object, such as a user's backbone.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hyperface.config import loss, records
from hyperface.config.loss import Loss
from hyperface.errors import InputError, expect


@dataclass(frozen=True)
class Data:
    """The prepared data set, and how its images are augmented and batched."""

    name: str = "orl_faces"
    """Name of the prepared data set, which is a folder in the data directory."""
    train_split: str = "train"
    """Name of the split to train on."""
    test_split: str = "test"
    """Name of the split to score on."""
    batch_size: int = 64
    """Number of images per step, over all devices."""
    mirror: bool = True
    """Flip training images left to right at random."""
    shift: int = 0
    """Largest random shift of training images in pixels, in each direction. The pixels at the edge
    are repeated."""
    shrink: int = field(default=1, metadata=records.RARE)
    """Factor by which each side of the stored images is reduced. Each pixel becomes the mean of
    shrink x shrink pixels. It is applied before the crop."""
    crop: tuple[int, int] | None = None
    """Height and width that are cut out of the images: at a random place in training, and in the
    middle in evaluation. None takes whole images."""
    people_fold: tuple[int, int] | None = field(default=None, metadata=records.RARE)
    """(k, n) divides the people of both splits together into n groups. The network is trained on
    all groups but k, counted from 1, and scored on group k. None takes the splits as they are."""


@dataclass(frozen=True)
class Model:
    """The backbone: one of ours by its name, or a user's own as an object."""

    name: str = "sphereface-mini"
    """Name of one of our backbones; --list-models lists them."""
    feature_dim: int = 128
    """Number of values of the feature."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the backbone computes in. Parameters, features and losses are always float32."""
    remat: bool = False
    """Recompute the activations inside of blocks in the backward pass instead of storing them. This
    takes less memory and more time."""
    backbone: Callable | None = field(default=None, metadata=records.OBJECT)
    """The user's own backbone, which replaces `name`. It is a flax linen module from images
    [batch, height, width, channels] to features [batch, dim], or a function that returns such a
    module. The function is called with those of `feature_dim`, `dtype` and `remat` that its
    signature names. A module with batch statistics must have the attribute `batch_norm = True`, as
    `hyperface.models.Backbone` documents."""

    @property
    def title(self) -> str:
        """The name of the backbone in reports; for a user's object, its class and settings."""
        return self.name if self.backbone is None else records.describe(self.backbone)

    @property
    def is_module(self) -> bool:
        """Whether `backbone` is a finished module, not a function or class that builds one.

        A finished module has its own feature size and type. `feature_dim`, `dtype` and `remat` of
        this class then have no effect.
        """
        # A class or a function has a qualified name, and an instance of a module has none.
        is_code = hasattr(self.backbone, "__qualname__")
        return self.backbone is not None and not is_code and hasattr(self.backbone, "apply")


@dataclass(frozen=True)
class Group:
    """Factors of the learning rate and of the weight decay for one group of parameters."""

    rate: float = 1.0
    """Factor of the learning rate; 0 freezes the group."""
    decay: float = 1.0
    """Factor of the weight decay."""


@dataclass(frozen=True)
class Groups:
    """Factors of the learning rate and of the weight decay for each group of parameters.

    Agents (class weights) are decayed even if the loss scales them to unit length. Their gradient
    is then orthogonal to them (NormFace, Eq. 4), so every step makes them longer. Only weight decay
    limits their length (NormFace, 3.2).
    """

    kernels: Group = Group()
    """Weights of convolutions and linear layers, without the agents."""
    biases: Group = Group(decay=0.0)
    """Biases of convolutions, linear layers and the softmax."""
    slopes: Group = Group()
    """Slopes of PReLU."""
    norms: Group = Group(decay=0.0)
    """Scale and bias of batch normalisation."""
    agents: Group = Group()
    """Agents, which are the class weights of class-wise losses."""
    scale: Group = Group(decay=0.0)
    """The learned scale s of the softmax. The authors' published code decays it too."""
    radius: Group = Group(decay=0.0)
    """The learned radius R of Ring loss."""
    centers: Group = Group(decay=0.0)
    """Class centers of center loss, if `loss.center.rule` is "caffe". With the rule "paper" they
    are updated at the rate `loss.center.rate` instead."""
    others: Group = field(default=Group(), metadata=records.RARE)
    """Parameters of any other name, such as a transformer's pos_embedding."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names of the groups, in the order of the fields."""
        return tuple(f.name for f in dataclasses.fields(cls))


@dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent with momentum, and the schedule of its learning rate."""

    learning_rate: float = 0.1
    """The highest learning rate, which the schedule then lowers."""
    schedule: Literal["steps", "cosine"] = "steps"
    """How the learning rate falls. "steps" multiplies it by `factor` at each of `boundaries`.
    "cosine" lowers it along half a cosine, to 0 at the run's last step. Such a run cannot be
    continued with more steps."""
    warm_up: int = 0
    """Number of steps at the start in which the learning rate rises linearly to its highest."""
    momentum: float = 0.9
    """Share of the velocity that each step keeps, in [0, 1)."""
    rate_in_velocity: bool = False
    """Use Caffe's momentum: the gradient is multiplied by the learning rate before it is added to
    the velocity. A lower rate then does not reduce the velocity at once."""
    weight_decay: float = 5e-4
    """Factor of the L2 penalty. Its gradient is added before momentum (coupled decay)."""
    clip: float | None = None
    """Largest norm of the gradient over all parameters; a longer gradient is scaled to this norm.
    None does not clip."""
    boundaries: tuple[int, ...] = ()
    """Steps after which the learning rate is multiplied by `factor`."""
    factor: float = 0.1
    """Factor of the learning rate at each boundary."""
    freeze_backbone: int = 0
    """Number of steps at the start in which only the loss' own parameters are trained, such as the
    class weights, and not the backbone."""
    frozen: tuple[str, ...] = field(default=(), metadata=records.RARE)
    """Names of layers of the backbone that are never trained, such as "conv1" and "block1_*". They
    are shell patterns: * stands for any text, and [12] for one of two characters. The layers are
    the outermost modules of the backbone. If the first layers are frozen, no gradient is computed
    for them, which saves time. Batch normalisation in a frozen layer still uses the statistics of
    the batch, and still updates its moving averages."""
    accumulate: int = 1
    """Number of batches whose mean gradient is used for one update. This replaces a large batch
    that does not fit into memory. Each batch counts as one step."""
    agents_update: Literal["whole", "in-sweep"] = field(default="whole", metadata=records.RARE)
    """When the agents (class weights) are updated. "whole" updates them once their whole gradient
    is known. "in-sweep" updates them block by block while the gradient is computed. The whole
    gradient is then never in memory, which saves a third of the memory for agents. The results are
    the same. "in-sweep" does not work with `clip` and `accumulate`, which need the whole gradient.
    If the loss is finite but the backbone's gradient is not, the agents were updated already. The
    run then returns to its newest checkpoint."""
    average: float = 0.0
    """Decay of a moving average of the parameters; 0 keeps no average. If there is an average, it
    is evaluated instead of the parameters. At step t, from 0, the decay is at most
    (1 + t) / (10 + t)."""
    groups: Groups = Groups()
    """Factors of the learning rate and the decay by group of parameters."""


@dataclass(frozen=True)
class Evaluation:
    """How the trained network is scored on the test split."""

    protocol: Literal["verification", "classification"] = "verification"
    """"verification" scores all pairs of test images, and "classification" the predicted class of
    each test image."""
    mirror: Literal["none", "sum", "max", "concat"] = "sum"
    """How the features of an image and of its mirror image are merged. "none" uses the image alone.
    "sum" adds the two features, "max" takes the larger value of each component, and "concat" joins
    them to a feature of twice the size."""
    batch_size: int = 100
    """Number of images that are embedded at once."""
    folds: int = 10
    """Number of folds (parts) of the pairs. The threshold of each fold is chosen on all others."""
    people_folds: int = field(default=1, metadata=records.RARE)
    """Number of groups into which the people of the training and the test split together are
    divided. For each group one network is trained on the people of all other groups, and scored on
    this group. So each person is scored once, by a network that never saw this person. 1 trains one
    network and scores the test split."""
    snapshots: int = 1
    """Number of checkpoints that are scored: that of the last step, and earlier ones. The report
    shows the mean of their scores and its spread (standard deviation), as NormFace's tables do."""
    snapshot_every: int = 1000
    """Number of steps between two checkpoints that are scored."""


@dataclass(frozen=True)
class Experiment:
    """One training run and its evaluation."""

    name: str
    """Name of the experiment."""
    steps: int
    """Number of optimiser steps. A finished run continues from its end if this is increased."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data, augmentation and dropout."""
    log_every: int = 10
    """Number of steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 100
    """Number of steps between two checkpoints."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    shard_agents: bool = False
    """Split the agents (class weights), the centers of center loss and their optimiser state by
    rows over the devices. This allows more classes than fit into the memory of one device."""
    compare: tuple[str, ...] = ()
    """Names of experiments to compare with. For each of them a further network is trained, with the
    loss of that experiment and all other settings of this one."""
    on_metrics: Callable[[int, dict[str, float]], object] | None = field(
        default=None, metadata=records.OBJECT
    )
    """A function that is called with the step and the metrics of each line of metrics.jsonl, on the
    process that writes the file. An error in the function is reported, and training continues. A
    resumed run calls it again for the lines after its checkpoint. To log to Weights & Biases:

        import wandb
        wandb.init(project="faces", id="run-1", resume="allow")
        EXPERIMENT = Experiment(..., on_metrics=lambda step, metrics: wandb.log(metrics, step=step))

    and to MLflow:

        import mlflow
        mlflow.set_experiment("faces")
        EXPERIMENT = Experiment(..., on_metrics=lambda step, m: mlflow.log_metrics(m, step=step))
    """

    def snapshot_steps(self) -> list[int]:
        """Returns the steps whose checkpoints are scored, in rising order; the last is `steps`."""
        e = self.evaluation
        return [self.steps - i * e.snapshot_every for i in reversed(range(e.snapshots))]

    def to_dict(self) -> dict[str, Any]:
        """Returns the experiment as nested dictionaries, lists, numbers and texts, for JSON.

        A user's own backbone or loss is an object. In its place there is the text that describes
        it. For such a backbone, the text is also the value of the model's key `name`.
        """
        values = records.to_dict(self)
        # A finished module has its own feature size and types, so ours would be misleading.
        if self.model.backbone is not None:
            own = ("feature_dim", "dtype", "remat") if self.model.is_module else ()
            model = {name: x for name, x in values["model"].items() if name not in own}
            values["model"] = model | {"name": self.model.title}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], given: "Experiment | None" = None) -> "Experiment":
        """Returns the experiment that `to_dict` recorded.

        Args:
          values: the nested dictionaries that `to_dict` returned. In place of a user's own backbone
            or loss, which is an object, they contain a text that describes it.
          given: the experiment of the user's file, from which these objects are taken; None if
            there is no such file. The function `on_metrics` of `given` is taken too. It is not
            compared with the record, because it does not influence the training.

        Raises:
          InputError: a field is missing or unknown to this version, or `given` lacks an object that
            the record describes.
        """
        values = {name: value for name, value in values.items() if name != "on_metrics"}
        # For a user's backbone `to_dict` recorded its description as the name, which is not a name
        # of our backbones.
        if "backbone" in values.get("model", {}):
            model = {name: x for name, x in values["model"].items() if name != "name"}
            values = values | {"model": model}
        try:
            found = records.from_dict(cls, values)
        except TypeError as error:
            raise InputError(f"this is not an experiment of this version: {error}") from None
        found = records.with_objects(found, given)
        return dataclasses.replace(found, on_metrics=given and given.on_metrics)


def check(experiment: Experiment) -> Experiment:
    """Checks that all values are in range and agree with each other, and returns the experiment.

    Raises:
      InputError: a value is out of range, or does not agree with another value. The message states
        the field, the expected and the found value.
    """
    _check_ranges(experiment)
    _check_model(experiment.model)
    _check_optimizer(experiment.optimizer)
    loss.check(experiment.loss)
    _check_together(experiment)
    _check_steps(experiment)
    return experiment


def _check_ranges(e: Experiment) -> None:
    for name, found, least in (
        ("steps", e.steps, 1),
        ("seed", e.seed, 0),
        ("log-every", e.log_every, 1),
        ("checkpoint-every", e.checkpoint_every, 1),
        ("data.batch-size", e.data.batch_size, 1),
        ("data.shift", e.data.shift, 0),
        ("data.shrink", e.data.shrink, 1),
        ("model.feature-dim", e.model.feature_dim, 1),
        ("optimizer.learning-rate", e.optimizer.learning_rate, 0),
        ("optimizer.weight-decay", e.optimizer.weight_decay, 0),
        ("optimizer.factor", e.optimizer.factor, 0),
        ("optimizer.freeze-backbone", e.optimizer.freeze_backbone, 0),
        ("optimizer.warm-up", e.optimizer.warm_up, 0),
        ("optimizer.accumulate", e.optimizer.accumulate, 1),
        ("evaluation.batch-size", e.evaluation.batch_size, 1),
        ("evaluation.folds", e.evaluation.folds, 2),
        ("evaluation.people-folds", e.evaluation.people_folds, 1),
        ("evaluation.snapshots", e.evaluation.snapshots, 1),
        ("evaluation.snapshot-every", e.evaluation.snapshot_every, 1),
    ):
        # A comparison with NaN is False, but infinity would pass it.
        expect(math.isfinite(found) and found >= least, name, f"at least {least}", found)
    crop = e.data.crop is None or min(e.data.crop) > 0
    expect(crop, "data.crop", "height and width above 0", e.data.crop)
    if e.data.people_fold is not None:
        group, groups = e.data.people_fold
        fits = groups >= 2 and 1 <= group <= groups
        expect(fits, "data.people-fold", "a group from 1 to n, and n from 2", e.data.people_fold)


def _check_model(model: Model) -> None:
    if model.backbone is None:
        return
    expect(callable(model.backbone), "model.backbone", "a module or a function", model.title)
    # Settings that the backbone would ignore must keep their defaults, since a user who changes one
    # expects an effect.
    for name in ("name", *(("feature_dim", "dtype", "remat") if model.is_module else ())):
        # The default of a field is an attribute of the dataclass itself.
        found, default = getattr(model, name), getattr(Model, name)
        expected = f"no value but {default!r} beside the backbone {model.title}, which has its own"
        expect(found == default, f"model.{name.replace('_', '-')}", expected, repr(found))


def _check_optimizer(o: Optimizer) -> None:
    expect(0 <= o.momentum < 1, "optimizer.momentum", "in [0, 1)", o.momentum)
    expect(0 <= o.average < 1, "optimizer.average", "in [0, 1)", o.average)
    clip = o.clip is None or 0 < o.clip < math.inf
    expect(clip, "optimizer.clip", "a finite number above 0", o.clip)
    for group in Groups.names():
        rule = getattr(o.groups, group)
        for name in ("rate", "decay"):
            found = getattr(rule, name)
            fits = 0 <= found < math.inf
            expect(fits, f"optimizer.groups.{group}.{name}", "a finite number of at least 0", found)
    # A set, so that a step that is given twice is an error too.
    in_order = list(o.boundaries) == sorted(set(o.boundaries))
    expect(in_order, "optimizer.boundaries", "steps in rising order", o.boundaries)
    fits = o.schedule == "steps" or not o.boundaries
    expect(fits, "optimizer.boundaries", "none with optimizer.schedule cosine", o.boundaries)
    after = all(step >= o.warm_up for step in o.boundaries)
    expect(after, "optimizer.boundaries", f"steps after the warm-up of {o.warm_up}", o.boundaries)


def _check_together(e: Experiment) -> None:
    """Checks that loss, optimiser, devices and protocol fit together."""
    o = e.optimizer
    # A cosine schedule falls between the warm-up and the run's last step.
    shorter = o.schedule == "steps" or o.warm_up < e.steps
    expect(shorter, "optimizer.warm-up", f"less than the run's {e.steps} steps", o.warm_up)
    # With sampling a step updates only the rows of the sampled classes.
    if e.loss.sample_rate < 1 and (o.accumulate > 1 or o.average):
        raise InputError(
            "loss.sample-rate: expected 1 with optimizer.accumulate or optimizer.average, which "
            f"need every row of the agents at every step, found {e.loss.sample_rate}."
        )
    if o.agents_update == "in-sweep":
        _check_in_sweep(e)
    if e.shard_agents and not (e.loss.agent_heads() or e.loss.center.weight):
        raise InputError(
            "shard-agents: expected False with a loss that has neither agents nor centers, found "
            "True."
        )
    if e.evaluation.protocol == "classification" and e.evaluation.mirror == "concat":
        raise InputError(
            "evaluation.mirror: expected none, sum or max with the classification protocol, found "
            "concat, whose features are longer than the agents."
        )
    # A network is scored on a group of people that it was not trained on. Only verification can do
    # that: a classifier has no class weights of these people.
    if e.evaluation.people_folds > 1:
        one = e.evaluation.protocol == "verification" and e.evaluation.snapshots == 1
        expect(
            one,
            "evaluation.people-folds",
            "1 with the classification protocol or with several snapshots",
            e.evaluation.people_folds,
        )
    if e.evaluation.protocol == "classification" and not e.loss.agent_heads():
        raise InputError(
            "evaluation.protocol: expected verification with a loss that has no agents, found "
            "classification."
        )


def _check_in_sweep(e: Experiment) -> None:
    """Raises InputError for settings that do not work with an update of the agents block by block.

    Such settings need the whole gradient of the agents before the update, or there are no agents.
    """
    o, name = e.optimizer, "optimizer.agents-update"
    if not e.loss.agent_heads():
        raise InputError(f"{name}: expected whole with a loss that has no agents, found in-sweep.")
    if o.clip is not None or o.accumulate > 1:
        raise InputError(
            f"{name}: expected whole with optimizer.clip or optimizer.accumulate, which need the "
            "whole gradient before the update, found in-sweep."
        )


def _check_steps(e: Experiment) -> None:
    """Checks that checkpoints and snapshots are at steps that are logged."""
    # metrics.jsonl is cut back to the last checkpoint when a run is resumed.
    if e.checkpoint_every % e.log_every:
        raise InputError(
            f"checkpoint-every: expected a multiple of log-every ({e.log_every}), found "
            f"{e.checkpoint_every}: a resumed run continues the log from its checkpoint."
        )
    steps = e.snapshot_steps()
    # The only snapshot of a run without others is its last step, which is logged in any case.
    if steps[0] < 1 or (len(steps) > 1 and any(step % e.log_every for step in steps)):
        raise InputError(
            f"evaluation.snapshots: expected steps from 1 to {e.steps} that are multiples of "
            f"log-every ({e.log_every}), found {steps}."
        )
