"""The training objective as plain data: a weighted sum of terms, which is checked without JAX.

Each experiment contains one, and `heads.Heads` computes it from a network's features. A term of
weight 0 is left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, cast

from hyperface.config import records
from hyperface.errors import InputError, expect

Normalize = Literal["both", "features", "agents", "none"]
"""Which sides of a similarity are scaled to unit length."""
Gradient = Literal["exact", "caffe"]
"""The gradient of the paper's equation, or that of the released Caffe code."""
Mining = Literal["all", "violating", "hardest"]
"""The pairs or triplets of a batch that count."""


@dataclass(frozen=True)
class SoftmaxTerm:
    """Softmax loss (NormFace, Eq. 1) on normalised features and agents (NormFace, Eq. 6).

    An agent is the class weight of one class. The similarities of a feature to all agents, times a
    scale s, are the logits.
    """

    weight: float = 1.0
    """Weight of the term; 0 leaves it out."""
    normalize: Normalize = "both"
    """What is scaled to unit length: "both" (NormFace), only "features" or "agents" (class
    weights), or "none" (plain softmax)."""
    scale: float | Literal["learned"] = "learned"
    """s, the factor of the similarities: a fixed number, or "learned"."""
    initial_bound: float = 0.1
    """Determines the initial value of a learned scale: the one at which the loss has this lower
    bound, in nats (NormFace, Proposition 2)."""
    min_scale: float = 0.01
    """Smallest value of a learned scale. The authors' published code uses 0.01 too."""
    bias: bool = False
    """Add one learned bias per class. NormFace's Proposition 1 advises against it if anything is
    normalised."""
    allow_normalized_bias: bool = False
    """Accept a bias although features or agents are normalised. Without this option that is an
    error."""
    dropout: float = 0.0
    """Share of the feature's elements that are dropped before this loss."""
    gradient: Gradient = "exact"
    """"exact" is the gradient of the equation. "caffe" scales the agents to unit length after each
    step, and leaves this scaling out of their gradient, as the authors' published code does."""


@dataclass(frozen=True)
class CContrastiveTerm:
    """C-contrastive loss (NormFace, Eq. 10): pairs of a feature and an agent (class weight).

    The loss of an example is d_y + sum_{j != y} max(0, m - d_j). d_j is the squared distance of the
    feature to the agent of class j, both at unit length, and y is the example's class.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    margin: float = 1.0
    """m, the margin on the squared distance, from 0 to 4."""
    gradient: Gradient = "exact"
    """"exact" is the gradient of the equation. "caffe" scales the agents to unit length after each
    step, and leaves this scaling out of their gradient, as the authors' published code does."""


@dataclass(frozen=True)
class CTripletTerm:
    """C-triplet loss (NormFace, Eq. 11): a feature, its own agent (class weight) and another one.

    The loss of an example is sum_{k != y} max(0, m + d_y - d_k). d_k is the squared distance of the
    feature to the agent of class k, both at unit length, and y is the example's class.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    margin: float = 0.8
    """m, the margin on the difference of two squared distances, from 0 to 4."""
    negatives: Literal["all", "hardest"] = "all"
    """"all" sums over all other classes, and "hardest" takes only the nearest one."""
    always_pull: bool = False
    """Add d_y to the loss, even if all parts of the sum are 0. The paper calls this
    "C-triplet + center"."""
    gradient: Gradient = "exact"
    """"exact" is the gradient of the equation. "caffe" is that of the authors' published code,
    which also scales the agents to unit length after each step."""


@dataclass(frozen=True)
class SphereFaceTerm:
    """SphereFace's margin: cos(m theta) replaces cos(theta) in the logit of the own class.

    theta is the angle between a feature and the agent (class weight) of its class. `Loss` has two
    fields of this type. `a_softmax` is SphereFace's loss, which scales agents to unit length.
    `l_softmax` is large-margin softmax, which leaves them as they are. Features are never
    normalised.

    The margin grows during training: the logit of the own class is (lambda * logit without margin +
    logit with margin) / (1 + lambda). At step i, counted from 1, lambda is
    max(floor, start / (1 + gamma i)).
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    margin: int = 4
    """m of cos(m theta), from 1 to 4; 1 is no margin."""
    start: float = 1000.0
    """`start` in the equation above, near which lambda begins."""
    gamma: float = 0.12
    """Speed with which lambda falls; 0 keeps it at `start`."""
    floor: float = 5.0
    """Smallest value of lambda; with 0 it falls towards 0, the margin alone."""
    gradient: Gradient = "exact"
    """"exact" is the gradient of the equation. "caffe" is that of the authors' published code,
    which also scales the agents to unit length after each step. l-softmax
    accepts only "exact"."""


@dataclass(frozen=True)
class MarginTerm:
    """ArcFace, CosFace and their mix: the logit of the own class is s (cos(m1 theta + m2) - m3).

    theta is the angle between the feature and the agent (class weight) of its class.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    scale: float = 64.0
    """s, the factor of the cosines."""
    angular_multiplier: float = 1.0
    """m1, at least 1."""
    angular_margin: float = 0.0
    """m2 in radians, from 0 to pi (ArcFace: 0.5)."""
    cosine_margin: float = 0.0
    """m3, from 0 to 2 (CosFace: 0.35)."""
    gradient: Literal["exact", "released"] = "exact"
    """"exact" is the gradient of the equation. "released" leaves the angular margin out of the
    derivative of the logit, as insightface's code does."""


@dataclass(frozen=True)
class AdaFaceTerm:
    """AdaFace: margins that depend on the feature norm, as a measure of the image's quality.

    The logit of the own class is s (cos(theta - m z) - m z - m), with theta the angle between the
    feature and the agent (class weight) of its class. The quality z is h (norm - mean) / deviation,
    clipped to [-1, 1]. Mean and deviation are moving statistics of the norms of the batches.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    scale: float = 64.0
    """s, the factor of the cosines."""
    margin: float = 0.4
    """m, the size of both margins (on the angle and on the cosine), at least 0."""
    concentration: float = 0.333
    """h: for norms more than 1 / h standard deviations from the mean, the margin no longer
    changes."""
    momentum: float = 0.01
    """Weight of a batch in the moving mean and deviation of the norms, from 0 to 1."""


@dataclass(frozen=True)
class MagFaceTerm:
    """MagFace: an angular margin that grows with the feature norm, and its regulariser.

    The logit of the own class is s cos(theta + margin), with theta the angle between the feature
    and the agent (class weight) of its class. The margin grows linearly with a, the feature norm
    clipped to [l_a, u_a]. The regulariser lambda_g (1 / a + a / u_a^2), which is added to the loss,
    makes norms grow.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    scale: float = 64.0
    """s, the factor of the cosines."""
    lower_margin: float = 0.45
    """l_m, the margin in radians at the lower norm and below."""
    upper_margin: float = 0.8
    """u_m, the margin in radians at the upper norm and above."""
    lower_norm: float = 10.0
    """l_a, the feature norm from which the margin grows."""
    upper_norm: float = 110.0
    """u_a, the feature norm up to which the margin grows."""
    easy_margin: bool = True
    """Apply the margin only where the cosine to the own agent is positive, as the authors'
    published code does."""
    regularizer: float = 35.0
    """lambda_g, the factor of the regulariser within the term."""


@dataclass(frozen=True)
class CenterTerm:
    """Center loss (Wen et al. 2016): half the squared distance of a feature to its class center."""

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    rule: Literal["paper", "caffe"] = "paper"
    """How centers are updated. "paper" moves each center towards the n features of its class in the
    batch: it subtracts `rate` times their sum of (center - feature), divided by 1 + n. "caffe"
    updates centers through the optimiser, as the authors' published code does."""
    rate: float = 0.5
    """The paper's alpha, from 0 to 1. The rule "caffe" does not use it."""


@dataclass(frozen=True)
class BatchContrastiveTerm:
    """Contrastive loss on the pairs of a batch (NormFace, Eq. 7).

    A pair of one class has the loss d, and a pair of two classes max(0, m - d). d is the squared
    distance of the two features, both at unit length.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    margin: float = 1.0
    """m, the margin on the squared distance, from 0 to 4."""
    mining: Mining = "all"
    """Which pairs count: "all", "violating" (of other classes only those within the margin), or
    "hardest" (the farthest of the same class and the nearest of another class)."""


@dataclass(frozen=True)
class BatchTripletTerm:
    """Triplet loss on the triplets of a batch (NormFace, Eq. 8).

    A triplet has an anchor, a positive (an example of the anchor's class) and a negative (of
    another class). Its loss is max(0, m + d_p - d_n), where d_p and d_n are the squared distances
    of the anchor's feature to that of the positive and of the negative, all at unit length.
    """

    weight: float = 0.0
    """Weight of the term; 0 leaves it out."""
    margin: float = 0.8
    """m, the margin on the difference of two squared distances, from 0 to 4."""
    mining: Mining = "all"
    """Which triplets count: "all", "violating" (those with a loss above zero), or "hardest" (the
    farthest of the same class with the nearest of another class)."""


@dataclass(frozen=True)
class RingTerm:
    """Ring loss (Zheng et al. 2018, Eq. 4): pulls feature norms towards a learned radius R."""

    weight: float = 0.0
    """Weight of the term, the paper's lambda; 0 leaves it out."""
    initial_radius: float | None = None
    """Initial value of R; None takes the mean feature norm of the first batch."""
    form: Literal["paper", "released-l2", "released-l1", "released-auto"] = "paper"
    """"paper" is (norm - R)^2 / 2. "released-l2", "released-l1" and "released-auto" are those of
    the authors' published code: the square without 1/2, a smooth L1 distance, and the square
    divided by the mean norm."""


# Terms are compared by identity, because a loss may contain arrays: comparing arrays gives no
# single truth value, and they have no hash.
@dataclass(frozen=True, eq=False)
class CustomTerm:
    """A user's own loss, given as an object."""

    name: str
    """Name of the term in metrics, parameters and messages."""
    loss: Callable | Any = field(metadata=records.OBJECT)
    """One of three:

    - a class-wise term: an object with the attributes that `hyperface.losses.classwise.Term`
      documents, which compares features with agents (class weights). It has an agent matrix of its
      own, or the common one with `share_agents`. The options `shard_agents` and `sample_rate` work
      with it.
    - a function from features [batch, dim] and labels [batch] to the loss [batch].
    - a flax linen module that is called like this function, and whose parameters are learned. Every
      device has a copy of the parameters.

    The loss of an example must depend on this example alone. Each device calls the function with
    its own part of the batch, so a loss on pairs would depend on the number of devices.
    """
    weight: float = 1.0
    """Weight of the term; 0 leaves it out."""

    @property
    def is_classwise(self) -> bool:
        """Whether the loss is a class-wise term, which compares features with class weights.

        It is one if it has the attributes `normalize`, `fold`, `fold_args` and `loss`, as
        `losses.classwise.Term` documents them. Any other loss is called with features and labels.
        """
        # Recognised by its attributes, so that JAX and the losses need not be loaded here.
        return all(hasattr(self.loss, name) for name in ("normalize", "fold", "fold_args", "loss"))


ClasswiseTerm = (
    SoftmaxTerm
    | CContrastiveTerm
    | CTripletTerm
    | SphereFaceTerm
    | MarginTerm
    | AdaFaceTerm
    | MagFaceTerm
)
Term = ClasswiseTerm | CenterTerm | BatchContrastiveTerm | BatchTripletTerm | RingTerm | CustomTerm
RESERVED = {"shared", "scale", "bias", "radius", "softmax_bound", "distortion", "examples", "step"}
RESERVED |= {"loss", "feature_norm", "gradient_norm", "parameter_norm", "nonfinite"}
# Linen has the attributes `name` and `parent` itself.
RESERVED |= {"learning_rate", "name", "parent"}
"""Names of metrics and parameters that a custom term may not have, besides those of our terms."""


@dataclass(frozen=True)
class Loss:
    """The objective: a weighted sum of terms, and how class-wise terms are computed.

    Class-wise terms compare a feature with the agents (class weights) of all classes. By default
    only softmax has a weight above 0.
    """

    softmax: SoftmaxTerm = field(default_factory=SoftmaxTerm)
    c_contrastive: CContrastiveTerm = field(default_factory=CContrastiveTerm)
    c_triplet: CTripletTerm = field(default_factory=CTripletTerm)
    a_softmax: SphereFaceTerm = field(default_factory=SphereFaceTerm)
    l_softmax: SphereFaceTerm = field(default_factory=SphereFaceTerm)
    margin_softmax: MarginTerm = field(default_factory=MarginTerm)
    adaface: AdaFaceTerm = field(default_factory=AdaFaceTerm)
    magface: MagFaceTerm = field(default_factory=MagFaceTerm)
    center: CenterTerm = field(default_factory=CenterTerm)
    contrastive: BatchContrastiveTerm = field(default_factory=BatchContrastiveTerm)
    triplet: BatchTripletTerm = field(default_factory=BatchTripletTerm)
    ring: RingTerm = field(default_factory=RingTerm)
    share_agents: bool = False
    """Use one agent matrix for all class-wise terms, which are then computed in one pass. Without
    it each term has a matrix of its own, as in the authors' published joint loss."""
    sample_rate: float = 1.0
    """Share of all classes that is sampled at each step (Partial FC). The classes of the batch are
    always part of the sample. 1 takes all classes."""
    precision: Literal["float32", "tf32", "mixed", "bf16"] = "float32"
    """Type of the operands of matrix products with the agents. "bf16" rounds them to bfloat16, and
    "mixed" only in the forward pass. On a GPU "tf32" is several times as fast as float32 and keeps
    10 binary digits; on a CPU it is float32."""
    memory_budget: int = 0
    """Memory in MiB in which similarities of features to agents may be stored for the backward
    pass. Similarities that do not fit are computed again there."""
    custom: tuple[CustomTerm, ...] = field(default=(), metadata=records.RARE)
    """The user's own losses, given as objects."""

    def terms(self) -> dict[str, Term]:
        """Returns name -> options of each term of the loss whose weight is above 0.

        The name is that of the field, such as "ring", or that of the user's own loss.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {term.name: term for term in self.custom}
        # Other fields of this class, such as `precision`, have no weight.
        return {name: term for name, term in values.items() if getattr(term, "weight", 0)}

    def agent_heads(self) -> dict[str, dict[str, "ClasswiseTerm | CustomTerm"]]:
        """Returns name of a head -> its class-wise terms by name.

        A head owns one matrix of agents (class weights). With `share_agents` all terms are in the
        head "shared". Otherwise, each term has a head with the term's name.
        """
        terms = self.terms().items()
        over_classes = {name: term for name, term in terms if is_classwise(term)}
        if self.share_agents and over_classes:
            return {"shared": over_classes}
        return {name: {name: term} for name, term in over_classes.items()}

    def forced(self) -> tuple[str, ...]:
        """Returns the names of the heads whose agents are forced to unit length after each step.

        A head is one matrix of agents (class weights) with the terms of the loss that use it. Its
        agents are forced to unit length if the `gradient` of a term is "caffe", that of the
        authors' published Caffe code.
        """
        return tuple(
            head
            for head, terms in self.agent_heads().items()
            if any(getattr(term, "gradient", "exact") == "caffe" for term in terms.values())
        )


def is_classwise(term: Term) -> TypeGuard[ClasswiseTerm | CustomTerm]:
    """Returns whether a term compares features with all classes, and so needs class weights."""
    return term.is_classwise if isinstance(term, CustomTerm) else isinstance(term, ClasswiseTerm)


def normalization(name: str, term: ClasswiseTerm | CustomTerm) -> Normalize:
    """Returns what a class-wise term scales to unit length before it computes similarities.

    Args:
      name: name of the term. It distinguishes a-softmax and l-softmax, which have the same options.
      term: options of the term.

    Returns:
      "both" features and agents (class weights), only "features", only "agents", or "none".
    """
    if isinstance(term, CustomTerm):
        return cast(Any, term.loss).normalize
    if isinstance(term, SoftmaxTerm):
        return term.normalize
    # Both are a `SphereFaceTerm`, so the name of the term decides. All others use cosines.
    one_sided: dict[str, Normalize] = {"a_softmax": "agents", "l_softmax": "none"}
    return one_sided.get(name, "both")


# Field of a term -> smallest and largest value, both allowed. Infinity means no limit.
# Squared distances between unit vectors are 0 to 4, and cosines differ by at most 2.
_RANGES = {
    "c-contrastive.margin": (0, 4),
    "c-triplet.margin": (0, 4),
    "contrastive.margin": (0, 4),
    "triplet.margin": (0, 4),
    "a-softmax.margin": (1, 4),
    "l-softmax.margin": (1, 4),
    "margin-softmax.angular-multiplier": (1, math.inf),
    "margin-softmax.angular-margin": (0, math.pi),
    "margin-softmax.cosine-margin": (0, 2),
    "adaface.margin": (0, math.inf),
    "adaface.concentration": (0, math.inf),
    "adaface.momentum": (0, 1),
    "magface.lower-margin": (0, math.pi),
    "magface.upper-margin": (0, math.pi),
    "magface.regularizer": (0, math.inf),
    "center.rate": (0, 1),
    "memory-budget": (0, math.inf),
    **{
        f"{name}-softmax.{schedule}": (0, math.inf)
        for name in ("a", "l")
        for schedule in ("start", "gamma", "floor")
    },
}
_ABOVE_ZERO = (
    "softmax.initial-bound",
    "softmax.min-scale",
    "margin-softmax.scale",
    "adaface.scale",
    "magface.scale",
    "magface.lower-norm",
    "magface.upper-norm",
    "ring.initial-radius",
)


def check(loss: Loss) -> None:
    """Checks that all values are in range and agree with each other.

    Raises:
      InputError: a value is out of range, or does not agree with another value. The message states
        the field, the expected and the found value.
    """
    for f in dataclasses.fields(loss):
        # Fields that are no terms, such as `precision`, have no weight.
        weight = getattr(getattr(loss, f.name), "weight", 0.0)
        name = f"loss.{f.name.replace('_', '-')}.weight"
        expect(0 <= weight < math.inf, name, "a finite number of at least 0", weight)
    _check_custom(loss)
    terms = loss.terms()
    expect(terms, "loss", "a term with a weight above 0", "none")
    # Also the fields of terms of weight 0, which `terms` leaves out.
    for name, (least, most) in _RANGES.items():
        found = _field(loss, name)
        expected = f"at least {least}" if most == math.inf else f"{least} to {most:g}"
        expect(least <= found <= most and math.isfinite(found), f"loss.{name}", expected, found)
    for name in _ABOVE_ZERO:
        found = _field(loss, name)
        if found is not None:
            expect(0 < found < math.inf, f"loss.{name}", "a finite number above 0", found)
    expect(0 < loss.sample_rate <= 1, "loss.sample-rate", "above 0 and up to 1", loss.sample_rate)
    lower, upper = loss.magface.lower_norm, loss.magface.upper_norm
    expect(lower < upper, "loss.magface.upper-norm", f"above the lower norm, {lower:g}", upper)
    if "softmax" in terms:
        _check_softmax(loss.softmax)
    if loss.l_softmax.gradient != "exact":
        raise InputError(
            'loss.l-softmax.gradient: expected "exact", found "caffe": no released code of this '
            "loss is reproduced here."
        )
    if loss.share_agents:
        _check_shared(loss)


def _check_custom(loss: Loss) -> None:
    """Checks the names, weights and objects of the user's own losses."""
    taken = RESERVED | {f.name for f in dataclasses.fields(loss)}
    for place, term in enumerate(loss.custom):
        where = f"loss.custom.{place}"
        # The name becomes that of a flax module, which must be an identifier.
        fits = term.name.isidentifier() and term.name not in taken
        expect(fits, f"{where}.name", "a name of letters, digits and _ of its own", term.name)
        taken = taken | {term.name}
        fits = 0 <= term.weight < math.inf
        expect(fits, f"{where}.weight", "a finite number of at least 0", term.weight)
        expected = "a class-wise term, a function of features and labels, or a flax module"
        fits = term.is_classwise or callable(term.loss)
        expect(fits, f"{where}.loss", expected, records.describe(term.loss))


def _field(loss: Loss, name: str) -> Any:
    """Returns the value of a field by its name on the command line, such as "center.rate"."""
    return functools.reduce(getattr, name.replace("-", "_").split("."), loss)


def _check_softmax(softmax: SoftmaxTerm) -> None:
    expect(0 <= softmax.dropout < 1, "loss.softmax.dropout", "in [0, 1)", softmax.dropout)
    if softmax.scale != "learned":
        fits = math.isfinite(softmax.scale) and softmax.scale > 0
        expect(fits, "loss.softmax.scale", 'a number above 0, or "learned"', softmax.scale)
    # A learned scale and the length of un-normalised features would be the same degree of freedom.
    elif softmax.normalize in ("agents", "none"):
        raise InputError(
            'loss.softmax.scale: "learned" needs normalised features (loss.softmax.normalize both '
            f"or features), found {softmax.normalize!r}: the length of un-normalised features is a "
            "scale already. Give a number, for example 1."
        )
    # Proposition 1 holds only without a bias. With one, the features of some classes gather at the
    # origin, and normalisation spreads them over the whole sphere (NormFace, Figure 3).
    if softmax.bias and softmax.normalize != "none" and not softmax.allow_normalized_bias:
        raise InputError(
            f"loss.softmax.bias: expected False with normalize={softmax.normalize!r} (NormFace, "
            "Proposition 1), found True. Pass loss.softmax.allow-normalized-bias to allow it."
        )
    if softmax.gradient == "caffe" and softmax.normalize in ("features", "none"):
        raise InputError(
            'loss.softmax.gradient: "caffe" needs normalised agents (loss.softmax.normalize both '
            f"or agents), found {softmax.normalize!r}."
        )


def _check_shared(loss: Loss) -> None:
    shared = loss.agent_heads().get("shared", {})
    # Shared agents are normalised once for all terms, in one pass over the classes.
    modes = {name: normalization(name, term) for name, term in shared.items()}
    if len(set(modes.values())) > 1:
        raise InputError(
            f"loss.share-agents: expected terms that normalise alike, found {modes}. Leave it out, "
            "or leave one of them out."
        )
    if loss.softmax.bias or loss.softmax.dropout:
        raise InputError(
            "loss.share-agents: expected loss.softmax.bias False and loss.softmax.dropout 0, since "
            "shared agents cannot have them for one term alone, found "
            f"{loss.softmax.bias} and {loss.softmax.dropout}."
        )
    if loss.forced():
        raise InputError(
            'loss.share-agents: expected gradient "exact" of every term, found "caffe": the '
            "released code has one matrix per term."
        )
