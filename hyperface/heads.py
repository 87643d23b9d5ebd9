"""Linen modules that own what the losses learn, agents, bias, scale, centers and radius, and make
the objective of a network's features.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses, theory
from hyperface.losses import classwise
from hyperface.normalize import l2_norm, l2_normalize
from hyperface.objective import (
    BatchTripletTerm,
    CContrastiveTerm,
    CenterTerm,
    ClasswiseTerm,
    CTripletTerm,
    Loss,
    MarginTerm,
    MultipliedAngleTerm,
    RingTerm,
    SoftmaxTerm,
    normalization,
)


class Context(NamedTuple):
    """What a step knows beside features and labels."""

    step: jax.Array | int = 0
    """Optimiser steps done: annealing is a function of it."""
    counted: jax.Array | None = None
    """[batch] bool, False for padding; None counts all."""
    keys: jax.Array | None = None
    """[batch] random keys for dropout, one an example, so that what is dropped does not depend on
    how the batch is spread over devices. None drops nothing."""
    sample: losses.Sample | None = None
    """The classes that take part; heads then hold their rows of the agents only."""
    axis_name: str | None = None
    """Mapped axis that the batch is spread over."""
    split_classes: bool = False
    """Heads hold this device's rows of agents and centers, which are split over the same axis. Rows
    beyond the last class are padding."""

    def weights(self, batch: int) -> jax.Array:
        """[batch] float32, 1 for an example and 0 for padding."""
        if self.counted is None:
            return jnp.ones(batch, jnp.float32)
        return self.counted.astype(jnp.float32)


class Objective(NamedTuple):
    """What heads make of a batch."""

    total: jax.Array
    """The weighted sum of all terms over the counted examples, to be differentiated."""
    terms: dict[str, jax.Array]
    """Each term's unweighted loss [batch], to be looked at."""
    scalars: dict[str, jax.Array]
    """Scale, radius and the like, to be looked at."""
    agent_distances: jax.Array | None = None
    """[batch] squared distance of each normalised feature to its own agent (Proposition 3)."""


class AgentHead(nn.Module):
    """An agent matrix and the class-wise terms over it, made in one pass.

    A learned scale starts where Proposition 2's bound equals `initial_bound` for this class count,
    and acts as at least `min_scale`. Below that floor the loss sees the floor, while the parameter
    still gets the gradient taken there, so it can climb back.

    Attributes:
      num_classes: rows of the agent matrix.
      terms: names and options of the terms, which normalise alike.
      precision, memory_budget: as in `losses.joint`, the latter in MiB.
    """

    num_classes: int
    terms: tuple[tuple[str, ClasswiseTerm], ...] = (("softmax", SoftmaxTerm()),)
    precision: str = "float32"
    memory_budget: int = 0

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> Objective:
        """The terms' objective; scalars are the scale, Proposition 2's bound at it, and blends.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        context = context or Context()
        made = {name: self._term(name, options, context) for name, options in self.terms}
        terms = {name: term for name, (term, _) in made.items()}
        (mode,) = {normalization(*named) for named in self.terms}
        agents = self._agents(features.shape[-1], unit=mode in ("both", "agents"))
        engine = {"precision": self.precision, "memory_budget": self.memory_budget * 2**20}
        if context.split_classes:
            engine |= {"axis_name": context.axis_name, "split_batch": True}
        if context.sample is not None:
            labels, engine["present"] = context.sample.labels, context.sample.present
        elif context.split_classes:
            engine |= _padding(agents, self.num_classes, context)
        for name, options in self.terms:
            engine |= classwise.agent_rule(getattr(options, "gradient", "exact"), terms[name])
        weights = context.weights(features.shape[0])
        total, found = losses.weighted_sum(
            list(terms.values()),
            self._dropped(features, context.keys),
            agents,
            labels,
            [options.weight * weights for _, options in self.terms],
            bias=self._bias(terms),
            with_losses=True,
            **engine,
        )
        own = _rows_of(agents, labels, context)
        apart = l2_normalize(features) - l2_normalize(own)
        return Objective(
            total,
            dict(zip(terms, found, strict=True)),
            {key: value for _, seen in made.values() for key, value in seen.items()},
            jax.lax.stop_gradient(jnp.sum(apart**2, axis=1)),
        )

    def _agents(self, dim: int, *, unit: bool) -> jax.Array:
        """Random unit rows where their length does not matter, Caffe's xavier where it does."""

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            return l2_normalize(jax.random.normal(key, shape)) if unit else _xavier(key, shape)

        if self.is_initializing():
            return self.param("agents", init, (self.num_classes, dim))
        # Without the check of the shape: a step brings the rows that take part, or are here.
        return self.get_variable("params", "agents")

    def _term(
        self, name: str, options: ClasswiseTerm, context: Context
    ) -> tuple[classwise.Term, dict[str, jax.Array]]:
        """The engine's term, and what to look at."""
        match options:
            case SoftmaxTerm():
                scale = self._scale(options)
                seen = {"scale": jnp.float32(scale)}
                if options.normalize == "both" and context.sample is None:
                    seen["softmax_bound"] = theory.softmax_lower_bound(self.num_classes, scale)
                return losses.Softmax.of(scale, options.normalize, biased=options.bias), seen
            case CContrastiveTerm():
                return losses.CContrastive(options.margin), {}
            case CTripletTerm():
                term = losses.CTriplet(
                    options.margin, options.negatives, options.always_pull, options.gradient
                )
                return term, {}
            case MultipliedAngleTerm():
                blend = losses.annealed_blend(
                    context.step, start=options.start, gamma=options.gamma, floor=options.floor
                )
                mode = normalization(name, options)
                term = losses.MultipliedAngle(blend, options.margin, mode, options.gradient)
                return term, {f"{name}_blend": blend}
            case MarginTerm():
                margins = (
                    options.angular_multiplier,
                    options.angular_margin,
                    options.cosine_margin,
                )
                return losses.MarginSoftmax.of(options.scale, *margins), {}

    def _scale(self, options: SoftmaxTerm) -> jax.Array | float:
        if options.scale != "learned":
            return float(options.scale)
        start = theory.scale_for_bound(self.num_classes, options.initial_bound)
        scale = self.param("scale", lambda key: jnp.maximum(start, options.min_scale))
        return scale + jax.lax.stop_gradient(jnp.maximum(scale, options.min_scale) - scale)

    def _bias(self, terms: dict[str, classwise.Term]) -> jax.Array | None:
        options = dict(self.terms).get("softmax")
        if options is None or not options.bias:
            return None
        if self.is_initializing():
            bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        else:
            bias = self.get_variable("params", "bias")
        return bias / terms["softmax"].scale

    def _dropped(self, features: jax.Array, keys: jax.Array | None) -> jax.Array:
        options = dict(self.terms).get("softmax")
        rate = 0.0 if options is None or keys is None else options.dropout
        if not rate:
            return features
        shape = features.shape[1:]
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)
        return jnp.where(keep, features / (1.0 - rate), 0.0)


class CenterHead(nn.Module):
    """Center loss with its centers.

    The centers' gradient is not the loss' but `losses.center_direction` over the whole batch,
    whatever the weight: what the paper's rule takes a share of, and Caffe's optimiser is given.
    """

    num_classes: int
    options: CenterTerm

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array, context: Context) -> Objective:
        """The term's objective.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        if self.is_initializing():
            centers = self.param("centers", _xavier, (self.num_classes, features.shape[-1]))
        else:
            centers = self.get_variable("params", "centers")
        weights = context.weights(features.shape[0])
        own = _rows_of(centers, labels, context)
        loss = losses.center(features, own, jnp.arange(labels.size))
        total = self.options.weight * jnp.sum(weights * loss)

        # The step divides gradients by the number of examples: this makes them the sum of
        # (c - f) / (1 + count) in the end, with the count of the class in the whole batch.
        of_all, labels_of_all = _whole_batch((weights, labels), context.axis_name)
        alike = labels[:, None] == labels_of_all[None, :]
        count = jnp.sum(jnp.where(alike, of_all[None, :], 0.0), axis=1)
        pull = weights * jnp.sum(of_all) / (1.0 + count)
        apart = jax.lax.stop_gradient(features) - own
        # Zero in value: the total stays the objective.
        total += classwise.slope_only(0.5 * jnp.sum(pull * jnp.sum(apart**2, axis=1)))
        return Objective(total, {"center": loss}, {})


class RingHead(nn.Module):
    """Ring loss with its learned radius R, which starts at `initial_radius`.

    None takes the mean norm of the features that the parameters are initialised with, so initialise
    with a real batch.
    """

    options: RingTerm = RingTerm(weight=1.0)

    @nn.compact
    def __call__(self, features: jax.Array, context: Context | None = None) -> Objective:
        """The term's objective; the scalar is R.

        Args:
          features: [batch, dim], un-normalised.
          context: of the step.
        """

        def first_radius(key: jax.Array) -> jax.Array:
            if self.options.initial_radius is None:
                return jnp.mean(l2_norm(features))
            return jnp.float32(self.options.initial_radius)

        radius = self.param("radius", first_radius)
        context = context or Context()
        form, axis_name = self.options.form, context.axis_name
        loss = losses.ring(features, radius, form=form, axis_name=axis_name)
        weights = context.weights(features.shape[0])
        total = self.options.weight * jnp.sum(weights * loss)
        return Objective(total, {"ring": loss}, {"radius": radius})


class Heads(nn.Module):
    """The whole objective over one feature.

    Attributes:
      num_classes: people in the training split.
      loss: the terms.
    """

    num_classes: int
    loss: Loss = Loss()

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> Objective:
        """The sum of the terms that take part.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        context = context or Context()
        parts = []
        for name, terms in self.loss.agent_heads().items():
            head = AgentHead(
                self.num_classes,
                tuple(terms.items()),
                self.loss.precision,
                self.loss.memory_budget,
                name=name,
            )
            parts.append(head(features, labels, context))
        for name, options in self.loss.terms().items():
            if isinstance(options, CenterTerm):
                head = CenterHead(self.num_classes, options, name=name)
                parts.append(head(features, labels, context))
            elif isinstance(options, RingTerm):
                parts.append(RingHead(options, name=name)(features, context))
            elif not isinstance(options, ClasswiseTerm):
                parts.append(_mined(name, options, features, labels, context))
        distances = [p.agent_distances for p in parts if p.agent_distances is not None]
        return Objective(
            sum(part.total for part in parts),
            {name: loss for part in parts for name, loss in part.terms.items()},
            {name: value for part in parts for name, value in part.scalars.items()},
            distances[0] if distances else None,
        )


def _mined(name: str, options: Any, features, labels, context: Context) -> Objective:
    """A loss on the pairs or triplets of the whole batch, its anchors those of this device."""
    triplet = isinstance(options, BatchTripletTerm)
    weights = context.weights(features.shape[0])
    everything = (features, labels, weights > 0)
    of_all = _whole_batch(everything, context.axis_name)
    loss = (losses.batch_triplet if triplet else losses.batch_contrastive)(
        of_all[0], of_all[1], margin=options.margin, mining=options.mining, counted=of_all[2]
    )
    if context.axis_name is not None:
        first = jax.lax.axis_index(context.axis_name) * labels.size
        loss = jax.lax.dynamic_slice_in_dim(loss, first, labels.size)
    return Objective(options.weight * jnp.sum(weights * loss), {name: loss}, {})


def _whole_batch(tree: Any, axis_name: str | None) -> Any:
    """Of all devices, one after another."""
    if axis_name is None:
        return tree
    return jax.lax.all_gather(tree, axis_name, tiled=True)


def _padding(matrix: jax.Array, num_classes: int, context: Context) -> dict[str, jax.Array]:
    """The engine's keyword for which of this device's rows are classes, where not all are."""
    rows = matrix.shape[0]
    if rows * jax.lax.axis_size(context.axis_name) == num_classes:
        return {}
    first = jax.lax.axis_index(context.axis_name) * rows
    return {"present": first + jnp.arange(rows) < num_classes}


def _rows_of(matrix: jax.Array, labels: jax.Array, context: Context) -> jax.Array:
    """The row of each of this device's examples, from whichever device holds it; NaN for a label
    out of range."""
    first, devices, everyones = 0, 1, labels
    if context.split_classes:
        first = jax.lax.axis_index(context.axis_name) * matrix.shape[0]
        devices = jax.lax.axis_size(context.axis_name)
        everyones = _whole_batch(labels, context.axis_name)
    local = everyones - first
    here = (local >= 0) & (local < matrix.shape[0])
    found = jnp.where(here[:, None], matrix[jnp.where(here, local, 0)], 0.0)
    if context.split_classes:
        found = jax.lax.psum_scatter(found, context.axis_name, tiled=True)
    known = (labels >= 0) & (labels < devices * matrix.shape[0])
    return jnp.where(known[:, None], found, jnp.nan)


def _xavier(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    # Rows are outputs: fan-in is the last axis, which linen calls the out axis.
    return nn.initializers.variance_scaling(1.0, "fan_out", "uniform")(key, shape)
