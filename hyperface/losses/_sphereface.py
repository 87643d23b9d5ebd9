"""A-Softmax (SphereFace) and L-Softmax: the angle to the example's own class is multiplied."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient
from hyperface.losses._folds import LogSumExp
from hyperface.losses.classwise import (
    Engine,
    Gradient,
    Normalize,
    Target,
    agent_rule,
    single,
    slope_only,
)
from hyperface.shapes import Agents, Features, Labels, Losses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SphereFace:
    """`a_softmax` or `l_softmax` as a term of `joint`, which computes several losses in one pass.

    The fields are the hyper-parameters of these functions.
    """

    blend: ArrayLike = 0.0
    """lambda, at least 0: the target logit is (lambda x logit without margin + logit with margin) /
    (1 + lambda)."""
    margin: int = field(default=4, metadata={"static": True})
    """m of cos(m theta), 1 to 4."""
    normalize: Normalize = field(default="agents", metadata={"static": True})
    """What is scaled to unit length: "agents" (class weights) for `a_softmax`, and "none" for
    `l_softmax`."""
    gradient: Gradient = field(default="exact", metadata={"static": True})
    """"exact" is the gradient of the equation, and "caffe" the one that the authors' published
    Caffe code computes."""

    released_gradient: ClassVar[AgentGradient] = "inner-product"
    """A constant, not a hyper-parameter. It names the gradient that the agents get with
    `gradient="caffe"`: that of the inner product with the feature, as if the agents had unit length
    already. The Caffe code of SphereFace's authors computes this gradient."""

    @property
    def fold(self) -> LogSumExp:
        """Returns the reduction of similarities over the other classes: log sum exp of logits."""
        return LogSumExp()

    def fold_args(self, target: Target) -> jax.Array:
        """Returns the fold's argument: a scale of 1 [batch], because features keep their norm."""
        return jnp.ones_like(target.similarity)

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch], softplus(value - target logit).

        The target logit is L (lambda cos(theta) + psi(theta)) / (1 + lambda). lambda is `blend`,
        theta the angle to the own agent (class weight), and psi falls from 1 to 1 - 2 `margin` over
        [0, pi]. L is the length of the feature. For the loss `l_softmax` it is this length times
        the length of the agent.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] log sum exp of the other classes' logits, the result of `fold`.
        """
        length = target.feature_norm
        # psi takes a cosine. Without normalised agents the similarity contains both lengths.
        if self.normalize == "none":
            length = length * target.agent_norm
        with_margin = length * psi(target.similarity / length, self.margin)
        logit = (self.blend * target.similarity + with_margin) / (1.0 + self.blend)
        if self.gradient == "caffe":
            logit = jax.lax.stop_gradient(logit) + self._released_slope(target)
        return jax.nn.softplus(value - (logit + target.bias))

    def _released_slope(self, target: Target) -> jax.Array:
        """Returns zeros [batch] whose gradient is the released gradient of the target logit.

        The true gradient of |f| psi(theta) to f is a W~ + b f. The released code divides a and b by
        sqrt(a^2 + b^2). The gradient that it gives to the agent is f itself, as for an inner
        product.
        """
        length = target.feature_norm
        # The released slopes are factors only: nothing is differentiated through them.
        cosine = jax.lax.stop_gradient(target.similarity / length)
        value, slope = jax.jvp(lambda c: psi(c, self.margin), (cosine,), (jnp.ones_like(cosine),))
        to_agent, to_feature = slope, jax.lax.stop_gradient((value - cosine * slope) / length)
        # For m = 1 the slope a is 1 and b is 0, so that there is nothing to divide.
        if self.margin > 1:
            size = jnp.sqrt(to_agent**2 + to_feature**2)
            to_agent, to_feature = to_agent / size, to_feature / size
        along_agent = (self.blend + to_agent) / (1.0 + self.blend)
        along_feature = to_feature * jax.lax.stop_gradient(length) / (1.0 + self.blend)
        return (
            # The last part raises the slope to the agent to 1, that of an inner product. It has no
            # gradient to the feature.
            along_agent * slope_only(target.similarity)
            + along_feature * slope_only(length)
            + (1.0 - along_agent) * slope_only(target.agent_similarity)
        )


def psi(cosine: jax.Array, margin: int) -> jax.Array:
    """Returns SphereFace's psi: cos(m theta), changed so that it falls over the whole of [0, pi].

        psi(theta) = (-1)^k cos(m theta) - 2 k,   theta in [k pi / m, (k + 1) pi / m]

    theta is the angle whose cosine is given, m is `margin`, and k, from 0 to m - 1, is the number
    of the interval that contains theta. cos(m theta) is computed from the cosine by Chebyshev's
    polynomial, without arccos, whose slope is infinite at the cosines 1 and -1.

    Args:
      cosine: any shape, in [-1, 1].
      margin: m, a whole number from 1 to 4.

    Returns:
      psi, of cosine's shape, from 1 down to 1 - 2 m.
    """
    polynomials = (
        # Chebyshev's T_1 to T_4: cos(m theta) as a polynomial of cos(theta).
        lambda c: c,
        lambda c: 2 * c**2 - 1,
        lambda c: (4 * c**2 - 3) * c,
        lambda c: 8 * (c**2 - 1) * c**2 + 1,
    )
    # k is the number of borders that theta exceeds. It is constant between them, so that
    # comparisons, which have no gradient, give the right slope.
    piece = sum(
        (cosine < math.cos(j * math.pi / margin)).astype(cosine.dtype) for j in range(1, margin)
    )
    sign = 1.0 - 2.0 * (piece % 2.0)
    return sign * polynomials[margin - 1](cosine) - 2.0 * piece


def annealed_blend(
    step: ArrayLike,
    *,
    start: float = 1000.0,
    gamma: float = 0.12,
    power: float = 1.0,
    floor: float = 5.0,
) -> jax.Array:
    """Returns SphereFace's `blend` (lambda) at a step, the weight of the logit without margin.

        lambda = max(floor, start (1 + gamma i)^-power),   i = step + 1

    `floor`, `start`, `gamma` and `power` are the arguments. lambda depends only on the step, so a
    resumed run continues with the right value. In the authors' published code a resumed run starts
    again at 1000.

    Args:
      step: number of finished optimiser steps, 0 at the first batch.
      start: constant of the equation. All defaults are those of the authors' published training
        file.
      gamma: constant of the equation.
      power: constant of the equation.
      floor: smallest value of lambda.

    Returns:
      lambda, in the shape of `step`.

    Example:
      >>> print(f"{annealed_blend(0):.3f} {annealed_blend(500):.4f}")  # as the released log shows
      892.857 16.3613
    """
    # The released code increments its counter before it uses it, so that its first value is 1.
    i = jnp.asarray(step, jnp.result_type(float)) + 1.0
    return jnp.maximum(floor, start * (1.0 + gamma * i) ** -power)


def a_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: int = 4,
    blend: ArrayLike = 0.0,
    gradient: Gradient = "exact",
    **engine: Unpack[Engine],
) -> Losses:
    """Computes A-Softmax, the loss of SphereFace (Liu et al. 2017, Eq. 7).

        L = -log( e^{|f| psi(theta_y)} / (e^{|f| psi(theta_y)} + sum_{j != y} e^{|f| cos theta_j}) )

    |x| is the length of a vector x, theta_j the angle between the feature f and the agent (class
    weight) W_j of class j, and y the example's own class. psi(theta_y) is cos(m theta_y), continued
    so that it falls from 1 to 1 - 2 m over [0, pi]; m is `margin`. Agents are scaled to unit
    length, and features are not.

    If lambda (`blend`) is above 0, a weighted mean replaces psi(theta_y): (lambda cos theta_y +
    psi(theta_y)) / (1 + lambda).

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      margin: m, 1 to 4; 1 is softmax with normalised agents.
      blend: lambda, at least 0. 0 uses the margin alone; SphereFace lowers lambda from 1000 to 5
        during training (`annealed_blend`).
      gradient: "exact" is the gradient of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes, which differs in two ways. The true gradient of the logit of
        class y to f is a W~_y + b f, with scalars a and b, and W~_y the agent at unit length. For
        margins above 1 that code divides a and b by sqrt(a^2 + b^2). Agents get the gradient of the
        plain inner product, which leaves out the derivative of their scaling to unit length. The
        caller has to scale them to unit length after each step.
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs). NaN under jit where a label is out
      of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, margin is not 1 to 4, `gradient` is unknown, or a label is out of
        range (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(a_softmax(jnp.array([[2.0, 0.0]]), agents, jnp.array([0])).round(4))
      [0.1269]

    References:
      Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017.
    """
    blend = _checks.number("blend", blend, 0.0, math.inf)
    term = SphereFace(blend, _checked(margin), gradient=gradient)
    return single("a_softmax", term, features, agents, labels, **agent_rule(gradient, term, engine))


def l_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: int = 4,
    blend: ArrayLike = 0.0,
    **engine: Unpack[Engine],
) -> Losses:
    """Computes L-Softmax, the large-margin softmax (Liu et al. 2016, Eq. 4).

        L = -log( e^{|W_y||f| psi(theta_y)} / (e^{|W_y||f| psi(theta_y)} + sum_{j != y} e^{W_j f}) )

    |x| is the length of a vector x, theta_j the angle between the feature f and the agent (class
    weight) W_j of class j, and y the example's own class. psi(theta_y) is cos(m theta_y), continued
    so that it falls from 1 to 1 - 2 m over [0, pi]; m is `margin`. Neither agents nor features are
    scaled to unit length.

    If lambda (`blend`) is above 0, a weighted mean replaces psi(theta_y): (lambda cos theta_y +
    psi(theta_y)) / (1 + lambda).

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      margin: m, 1 to 4; 1 is plain softmax.
      blend: lambda, at least 0. 0 uses the margin alone; SphereFace lowers lambda from 1000 to 5
        during training (`annealed_blend`).
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs). NaN under jit where a label is out
      of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, margin is not 1 to 4, or a label is out of range (values that jit
        traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(l_softmax(jnp.array([[2.0, 0.0]]), agents, jnp.array([0])).round(4))
      [0.1269]

    References:
      Liu et al., Large-Margin Softmax Loss for Convolutional Neural Networks, ICML 2016.
    """
    blend = _checks.number("blend", blend, 0.0, math.inf)
    term = SphereFace(blend, _checked(margin), normalize="none")
    return single("l_softmax", term, features, agents, labels, **engine)


def _checked(margin: int) -> int:
    """Returns the margin, after a check that it is 1, 2, 3 or 4; else ValueError."""
    if margin not in (1, 2, 3, 4):
        raise ValueError(f"expected margin 1, 2, 3 or 4, found {margin}")
    return margin
