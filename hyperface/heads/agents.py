"""Agents, with bias and scale, and the class-wise terms over them."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface import losses, theory
from hyperface.config.loss import (
    AdaFaceTerm,
    CContrastiveTerm,
    ClasswiseTerm,
    CTripletTerm,
    CustomTerm,
    MagFaceTerm,
    MarginTerm,
    SoftmaxTerm,
    SphereFaceTerm,
    normalization,
)
from hyperface.errors import InputError
from hyperface.heads.context import Context, Objective, rows_of, xavier
from hyperface.losses import classwise, shards
from hyperface.normalize import l2_normalize


class AgentHead(nn.Module):
    """An agent matrix and the class-wise terms over it, which are computed in one pass.

    A learned scale starts where Proposition 2's bound equals `initial_bound` for this class count,
    and acts as at least `min_scale`. Below that floor the loss sees the floor, while the parameter
    still gets the gradient taken there, so it can climb back.

    AdaFace's statistics are in the collection "batch_stats", as those of batch norm are. Where it
    is mutable they move by the batch before they are used.

    Attributes:
      num_classes: number of rows of the agent matrix.
      terms: names and options of the terms, which normalise alike.
      precision, memory_budget: as in `losses.joint`, the latter in MiB.
    """

    num_classes: int
    terms: tuple[tuple[str, ClasswiseTerm | CustomTerm], ...] = (("softmax", SoftmaxTerm()),)
    precision: classwise.Precision = "float32"
    memory_budget: int = 0

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> Objective:
        """Returns the objective of the terms.

        Its scalars are the scale, Proposition 2's bound at this scale, blends, and AdaFace's
        statistics of the feature norm.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: of the step.
        """
        context = context or Context()
        made = {name: self._term(name, options, features, context) for name, options in self.terms}
        terms = {name: term for name, (term, _) in made.items()}
        (mode,) = {normalization(*named) for named in self.terms}
        agents = self._agents(features.shape[-1], unit=mode in ("both", "agents"))
        engine: losses.Engine = {
            "precision": self.precision,
            "memory_budget": self.memory_budget * 2**20,
        }
        if context.split_classes:
            engine |= {"axis_name": context.axis_name, "split_batch": True}
        # A sample tells padding from classes already.
        if context.sample is not None:
            labels, engine["present"] = context.sample.labels, context.sample.present
        elif context.split_classes:
            engine |= _padding(agents, self.num_classes, context)
        for name, options in self.terms:
            if not isinstance(options, MarginTerm):  # whose released gradient is of the logit alone
                rule: classwise.Gradient = getattr(options, "gradient", "exact")
                engine = classwise.agent_rule(rule, terms[name], engine)
        weights = context.weights(features.shape[0])
        total, found = self._sum(
            list(terms.values()),
            self._dropped(features, context.keys),
            agents,
            labels,
            [options.weight * weights for _, options in self.terms],
            self._bias(terms),
            engine,
            context,
        )
        found = dict(zip(terms, found, strict=True))
        for name, options in self.terms:
            if isinstance(options, MagFaceTerm):
                norm_range = {"lower_norm": options.lower_norm, "upper_norm": options.upper_norm}
                more = options.regularizer * losses.magface_regularizer(features, **norm_range)
                total += options.weight * jnp.sum(weights * more)
                # Only logged: the gradient goes through `total`.
                found[name] += jax.lax.stop_gradient(more)
        # What comes back as the agents' gradient may be their update, which nothing must add to.
        own = rows_of(jax.lax.stop_gradient(agents), labels, context)
        apart = l2_normalize(features) - l2_normalize(own)
        return Objective(
            total,
            found,
            {key: value for _, seen in made.values() for key, value in seen.items()},
            # Watched and not trained.
            jax.lax.stop_gradient(jnp.sum(apart**2, axis=1)),
        )

    def _sum(
        self,
        terms: list[classwise.Term],
        features: jax.Array,
        agents: jax.Array,
        labels: jax.Array,
        weights: list[jax.Array],
        bias: jax.Array | None,
        engine: losses.Engine,
        context: Context,
    ) -> Any:
        """Returns the weighted sum of the terms and each term's losses [batch]."""
        arguments = (labels, weights)
        settings = {"bias": bias, "with_losses": True, **engine}
        update = (context.agent_updates or {}).get(cast(str, self.name))
        if update is None:
            return losses.weighted_sum(terms, features, agents, *arguments, **settings)
        if not context.split_classes:
            # Every device has the same agents, and other examples.
            settings["sum_over"] = context.axis_name
        return losses.weighted_sum_with_update(
            terms, features, agents, update.state, *arguments, update.rule, **settings
        )

    def _agents(self, dim: int, *, unit: bool) -> jax.Array:
        """Returns the agents, which start as unit rows, or as Caffe's xavier if length matters."""

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            return l2_normalize(jax.random.normal(key, shape)) if unit else xavier(key, shape)

        if self.is_initializing():
            return self.param("agents", init, (self.num_classes, dim))
        # Without the check of the shape: a step brings the rows that take part, or are here.
        return self.get_variable("params", "agents")

    def _term(
        self,
        name: str,
        options: ClasswiseTerm | CustomTerm,
        features: jax.Array,
        context: Context,
    ) -> tuple[classwise.Term, dict[str, jax.Array]]:
        """Returns the engine's term, and the scalars to log.

        Raises:
          InputError: a user's term is no pytree.
        """
        match options:
            case SoftmaxTerm():
                scale = self._scale(options)
                seen = {"scale": jnp.float32(scale)}
                # The bound holds for all classes, and a sample leaves most of them out.
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
            case SphereFaceTerm():
                blend = losses.annealed_blend(
                    context.step, start=options.start, gamma=options.gamma, floor=options.floor
                )
                mode = normalization(name, options)
                term = losses.SphereFace(blend, options.margin, mode, options.gradient)
                return term, {f"{name}_blend": blend}
            case MarginTerm():
                margins = (
                    options.angular_multiplier,
                    options.angular_margin,
                    options.cosine_margin,
                )
                term = losses.MarginSoftmax.of(options.scale, *margins, options.gradient)
                return term, {}
            case AdaFaceTerm():
                statistics = self._norm_statistics(options, features, context)
                numbers = (options.scale, options.margin, options.concentration)
                seen = {f"{name}_norm_{key}": x for key, x in statistics._asdict().items()}
                return losses.AdaFace.of(statistics, *numbers), seen
            case MagFaceTerm():
                margins = (options.lower_margin, options.upper_margin)
                norm_range = (options.lower_norm, options.upper_norm)
                numbers = (options.scale, *margins, *norm_range)
                return losses.MagFace.of(*numbers, options.easy_margin), {}
            case CustomTerm():
                if jax.tree_util.all_leaves([options.loss]):
                    raise InputError(
                        f"loss.custom: expected a pytree as the class-wise term {name}, found "
                        f"{type(options.loss).__name__}, which JAX does not know. Decorate the "
                        "class by @jax.tree_util.register_dataclass."
                    )
                # A loss of another kind has no agents, so that it is not computed here.
                return cast(classwise.Term, options.loss), {}

    def _norm_statistics(
        self, options: AdaFaceTerm, features: jax.Array, context: Context
    ) -> losses.NormStatistics:
        """Returns AdaFace's statistics, updated by this batch if "batch_stats" is mutable."""
        kept = [
            self.variable("batch_stats", f"norm_{name}", lambda start=start: jnp.float32(start))
            for name, start in losses.NormStatistics()._asdict().items()
        ]
        statistics = losses.NormStatistics(*(variable.value for variable in kept))
        # Statistics start at their own values and not at those of the first batch.
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            statistics = losses.updated_norm_statistics(
                statistics,
                features,
                momentum=options.momentum,
                counted=context.counted,
                axis_name=context.axis_name,
            )
            for variable, value in zip(kept, statistics, strict=True):
                variable.value = value
        return statistics

    def _scale(self, options: SoftmaxTerm) -> jax.Array | float:
        if options.scale != "learned":
            return float(options.scale)
        start = theory.scale_for_bound(self.num_classes, options.initial_bound)
        scale = self.param("scale", lambda key: jnp.maximum(start, options.min_scale))
        # The value is the floor, and the gradient passes as if there were none.
        return scale + jax.lax.stop_gradient(jnp.maximum(scale, options.min_scale) - scale)

    def _bias(self, terms: dict[str, classwise.Term]) -> jax.Array | None:
        options = dict(self.terms).get("softmax")
        if not isinstance(options, SoftmaxTerm) or not options.bias:
            return None
        if self.is_initializing():
            bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        else:
            bias = self.get_variable("params", "bias")
        return bias

    def _dropped(self, features: jax.Array, keys: jax.Array | None) -> jax.Array:
        options = dict(self.terms).get("softmax")
        rate = options.dropout if isinstance(options, SoftmaxTerm) else 0.0
        if keys is None or not rate:
            return features
        shape = features.shape[1:]
        # One key per example: what is dropped does not depend on the number of devices.
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)
        # Divided, so that the expected feature is the one of evaluation.
        return jnp.where(keep, features / (1.0 - rate), 0.0)


def _padding(matrix: jax.Array, num_classes: int, context: Context) -> losses.Engine:
    """Returns the engine's keyword that tells classes from padding among this device's rows."""
    rows = matrix.shape[0]
    # Without padding no mask is needed, which the engine would apply to every block.
    if rows * shards.num_shards(context.axis_name) == num_classes:
        return {}
    first = shards.first_class(rows, context.axis_name)
    return {"present": first + jnp.arange(rows) < num_classes}
