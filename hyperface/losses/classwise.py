"""The engine: a loss over classes is a reduction.

Softmax, C-contrastive, C-triplet and the margin losses read the same [batch, classes] similarities
once, class by class, and fold those of the other classes into one number an example. Folding is
associative, so one description of a loss serves a block of classes, a scan over blocks, and devices
that each hold a block of the agents' rows.

A `Term` states only what is its own: which fold, with which numbers an example, and the loss from
the target's similarity and the folded value, in plain jax. A `Fold` states how a block folds, how
two summaries merge, and the slope of the value. The engine owns the rest, once: the matmul, the
blocks, the collectives, the gather of the targets, the tangent projections of both sides (NormFace,
Eq. 4; for agents a column sum) and the hand-written VJP. When the classes are blocked no
[batch, classes] array exists at any time, in either direction.

The target is never part of a fold: see `losses.softmax` for why that keeps a confident example's
gradient.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import (
    AgentGradient,
    Block,
    Classes,
    Layout,
    Numbers,
    Precision,
    Target,
)
from hyperface.losses._engine import joint_losses, summed_losses, total
from hyperface.normalize import l2_norm, l2_normalize

Normalize = Literal["both", "features", "agents", "none"]
Gradient = Literal["exact", "caffe"]
"""That of the printed equation, or what the released Caffe code computes in its place."""
ONE_BLOCK_BYTES = 16 * 2**20
"""Similarities up to this size are one block: below it a scan costs more than it saves."""
BLOCK_BYTES = 4 * 2**20


class Fold(Protocol):
    """A reduction over the classes that are not the target; static and hashable."""

    additive: bool
    """Summaries merge by adding, and the slope needs none: `weighted_sum` then makes value and
    gradients in one sweep, for terms that are linear in the value, and leaves out the matmuls of
    blocks whose slope is zero throughout."""

    def block(self, block: Block, numbers: Numbers) -> Numbers:
        """Summary of one block."""

    def merge(self, first: Numbers, second: Numbers) -> Numbers:
        """Summary of two sets of classes from the summary of each."""

    def value(self, summary: Numbers) -> jax.Array:
        """The folded value [batch]."""

    def slope(self, block: Block, numbers: Numbers, summary: Numbers) -> tuple[jax.Array, Numbers]:
        """d value / d similarities [batch, block], and d value / d numbers from this block."""


class Term(Protocol):
    """A class-wise loss: a pytree whose leaves are its differentiable hyper-parameters."""

    normalize: Normalize
    fold: Fold
    # Optional: needs_angle, a bool, asks for `Target.angle`.

    def numbers(self, target: Target) -> Numbers:
        """What the fold is given for each example."""

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """The loss [batch] from the target and the folded value."""


class Engine(TypedDict, total=False):
    """Keywords of every class-wise loss."""

    block_size: int | None
    """Classes a block; None lets the engine choose. At least `classes` is one block."""
    axis_name: str | None
    """Mapped axis over which the agents are split by rows. Features and labels are the same on
    every device, and so are the losses; each device gets the whole gradient of the features and its
    own rows of the agents' gradient."""
    split_batch: bool
    """Features and labels, and so the losses, are this device's part of the batch over the same
    axis. Features are gathered; their gradient comes back by a reduce-scatter, as that of the sum
    of all devices' losses, and so do the agents' rows."""
    precision: Precision
    """Of the matmuls' operands; sums, agents and gradients are float32. "mixed" rounds in the
    forward sweep only."""
    memory_budget: int
    """Bytes that similarities may take between the sweeps. Where [batch, classes] of them fit, the
    backward sweep does not make them again; under "mixed" it always does."""
    present: ArrayLike | None
    """[classes] bool, split like the agents: which classes take part beside the targets, which
    always do. The others get no gradient."""
    agent_gradient: AgentGradient
    """Whether the agents' gradient goes through their normalisation (Eq. 4, the default), or is
    that of the inner product or squared distance with rows of unit length, as in released codes
    that overwrite the rows by their normalised values instead."""


def agent_rule(gradient: Gradient, term: Term) -> Engine:
    """The engine's keyword for a loss' `gradient`: what its released code does under "caffe"."""
    _checks.one_of("gradient", gradient, get_args(Gradient))
    return {"agent_gradient": "tangent" if gradient == "exact" else term.released_gradient}


def slope_only(x: jax.Array) -> jax.Array:
    """Zero, with x's gradient: for released gradients that are none of a value."""
    return x - jax.lax.stop_gradient(x)


def joint(
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    **engine: Unpack[Engine],
) -> tuple[jax.Array, ...]:
    """Several class-wise losses in one pass over one agent matrix.

    Args:
      terms: of one normalisation mode.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim]; with `axis_name` the rows that this device holds, in order of device.
      labels: [batch] global class ids.
      bias: [classes] added to the similarities, split like the agents.
      engine: `block_size`, `axis_name`, `split_batch`, `precision`, `memory_budget`, `present`
        and `agent_gradient`, as `Engine` says.

    Returns:
      The losses [batch] of each term, in order.

    Raises:
      TypeError, ValueError: as the losses say; or terms of several modes, a block size below one,
        a negative budget, `present` that is not a bool a class.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive, Softmax
      >>> features, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> both = joint([Softmax(2.0), CContrastive(3.0)], features, jnp.eye(2), labels)
      >>> print(*(loss.round(4) for loss in both))
      [0.1269] [1.]
    """
    layout, *arrays = _prepare(terms, features, agents, labels, bias, **engine)
    return joint_losses(layout, tuple(terms), *arrays)


def single(
    term: Term,
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    **engine: Unpack[Engine],
) -> jax.Array:
    """The loss [batch] of one term; keywords as `joint`'s."""
    return joint((term,), features, agents, labels, bias=bias, **engine)[0]


def weighted_sum(
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    weights: Sequence[ArrayLike],
    *,
    bias: ArrayLike | None = None,
    with_losses: bool = False,
    **engine: Unpack[Engine],
) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
    """sum over terms t and examples i of weights[t][i] loss_t[i]: `joint` with the sum inside.

    When gradients are taken, hinge losses (`CContrastive`, and `CTriplet` over all negatives) get
    value and gradients in one sweep instead of two: the gradient of an agent mixes the examples, so
    it can only be made at once where their weights are known. Blocks of classes without an active
    hinge skip the gradients' matmuls. Other terms are swept twice, as by `joint`.

    Args:
      terms, features, agents, labels, bias, engine: as in `joint`.
      weights: for each term an array [batch], for example mask / count; differentiable too.
      with_losses: also return the losses, to be looked at: no gradient flows through them.

    Returns:
      The sum, a scalar, at least float32; with `with_losses` also the losses [batch] of each term.

    Raises:
      TypeError, ValueError: as `joint`; or weights that are not one [batch] array a term.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperface.losses import CContrastive
      >>> agents, labels = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.array([0])
      >>> weights = (jnp.array([0.5]),)
      >>> features = jnp.array([[3.0, 0.0]])
      >>> print(weighted_sum([CContrastive()], features, agents, labels, weights).round(3))
      0.1
    """
    layout, *arrays = _prepare(terms, features, agents, labels, bias, **engine)
    x, labels = arrays[0], arrays[-1].labels
    weights = tuple(jnp.asarray(w, x.dtype) for w in weights)
    if [w.shape for w in weights] != [labels.shape] * len(terms):
        raise ValueError(
            f"expected weights [{labels.shape[0]}] for each of {len(terms)} terms, found shapes "
            f"{[w.shape for w in weights]}"
        )
    if all(term.fold.additive for term in terms):
        value, found = summed_losses(layout, tuple(terms), *arrays, weights)
    else:
        found = joint_losses(layout, tuple(terms), *arrays)
        value = total(found, weights)
    return (value, jax.lax.stop_gradient(found)) if with_losses else value


def _prepare(
    terms,
    features,
    agents,
    labels,
    bias,
    *,
    block_size=None,
    axis_name=None,
    split_batch=False,
    precision="float32",
    memory_budget=0,
    present=None,
    agent_gradient="tangent",
):
    features = _checks.float_matrix("features", features, "batch, dim")
    agents = _checks.float_matrix("agents", agents, "classes, dim")
    _checks.same_dim("agents", features, agents)
    if split_batch and axis_name is None:
        raise ValueError("expected an axis_name to split the batch over, found None")
    batch, rows = features.shape[0], agents.shape[0]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    labels = _checks.class_labels(labels, batch, rows * devices)
    if split_batch:
        batch *= devices
    modes = {term.normalize for term in terms}
    if len(modes) != 1:
        raise ValueError(f"expected terms of one normalisation mode, found {sorted(modes)}")
    (mode,) = modes
    for name, found, known in (
        ("normalize", mode, Normalize),
        ("precision", precision, Precision),
        ("agent_gradient", agent_gradient, AgentGradient),
    ):
        _checks.one_of(name, found, get_args(known))
    if block_size is not None and block_size < 1:
        raise ValueError(f"expected a block of at least one class, found {block_size}")
    if memory_budget < 0:
        raise ValueError(f"expected a memory budget of at least 0 bytes, found {memory_budget}")
    if bias is not None:
        bias = _checks.one_each("bias", jnp.asarray(bias, features.dtype), rows, "a class")
    if present is not None:
        present = _checks.flags("present", present, rows, "a class")
    block = _block_size(block_size, batch, rows)
    free = ONE_BLOCK_BYTES if block == rows else 0
    fits = features.dtype.itemsize * batch * rows <= max(memory_budget, free)
    layout = Layout(
        normalize_agents=mode in ("both", "agents"),
        agent_gradient=agent_gradient,
        num_rows=rows,
        block_size=block,
        axis_name=axis_name,
        split_batch=split_batch,
        precision=precision,
        keep=fits and precision != "mixed",
    )
    x = l2_normalize(features) if mode in ("both", "features") else features
    raw = features if any(getattr(term, "needs_angle", False) for term in terms) else None
    return layout, x, raw, l2_norm(features), agents, bias, Classes(labels, present)


def _block_size(asked: int | None, batch: int, classes: int) -> int:
    if asked is not None:
        return min(asked, classes)
    if 4 * batch * classes <= ONE_BLOCK_BYTES:
        return classes
    return min(classes, max(128, BLOCK_BYTES // (4 * batch)))
