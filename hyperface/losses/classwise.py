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
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.normalize import l2_norm, l2_normalize

Normalize = Literal["both", "features", "agents", "none"]
Precision = Literal["float32", "mixed", "bf16"]
Numbers = Any
"""A pytree of [batch] arrays."""

AGENT_EPS = 1e-12
ONE_BLOCK_BYTES = 16 * 2**20
"""Similarities up to this size are one block: below it a scan costs more than it saves."""
BLOCK_BYTES = 4 * 2**20


class Block(NamedTuple):
    """Similarities of a block of classes, as a fold sees them."""

    similarities: jax.Array
    """[batch, block] <W~_j, f~>, or whatever the normalisation mode makes of it, plus the bias."""
    counted: jax.Array
    """[batch, block] bool, False at the target and at classes that another block counts."""
    classes: jax.Array
    """[block] global class ids."""


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


class Target(NamedTuple):
    """What a term may know of an example beside the other classes."""

    similarity: jax.Array
    """[batch] similarity to the example's own class."""
    agent_norm: jax.Array
    """[batch] length of the own class's agent."""
    feature_norm: jax.Array
    """[batch] length of the un-normalised feature."""


class Term(Protocol):
    """A class-wise loss: a pytree whose leaves are its differentiable hyper-parameters."""

    normalize: Normalize
    fold: Fold

    def numbers(self, target: Target) -> Numbers:
        """What the fold is given for each example."""

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """The loss [batch] from the target and the folded value."""


class Layout(NamedTuple):
    """How a problem is cut: static."""

    normalize_agents: bool
    block_size: int
    axis_name: str | None
    precision: Precision


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
    return _joint(layout, tuple(terms), x, norms, agents, bias, labels)


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
        return _single(*arguments, weights)
    return _total(_joint(*arguments), weights)


def _prepare(terms, features, agents, labels, bias, block_size, axis_name, precision):
    features = _checks.float_matrix("features", features, "batch, dim")
    agents = _checks.float_matrix("agents", agents, "classes, dim")
    if features.shape[1] != agents.shape[1]:
        raise ValueError(
            "expected features [batch, dim] and agents [classes, dim] of one dim, "
            f"found {features.shape} and {agents.shape}"
        )
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


# ---------------------------------------------------------------------------------- two sweeps


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _joint(layout, terms, x, norms, agents, bias, labels):
    return _joint_fwd(layout, terms, x, norms, agents, bias, labels)[0]


def _joint_fwd(layout, terms, x, norms, agents, bias, labels):
    own = _own_class(layout, x, agents, bias, labels)
    numbers = _numbers(terms, own, norms)
    folds = [term.fold for term in terms]

    def fold_block(summaries, start, first):
        block, _ = _similarities(layout, x, agents, bias, labels, start, first, forward=True)
        found = [f.block(block, n) for f, n in zip(folds, numbers, strict=True)]
        if summaries is None:
            return found
        return [f.merge(a, b) for f, a, b in zip(folds, summaries, found, strict=True)]

    summaries = _sweep(layout, agents.shape[0], fold_block)
    summaries = [_merge_devices(layout, f, s) for f, s in zip(folds, summaries, strict=True)]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses = _finish(terms, own, norms, values)
    return losses, (terms, x, norms, agents, bias, labels, own, summaries)


def _joint_bwd(layout, residuals, cotangents):
    terms, x, norms, agents, bias, labels, own, summaries = residuals
    folds = [term.fold for term in terms]
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    _, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, to_values = pull_loss(cotangents)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)

    def slopes(block):
        return _slopes(folds, numbers, summaries, to_values, block)

    gradients = _backward_sweep(layout, x, agents, bias, labels, slopes)
    to_x, to_agents, to_bias, to_numbers = gradients
    if layout.axis_name is not None:
        to_x, to_numbers = jax.lax.psum((to_x, to_numbers), layout.axis_name)
    more_to_terms, more_to_own, more_to_norms = pull_numbers(to_numbers)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), (more_to_terms, more_to_own, more_to_norms)
    )
    to_x, to_agents, to_bias = _own_class_bwd(
        layout, x, agents, labels, to_own, to_x, to_agents, to_bias
    )
    return to_terms, to_x, to_norms, to_agents, to_bias, None


_joint.defvjp(_joint_fwd, _joint_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _single(layout, terms, x, norms, agents, bias, labels, weights):
    return _total(_joint_fwd(layout, terms, x, norms, agents, bias, labels)[0], weights)


def _single_fwd(layout, terms, x, norms, agents, bias, labels, weights):
    own = _own_class(layout, x, agents, bias, labels)
    numbers, pull_numbers = jax.vjp(_numbers, terms, own, norms)
    # The losses are linear in the values, so their slope is the same at any value.
    to_values = jax.vjp(_finish, terms, own, norms, [jnp.zeros_like(norms)] * len(terms))[1](
        weights
    )[3]
    folds = [term.fold for term in terms]

    def slopes(block):
        slope, to_numbers = _slopes(folds, numbers, [None] * len(folds), to_values, block)
        summaries = [f.block(block, n) for f, n in zip(folds, numbers, strict=True)]
        return slope, (to_numbers, summaries)

    to_x, to_agents, to_bias, (to_numbers, summaries) = _backward_sweep(
        layout, x, agents, bias, labels, slopes, sparse=True
    )
    if layout.axis_name is not None:
        to_x, to_numbers, summaries = jax.lax.psum((to_x, to_numbers, summaries), layout.axis_name)
    values = [f.value(s) for f, s in zip(folds, summaries, strict=True)]
    losses, pull_loss = jax.vjp(_finish, terms, own, norms, values)
    to_terms, to_own, to_norms, _ = pull_loss(weights)
    to_terms, to_own, to_norms = jax.tree.map(
        jnp.add, (to_terms, to_own, to_norms), pull_numbers(to_numbers)
    )
    to_x, to_agents, to_bias = _own_class_bwd(
        layout, x, agents, labels, to_own, to_x, to_agents, to_bias
    )
    return _total(losses, weights), (to_terms, to_x, to_norms, to_agents, to_bias, None, losses)


def _single_bwd(layout, gradients, cotangent):
    del layout
    return jax.tree.map(lambda gradient: cotangent * gradient, gradients)


_single.defvjp(_single_fwd, _single_bwd)


def _total(losses, weights):
    return sum(jnp.sum(w * loss) for w, loss in zip(weights, losses, strict=True))


def _slopes(folds, numbers, summaries, to_values, block):
    """d / d similarities of the weighted values, and d / d numbers, of one block."""
    found = [f.slope(block, n, s) for f, n, s in zip(folds, numbers, summaries, strict=True)]
    slope = sum(g[:, None] * s for g, (s, _) in zip(to_values, found, strict=True))
    to_numbers = [
        jax.tree.map(lambda d, g=g: g * d, to_number)
        for g, (_, to_number) in zip(to_values, found, strict=True)
    ]
    return slope, to_numbers


def _numbers(terms, own, norms):
    return [term.numbers(Target(*own, norms)) for term in terms]


def _finish(terms, own, norms, values):
    target = Target(*own, norms)
    return tuple(term.loss(target, value) for term, value in zip(terms, values, strict=True))


def _backward_sweep(layout, x, agents, bias, labels, slopes, *, sparse=False):
    """Gradients to x, agents and bias from the classes that are not the target, and what `slopes`
    gives beside the slope, added up over the blocks."""

    def products(slope, rows, inverse, cosines):
        scaled = slope if inverse is None else slope * inverse[None, :]
        to_x = _matmul(layout, scaled, rows, forward=False)
        flipped = _cast(layout, scaled, forward=False).T
        if layout.precision == "bf16":
            # The barrier keeps the transpose out of the matmul, which is then one of row-major
            # operands: XLA's CPU backend has no other for bf16.
            flipped = jax.lax.optimization_barrier(flipped)
        to_rows = _matmul(layout, flipped, x, forward=False)
        if inverse is not None:
            # Eq. 4's projection: <dL/dW~_j, W~_j> is the column sum of slope times cosine.
            radial = jnp.sum(slope * cosines, axis=0) * inverse**2
            to_rows -= radial[:, None] * rows
        return to_x, to_rows

    def block_gradients(carry, start, first):
        block, parts = _similarities(layout, x, agents, bias, labels, start, first, forward=False)
        slope, more = slopes(block)
        if sparse:
            to_x, to_rows = jax.lax.cond(
                jnp.any(slope != 0),
                products,
                lambda slope, rows, inverse, cosines: (jnp.zeros_like(x), jnp.zeros_like(rows)),
                slope,
                *parts,
            )
        else:
            to_x, to_rows = products(slope, *parts)
        to_bias = None if bias is None else jnp.sum(slope, axis=0)
        if carry is None:
            return to_x, to_rows, to_bias, more
        sum_x, all_rows, all_bias, sum_more = carry
        return (
            sum_x + to_x,
            jax.lax.dynamic_update_slice_in_dim(all_rows, to_rows, start, 0),
            None
            if bias is None
            else jax.lax.dynamic_update_slice_in_dim(all_bias, to_bias, start, 0),
            jax.tree.map(jnp.add, sum_more, more),
        )

    if layout.block_size == agents.shape[0]:
        return block_gradients(None, 0, 0)
    shapes = jax.eval_shape(lambda: block_gradients(None, 0, 0)[3])
    empty = (
        jnp.zeros_like(x),
        jnp.zeros_like(agents),
        None if bias is None else jnp.zeros_like(bias),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    )
    return _scan(layout, agents.shape[0], block_gradients, empty)


# ----------------------------------------------------------------------------------- own class


def _own_class(layout, x, agents, bias, labels):
    """[batch] similarity of each example to its own class, and that agent's length.

    NaN for a label out of range.
    """
    local, mine, in_range = _local(layout, agents.shape[0], labels)
    rows, inverse = _unit_rows(layout, agents[local])
    similarity = jnp.sum(x * rows, axis=1) * (1.0 if inverse is None else inverse)
    if bias is not None:
        similarity += bias[local]
    own = jax.tree.map(lambda v: jnp.where(mine, v, 0.0), (similarity, l2_norm(rows)))
    if layout.axis_name is not None:
        own = jax.lax.psum(own, layout.axis_name)
    return jax.tree.map(lambda v: jnp.where(in_range, v, jnp.nan), own)


def _own_class_bwd(layout, x, agents, labels, to_own, to_x, to_agents, to_bias):
    local, mine, _ = _local(layout, agents.shape[0], labels)
    rows, inverse = _unit_rows(layout, agents[local])
    slope, to_norm = (jnp.where(mine, cotangent, 0.0)[:, None] for cotangent in to_own)
    if inverse is None:
        to_rows, part_of_x = slope * x, slope * rows
    else:
        unit = rows * inverse[:, None]
        cosine = jnp.sum(x * unit, axis=1, keepdims=True)
        to_rows = slope * (x - cosine * unit) * inverse[:, None]
        part_of_x = slope * unit
    if layout.axis_name is not None:
        part_of_x = jax.lax.psum(part_of_x, layout.axis_name)
    to_rows += to_norm * rows / l2_norm(rows, keepdims=True)
    to_agents = to_agents.at[local].add(to_rows)
    if to_bias is not None:
        to_bias = to_bias.at[local].add(slope[:, 0])
    return to_x + part_of_x, to_agents, to_bias


def _local(layout, classes, labels):
    """Row of each label on this device, whether it is here, and whether it exists at all."""
    if layout.axis_name is None:
        first, total = 0, classes
    else:
        first = jax.lax.axis_index(layout.axis_name) * classes
        total = jax.lax.axis_size(layout.axis_name) * classes
    local = labels - first
    mine = (local >= 0) & (local < classes)
    return jnp.clip(local, 0, classes - 1), mine, (labels >= 0) & (labels < total)


def _unit_rows(layout, rows):
    if not layout.normalize_agents:
        return rows, None
    return rows, jax.lax.rsqrt(jnp.sum(rows * rows, axis=1) + AGENT_EPS)


# -------------------------------------------------------------------------------------- blocks


def _similarities(layout, x, agents, bias, labels, start, first, *, forward):
    """The block that begins at row `start` and counts classes from row `first` on."""
    rows, inverse = _unit_rows(layout, _slice(agents, start, layout))
    similarities = _matmul(layout, x, rows.T, forward=forward)
    if inverse is not None:
        similarities *= inverse[None, :]
    cosines = similarities
    if bias is not None:
        similarities += _slice(bias, start, layout)[None, :]
    local = start + jnp.arange(layout.block_size, dtype=labels.dtype)
    classes = local
    if layout.axis_name is not None:
        classes = local + jax.lax.axis_index(layout.axis_name) * agents.shape[0]
    counted = (classes[None, :] != labels[:, None]) & (local >= first)[None, :]
    return Block(similarities, counted, classes), (rows, inverse, cosines)


def _slice(array, start, layout):
    if layout.block_size == array.shape[0]:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start, layout.block_size, 0)


def _places(classes: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each block starts, and its first row that counts.

    A last block that would run over the end is moved back; the rows it shares with the one before
    count there. It goes first, so that in the gradient the other block's rows replace its zeros.
    No row is ever padded or copied.
    """
    starts = np.arange(0, classes, block_size, dtype=np.int32)
    firsts = starts.copy()
    starts[-1] = classes - block_size
    order = np.roll(np.arange(starts.size), 1)
    return starts[order], firsts[order]


def _sweep(layout, classes, fold_block):
    """Summaries over all classes of this device."""
    starts, firsts = _places(classes, layout.block_size)
    summaries = fold_block(None, starts[0], firsts[0])
    if starts.size == 1:
        return summaries
    return jax.lax.scan(
        lambda carry, place: (fold_block(carry, *place), None), summaries, (starts[1:], firsts[1:])
    )[0]


def _scan(layout, classes, step, carry):
    places = _places(classes, layout.block_size)
    return jax.lax.scan(lambda carry, place: (step(carry, *place), None), carry, places)[0]


def _merge_devices(layout, fold, summary):
    if layout.axis_name is None:
        return summary
    gathered = jax.lax.all_gather(summary, layout.axis_name)
    merged = jax.tree.map(lambda s: s[0], gathered)
    for device in range(1, jax.lax.axis_size(layout.axis_name)):
        merged = fold.merge(merged, jax.tree.map(lambda s, d=device: s[d], gathered))
    return merged


def _cast(layout, x, *, forward):
    """Rounds a matmul's operand where the precision says so."""
    rounds = layout.precision == "bf16" or (forward and layout.precision == "mixed")
    return x.astype(jnp.bfloat16) if rounds else x


def _matmul(layout, a, b, *, forward):
    dtype = a.dtype if a.dtype == jnp.float64 else jnp.float32
    return jnp.matmul(
        _cast(layout, a, forward=forward),
        _cast(layout, b, forward=forward),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
