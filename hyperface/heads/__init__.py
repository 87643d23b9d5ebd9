"""Heads: linen modules that own the parameters of the losses and compute the training objective.

These parameters are the agents (class weights) and their bias, the scale of the softmax loss, the
centers of center loss, the radius of Ring loss, and the parameters of a user's own loss.
"""

from hyperface.extras import require

require("train", "flax")

from typing import cast

import jax
from flax import linen as nn

from hyperface.config.loss import CenterTerm, CustomTerm, Loss, RingTerm, is_classwise
from hyperface.heads.agents import AgentHead
from hyperface.heads.context import AgentUpdate, Context, Objective
from hyperface.heads.others import CenterHead, CustomHead, RingHead, mined

__all__ = [
    "AgentHead",
    "AgentUpdate",
    "CenterHead",
    "Context",
    "CustomHead",
    "Heads",
    "Objective",
    "RingHead",
]


class Heads(nn.Module):
    """Computes the objective of a batch of features: a weighted sum of losses.

    A term is one of these losses, such as softmax or Ring loss, with its options. The module is
    called with features [batch, dim], labels [batch] and a `Context`, and returns an `Objective`.
    It owns the learned parameters of the terms, such as agents (class weights), scale and radius.

    Attributes:
      num_classes: number of people in the training images. Labels are from 0 to num_classes - 1.
      loss: the terms with their weights, and how they are computed. Terms with weight 0 are left
        out.
    """

    num_classes: int
    loss: Loss = Loss()

    @nn.compact
    def __call__(
        self, features: jax.Array, labels: jax.Array, context: Context | None = None
    ) -> Objective:
        """Returns the weighted sum of all terms with a weight above 0, and the values to log.

        Args:
          features: [batch, dim], un-normalised.
          labels: [batch] class ids.
          context: the step's context; None is that of one device without padding or dropout.
        """
        context = context or Context()
        features = context.with_padding_of_ones(features)
        # One part per head. A head with agents computes several class-wise terms in one pass.
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
            elif isinstance(options, CustomTerm) and not options.is_classwise:
                head = CustomHead(options.loss, options.name, options.weight, name=name)
                parts.append(head(features, labels, context))
            elif not is_classwise(options):
                parts.append(mined(name, options, features, labels, context))
        distances = [p.agent_distances for p in parts if p.agent_distances is not None]
        return Objective(
            # `config.loss.check` requires at least one term, so this is not the 0 of an empty sum.
            cast(jax.Array, sum(part.total for part in parts)),
            {name: loss for part in parts for name, loss in part.terms.items()},
            {name: value for part in parts for name, value in part.scalars.items()},
            # Several heads may have agents. The distances that are logged are those of the first.
            distances[0] if distances else None,
        )
