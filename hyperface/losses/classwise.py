"""The engine: a loss over classes is a reduction.

Softmax, C-contrastive, C-triplet and the margin losses all read the [batch, classes] similarities
once, class by class, and fold those of the other classes into one number per example. Folding is
associative. So one description of a loss serves a block of classes, a scan over blocks, and devices
that each hold a block of the agents' rows.

A `Term` states only what is its own: which fold, with which arguments per example, and the loss
from the target's similarity and the folded value, in plain jax. A `Fold` states how a block folds,
how two summaries merge, and the slope of the value. The engine owns the rest, once: the matmul, the
blocks, the collectives, the gather of the targets, the tangent projections of both sides (NormFace,
Eq. 4; for agents a column sum) and the hand-written reverse-mode rule. When the classes are blocked
no [batch, classes] array exists at any time, in either direction.

The target is never part of a fold: `losses.softmax` says why that keeps the gradient of a confident
example.
"""

import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient, Classes, Inputs, Layout, Precision
from hyperface.losses._engine import joint_losses, summed_losses, total
from hyperface.losses._folds import Block, Slope
from hyperface.losses._target import Target, slope_only
from hyperface.losses._updates import RowUpdate, updating_sum
from hyperface.losses.shards import Shards, num_shards
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.rules import AxisName, automatic, per_example, reverse_mode_only
from hyperface.shapes import Agents, Bias, Features, Labels

__all__ = [
    "AgentGradient",
    "Block",
    "Engine",
    "Fold",
    "Gradient",
    "Normalize",
    "RowUpdate",
    "Slope",
    "Target",
    "Term",
    "agent_rule",
    "joint",
    "single",
    "slope_only",
    "weighted_sum",
    "weighted_sum_with_update",
]

Normalize = Literal["both", "features", "agents", "none"]
Gradient = Literal["exact", "caffe"]
"""That of the printed equation, or what the released Caffe code computes in its place."""
FoldArgs = Any
"""A pytree of [batch] arrays."""
ACCELERATOR_BLOCK_BYTES = 64 * 2**20
"""Similarities in a block on a GPU or TPU. Each block costs some ten launches of kernels, of some
microseconds each. A block of 4 MiB, at batch 256 and 512 dimensions, is a product of 1 GFLOP, which
a current GPU finishes sooner than its launches. A block of 64 MiB takes it longer than they do. The
number comes from data sheets: no accelerator has measured it yet."""


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


def agent_rule(gradient: Gradient, term: Term, engine: Engine) -> Engine:
    """Returns the engine's keywords with the `agent_gradient` for a loss' option `gradient`.

    Raises:
      ValueError: `gradient` is unknown, or is "caffe" for a term that has no released gradient.
    """
    _checks.one_of("gradient", gradient, get_args(Gradient))
    if gradient == "exact":
        return {**engine, "agent_gradient": "tangent"}
    # Optional, so that a user's term need not have the attribute.
    released = getattr(term, "released_gradient", None)
    if released is None:
        raise ValueError(
            f'expected gradient="exact" for {type(term).__name__}, found "caffe": the term states '
            "no `released_gradient` of its agents."
        )
    return {**engine, "agent_gradient": released}


def joint(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    bias: Bias | None = None,
    **engine: Unpack[Engine],
) -> tuple[jax.Array, ...]:
    """Computes several class-wise losses in one pass over one agent matrix.

    Args:
      terms: the terms, which must all have the same normalisation.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim]; with `axis_name` only the rows of this device, in the order of the
        devices.
      labels: [batch] global class ids.
      bias: [classes] added to the logits, split like the agents; for terms with a `LogSumExp`.
      engine: `block_size`, `axis_name`, `split_batch`, `precision`, `memory_budget`, `present`
        and `agent_gradient`, which `classwise.Engine` describes.

    Returns:
      The losses [batch] of each term, in order.

    Raises:
      TypeError, ValueError: for the reasons that the losses name; or the terms differ in
        normalisation, the block size is below one, the budget is negative, or `present` is not one
        bool per class.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive, Softmax
      >>> features, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> both = joint([Softmax(2.0), CContrastive(3.0)], features, jnp.eye(2), labels)
      >>> print(*(loss.round(4) for loss in both))
      [0.1269] [1.]
    """
    return _joint("joint", terms, features, agents, labels, bias, engine)


def single(
    name: str,
    term: Term,
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    bias: Bias | None = None,
    **engine: Unpack[Engine],
) -> jax.Array:
    """Returns the loss [batch] of one term, for the public function `name`."""
    return _joint(name, (term,), features, agents, labels, bias, engine)[0]


def _joint(
    name: str,
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None,
    engine: Engine,
) -> tuple[jax.Array, ...]:
    layout, inputs, _ = _prepare(name, terms, features, agents, labels, bias, (), **engine)
    # A scan over no classes has no first block.
    if not layout.num_rows:
        return _no_class(inputs)
    return automatic(partial(joint_losses, layout), inputs, split=per_example, like=inputs.x)


def _no_class(inputs: Inputs) -> tuple[jax.Array, ...]:
    """Returns NaN for every example: without classes no label is in range."""
    return tuple(jnp.full_like(inputs.norms, jnp.nan) for _ in inputs.terms)


def weighted_sum(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    labels: Labels,
    weights: Sequence[ArrayLike],
    *,
    bias: Bias | None = None,
    with_losses: bool = False,
    **engine: Unpack[Engine],
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the weighted sum of several losses: sum over t and i of weights[t][i] loss_t[i].

    It computes the same losses as `joint`, for terms t and examples i. When gradients are taken,
    hinge losses (`CContrastive`, and `CTriplet` over all negatives) need one pass over the classes
    instead of two. The reason: the gradient of an agent mixes the examples, so the pass that
    computes the value can compute it only if the weights of the examples are known. Blocks of
    classes without an active hinge skip the gradients' matmuls. Other terms take two passes, as in
    `joint`.

    Args:
      terms, features, agents, labels, bias, engine: as in `joint`.
      weights: one array [batch] per term, for example mask / count; they are differentiable too.
      with_losses: also return the losses, for logs; no gradient flows through these.

    Returns:
      The sum, a scalar, at least float32; with `with_losses` also the losses [batch] of each term.

    Raises:
      TypeError, ValueError: for the reasons that `joint` names; or the weights are not one [batch]
        array per term.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive
      >>> agents, labels = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.array([0])
      >>> weights = (jnp.array([0.5]),)
      >>> features = jnp.array([[3.0, 0.0]])
      >>> print(weighted_sum([CContrastive()], features, agents, labels, weights).round(3))
      0.1
    """
    layout, inputs, summands = _prepare(
        "weighted_sum", terms, features, agents, labels, bias, weights, **engine
    )
    if not layout.num_rows:
        losses = _no_class(inputs)
        value = total(losses, summands)
    else:
        value, losses = automatic(
            partial(_summed, layout),
            inputs,
            summands,
            split=lambda first_axis: (PartitionSpec(), per_example(first_axis)),
            like=inputs.x,
        )
    # The rule of the sum ignores cotangents of the losses, which would then be lost silently.
    return (value, jax.lax.stop_gradient(losses)) if with_losses else value


def weighted_sum_with_update(
    terms: Sequence[Term],
    features: Features,
    agents: Agents,
    state: Any,
    labels: Labels,
    weights: Sequence[ArrayLike],
    update: RowUpdate,
    *,
    bias: Bias | None = None,
    with_losses: bool = False,
    sum_over: AxisName | None = None,
    **engine: Unpack[Engine],
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns `weighted_sum`, and updates the agents in the reverse pass.

    In place of the gradient to `agents`, JAX returns the UPDATED agents, and in place of the
    gradient to `state` the updated state. The backward scan computes them block by block, so that
    the agents' gradient is in memory for one block of rows at a time. If the caller donates agents
    and state to `jax.jit`, they are overwritten in place. The gradients to all other arguments are
    those of `weighted_sum`.

    If the sum is not finite or its cotangent is 0, agents and state are returned unchanged.

    The update cannot clip the gradient by its global norm, which is known only after the scan.

    Args:
      terms, features, agents, labels, weights, bias, with_losses, engine: as in `weighted_sum`.
        Agents must not be used for anything else that is differentiated.
      state: the optimiser's state of the agents: a pytree of floating-point arrays with one row per
        agent, such as their momentum; split over the devices as the agents are.
      update: function (rows, their state, their gradient) -> (new rows, new state). It must treat
        each row independently of the others. It is a pytree whose leaves are its constants, such as
        a `jax.tree_util.Partial`; no gradient flows to them.
      sum_over: mapped axis, or axes, over which the batch is split while each device has the same
        agents. The agents' gradient is then added up over these axes, block by block. The gradients
        of features are those of this device's examples, as without `sum_over`.

    Returns:
      The sum, a scalar, at least float32; with `with_losses` also the losses [batch] of each term.

    Raises:
      TypeError, ValueError: for the reasons that `weighted_sum` names; or the state does not have
        one row per agent, the update returns other shapes or types, or `sum_over` lacks an axis
        over which the batch varies.

    Example:
      >>> import jax
      >>> from hyperface.losses import Softmax
      >>> def sgd(rate, rows, velocity, gradient):
      ...     velocity = 0.9 * velocity + gradient
      ...     return rows - rate * velocity, velocity
      >>> features, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> agents, weights = jnp.eye(2), [jnp.ones(1)]
      >>> def mean(features, agents, velocity):
      ...     update = jax.tree_util.Partial(sgd, 0.5)
      ...     return weighted_sum_with_update(
      ...         [Softmax(2.0)], features, agents, velocity, labels, weights, update
      ...     )
      >>> step = jax.value_and_grad(mean, argnums=(0, 1, 2))
      >>> _, (to_features, agents, velocity) = step(features, agents, jnp.zeros((2, 2)))
      >>> print(agents.round(4))
      [[ 1.      0.    ]
       [-0.1192  1.    ]]
    """
    layout, inputs, summands = _prepare(
        "weighted_sum_with_update",
        terms,
        features,
        agents,
        labels,
        bias,
        weights,
        updates=True,
        sum_over=sum_over,
        **engine,
    )
    state = _checked_state(layout, state, inputs, update)
    if layout.precision == "mixed" and all(term.fold.additive for term in inputs.terms):
        # Without an update these terms have no forward scan that could round.
        layout = layout._replace(precision="float32")
    if not layout.num_rows:
        losses = _no_class(inputs)
        value = total(losses, summands)
    else:
        value, losses = automatic(
            partial(updating_sum, layout),
            inputs,
            summands,
            state,
            update,
            split=lambda first_axis: (PartitionSpec(), per_example(first_axis)),
            like=inputs.x,
        )
    return (value, jax.lax.stop_gradient(losses)) if with_losses else value


def _checked_state(layout: Layout, state: Any, inputs: Inputs, update: RowUpdate) -> Any:
    """Returns the state of the agents' optimiser, which must be one row per agent."""
    if not callable(update) or jax.tree_util.all_leaves([update]):
        raise TypeError(
            "expected as the update a pytree that can be called, such as jax.tree_util.Partial(f, "
            f"rate), found {type(update).__name__}, which JAX does not know"
        )
    state = jax.tree.map(jnp.asarray, state)
    for leaf in jax.tree.leaves(state):
        if leaf.shape[:1] != (layout.num_rows,) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"expected a state of floating-point arrays with {layout.num_rows} rows, one per "
                f"agent, found {leaf.dtype}{list(leaf.shape)}"
            )
    state = layout.shards.cast_updated(inputs.x, state)
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (inputs.agents, state))
    new = jax.eval_shape(update, inputs.agents, state, inputs.agents)
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new)
    if found != like:
        raise ValueError(f"expected an update that returns {like}, found {found}")
    return state


def _summed(
    layout: Layout, inputs: Inputs, weights: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # A fold that is not additive needs a forward scan first: one such term, and none saves it.
    if all(term.fold.additive for term in inputs.terms):
        return summed_losses(layout, inputs, weights)
    losses: tuple[jax.Array, ...] = joint_losses(layout, inputs)
    return total(losses, weights), losses


def _prepare(
    name: str,
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None,
    weights: Sequence[ArrayLike],
    *,
    updates: bool = False,
    sum_over: AxisName | None = None,
    block_size: int | None = None,
    axis_name: AxisName | None = None,
    split_batch: bool = False,
    precision: Precision = "float32",
    memory_budget: int = 0,
    present: ArrayLike | None = None,
    agent_gradient: AgentGradient = "tangent",
    **unknown: Any,
) -> tuple[Layout, Inputs, tuple[jax.Array, ...]]:
    """Checks the arguments of a class-wise loss and brings them into the engine's form.

    Returns the layout, the inputs, and the weights of `weighted_sum`. With `updates` the agents
    are those of `weighted_sum_with_update`.
    """
    _checks.no_more_keywords(name, unknown, Engine.__annotations__)
    features, agents = _checks.matrices("agents", features, agents)
    if split_batch and axis_name is None:
        raise ValueError("expected an axis_name to split the batch over, found None")
    batch, rows, dtype = features.shape[0], agents.shape[0], features.dtype
    devices = num_shards(axis_name)
    # Labels are global class ids, while `rows` are those of this device alone.
    labels = _checks.class_labels(labels, batch, rows * devices)
    mode = _one_mode(terms)
    for word, found, known in (
        ("normalize", mode, Normalize),
        ("precision", precision, Precision),
        ("agent_gradient", agent_gradient, AgentGradient),
    ):
        _checks.one_of(word, found, get_args(known))
    if block_size is not None and block_size < 1:
        raise ValueError(f"expected a block of at least one class, found {block_size}")
    if memory_budget < 0:
        raise ValueError(f"expected a memory budget of at least 0 bytes, found {memory_budget}")
    if bias is not None:
        _check_takes_bias(terms)
        bias = _checks.one_each("bias", jnp.asarray(bias, dtype), rows, "per class")
    if present is not None:
        present = _checks.flags("present", present, rows, "per class")
    if weights != ():
        weights = _checked_weights(weights, len(terms), batch, dtype)
    if split_batch:
        # Each device computes its classes' similarities to the gathered batch.
        batch *= devices
    # The gradient of a block's rows is an array too, and it is to stay as small.
    block = _block_size(block_size, max(batch, agents.shape[1]) if updates else batch, rows)
    # One small block is saved whatever the budget is: computing it again costs more.
    free = one_block_bytes() if block == rows else 0
    fits = dtype.itemsize * batch * rows <= max(memory_budget, free)
    shards = Shards(axis_name, split_batch, sum_over)
    layout = Layout(
        normalize_agents=mode in ("both", "agents"),
        agent_gradient=agent_gradient,
        num_rows=rows,
        block_size=block,
        shards=shards,
        precision=precision,
        # "mixed" rounds in the forward scan only; the backward scan needs them unrounded.
        save_similarities=fits and precision != "mixed",
    )
    # Arrays of one dtype, since each cotangent must have the dtype of its primal.
    of_terms = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tuple(terms))
    # Guarded at the entry: the error of a `custom_vjp` further in would not name the loss.
    of_terms, f, w, b, sums = reverse_mode_only(
        name, (of_terms, features, agents, bias, tuple(weights))
    )
    of_terms, (f, y, sums), (cast_w, b, counted) = shards.cast(
        of_terms, (f, labels, sums), (w, b, present)
    )
    w = shards.cast_updated(f, w) if updates else cast_w
    # Outside of the engine's rule: that of `l2_normalize` projects the features' gradient.
    x = l2_normalize(f) if mode in ("both", "features") else f
    # None keeps a second copy of the features out of the gathers where no term needs the angle.
    raw = f if any(getattr(term, "needs_angle", False) for term in terms) else None
    inputs = Inputs(of_terms, x, raw, l2_norm(f), w, b, Classes(y, counted))
    return layout, inputs, sums


def _one_mode(terms: Sequence[Term]) -> Normalize:
    modes: list[Normalize] = list(dict.fromkeys(term.normalize for term in terms))
    if len(modes) != 1:
        raise ValueError(f"expected terms of one normalisation mode, found {sorted(modes)}")
    return modes[0]


def _check_takes_bias(terms: Sequence[Term]) -> None:
    for term in terms:
        if not getattr(term.fold, "takes_bias", False):
            raise ValueError(
                f"expected bias=None with {type(term).__name__}, whose fold has no logits, found "
                "a bias"
            )


def _checked_weights(
    weights: Sequence[ArrayLike], num_terms: int, batch: int, dtype: Any
) -> tuple[jax.Array, ...]:
    arrays = tuple(jnp.asarray(w, dtype) for w in weights)
    if [w.shape for w in arrays] != [(batch,)] * num_terms:
        raise ValueError(
            f"expected weights [{batch}] for each of {num_terms} terms, found shapes "
            f"{[w.shape for w in arrays]}"
        )
    return arrays


def _block_size(asked: int | None, batch: int, classes: int) -> int:
    if asked is not None:
        return min(asked, classes)
    if 4 * batch * classes <= one_block_bytes():
        return classes
    return min(classes, max(128, block_bytes() // (4 * batch)))


def one_block_bytes() -> int:
    """Returns the size up to which similarities are one block, which is also saved.

    Below it a scan costs more than it saves.
    """
    return max(16 * 2**20, block_bytes())


def block_bytes() -> int:
    """Returns the size in bytes that the engine chooses for the similarities of a block.

    On a CPU a block fits into the second-level caches of the cores, which share the work, so that
    the scan reads the similarities from there. On an accelerator it is `ACCELERATOR_BLOCK_BYTES`.
    """
    return ACCELERATOR_BLOCK_BYTES if jax.default_backend() != "cpu" else _cache_bytes()


# Asked for at every trace, and the file cannot change while the process runs.
@cache
def _cache_bytes() -> int:
    """Returns the bytes of the cores' second-level caches, between 1 and 4 MiB."""
    try:
        kibibytes = int(_SECOND_LEVEL_CACHE.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):  # Only Linux tells, and not on every processor.
        kibibytes = 0
    # Beyond 4 MiB a block gains nothing, and costs memory.
    return min(max(1024 * kibibytes * (os.cpu_count() or 1), 2**20), 4 * 2**20)


_SECOND_LEVEL_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
