"""Checks the arguments of a class-wise loss and brings them into the engine's form."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient, Classes, Inputs, Layout, Precision
from hyperface.losses._term import Engine, Normalize, Term
from hyperface.losses._updates import RowUpdate
from hyperface.losses.block_sizes import choose_block_size, one_block_bytes
from hyperface.losses.shards import Shards, num_shards
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.rules import AxisName, reverse_mode_only


def prepare(
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
    """Checks the arguments of a class-wise loss, and packs them for the functions that compute it.

    Args:
      name: name of the public function, for messages.
      terms: the class-wise losses, which must all have the same normalisation.
      features: [batch, dim], un-normalised.
      agents: [classes on this device, dim] class weights.
      labels: [batch] class ids among the classes of all devices.
      bias: [classes on this device] numbers that are added to the logits, or None.
      weights: one array [batch] per term for a weighted sum; () for a loss without weights.
      updates: whether the caller updates the agents in the backward scan
        (`weighted_sum_with_update`).
      sum_over: mapped axis, or axes, over which the batch is split, but not the agents; None if
        there is none. It is only used with `updates`.
      block_size, axis_name, split_batch, precision, memory_budget, present, agent_gradient: the
        options that `classwise.Engine` describes.
      **unknown: any other keyword, which raises TypeError.

    Returns:
      (layout, inputs, weights): the static options; the arrays, all of one floating-point dtype;
      and the weights in the same dtype.

    Raises:
      TypeError: an array has the wrong kind of dtype, or a keyword is unknown.
      ValueError: shapes disagree, a concrete label (outside of jit) is out of range, an option has
        a value that is not allowed, the terms differ in normalisation, or a bias is given to a term
        whose fold (reduction over classes) does not use one.
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
        terms = _with_bias(terms)
        bias = _checks.one_each("bias", jnp.asarray(bias, dtype), rows, "per class")
    if present is not None:
        present = _checks.flags("present", present, rows, "per class")
    if weights != ():
        weights = _checked_weights(weights, len(terms), batch, dtype)
    if split_batch:
        # Each device computes its classes' similarities to the gathered batch.
        batch *= devices
    # The gradient of a block's rows is an array too, and it is to stay as small.
    block = choose_block_size(block_size, max(batch, agents.shape[1]) if updates else batch, rows)
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


def _with_bias(terms: Sequence[Term]) -> list[Any]:
    """Returns the terms as they are with a bias, after a check that all of them take one."""
    for term in terms:
        if not getattr(term.fold, "takes_bias", False):
            raise ValueError(
                f"expected bias=None with {type(term).__name__}, whose fold has no logits, found "
                "a bias"
            )
    # A term knows the bound of its scale alone. The bias may be of any size.
    return [
        dataclasses.replace(term, bounded=False) if getattr(term, "bounded", False) else term
        for term in cast(Sequence[Any], terms)
    ]


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


def checked_state(layout: Layout, state: Any, inputs: Inputs, update: RowUpdate) -> Any:
    """Checks the optimiser's state of the agents (class weights), and returns it as JAX arrays.

    Args:
      layout: the static options; its `num_rows` is the number of agents on this device.
      state: a pytree of floating-point arrays with one row per agent.
      inputs: the features and agents.
      update: the function that updates rows. It is traced once, to check what it returns.

    Raises:
      TypeError: the update is not a pytree that can be called.
      ValueError: the state has other shapes or dtypes, the update returns other shapes or dtypes
        than it gets, or the batch varies over an axis that `sum_over` does not name.
    """
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
