"""The head of the class-wise losses: it owns the agents (class weights), the bias and the scale."""

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
    """Computes class-wise losses that share one matrix of agents (class weights), which it owns.

    A class-wise loss compares each feature with the agents of all classes. All these losses are
    computed in one pass over the classes. The module is called with features [batch, dim], labels
    [batch] and a `Context`, and returns an `Objective`.

    The softmax loss may have a learned scale. Its initial value is the one at which the lower bound
    of the loss (NormFace, Proposition 2) equals the option `initial_bound` of `SoftmaxTerm`. If the
    learned scale falls below the option `min_scale`, the loss uses `min_scale`. The learned scale
    still gets a gradient, the one at `min_scale`, so that it can rise again.

    AdaFace's moving mean and deviation of the feature norm are stored in the collection
    "batch_stats", like the statistics of batch normalisation. If the collection is mutable (as in
    training), each batch updates them before the loss uses them.

    Attributes:
      num_classes: number of rows of the agent matrix.
      terms: (name, options) of each loss. All losses must scale the same arrays to unit length:
        features, agents, both or none.
      precision: precision of the operands of matmuls: "float32", "tf32", "mixed" or "bf16".
      memory_budget: memory in MiB in which the similarities [batch, classes] may be stored for the
        backward pass. If they need more, the backward pass computes them again.
    """

    num_classes: int
    terms: tuple[tuple[str, ClasswiseTerm | CustomTerm], ...] = (("softmax", SoftmaxTerm()),)
    precision: classwise.Precision = "float32"
    memory_budget: int = 0

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> Objective:
        """Returns the objective of this head's terms.

        Its scalars are the scale, the bound of NormFace's Proposition 2 at this scale, the blends
        of SphereFace terms, and AdaFace's statistics of the feature norm.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: the step's context; None is that of one device without padding or dropout.
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
        # Split agents may have padding rows, which are no classes. A sample states already which of
        # its rows are classes.
        if context.sample is not None:
            labels, engine["present"] = context.sample.labels, context.sample.present
        elif context.split_classes:
            engine |= _padding(agents, self.num_classes, context)
        for name, options in self.terms:
            # The "released" gradient of a margin term changes only that of its logit, and has no
            # rule for the agents.
            if not isinstance(options, MarginTerm):
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
                total += options.weight * context.total(more)
                # `found` is only logged, and the gradient is that of `total`.
                found[name] += jax.lax.stop_gradient(more)
        # The reverse pass may return updated agents in place of their gradient. A gradient from
        # here would be added to them, so it is stopped.
        own = rows_of(jax.lax.stop_gradient(agents), labels, context)
        apart = l2_normalize(features) - l2_normalize(own)
        return Objective(
            total,
            found,
            {key: value for _, seen in made.values() for key, value in seen.items()},
            # The distances are only logged, so no gradient may pass through them.
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
        """Returns (sum, losses): the weighted sum of the terms, and each term's losses [batch].

        Args:
          terms: the terms.
          features: [batch, dim], un-normalised.
          agents: [classes, dim].
          labels: [batch] class ids, or places in the sample.
          weights: one weight [batch] per term.
          bias: [classes], or None.
          engine: the options of the computation.
          context: the step's context, which has the update of the agents, if any.
        """
        arguments = (labels, weights)
        settings = {"bias": bias, "with_losses": True, **engine}
        update = (context.agent_updates or {}).get(cast(str, self.name))
        if update is None:
            return losses.weighted_sum(terms, features, agents, *arguments, **settings)
        if not context.split_classes:
            # Every device has the same agents and other examples, so their gradients must be added
            # before the update.
            settings["sum_over"] = context.axis_name
        return losses.weighted_sum_with_update(
            terms, features, agents, update.state, *arguments, update.rule, **settings
        )

    def _agents(self, dim: int, *, unit: bool) -> jax.Array:
        """Returns the agents [classes, dim], or only the rows that this step or device has.

        Args:
          dim: length of the features.
          unit: whether agents are normalised. They are then initialised as random unit vectors.
            Otherwise, their length matters, and they are initialised by Caffe's xavier.
        """

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            return l2_normalize(jax.random.normal(key, shape)) if unit else xavier(key, shape)

        if self.is_initializing():
            return self.param("agents", init, (self.num_classes, dim))
        # `self.param` would check the shape, but in a step there may be fewer rows: those of a
        # sample of the classes, or those of this device.
        return self.get_variable("params", "agents")

    def _term(
        self,
        name: str,
        options: ClasswiseTerm | CustomTerm,
        features: jax.Array,
        context: Context,
    ) -> tuple[classwise.Term, dict[str, jax.Array]]:
        """Returns (term, scalars): the term that the engine computes, and name -> scalar to log.

        Args:
          name: name of the term.
          options: options of the term.
          features: [batch, dim], un-normalised.
          context: the step's context.

        Raises:
          InputError: a user's class-wise term is not a pytree.
        """
        match options:
            case SoftmaxTerm():
                scale = self._scale(options)
                seen = {"scale": jnp.float32(scale)}
                # Proposition 2's bound is for a sum over all classes, and a sample leaves out most
                # of them.
                if options.normalize == "both" and context.sample is None:
                    seen["softmax_bound"] = theory.softmax_lower_bound(self.num_classes, scale)
                return losses.Softmax.of(scale, options.normalize), seen
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
                # Only class-wise losses of a user come here, since others have no agents.
                return cast(classwise.Term, options.loss), {}

    def _norm_statistics(
        self, options: AdaFaceTerm, features: jax.Array, context: Context
    ) -> losses.NormStatistics:
        """Returns AdaFace's statistics of the feature norm.

        They are updated by this batch if the collection "batch_stats" is mutable.

        Args:
          options: options of the term.
          features: [batch, dim], un-normalised.
          context: the step's context.
        """
        kept = [
            self.variable("batch_stats", f"norm_{name}", lambda start=start: jnp.float32(start))
            for name, start in losses.NormStatistics()._asdict().items()
        ]
        statistics = losses.NormStatistics(*(variable.value for variable in kept))
        # The call that initialises the parameters must not change the statistics: it is no step.
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
        """Returns the scale of the softmax term, a fixed number or the learned parameter."""
        if options.scale != "learned":
            return float(options.scale)
        start = theory.scale_for_bound(self.num_classes, options.initial_bound)
        scale = self.param("scale", lambda key: jnp.maximum(start, options.min_scale))
        # The value is max(scale, min_scale), but the gradient is 1 below the floor too. With that
        # of a plain maximum, which is 0 there, the parameter could never rise again.
        return scale + jax.lax.stop_gradient(jnp.maximum(scale, options.min_scale) - scale)

    def _bias(self, terms: dict[str, classwise.Term]) -> jax.Array | None:
        """Returns the bias [classes] of the softmax term; None if it has none."""
        options = dict(self.terms).get("softmax")
        if not isinstance(options, SoftmaxTerm) or not options.bias:
            return None
        if self.is_initializing():
            bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        else:
            bias = self.get_variable("params", "bias")
        return bias

    def _dropped(self, features: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Returns the features after the dropout of the softmax term.

        Args:
          features: [batch, dim].
          keys: [batch] random keys; None drops nothing.
        """
        options = dict(self.terms).get("softmax")
        rate = options.dropout if isinstance(options, SoftmaxTerm) else 0.0
        if keys is None or not rate:
            return features
        shape = features.shape[1:]
        # Each example has its own key, so the result does not depend on the number of devices.
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)
        # The division makes the expected value of a feature equal to its value without dropout.
        return jnp.where(keep, features / (1.0 - rate), 0.0)


def _padding(matrix: jax.Array, num_classes: int, context: Context) -> losses.Engine:
    """Returns the engine's argument `present`, which marks this device's rows that are classes.

    The other rows are padding. Without padding the result is empty.

    Args:
      matrix: the agents on this device.
      num_classes: number of classes on all devices.
      context: the step's context.
    """
    rows = matrix.shape[0]
    # Without padding no mask is given, because applying it to every block of classes costs time.
    if rows * shards.num_shards(context.axis_name) == num_classes:
        return {}
    first = shards.first_row(rows, context.axis_name)
    return {"present": first + jnp.arange(rows) < num_classes}
