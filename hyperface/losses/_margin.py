"""ArcFace, CosFace and their mix: a margin on the angle or cosine to the example's own class."""

import math
from dataclasses import dataclass, field
from typing import Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._softmax import ScaledLogits, known_bound, per_example
from hyperface.losses.classwise import Engine, Normalize, Target, single, slope_only
from hyperface.shapes import Agents, Features, Labels, Losses

MarginGradient = Literal["exact", "released"]
""""exact" is the gradient of the printed equation. "released" is the gradient that insightface's
code computes instead."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MarginSoftmax(ScaledLogits):
    """`margin_softmax` as a term of `joint`, which computes several losses in one pass.

    The logit of the own class is s (cos(m1 theta + m2) - m3), with theta the angle between feature
    and own agent (class weight). The fields are the hyper-parameters of `margin_softmax`. Build it
    with `of`, which sets `angular` and `bounded`.
    """

    scale: ArrayLike
    """s, the factor on the cosines. Like the margins it is a scalar or [batch]."""
    angular_multiplier: ArrayLike = 1.0
    """m1, the factor on the angle to the own agent."""
    angular_margin: ArrayLike = 0.0
    """m2, added to the angle, in radians."""
    cosine_margin: ArrayLike = 0.0
    """m3, subtracted from the cosine."""
    angular: bool = field(default=True, metadata={"static": True})
    """Whether theta must be computed. With m1 = 1 and m2 = 0 only its cosine is needed, which is
    the similarity."""
    gradient: MarginGradient = field(default="exact", metadata={"static": True})
    """"exact" is the gradient of the equation. "released" leaves the angular margin out of the
    derivative of the logit, as insightface's published code does."""
    bounded: bool = field(default=False, metadata={"static": True})
    """Whether |scale x cosine| is known to be at most 70. Without a bias, exp(logit) then cannot
    overflow, and log sum exp over the classes is computed without subtracting the largest
    logit."""

    @classmethod
    def of(
        cls,
        scale: ArrayLike,
        angular_multiplier: ArrayLike = 1.0,
        angular_margin: ArrayLike = 0.0,
        cosine_margin: ArrayLike = 0.0,
        gradient: MarginGradient = "exact",
    ) -> "MarginSoftmax":
        """Returns the term, with `angular` and `bounded` set.

        The logit of the own class is s (cos(m1 theta + m2) - m3), with theta the angle between
        feature and own agent (class weight); the other logits are s cos(theta).

        `angular` says whether theta must be computed. It is False only if m1 is known to be 1 and
        m2 to be 0, so that the cosine is enough. `bounded` is True only if s is known to be at most
        70. Then exp of the other logits cannot overflow, and log sum exp is computed without
        subtracting the largest logit. Values of JAX arrays do not count as known.

        Args:
          scale: s, the factor on the cosines. Like the margins it is a scalar or [batch].
          angular_multiplier: m1, the factor on the angle to the own agent.
          angular_margin: m2, added to the angle, in radians.
          cosine_margin: m3, subtracted from the cosine.
          gradient: "exact" is the gradient of the equation. "released" leaves the angular margin
            out of the derivative, as insightface's published code does.
        """
        # Decided while tracing, so that the compiled program of CosFace computes no angle.
        angular = not (_is_all(angular_multiplier, 1.0) and _is_all(angular_margin, 0.0))
        margins = (angular_multiplier, angular_margin, cosine_margin)
        return cls(scale, *margins, angular, gradient, bounded=known_bound(scale))

    @property
    def normalize(self) -> Normalize:
        """Returns "both": features and agents (class weights) are scaled to unit length."""
        return "both"

    @property
    def needs_angle(self) -> bool:
        """Whether the loss needs `Target.angle`, the angle to the own agent (class weight)."""
        return self.angular

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch], softplus(value - s (cos(m1 theta + m2) - m3)).

        s is the scale, theta the angle to the own agent (class weight), m1 `angular_multiplier`, m2
        `angular_margin` and m3 `cosine_margin`.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] log sum exp of the other classes' logits, the result of `fold`.
        """
        cosine = target.similarity
        numbers = (self.scale, self.angular_multiplier, self.angular_margin, self.cosine_margin)
        # A float64 NumPy array of margins would otherwise widen a float32 loss under x64.
        scale, multiplier, angular_margin, cosine_margin = (
            jnp.asarray(number, cosine.dtype) for number in numbers
        )
        if self.angular:
            # The angle is not computed as arccos of the cosine, which has no digits near 0 and pi.
            with_margin = jnp.cos(multiplier * target.angle + angular_margin)
            if self.gradient == "released":
                # The released code computes the margin without autograd: the value has the margin,
                # and the gradient is that of the plain cosine.
                with_margin = jax.lax.stop_gradient(with_margin) + slope_only(cosine)
            cosine = with_margin
        logit = scale * (cosine - cosine_margin) + target.bias
        return jax.nn.softplus(value - logit)


def _is_all(x: ArrayLike, number: float) -> bool:
    """Returns whether all values of x are known to be this number."""
    # An array of jax may be traced or learned, so it never counts as known.
    return not isinstance(x, jax.Array) and bool(np.all(np.equal(x, number)))


def margin_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    scale: ArrayLike,
    angular_multiplier: ArrayLike = 1.0,
    angular_margin: ArrayLike = 0.0,
    cosine_margin: ArrayLike = 0.0,
    gradient: MarginGradient = "exact",
    **engine: Unpack[Engine],
) -> Losses:
    """Computes ArcFace, CosFace or their mix: softmax with margins (ArcFace, Eq. 4).

        target logit s (cos(m1 theta_y + m2) - m3), the other logits s cos theta_j

    theta_j is the angle between the feature and the agent (class weight) W_j of class j, and y is
    the example's own class. ArcFace has m2 = 0.5, and CosFace has m3 = 0.35, both with s = 64.
    Where m1 theta_y + m2 exceeds pi, the cosine of the equation rises again. With the exact
    gradient a large m2 can therefore move features to the point opposite to their agents. A margin
    on the cosine cannot do this, and gradient="released" avoids it too.

    Let f~ and W~_j be the feature and the agents at unit length, p_j the softmax probability of
    class j, and p the sum of p_j over all classes but y. The gradient to the unit feature is

        dL/df~ = s p m1 sin(m1 theta_y + m2) dtheta_y/df~ + s sum_{j != y} p_j W~_j

    dtheta_y/df~ has length 1. So the first part of the sum does not vanish near the agent: the
    length of this part tends to s p m1 sin(m2), but its direction (away from the agent) is
    undefined at theta_y = 0. There the computed gradient is finite and almost zero. The same holds
    at theta_y = pi. The angle is computed from the part of the feature that is orthogonal to the
    agent, and not as the arccos of a cosine, so that float32 keeps its digits.

    Args:
      features: [batch, dim], floating point; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      scale: s, the factor on the cosines. Like the three margins it is a scalar or [batch], one
        per example, and may be learned.
      angular_multiplier: m1, at least 1.
      angular_margin: m2 in radians, 0 to pi.
      cosine_margin: m3, 0 to 2.
      gradient: "exact", or "released": the gradient of insightface's arcface_torch, which does not
        differentiate the angular margin. The derivative of the target logit by the cosine is then
        s, as in CosFace, and not s m1 sin(m1 theta_y + m2) / sin(theta_y). The value is the same,
        also where theta_y + m2 exceeds pi. m1 and m2 then get no gradient. Earlier versions of that
        code differ: they differentiate the margin, and beyond pi use cos(theta) - m2 sin(m2).
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs). NaN under jit where a label is out
      of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, `gradient` is unknown, or a label or margin is out of range
        (labels are checked outside of jit, margins if they are Python or NumPy numbers).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> loss = margin_softmax(
      ...     jnp.array([[2.0, 0.0]]), agents, jnp.array([0]), scale=2.0, cosine_margin=0.5
      ... )
      >>> print(loss.round(2))
      [0.31]

    References:
      Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019.
      Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018.
    """
    _checks.one_of("gradient", gradient, get_args(MarginGradient))
    term = MarginSoftmax.of(
        per_example("scale", scale, labels),
        per_example("angular_multiplier", angular_multiplier, labels, 1.0),
        per_example("angular_margin", angular_margin, labels, 0.0, math.pi),
        per_example("cosine_margin", cosine_margin, labels, 0.0, 2.0),
        gradient,
    )
    return single("margin_softmax", term, features, agents, labels, **engine)
