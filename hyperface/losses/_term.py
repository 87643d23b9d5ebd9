"""What a class-wise loss states about itself, and the options that all of them accept."""

from typing import Any, Literal, Protocol, TypedDict

import jax
from jax.typing import ArrayLike

from hyperface.losses._blocks import AgentGradient, Precision
from hyperface.losses._folds import Block, Slope
from hyperface.losses._target import Target
from hyperface.rules import AxisName

Normalize = Literal["both", "features", "agents", "none"]
FoldArgs = Any
"""A pytree of [batch] arrays."""


class Fold(Protocol):
    """A reduction over the classes that are not the target. It is static and hashable.

    A fold whose logits take the engine's `bias` also has `takes_bias = True`.
    """

    @property
    def additive(self) -> bool:
        """Whether summaries are merged by addition and `slope` does not need them.

        If so, `weighted_sum` computes value and gradients in one scan, for terms that are linear in
        the folded value. It leaves out the matmuls of blocks whose slope is zero everywhere.
        """
        ...

    def block(self, block: Block, fold_args: FoldArgs, /) -> Any:
        """Returns the summary of one block."""
        ...

    def merge(self, first: Any, second: Any, /) -> Any:
        """Returns the summary of two sets of classes from the summary of each."""
        ...

    def value(self, summary: Any, /) -> jax.Array:
        """Returns the folded value [batch]."""
        ...

    def slope(self, block: Block, fold_args: FoldArgs, summary: Any, /) -> Slope:
        """Returns the derivatives of the folded value by one block's similarities and arguments."""
        ...


class Term(Protocol):
    """A class-wise loss: a pytree whose leaves are its differentiable hyper-parameters.

    `joint` and `weighted_sum` accept any object with these attributes. In an experiment, give the
    object to `hyperface.config.loss.CustomTerm`.

    Two more attributes are optional. `released_gradient`, an `AgentGradient`, is the gradient of
    the agents in the released code, which `gradient="caffe"` selects. `needs_angle = True` makes
    the engine compute `Target.angle`.
    """

    @property
    def normalize(self) -> Normalize:
        """Which sides of the similarities are scaled to unit length."""
        ...

    @property
    def fold(self) -> Fold:
        """The reduction over the other classes."""
        ...

    def fold_args(self, target: Target, /) -> FoldArgs:
        """Returns the arguments of the fold, one value per example."""
        ...

    def loss(self, target: Target, value: jax.Array, /) -> jax.Array:
        """Returns the loss [batch] from the target and the folded value."""
        ...


class Engine(TypedDict, total=False):
    """The keyword arguments that every class-wise loss accepts.

    None of them is needed on one device, or under `jax.jit` with sharded arrays (on automatic or
    explicit mesh axes). Inside of `jax.shard_map` or `jax.pmap`, `axis_name` states that the agents
    are split by rows, and `split_batch` that the batch is split too.
    """

    block_size: int | None
    """Classes per block; None lets the engine choose. At least `classes` is one block."""
    axis_name: AxisName | None
    """Mapped axis, or axes, over which the agents are split by rows, in order of device. Features
    and labels are the same on every device of the axis, and so are the losses. Each device gets the
    whole gradient of the features and its own rows of the agents' gradient.

    Gradients are right inside and outside `jax.shard_map` with its default `check_vma=True`. With
    `check_vma=False`, and under `jax.pmap`, take them inside the mapped function; outside it JAX
    hands each device 1 / devices of the cotangent, and the agents' gradient is too short by that
    factor.
    """
    split_batch: bool
    """Features and labels, and so the losses, are this device's part of the batch, over the same
    axis. The features are gathered, and the gradients of features and agents are those of the sum
    of all devices' losses."""
    precision: Precision
    """Precision of the operands of matmuls; sums, agents and gradients are float32. "mixed" rounds
    in the forward scan only. "tf32" is for accelerators: the product is TF32 on a GPU (10 binary
    digits of each operand) and three bfloat16 products on a TPU. A CPU computes float32 for it."""
    memory_budget: int
    """Bytes that may store similarities between the forward and the backward scan. If all [batch,
    classes] similarities fit, the backward scan does not compute them again. With precision "mixed"
    it always computes them again."""
    present: ArrayLike | None
    """[classes] bool, split like the agents: the classes that take part. The targets always take
    part. Other classes get no gradient."""
    agent_gradient: AgentGradient
    """The agents' gradient: "tangent", the default, differentiates their normalisation too (Eq. 4).
    The other values give the gradient of the inner product or of the squared distance, as if rows
    had unit length already. Released codes do so, and overwrite the rows by normalised rows."""
