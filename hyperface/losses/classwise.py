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
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._engine import (
    Block,
    Layout,
    Numbers,
    Precision,
    Target,
    joint_losses,
    summed_losses,
    total,
)
from hyperface.normalize import l2_norm, l2_normalize

Normalize = Literal["both", "features", "agents", "none"]
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

    def numbers(self, target: Target) -> Numbers:
        """What the fold is given for each example."""

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """The loss [batch] from the target and the folded value."""


def joint(
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    precision: Precision = "float32",
) -> tuple[jax.Array, ...]:
    """Several class-wise losses in one pass over one agent matrix.

    Args:
      terms: of one normalisation mode.
      features: [batch, dim], floating point, un-normalised.
      agents: [classes, dim]; with `axis_name` the rows that this device holds, in order of device.
      labels: [batch] global class ids.
      bias: [classes] added to the similarities, split like the agents.
      block_size: classes a block; None lets the engine choose. At least `classes` is one block.
      axis_name: mapped axis over which the agents are split by rows. Features and labels are the
        same on every device, and so are the losses; each device gets the whole gradient of the
        features and its own rows of the agents' gradient.
      precision: of the matmuls' operands; sums, agents and gradients are float32. "mixed" rounds in
        the forward sweep only.

    Returns:
      The losses [batch] of each term, in order.

    Raises:
      TypeError, ValueError: as the losses say; or terms of several modes, a block size below one.
    """
    prepared = _prepare(terms, features, agents, labels, bias, block_size, axis_name, precision)
    layout, x, norms, agents, bias, labels = prepared
    return joint_losses(layout, tuple(terms), x, norms, agents, bias, labels)


def single(
    term: Term, features: ArrayLike, agents: ArrayLike, labels: ArrayLike, **engine: Any
) -> jax.Array:
    """The loss [batch] of one term; `engine` holds the keywords of `joint`."""
    return joint((term,), features, agents, labels, **engine)[0]


def weighted_sum(
    terms: Sequence[Term],
    features: ArrayLike,
    agents: ArrayLike,
    labels: ArrayLike,
    weights: Sequence[ArrayLike],
    *,
    bias: ArrayLike | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    precision: Precision = "float32",
) -> jax.Array:
    """sum over terms t and examples i of weights[t][i] loss_t[i]: `joint` with the sum inside.

    When gradients are taken, hinge losses (`CContrastive`, and `CTriplet` over all negatives) get
    value and gradients in one sweep instead of two: the gradient of an agent mixes the examples, so
    it can only be made at once where their weights are known. Blocks of classes without an active
    hinge skip the gradients' matmuls. Other terms are swept twice, as by `joint`.

    Args:
      terms, features, agents, labels, bias, block_size, axis_name, precision: as in `joint`.
      weights: for each term an array [batch], for example mask / count; differentiable too.

    Returns:
      The sum, a scalar, at least float32.

    Raises:
      TypeError, ValueError: as `joint`; or weights that are not one [batch] array a term.
    """
    prepared = _prepare(terms, features, agents, labels, bias, block_size, axis_name, precision)
    layout, x, norms, agents, bias, labels = prepared
    weights = tuple(jnp.asarray(w, x.dtype) for w in weights)
    if [w.shape for w in weights] != [labels.shape] * len(terms):
        raise ValueError(
            f"expected weights [{labels.shape[0]}] for each of {len(terms)} terms, found shapes "
            f"{[w.shape for w in weights]}"
        )
    arguments = (layout, tuple(terms), x, norms, agents, bias, labels)
    if all(term.fold.additive for term in terms):
        return summed_losses(*arguments, weights)
    return total(joint_losses(*arguments), weights)


def _prepare(terms, features, agents, labels, bias, block_size, axis_name, precision):
    features = _checks.float_matrix("features", features, "batch, dim")
    agents = _checks.float_matrix("agents", agents, "classes, dim")
    _checks.same_dim("agents", features, agents)
    classes = agents.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    labels = _checks.class_labels(labels, features.shape[0], classes)
    modes = {term.normalize for term in terms}
    if len(modes) != 1:
        raise ValueError(f"expected terms of one normalisation mode, found {sorted(modes)}")
    (mode,) = modes
    if mode not in get_args(Normalize):
        raise ValueError(f"expected normalize in {get_args(Normalize)}, found {mode!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"expected precision in {get_args(Precision)}, found {precision!r}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"expected a block of at least one class, found {block_size}")
    if bias is not None:
        bias = jnp.asarray(bias, features.dtype)
        if bias.shape != (agents.shape[0],):
            raise ValueError(
                f"expected bias [{agents.shape[0]}], one a class, found shape {bias.shape}"
            )
    layout = Layout(
        normalize_agents=mode in ("both", "agents"),
        block_size=_block_size(block_size, *features.shape[:1], *agents.shape[:1]),
        axis_name=axis_name,
        precision=precision,
    )
    x = l2_normalize(features) if mode in ("both", "features") else features
    return layout, x, l2_norm(features), agents, bias, labels


def _block_size(asked: int | None, batch: int, classes: int) -> int:
    if asked is not None:
        return min(asked, classes)
    if 4 * batch * classes <= ONE_BLOCK_BYTES:
        return classes
    return min(classes, max(128, BLOCK_BYTES // (4 * batch)))
