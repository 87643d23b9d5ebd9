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
    """A reduction of each example's similarities to all classes but its own to one value.

    It works block by block. `block` summarises one block of classes, `merge` joins two summaries,
    and `value` computes the result from a summary over all classes. A fold must be hashable, since
    it is static under jit. A fold that adds `block.bias` to its logits must have the attribute
    `takes_bias = True`.
    """

    @property
    def additive(self) -> bool:
        """Whether `merge` only adds two summaries, and `slope` does not need a summary.

        If so, `weighted_sum` computes value and gradients in one scan over the classes, and skips
        the matmuls of blocks whose slope is zero everywhere. `Term.loss` must then be linear in
        the value of the fold.
        """
        ...

    def block(self, block: Block, fold_args: FoldArgs, /) -> Any:
        """Returns the summary of one block of classes.

        Args:
          block: the similarities [block, batch], with flags for the classes that are counted.
          fold_args: what `Term.fold_args` returned, one value per example, such as the scale.

        Returns:
          A pytree of [batch] arrays, of the fold's own structure.
        """
        ...

    def merge(self, first: Any, second: Any, /) -> Any:
        """Returns the summary of two sets of classes from the summary of each."""
        ...

    def value(self, summary: Any, /) -> jax.Array:
        """Returns the result of the reduction [batch], from the summary over all classes."""
        ...

    def slope(self, block: Block, fold_args: FoldArgs, summary: Any, /) -> Slope:
        """Returns the derivatives of the value by one block's similarities and by `fold_args`.

        Args:
          block: the similarities [block, batch], with flags for the classes that are counted.
            Classes that are not counted must get the derivative 0.
          fold_args: what `Term.fold_args` returned, one value per example, such as the scale.
          summary: the summary over all classes; None from `weighted_sum` if the fold is additive.
        """
        ...


class Term(Protocol):
    """The interface of a class-wise loss: a loss on the similarities to all classes.

    The object is a pytree whose leaves are its differentiable hyper-parameters. `joint` and
    `weighted_sum` accept any object with these attributes. In an experiment, give the object to
    `hyperface.config.loss.CustomTerm`.

    Two more attributes are optional:

    - `needs_angle`: with True the library computes `Target.angle`.
    - `released_gradient`: the gradient that the agents (class weights) get with the losses' option
      `gradient="caffe"`, as if the agents had unit length already. "inner-product" is the gradient
      of the inner product with the feature, and "distance" that of the squared distance to it.
    """

    @property
    def normalize(self) -> Normalize:
        """What is scaled to unit length before the similarity is computed.

        "both" features and agents (class weights), only "features", only "agents", or "none".
        """
        ...

    @property
    def fold(self) -> Fold:
        """The reduction of the similarities over all classes but the example's own."""
        ...

    def fold_args(self, target: Target, /) -> FoldArgs:
        """Returns the fold's arguments: a pytree of [batch] arrays, such as the scale, or None.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
        """
        ...

    def loss(self, target: Target, value: jax.Array, /) -> jax.Array:
        """Returns the loss [batch], in plain JAX, which is differentiated automatically.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] the result of the fold over all other classes.
        """
        ...


class Engine(TypedDict, total=False):
    """The keyword arguments that every class-wise loss accepts; all are optional.

    Agents are the class weights, one row per class. They are processed in blocks of classes, in a
    forward scan and a backward scan.

    On one device, and under `jax.jit` with sharded arrays, none of them has to be given. Inside of
    `jax.shard_map` or `jax.pmap`, give `axis_name` if the agents are split by rows over the
    devices, and `split_batch` if the batch is split too.
    """

    block_size: int | None
    """Classes per block; None lets the library choose. If it is the number of classes or more,
    there is one block."""
    axis_name: AxisName | None
    """Mapped axis, or axes, over which the agents are split by rows: the first device has the first
    rows, and so on. Features and labels are the same on every device of the axis, and so are the
    losses. Each device gets the whole gradient of the features and its own rows of the agents'
    gradient.

    In `jax.shard_map` with its default `check_vma=True`, `jax.grad` may stand inside or outside of
    the mapped function. With `check_vma=False`, and under `jax.pmap`, it must stand inside. Outside
    of the mapped function, the agents' gradient would be too small by the factor 1 / (number of
    devices).
    """
    split_batch: bool
    """Whether features and labels, and so the losses, are this device's part of a batch that is
    split over `axis_name` too. The features are then gathered, and the gradients of features and
    agents are those of the sum of all devices' losses. False by default."""
    precision: Precision
    """Precision of the operands of matmuls, "float32" by default; sums, agents and gradients are
    float32. "bf16" rounds operands to bfloat16, and "mixed" does so in the forward scan only.
    "tf32" is for accelerators: the product is TF32 on a GPU (10 binary digits of each operand) and
    three bfloat16 products on a TPU. A CPU computes float32 for it."""
    memory_budget: int
    """Number of bytes in which similarities may be stored between the forward and the backward
    scan, 0 by default. If all [batch, classes] similarities fit, the backward scan does not compute
    them again. With precision "mixed" it always computes them again. If `block_size` is None and
    all similarities fit into one block, they are saved whatever the budget is."""
    present: ArrayLike | None
    """[classes] bool, split like the agents: the classes that take part in all losses; None for
    all. An example's own class always takes part in its loss. Other classes get no gradient."""
    agent_gradient: AgentGradient
    """The gradient of normalised agents: "tangent", the default, differentiates their normalisation
    too (NormFace, Eq. 4). "inner-product" and "distance" compute the gradient of the inner product
    or of the squared distance as if the agents had unit length already. Some authors' published
    codes do so, and scale the agents to unit length after each step."""
