"""Contrastive losses: on pairs, and NormFace's classification version over agents."""

from dataclasses import dataclass
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses._blocks import AgentGradient
from hyperface.losses._folds import HingeSum
from hyperface.losses.classwise import Engine, Gradient, Normalize, Target, agent_rule, single
from hyperface.normalize import l2_normalize
from hyperface.shapes import Agents, Features, Flags, Labels, Losses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CContrastive:
    """`c_contrastive` as a term of `joint`, which computes several losses in one pass.

    Its only field is the hyper-parameter `margin` of `c_contrastive`.
    """

    margin: ArrayLike = 1.0
    """m, the margin on the squared distance of unit vectors, 0 to 4."""

    @property
    def normalize(self) -> Normalize:
        """Returns "both": features and agents (class weights) are scaled to unit length."""
        return "both"

    @property
    def fold(self) -> HingeSum:
        """Returns the reduction over the wrong classes: a sum of hinges max(0, cosine - c).

        c is the result of `fold_args`.
        """
        return HingeSum()

    released_gradient: ClassVar[AgentGradient] = "distance"
    """A constant, not a hyper-parameter. It names the gradient that the agents (class weights) get
    from `c_contrastive(gradient="caffe")`: that of the squared distance to the feature, as if the
    agents had unit length already. The Caffe code of NormFace's authors computes this gradient."""

    def fold_args(self, target: Target) -> jax.Array:
        """Returns the fold's argument c [batch]: the cosine above which a class adds to the loss.

        c = 1 - margin / 2, because the squared distance of unit vectors is 2 - 2 cosine.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
        """
        # d = 2 - 2 cos, so that max(0, m - d) is 2 max(0, cos - (1 - m / 2)).
        return jnp.full_like(target.similarity, 1.0 - 0.5 * jnp.asarray(self.margin))

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch]: the squared distance to the own agent plus the sum of hinges.

        The value is 2 (1 - cosine to the own agent) + 2 `value`.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] the result of `fold`: the sum of cosine - c over the classes whose cosine
            exceeds c, the result of `fold_args`.
        """
        # ||f~ - W~||^2 = 2 - 2 cos for unit vectors, and each hinge is 2 max(0, cos - argument).
        return 2.0 * (1.0 - target.similarity) + 2.0 * value


def c_contrastive(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: ArrayLike = 1.0,
    gradient: Gradient = "exact",
    **engine: Unpack[Engine],
) -> Losses:
    """Computes the contrastive loss between a feature and all agents: NormFace, Eq. 10.

        L = ||f~ - W~_y||^2 + sum_{j != y} max(0, m - ||f~ - W~_j||^2)

    f~ is the feature, W~_j the agent (class weight) of class j, both at unit length; y is the
    example's own class, and m the margin. The sum is over all wrong classes, as in the authors'
    published code. The function does not take the mean over the batch. With margin 0 only the first
    part remains, and agents converge to the class means.

    Args:
      features: [batch, dim], floating point; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids.
      margin: m, on the squared distance of unit vectors, 0 to 4. The paper recommends 1.
      gradient: "exact" is the gradient of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes: it leaves out the derivative of the agents' scaling to unit
        length, and the caller has to scale the agents to unit length after each step. (That code
        also limits the distance to the own agent to 4, which unit vectors cannot exceed.)
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in squared distance on the unit sphere, float32 (float64 for float64 inputs). NaN
      under jit where a label is out of range.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree, `gradient` is unknown, or a label or margin is out of range
        (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> print(c_contrastive(jnp.array([[3.0, 0.0]]), agents, jnp.array([0])).round(3))
      [0.2]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    term = CContrastive(_checks.number("margin", margin, 0.0, 4.0))
    return single(
        "c_contrastive", term, features, agents, labels, **agent_rule(gradient, term, engine)
    )


def contrastive(
    features_a: Features,
    features_b: Features,
    same: Flags,
    *,
    margin: ArrayLike = 1.0,
) -> Losses:
    """Computes the contrastive loss on pairs of normalised features: NormFace, Eq. 7.

        L = ||f~_a - f~_b||^2             for a pair of one class
        L = max(0, m - ||f~_a - f~_b||^2) for a pair of two classes

    f~_a and f~_b are the two features at unit length, and m is the margin.

    Args:
      features_a: [pairs, dim] first feature of each pair, floating point.
      features_b: [pairs, dim] second feature of each pair.
      same: [pairs] bool, True for a pair of one class.
      margin: m, on the squared distance, 0 to 4.

    Returns:
      [pairs] loss in squared distance on the unit sphere, at least float32.

    Raises:
      TypeError: features are not floating point, or same is not bool.
      ValueError: shapes disagree, or the margin is outside [0, 4] (a value that jit traces is not
        checked).

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = jnp.array([[2.0, 0.0]] * 2), jnp.array([[0.6, 0.8]] * 2)
      >>> print(contrastive(a, b, jnp.array([True, False])).round(3))
      [0.8 0.2]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    margin = _checks.number("margin", margin, 0.0, 4.0)
    a = _checks.float_matrix("features_a", features_a, "pairs, dim")
    b = _checks.float_matrix("features_b", features_b, "pairs, dim")
    if a.shape != b.shape:
        raise ValueError(
            f"expected features_a and features_b of one shape, found {a.shape} and {b.shape}"
        )
    same = _checks.flags("same", same, a.shape[0], "a pair")
    # From the difference of the vectors: for nearly equal ones 2 - 2 cos would lose its digits.
    distance = jnp.sum((l2_normalize(a) - l2_normalize(b)) ** 2, axis=1)
    return jnp.where(same, distance, jnp.maximum(0.0, margin - distance))
