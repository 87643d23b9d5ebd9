"""MagFace: a margin that grows with the feature norm, and a regulariser that makes norms grow."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._margin import MarginSoftmax
from hyperface.losses._softmax import ScaledLogits, known_bound, per_example
from hyperface.losses.classwise import Engine, Normalize, Target, single
from hyperface.normalize import l2_norm
from hyperface.shapes import Agents, Features, Labels, Losses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MagFace(ScaledLogits):
    """MagFace as a term of `joint`, which computes several losses in one pass.

    The fields are the hyper-parameters of `magface`. Build it with `of`, which sets `bounded`.
    """

    scale: ArrayLike = 64.0
    """s, the factor on the cosines. Like margins and norms it is a scalar or [batch]."""
    lower_margin: ArrayLike = 0.45
    """Margin in radians at the lower norm and below."""
    upper_margin: ArrayLike = 0.8
    """Margin in radians at the upper norm and above."""
    lower_norm: ArrayLike = 10.0
    """Feature norm from which the margin grows."""
    upper_norm: ArrayLike = 110.0
    """Feature norm up to which the margin grows."""
    easy_margin: bool = field(default=True, metadata={"static": True})
    """Whether the margin is applied only where the cosine to the own agent is positive."""
    bounded: bool = field(default=False, metadata={"static": True})
    """Whether |scale x cosine| is known to be at most 70. Without a bias, exp(logit) then cannot
    overflow, and log sum exp over the classes is computed without subtracting the largest
    logit."""

    @property
    def normalize(self) -> Normalize:
        """Returns "both": features and agents (class weights) are scaled to unit length."""
        return "both"

    needs_angle: ClassVar[bool] = True
    """The loss needs `Target.angle`, the angle to the own agent, so the library computes it."""

    @classmethod
    def of(
        cls,
        scale: ArrayLike = 64.0,
        lower_margin: ArrayLike = 0.45,
        upper_margin: ArrayLike = 0.8,
        lower_norm: ArrayLike = 10.0,
        upper_norm: ArrayLike = 110.0,
        easy_margin: bool = True,
    ) -> "MagFace":
        """Returns the term, with `bounded` set if the scale is known to be at most 70.

        The logit of the own class is s cos(theta + m), and the other logits are s cos(theta). theta
        is the angle between feature and agent (class weight). The margin m rises linearly with the
        feature norm.

        The scale is known if it is a Python number or NumPy array. With `bounded`, log sum exp over
        the classes is computed without subtracting the largest logit, because exp cannot overflow.

        Args:
          scale: s, the factor on the cosines, a scalar or [batch].
          lower_margin: margin in radians at the lower norm and below.
          upper_margin: margin in radians at the upper norm and above.
          lower_norm: feature norm from which the margin grows.
          upper_norm: feature norm up to which the margin grows.
          easy_margin: whether the margin is applied only where the cosine to the own agent is
            positive.
        """
        numbers = (scale, lower_margin, upper_margin, lower_norm, upper_norm)
        return cls(*numbers, easy_margin, known_bound(scale))

    def margins(self, feature_norm: jax.Array) -> jax.Array:
        """Returns the margins [batch] in radians, from the feature norms [batch].

        The margin rises linearly from `lower_margin` at `lower_norm` to `upper_margin` at
        `upper_norm`, and is constant outside of this range.
        """
        lower, upper, lower_norm, upper_norm = (
            jnp.asarray(x, feature_norm.dtype)
            for x in (self.lower_margin, self.upper_margin, self.lower_norm, self.upper_norm)
        )
        # Outside of the range the margin is constant, and the clip gives it no gradient.
        above = jnp.clip(feature_norm, lower_norm, upper_norm) - lower_norm
        return lower + (upper - lower) * above / (upper_norm - lower_norm)

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch], softplus(value - s cos(theta + m(a))).

        s is the scale, theta the angle to the own agent (class weight), and m(a) the result of
        `margins` for the feature norm a. With `easy_margin`, m(a) is 0 where cos(theta) is not
        positive.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] log sum exp of the other classes' logits, the result of `fold`.
        """
        margins = self.margins(target.feature_norm)
        # No margin beyond 90 degrees, where theta + m could exceed pi and the cosine would rise.
        if self.easy_margin:
            margins = jnp.where(target.similarity > 0.0, margins, 0.0)
        return MarginSoftmax(self.scale, angular_margin=margins).loss(target, value)


def magface(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    scale: ArrayLike = 64.0,
    lower_margin: ArrayLike = 0.45,
    upper_margin: ArrayLike = 0.8,
    lower_norm: ArrayLike = 10.0,
    upper_norm: ArrayLike = 110.0,
    easy_margin: bool = True,
    **engine: Unpack[Engine],
) -> Losses:
    """Computes MagFace's classification loss: a margin that grows with the norm (Meng et al.).

        target logit s cos(theta_y + m(a)), the other logits s cos theta_j
        m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a),   a = ||f|| clipped to [l_a, u_a]

    f is the feature, theta_j the angle between f and the agent (class weight) of class j, y the
    example's own class, and s the scale. l_m, u_m, l_a and u_a are the lower and upper margin and
    norm.

    The paper's loss is the batch mean of this function plus lambda_g = 35 times
    `magface_regularizer`. The gradient flows through the margin too, and shortens features that are
    far from their agent; the regulariser lengthens them. So the feature norm becomes a measure of
    the quality of the image. NormFace removes this norm, and Ring loss makes it the same for all
    images. Outside [l_a, u_a] neither the margin nor the regulariser has a gradient to the norm.

    The paper's equation also has a useless minimum: all agents are at one point, and all features
    are opposite to it. There theta_y + m(a) exceeds pi, and cos(theta_y + m(a)) rises again. The
    authors' published code avoids this minimum by an "easy margin", which the paper does not
    mention: no margin is applied where cos theta_y is not positive. The loss is discontinuous at
    cos theta_y = 0.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      scale: s, the factor on the cosines. Like the margins and norms it is a scalar or [batch], one
        per example.
      lower_margin: l_m in radians, 0 to pi.
      upper_margin: u_m in radians, 0 to pi.
      lower_norm: l_a, above 0, in units of the feature norm.
      upper_norm: u_a, above `lower_norm`.
      easy_margin: whether the margin is applied only where cos theta_y is positive, as in the
        authors' published code. False uses the paper's equation for all examples.
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs). NaN under jit where a label is out
      of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, or a label, margin or norm is out of range (labels are checked
        outside of jit, the others if they are Python or NumPy numbers).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(magface(jnp.array([[60.0, 0.0]]), agents, jnp.array([0]), scale=2.0).round(4))
      [0.1803]

    References:
      Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment,
      CVPR 2021.
    """
    term = MagFace.of(
        per_example("scale", scale, labels),
        per_example("lower_margin", lower_margin, labels, 0.0, math.pi),
        per_example("upper_margin", upper_margin, labels, 0.0, math.pi),
        *_norm_range(lower_norm, upper_norm, labels),
        easy_margin,
    )
    return single("magface", term, features, agents, labels, **engine)


def magface_regularizer(
    features: Features,
    *,
    lower_norm: ArrayLike = 10.0,
    upper_norm: ArrayLike = 110.0,
) -> Losses:
    """Computes MagFace's regulariser, which is smallest at the upper norm (Meng et al.).

        g(a) = 1 / a + a / u_a^2,   a = ||f|| clipped to [l_a, u_a]

    f is the feature, l_a the lower and u_a the upper norm. Within [l_a, u_a] the gradient is

        dg/df = (1 / u_a^2 - 1 / a^2) f / a

    The paper gives it the weight lambda_g = 35 beside `magface`.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      lower_norm: l_a, above 0, in units of the feature norm.
      upper_norm: u_a, above `lower_norm`.

    Returns:
      [batch], in inverse norm units, float32 (float64 for float64 inputs).

    Raises:
      TypeError: features are not floating point.
      ValueError: features are not a matrix, or a norm is out of range (checked if it is a Python or
        NumPy number).

    Example:
      >>> import jax.numpy as jnp
      >>> print(magface_regularizer(jnp.array([[30.0, 40.0]])).round(6))
      [0.024132]

    References:
      Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment,
      CVPR 2021.
    """
    features = _checks.float_matrix("features", features, "batch, dim")
    lower, upper = (
        jnp.asarray(x, features.dtype) for x in _norm_range(lower_norm, upper_norm, features)
    )
    # The clip also keeps 1 / norm finite for a zero feature.
    norm = jnp.clip(l2_norm(features), lower, upper)
    return 1.0 / norm + norm / upper**2


def _norm_range(lower: ArrayLike, upper: ArrayLike, of: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Returns (lower, upper) after a check that both are above 0, and lower is below upper.

    Args:
      lower: a scalar, or one number per example.
      upper: a scalar, or one number per example.
      of: any array with one row per example, which gives the size of the batch.
    """
    # The smallest normal float32: its reciprocal in the regulariser is still finite.
    tiny = float(np.finfo(np.float32).tiny)
    lower = per_example("lower_norm", lower, of, tiny)
    upper = per_example("upper_norm", upper, of, tiny)
    # JAX arrays are not compared, because their values may not be known while JAX traces them.
    known = not isinstance(lower, jax.Array) and not isinstance(upper, jax.Array)
    if known and not np.all(np.less(lower, upper)):
        raise ValueError(f"expected lower_norm below upper_norm, found {lower} and {upper}")
    return lower, upper
