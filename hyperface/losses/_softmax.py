"""Softmax loss with NormFace's four normalisation modes."""

import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperface.losses._blocks import AgentGradient
from hyperface.losses._folds import BOUNDED_SCALE, LogSumExp
from hyperface.losses.classwise import Engine, Gradient, Normalize, Target, agent_rule, single
from hyperface.normalize import at_least_float32
from hyperface.shapes import Agents, Bias, Features, Labels, Losses


def per_example(
    name: str,
    x: ArrayLike,
    labels: Labels,
    least: float = -math.inf,
    most: float = math.inf,
) -> ArrayLike:
    """Returns a checked hyper-parameter that is one number, or one number per example.

    Args:
      name: name of the hyper-parameter, for messages.
      x: a scalar or an array [batch].
      labels: [batch], from which the size of the batch is known.
      least: smallest allowed value of a Python number or NumPy array. The values of a JAX array are
        never checked, inside or outside of jit, because reading them would wait for the device.
      most: largest allowed value, checked in the same cases.

    Returns:
      x in floating point: a float, a NumPy array, or a JAX array in at least float32.

    Raises:
      ValueError: x is neither a scalar nor [batch], or x is a number or NumPy array with a value
        out of range.
    """
    batch = np.shape(labels)[:1]
    if np.shape(x) not in ((), batch):
        raise ValueError(
            f"expected a scalar {name} or one number per example, [{batch[0]}], found shape "
            f"{np.shape(x)}"
        )
    # Reading a JAX array would fail under tracing, and would wait for the device otherwise.
    if not isinstance(x, jax.Array):
        values = np.ravel(np.asarray(x))
        wrong = values[~((values >= least) & (values <= most))]  # NaN is wrong too.
        if wrong.size:
            raise ValueError(f"expected {name} in [{least:g}, {most:g}], found {wrong[0]}")
        return float(x) if isinstance(x, int | float) else np.asarray(x, np.result_type(x, "f4"))
    return at_least_float32(x)


def known_bound(scale: ArrayLike) -> bool:
    """Returns whether exp cannot overflow with this scale, a Python number or a NumPy array.

    That is so if no absolute value of the scale exceeds 70: exp is applied to scale x
    cosine, which then is at most 70. The result is False for every JAX array, whose value may be
    unknown (under jit) or may grow in training.
    """
    # A JAX array does not count as known: it may be a tracer, or a learned scale that grows.
    return not isinstance(scale, jax.Array) and bool(np.all(np.abs(scale) <= BOUNDED_SCALE))


class ScaledLogits:
    """Base class of softmax terms whose margin changes only the logit of the own class.

    The logits of all other classes are scale x similarity. The base class defines `fold` (the
    reduction over classes) and `fold_args`. A subclass adds `normalize` and `loss`.
    """

    scale: ArrayLike
    """The factor on the similarities, a scalar or [batch]."""
    bounded: bool
    """Whether |scale x similarity| is known to be at most 70. Without a bias, exp(logit) then
    cannot overflow, and log sum exp over the classes is computed without subtracting the largest
    logit."""

    @property
    def fold(self) -> LogSumExp:
        """Returns the reduction of similarities over the other classes: log sum exp of logits."""
        return LogSumExp(self.bounded)

    def fold_args(self, target: Target) -> jax.Array:
        """Returns the argument of the fold (the reduction): the scale of each example, [batch]."""
        # Always one scale per example, so that the fold has one case for scalars and arrays.
        similarity = target.similarity
        return jnp.broadcast_to(jnp.asarray(self.scale, similarity.dtype), similarity.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Softmax(ScaledLogits):
    """The softmax loss as a term of `joint`, which computes several losses in one pass.

    The fields are the hyper-parameters of `softmax`. Build it with `of`, which sets `bounded`.
    """

    scale: ArrayLike = 1.0
    """s, the factor on the similarities, a scalar or [batch]."""
    normalize: Normalize = field(default="both", metadata={"static": True})
    """What is scaled to unit length: "both" features and agents (class weights), only "features",
    only "agents", or "none"."""
    bounded: bool = field(default=False, metadata={"static": True})
    """Whether |scale x similarity| is known to be at most 70. Without a bias, exp(logit) then
    cannot overflow, and log sum exp over the classes is computed without subtracting the largest
    logit."""

    released_gradient: ClassVar[AgentGradient] = "inner-product"
    """A constant, not a hyper-parameter. It names the gradient that the agents get from
    `softmax(gradient="caffe")`: that of the inner product with the feature, as if the agents had
    unit length already. The Caffe code of NormFace's authors computes this gradient."""

    @classmethod
    def of(cls, scale: ArrayLike, normalize: Normalize) -> "Softmax":
        """Returns the term, with `bounded` set if scale x similarity is known to be at most 70.

        It is known if two conditions hold:

        - features and agents (class weights) are normalised
        - the scale is a Python number or NumPy array, and not a JAX array, of at most 70

        With `bounded`, log sum exp over the classes is computed without subtracting the largest
        logit, because exp cannot overflow. A bias may be of any size: with one, `bounded` has no
        effect.

        Args:
          scale: the factor on the similarities, a scalar or [batch].
          normalize: what is scaled to unit length: "both" features and agents, only "features",
            only "agents", or "none".
        """
        # An inner product without normalisation has no known bound.
        return cls(scale, normalize, bounded=normalize == "both" and known_bound(scale))

    def loss(self, target: Target, value: jax.Array) -> jax.Array:
        """Returns the loss [batch], softplus(value - target logit).

        The target logit is scale x similarity + bias, for the example's own class.

        Args:
          target: numbers of each example, such as its similarity to the agent (class weight) of its
            own class, its angle to this agent, and its feature norm; see `Target`.
          value: [batch] log sum exp of the other classes' logits, the result of `fold`.
        """
        # logsumexp over all classes minus the target logit would lose all digits of the loss of a
        # confident example.
        return jax.nn.softplus(value - (self.scale * target.similarity + target.bias))


_WITHOUT_SCALE = (
    "softmax normalises both sides and was given no scale, so s = 1. By NormFace's Proposition 2 "
    "the loss then cannot fall far below log(classes), and training stalls. Pass "
    "scale=hyperface.theory.scale_for_bound(classes, 0.1), or learn the scale; scale=1.0 insists."
)


def softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    normalize: Normalize = "both",
    scale: ArrayLike | None = None,
    bias: Bias | None = None,
    allow_normalized_bias: bool = False,
    gradient: Gradient = "exact",
    **engine: Unpack[Engine],
) -> Losses:
    """Computes softmax cross-entropy on scaled cosines: NormFace, Eq. 6.

    With normalize="none" it is NormFace, Eq. 1.

        L = -log( exp(s <W~_y, f~>) / sum_j exp(s <W~_j, f~>) )

    f~ and W~_j are the feature and the agent (class weight) of class j, each scaled to unit length
    if `normalize` says so. y is the example's own class (its target), and s the scale.

    If both are normalised and s = 1, the loss cannot fall below
    `theory.softmax_lower_bound(classes, 1)`, and training stalls there. Choose the scale by
    `theory.scale_for_bound`, or learn it.

    The loss is computed as softplus(log Z - target logit), where the target logit is s <W~_y, f~>,
    and Z is the sum of exp(logit) over all classes except y. The usual form, logsumexp over all
    classes minus the target logit, has the same value, but if the loss is almost 0 (a confident
    example), it loses all digits by cancellation.

    Args:
      features: [batch, dim], floating point; half precision is computed in float32.
      agents: [classes, dim] class weights, one row per class.
      labels: [batch] integer class ids in [0, classes).
      normalize: what is scaled to unit length: "both" features and agents (NormFace), only
        "features" (L2-constrained softmax), only "agents" (as SphereFace with m = 1), or "none"
        (plain softmax).
      scale: s, the factor on the similarities, a scalar or [batch], one per example; may be
        learned. None is 1, with a warning if features and agents are normalised.
      bias: [classes] numbers that are added to the logits. None adds nothing. With a normalisation,
        a bias raises an error unless `allow_normalized_bias` is set, because NormFace's
        Proposition 1 needs logits without a bias: only then a longer feature never lowers the
        probability of the class with the largest logit.
      allow_normalized_bias: accept a bias beside normalisation.
      gradient: "exact" is the gradient of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes: it leaves out the derivative of the agents' scaling to unit
        length, and the caller has to scale the agents to unit length after each step (that code
        calls this "force normalization").
      engine: options of the computation, all optional, which `classwise.Engine` describes:
        `block_size` (classes per block), `axis_name` and `split_batch` (how agents and batch are
        split over devices), `precision` (of matmuls), `memory_budget` (bytes of stored
        similarities) and `present` (which classes take part).

    Returns:
      [batch] loss in nats, float32 (float64 for float64 inputs), non-negative. Under jit, where
      labels cannot be checked beforehand, the loss of a label out of range is NaN, never that of
      another class.

    Raises:
      TypeError: features or agents are not floating point, or labels are not integers.
      ValueError: shapes disagree; `normalize` or `gradient` is unknown; a bias is given with one
        scale per example, or with a normalisation without `allow_normalized_bias`; or a label is
        out of range (values that jit traces are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0]])
      >>> agents = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> print(softmax(features, agents, jnp.array([0]), scale=2.0))
      [0.126928]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.
      Ranjan et al., L2-constrained Softmax Loss for Discriminative Face Verification, 2017.
    """
    if bias is not None and normalize != "none" and not allow_normalized_bias:
        raise ValueError(
            f'expected bias=None with normalize="{normalize}", found a bias: NormFace\'s '
            "Proposition 1 (the winning class only gains when features grow, so that their length "
            "may be dropped) needs inner products without bias. With one, classes can be told "
            "apart by bias alone, their features gather at zero, and normalisation scatters them "
            "over the sphere. Drop the bias, or pass allow_normalized_bias=True."
        )
    without_scale = scale is None
    scale = 1.0 if scale is None else per_example("scale", scale, labels)
    term = Softmax.of(scale, normalize)
    engine = agent_rule(gradient, term, engine)
    losses = single("softmax", term, features, agents, labels, bias=bias, **engine)
    if without_scale and normalize == "both":
        # stacklevel 2 names the caller's line, since Python shows a warning once per line of code.
        warnings.warn(_WITHOUT_SCALE, stacklevel=2)
    return losses
