"""Triplet losses: on triplets, and NormFace's classification version over agents."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient
from hyperface.losses._folds import HingeSum, Maximum
from hyperface.losses.classwise import (
    Engine,
    Gradient,
    Normalize,
    Target,
    agent_rule,
    single,
    slope_only,
)
from hyperface.normalize import l2_normalize
from hyperface.shapes import Agents, Features, Labels, Losses

Negatives = Literal["all", "hardest"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CTriplet:
    """`c_triplet` as a term of `joint`, which computes several losses in one pass.

    The fields are the hyper-parameters of `c_triplet`.
    """

    margin: ArrayLike = 0.8
    """m, the margin on the difference of squared distances, 0 to 4."""
    negatives: Negatives = field(default="all", metadata={"static": True})
    """"all" sums over every wrong class, and "hardest" takes only the closest one."""
    always_pull: bool = field(default=False, metadata={"static": True})
    """Whether the squared distance to the own agent is added to the loss, even if no class violates
    the margin."""
    gradient: Gradient = field(default="exact", metadata={"static": True})
    """"exact" is the gradient of the equation, and "caffe" the one that the authors' published
    Caffe code computes."""

    @property
    def normalize(self) -> Normalize:
        """Returns "both": features and agents (class weights) are scaled to unit length."""
        return "both"

    released_gradient: ClassVar[AgentGradient] = "distance"
    """A constant, not a hyper-parameter. It names the gradient that the agents get with
    `gradient="caffe"`: that of the squared distance to the feature, as if the agents had unit
    length already. The Caffe code of NormFace's authors computes this gradient."""

    @property
    def fold(self) -> HingeSum | Maximum:
        """Returns the reduction over wrong classes: a sum of hinges, or a maximum for "hardest"."""
        return HingeSum() if self.negatives == "all" else Maximum()

    def fold_args(self, target: Target) -> jax.Array | None:
        """Returns the fold's argument: the cosine [batch] above which a class adds to the loss.

        With negatives="hardest" the result is None, because the maximum needs no argument.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
        """
        # d = 2 - 2 cos, so that m + d_p - d_n is 2 (cos_n - (cos_p - m / 2)).
        return self._own(target) - 0.5 * self.margin if self.negatives == "all" else None

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch]: the sum over wrong classes k of max(0, m + d_own - d_k).

        d_own and d_k are the squared distances to the own agent (class weight) and to that of class
        k, and m is `margin`. With negatives="hardest", only the nearest wrong class is used. With
        `always_pull` and gradient="exact", d_own is added.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] the result of `fold`: the sum of cosine - c over the classes whose cosine
            exceeds c, the result of `fold_args`; or the largest cosine of a wrong class for
            "hardest".
        """
        if self.negatives == "hardest":
            value = jnp.maximum(0.0, value - (self._own(target) - 0.5 * self.margin))
        # ||f~ - W~||^2 = 2 - 2 cos for unit vectors.
        distance = 2.0 * (1.0 - target.similarity)
        if self.gradient == "caffe":
            # The released value lacks the pull to the own agent, but its gradient has it.
            pulls = self.always_pull | (value > 0)
            return 2.0 * value + jnp.where(pulls, slope_only(distance), 0.0)
        return 2.0 * value + (distance if self.always_pull else 0.0)

    def _own(self, target: Target) -> jax.Array:
        """Returns the cosine [batch] to the own agent, as it enters the violations.

        In the released code it has no gradient there.
        """
        own = target.similarity
        return jax.lax.stop_gradient(own) if self.gradient == "caffe" else own


def c_triplet(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: ArrayLike = 0.8,
    negatives: Negatives = "all",
    always_pull: bool = False,
    gradient: Gradient = "exact",
    **engine: Unpack[Engine],
) -> Losses:
    """Computes the triplet loss between a feature, its own agent and the others: NormFace, Eq. 11.

        L = sum_{k != y} max(0, m + ||f~ - W~_y||^2 - ||f~ - W~_k||^2)

    f~ is the feature and W~_k the agent (class weight) of class k, both at unit length. y is the
    example's own class, and m the margin. A class violates the margin if its part of the sum is
    above 0.

    Args:
      features: [batch, dim], floating point; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      margin: m, on the difference of squared distances, 0 to 4. The paper recommends 0.8.
      negatives: "all" sums over every wrong class; "hardest" uses only the closest one, as the
        authors' published code does.
      always_pull: whether ||f~ - W~_y||^2 is added to the loss, even if no class violates the
        margin: the paper's "C-triplet + center".
      gradient: "exact" is the gradient of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes. It differs in three ways:

        - The squared distance to the own agent has slope 1, and not the number of classes that
          violate the margin. With `always_pull` this holds for every example. Otherwise, the slope
          is 0 for an example without such a class.
        - The derivative of the agents' scaling to unit length is left out, and the caller has to
          scale the agents to unit length after each step.
        - The value of the loss does not contain the distance that `always_pull` adds.
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in squared distance on the unit sphere, float32 (float64 for float64 inputs). NaN
      under jit where a label is out of range. With a single class the sum is empty.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, `negatives` or `gradient` is unknown, or a label or margin is out
        of range (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> print(c_triplet(jnp.array([[3.0, 0.0]]), agents, jnp.array([1])).round(3))
      [1.6]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    _checks.one_of("negatives", negatives, get_args(Negatives))
    margin = _checks.number("margin", margin, 0.0, 4.0)
    term = CTriplet(margin, negatives, always_pull, gradient)
    return single("c_triplet", term, features, agents, labels, **agent_rule(gradient, term, engine))


def triplet(
    anchors: Features,
    positives: Features,
    negatives: Features,
    *,
    margin: ArrayLike = 0.8,
) -> Losses:
    """Computes the triplet loss on normalised features: NormFace, Eq. 8.

        L = max(0, m + ||a~ - p~||^2 - ||a~ - n~||^2)

    a~, p~ and n~ are the features of the anchor, the positive (an image of the anchor's class) and
    the negative (an image of another class), all at unit length; m is the margin.

    Args:
      anchors: [triplets, dim], floating point.
      positives: [triplets, dim], features of the anchors' classes.
      negatives: [triplets, dim], features of other classes.
      margin: m, on the difference of squared distances, 0 to 4.

    Returns:
      [triplets] loss in squared distance on the unit sphere, at least float32.

    Raises:
      TypeError: an argument is not floating point.
      ValueError: shapes disagree, or the margin is outside [0, 4] (a value that jit traces is not
        checked).

    Example:
      >>> import jax.numpy as jnp
      >>> a, p, n = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0]]), jnp.array([[0.6, 0.8]])
      >>> print(triplet(a, p, n, margin=1.0).round(3))
      [0.2]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    margin = _checks.number("margin", margin, 0.0, 4.0)
    a = _checks.float_matrix("anchors", anchors, "triplets, dim")
    p = _checks.float_matrix("positives", positives, "triplets, dim")
    n = _checks.float_matrix("negatives", negatives, "triplets, dim")
    if not a.shape == p.shape == n.shape:
        raise ValueError(
            "expected anchors, positives and negatives of one shape [triplets, dim], found "
            f"{a.shape}, {p.shape} and {n.shape}"
        )
    a, p, n = l2_normalize(a), l2_normalize(p), l2_normalize(n)
    # From the difference of the vectors: for nearly equal ones 2 - 2 cos would lose its digits.
    to_positive, to_negative = jnp.sum((a - p) ** 2, axis=1), jnp.sum((a - n) ** 2, axis=1)
    return jnp.maximum(0.0, margin + to_positive - to_negative)
