"""AdaFace: a margin that follows the feature norm, normalised by statistics of the batches."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._softmax import ScaledLogits, known_bound, per_example
from hyperface.losses.classwise import Engine, Normalize, Target, single
from hyperface.normalize import l2_norm
from hyperface.shapes import Agents, Features, Flags, Labels, Losses

NORM_RANGE = (1e-3, 100.0)
"""Range to which feature norms are clipped before they enter a margin or the statistics."""
EPS = 1e-3
"""Number that is added to the standard deviation; it is also the smallest distance that the angle
with margin keeps from 0 and pi."""


class NormStatistics(NamedTuple):
    """Moving mean and standard deviation of feature norms, by which AdaFace judges image quality.

    The defaults are the values before the first batch, as in the authors' published code.
    """

    mean: ArrayLike = 20.0
    """Mean norm."""
    std: ArrayLike = 100.0
    """Standard deviation of the norms."""


def updated_norm_statistics(
    statistics: NormStatistics,
    features: Features,
    *,
    momentum: ArrayLike = 0.01,
    counted: Flags | None = None,
    axis_name: str | None = None,
) -> NormStatistics:
    """Updates AdaFace's moving statistics of the feature norm by one batch (Kim et al.).

        mean' = (1 - a) mean + a mean_i ||f_i||,   std' = (1 - a) std + a std_i ||f_i||

    mean_i and std_i are taken over the examples of the batch, and a is `momentum`, the share of the
    new batch. As in the authors' published code, the norms are clipped to [0.001, 100], and the
    batch's variance divides the sum of squares by the count minus one. A batch without examples
    changes nothing. A batch of one example does not change the deviation. No gradient flows through
    mean or deviation.

    Args:
      statistics: the statistics before the batch.
      features: [batch, dim], floating point, un-normalised.
      momentum: a, the share of this batch, 0 to 1.
      counted: [batch] bool, False for padding; None counts all.
      axis_name: the mapped axis over which the batch is split, so that the result is that of the
        whole batch; None if this device has the whole batch.

    Returns:
      The statistics after the batch, scalars in float32 (float64 for float64 features).

    Raises:
      TypeError: features are not floating point, or counted is not bool.
      ValueError: features are not a matrix, counted is not [batch], or the momentum is outside [0,
        1] (a value that jit traces is not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[3.0, 4.0], [0.0, 7.0]])
      >>> found = updated_norm_statistics(NormStatistics(), features, momentum=0.5)
      >>> print(found.mean, found.std.round(3))
      13.0 50.707

    References:
      Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022.
    """
    features = _checks.float_matrix("features", features, "batch, dim")
    momentum = _checks.number("momentum", momentum, 0.0, 1.0)
    batch = features.shape[0]
    if counted is None:
        counted = jnp.ones(batch, bool)
    weights = _checks.flags("counted", counted, batch, "per example").astype(features.dtype)
    norms = _clipped_norms(l2_norm(features))

    def over_batch(values: jax.Array) -> jax.Array:
        total = jnp.sum(weights * values)
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    count = over_batch(jnp.ones_like(norms))
    # Sums and counts are added over the devices and then divided. A mean of the devices' means
    # would be wrong if they have different numbers of padding examples.
    mean = over_batch(norms) / jnp.maximum(count, 1.0)
    # In a second pass, because the difference of two large sums of squares would lose its digits.
    variance = over_batch((norms - mean) ** 2) / jnp.maximum(count - 1.0, 1.0)

    def moved(old: ArrayLike, new: jax.Array, least: float) -> jax.Array:
        old = jax.lax.stop_gradient(jnp.asarray(old, features.dtype))
        share = jnp.asarray(momentum, features.dtype)
        return jnp.where(count >= least, (1.0 - share) * old + share * new, old)

    # One example has a mean but no spread, and padding alone has neither.
    return NormStatistics(
        moved(statistics.mean, mean, 1.0), moved(statistics.std, jnp.sqrt(variance), 2.0)
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdaFace(ScaledLogits):
    """AdaFace as a term of `joint`, which computes several losses in one pass.

    The fields are the hyper-parameters of `adaface`. Build it with `of`, which sets `bounded`.
    """

    statistics: NormStatistics
    """Mean and deviation of the feature norms, to which each norm is compared."""
    scale: ArrayLike = 64.0
    """s, the factor on the cosines, a scalar or [batch]."""
    margin: ArrayLike = 0.4
    """m, the size of both margins, a scalar or [batch], at least 0."""
    concentration: ArrayLike = 0.333
    """h, the factor of the quality z = h (norm - mean) / std, which is clipped to [-1, 1]."""
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
        statistics: NormStatistics,
        scale: ArrayLike = 64.0,
        margin: ArrayLike = 0.4,
        concentration: ArrayLike = 0.333,
    ) -> "AdaFace":
        """Returns the term, with `bounded` set if the scale is known to be at most 70.

        The logit of the own class is s (cos(theta - m z) - (m z + m)), and the other logits are
        s cos(theta). theta is the angle between feature and agent (class weight), and z =
        h (norm - mean) / std, clipped to [-1, 1], is the quality.

        The scale is known if it is a Python number or NumPy array. With `bounded`, log sum exp over
        the classes is computed without subtracting the largest logit, because exp cannot overflow.

        Args:
          statistics: mean and std, the mean and standard deviation of the feature norms.
          scale: s, the factor on the cosines, a scalar or [batch].
          margin: m, the size of both margins, a scalar or [batch], at least 0.
          concentration: h, the factor in the quality z.
        """
        return cls(statistics, scale, margin, concentration, known_bound(scale))

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch], softplus(value - s (cos(theta + g_angle) - g_add)).

        s is the scale, theta the angle between the feature and its own agent (class weight), and
        g_angle = -m z and g_add = m z + m are the margins. m is `margin` and z is `quality`.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] log sum exp of the other classes' logits, the result of `fold`.
        """
        dtype = target.similarity.dtype
        scale, margin = jnp.asarray(self.scale, dtype), jnp.asarray(self.margin, dtype)
        quality = self.quality(target.feature_norm)
        # The margin may push the angle out of [0, pi], where the cosine would turn back.
        angle = jnp.clip(target.angle - margin * quality, EPS, math.pi - EPS)
        cosine = jnp.cos(angle) - margin * (quality + 1.0)
        return jax.nn.softplus(value - (scale * cosine + target.bias))

    def quality(self, feature_norm: jax.Array) -> jax.Array:
        """Returns the quality z [batch]: h (norm - mean) / std, clipped to [-1, 1].

        h is `concentration`, and mean and std are `statistics`. As in the authors' published code,
        the norm is clipped to [0.001, 100] first, and 0.001 is added to std.

        Args:
          feature_norm: [batch] length of each un-normalised feature.
        """
        # The statistics are constants in the gradient, and so is the norm, as the paper requires.
        mean, std, concentration = (
            jax.lax.stop_gradient(jnp.asarray(x, feature_norm.dtype))
            for x in (self.statistics.mean, self.statistics.std, self.concentration)
        )
        apart = _clipped_norms(feature_norm) - mean
        return jnp.clip(concentration * apart / (std + EPS), -1.0, 1.0)


def adaface(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    statistics: NormStatistics,
    scale: ArrayLike = 64.0,
    margin: ArrayLike = 0.4,
    concentration: ArrayLike = 0.333,
    **engine: Unpack[Engine],
) -> Losses:
    """Computes AdaFace: softmax with a margin that depends on the feature norm (Kim et al.).

    The margin of long features acts most on hard examples, and that of short features acts most on
    easy examples.

        z_i = clip(h (||f_i|| - mean) / std, -1, 1)
        g_angle = -m z_i,   g_add = m z_i + m
        target logit s (cos(theta_y + g_angle) - g_add), the other logits s cos theta_j

    f is the feature, theta_j the angle between it and the agent (class weight) of class j, and y
    the example's own class. mean and std are `statistics`, h is `concentration`, m is `margin`, and
    s is `scale`. clip limits a value to [-1, 1].

    AdaFace uses the feature norm as the quality of the image. NormFace removes this norm, and Ring
    loss makes it the same for all images. No gradient flows through the norm or the statistics.

    Three details that the paper does not state follow the authors' published code: norms are
    clipped to [0.001, 100], 0.001 is added to std, and theta_y + g_angle is clipped to [0.001, pi -
    0.001]. The target logit has no gradient where it is clipped. That code updates the statistics
    by a batch before it uses them. It also clips all cosines to [-0.999, 0.999], so a feature
    within 0.045 rad of its own agent gets no gradient from this agent. This function does not clip
    cosines.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      statistics: mean and deviation of the feature norms, see `updated_norm_statistics`.
      scale: s, the factor on the cosines. Like margin and concentration it is a scalar or [batch],
        one per example.
      margin: m, at least 0.
      concentration: h, at least 0: z reaches 1 where the norm is std / h above the mean.
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs). NaN under jit where a label is out
      of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, or a label, margin or concentration is out of range (labels are
        checked outside of jit, the others if they are Python or NumPy numbers).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> loss = adaface(
      ...     jnp.array([[30.0, 40.0]]), agents, jnp.array([0]),
      ...     statistics=NormStatistics(20.0, 10.0), scale=2.0,
      ... )
      >>> print(loss.round(4))
      [1.6779]

    References:
      Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022.
    """
    term = AdaFace.of(
        NormStatistics(*(_checks.scalar(n, x) for n, x in statistics._asdict().items())),
        per_example("scale", scale, labels),
        per_example("margin", margin, labels, 0.0),
        per_example("concentration", concentration, labels, 0.0),
    )
    return single("adaface", term, features, agents, labels, **engine)


def _clipped_norms(norms: jax.Array) -> jax.Array:
    """Returns norms [batch] clipped to NORM_RANGE, without a gradient, as in the released code."""
    return jnp.clip(jax.lax.stop_gradient(norms), *NORM_RANGE)
