"""What a run is: frozen dataclasses, checked before jax is loaded.

An experiment file under `hyperface/experiments/` makes one `Experiment`; every field can be changed
from the command line by its dotted name.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from hyperface.config import loss
from hyperface.config.loss import Loss
from hyperface.errors import InputError, expect

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Data:
    """Which prepared data set, and how it is fed."""

    name: str = "orl_faces"
    """Folder of the prepared data set below the data directory."""
    train_split: str = "train"
    test_split: str = "test"
    batch_size: int = 64
    """Images a step over all devices."""
    mirror: bool = True
    """Flip training images left to right at random."""
    shift: int = 0
    """Largest random shift of training images, in pixels each way; the edge is repeated."""
    crop: tuple[int, int] | None = None
    """Height and width cut out of the stored images: anywhere in training, the middle in
    evaluation; None feeds them whole."""


@dataclass(frozen=True)
class Model:
    """The backbone."""

    name: str = "sphereface-mini"
    feature_dim: int = 128
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's computation; parameters, features and losses are float32."""
    remat: bool = False
    """Compute the insides of blocks again in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class Group:
    """How one group of parameters departs from the optimiser's rule."""

    rate: float = 1.0
    """Factor of the learning rate; 0 freezes."""
    decay: float = 1.0
    """Factor of the weight decay."""


@dataclass(frozen=True)
class Groups:
    """The groups of parameters.

    Agents are decayed even when normalised: Eq. 4's gradient is orthogonal to them, so every step
    lengthens them, and decay is what holds their length (NormFace, 3.2).
    """

    kernels: Group = Group()
    biases: Group = Group(decay=0.0)
    slopes: Group = Group()
    """Of PReLU."""
    norms: Group = Group(decay=0.0)
    """Scale and bias of batch normalisation."""
    agents: Group = Group()
    scale: Group = Group(decay=0.0)
    """The softmax's learned s; the released code decays it."""
    radius: Group = Group(decay=0.0)
    centers: Group = Group(decay=0.0)
    """Under Caffe's rule; the paper's has a rate of its own."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The groups' names, in order."""
        return tuple(f.name for f in dataclasses.fields(cls))


@dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent with momentum and a step schedule."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    rate_in_velocity: bool = False
    """Caffe's momentum: the learning rate multiplies the gradient before the velocity gathers it,
    so that a lower rate does not shorten the velocity at once."""
    weight_decay: float = 5e-4
    """Coupled L2, added to the gradient before momentum."""
    clip: float | None = None
    """Longest gradient over all parameters; a longer one is brought to this length."""
    boundaries: tuple[int, ...] = ()
    """Steps after which the learning rate is multiplied by `factor`."""
    factor: float = 0.1
    freeze_backbone: int = 0
    """Steps at the start in which only the heads learn."""
    accumulate: int = 1
    """Batches whose mean gradient makes one update, for batch sizes that do not fit. Steps count
    batches."""
    average: float = 0.0
    """Decay of a moving average of the parameters, which is evaluated in their place; 0 for none.
    It is (1 + t) / (10 + t) at step t where that is less."""
    groups: Groups = Groups()


@dataclass(frozen=True)
class Evaluation:
    """How the trained network is scored on the test split."""

    protocol: Literal["verification", "classification"] = "verification"
    """All image pairs of the test people, or the class of each test image."""
    mirror: Literal["none", "sum", "max", "concat"] = "sum"
    """How features of an image and of its mirror are merged."""
    batch_size: int = 100
    folds: int = 10
    """Folds of the pairs; the threshold for each is chosen on all others."""
    snapshots: int = 1
    """Checkpoints scored, the last step's and those before it; the report has their mean and
    spread, as NormFace's tables do."""
    snapshot_every: int = 1000
    """Steps between them."""


@dataclass(frozen=True)
class Experiment:
    """One training run and its evaluation."""

    name: str
    steps: int
    """Optimiser steps."""
    seed: int = 0
    """Sets the initial parameters, the order of the data, augmentation and dropout."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 100
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    shard_agents: bool = False
    """Split agents, centers and their optimiser state by rows over the devices, for class counts
    that one device cannot hold."""
    compare: tuple[str, ...] = ()
    """Experiments whose loss is trained too, all else equal, to stand beside this one."""

    def snapshot_steps(self) -> list[int]:
        """The steps whose checkpoints are scored, rising."""
        e = self.evaluation
        return [self.steps - i * e.snapshot_every for i in reversed(range(e.snapshots))]

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries, lists and numbers, ready for JSON."""
        return _listed(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Experiment":
        """The inverse of `to_dict`.

        Raises:
          InputError: a field is missing, or is not one of this version's.
        """
        try:
            return _from_dict(cls, values)
        except TypeError as error:
            raise InputError(f"this is not an experiment of this version: {error}") from None


def check(experiment: Experiment) -> Experiment:
    """Refuses values that are out of range or cannot go together.

    Returns:
      The experiment itself.

    Raises:
      InputError: naming the field, what was expected and what was found.
    """
    _check_ranges(experiment)
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
        ("model.feature-dim", e.model.feature_dim, 1),
        ("optimizer.learning-rate", e.optimizer.learning_rate, 0),
        ("optimizer.weight-decay", e.optimizer.weight_decay, 0),
        ("optimizer.factor", e.optimizer.factor, 0),
        ("optimizer.freeze-backbone", e.optimizer.freeze_backbone, 0),
        ("optimizer.accumulate", e.optimizer.accumulate, 1),
        ("evaluation.batch-size", e.evaluation.batch_size, 1),
        ("evaluation.folds", e.evaluation.folds, 2),
        ("evaluation.snapshots", e.evaluation.snapshots, 1),
        ("evaluation.snapshot-every", e.evaluation.snapshot_every, 1),
    ):
        expect(math.isfinite(found) and found >= least, name, f"at least {least}", found)
    crop = e.data.crop is None or min(e.data.crop) > 0
    expect(crop, "data.crop", "height and width above 0", e.data.crop)


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
    in_order = list(o.boundaries) == sorted(set(o.boundaries))
    expect(in_order, "optimizer.boundaries", "steps in rising order", o.boundaries)


def _check_together(e: Experiment) -> None:
    """Refuses loss, optimiser, devices and protocol that do not go with each other."""
    o = e.optimizer
    if e.loss.sample_rate < 1 and (o.accumulate > 1 or o.average):
        raise InputError(
            "loss.sample-rate: expected 1 with optimizer.accumulate or optimizer.average, which "
            f"need every row of the agents at every step, found {e.loss.sample_rate}."
        )
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
    if e.evaluation.protocol == "classification" and not e.loss.agent_heads():
        raise InputError(
            "evaluation.protocol: expected verification with a loss that has no agents, found "
            "classification."
        )


def _check_steps(e: Experiment) -> None:
    """Refuses steps of checkpoints and snapshots that do not fall on those of the log."""
    if e.checkpoint_every % e.log_every:
        raise InputError(
            f"checkpoint-every: expected a multiple of log-every ({e.log_every}), found "
            f"{e.checkpoint_every}: a resumed run continues the log from its checkpoint."
        )
    steps = e.snapshot_steps()
    if steps[0] < 1 or (len(steps) > 1 and any(step % e.log_every for step in steps)):
        raise InputError(
            f"evaluation.snapshots: expected steps from 1 to {e.steps} that are multiples of "
            f"log-every ({e.log_every}), found {steps}."
        )


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_dict(cls: type[_Settings], values: dict[str, Any]) -> _Settings:
    kinds, made = get_type_hints(cls), {}
    for name, value in values.items():
        if isinstance(value, dict):
            if not dataclasses.is_dataclass(kinds.get(name)):
                raise TypeError(f"unknown field {name!r} of {cls.__name__}")
            value = _from_dict(kinds[name], value)
        made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)
