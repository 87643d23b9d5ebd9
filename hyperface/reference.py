"""The losses and the normalisation as the papers print them, in plain jax.numpy.

This module has two uses:

- It is the reference for tests. The hand-written gradient rules of `hyperface.normalize` and
  `hyperface.losses` are compared with the automatic derivatives of these formulas.
- It supports forward mode. The rules use `jax.custom_vjp`, and JAX cannot apply `jax.jvp`,
  `jax.jacfwd`, `jax.hessian` or `jax.linearize` to such functions. The formulas here can be
  differentiated in every mode and to any order. Names, arguments and hyper-parameters are those of
  the library, so one only has to replace `losses.softmax` by `reference.softmax`:

      >>> import jax, jax.numpy as jnp
      >>> from hyperface import reference
      >>> agents, label = jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.array([0])
      >>> def loss(feature):
      ...     return reference.softmax(feature[None], agents, label, scale=2.0)[0]
      >>> print(jax.hessian(loss)(jnp.array([1.0, 0.0])).round(2))
      [[ 0.   -0.09]
       [-0.09  0.31]]

The formulas have these limits:

- They store every [batch, classes] array, and `batch_triplet` stores [batch, batch, batch]. There
  are no blocks, shards, samples of classes or reduced precisions.
- They lose digits in float32 for confident examples, because they subtract the target logit from a
  logsumexp that is nearly equal. Use float64 where that matters.
- They do not check shapes, dtypes and ranges, which `hyperface.losses` does.

In these points they agree with the library:

- Half-precision inputs are computed in float32.
- The loss of an example is NaN if its label is out of range.
- Every norm has eps = 1e-12 inside its root, so that all derivatives are finite at the zero vector.
- A hinge has slope zero at its corner.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.shapes import Agents, Bias, Centers, Features, Flags, Labels, Losses

EPS = 1e-12
"""Number that is added to the squared length of a vector, as NormFace states below Eq. 3."""


def l2_norm(x: ArrayLike, axis: int = -1, *, eps: float = EPS, keepdims: bool = False) -> jax.Array:
    """Returns the Euclidean norm, with the eps inside the root: NormFace, Eq. 3.

        ||x|| = sqrt(sum_i x_i^2 + eps)

    Args:
      x: [..., dim, ...] array.
      axis: the axis that is summed.
      eps: positive number inside the root, in squared units of x.
      keepdims: keep the summed axis with size one.

    Returns:
      Array of x's shape without `axis` (of size 1 there with `keepdims`), in float32 or in x's
      dtype if that is wider.
    """
    return jnp.sqrt(jnp.sum(_wide(x) ** 2, axis=axis, keepdims=keepdims) + eps)


def l2_normalize(x: ArrayLike, axis: int = -1, *, eps: float = EPS) -> jax.Array:
    """Scales vectors to unit length: NormFace, Eq. 3.

        x~ = x / ||x||

    Args:
      x: [..., dim, ...] array.
      axis: the axis whose vectors are normalised.
      eps: positive number inside the root, in squared units of x.

    Returns:
      Array of x's shape and dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(jax.jacfwd(l2_normalize)(jnp.array([0.0, 2.0])))
      [[0.5 0. ]
       [0.  0. ]]
    """
    unit = _wide(x) / l2_norm(x, axis, eps=eps, keepdims=True)
    return unit.astype(jnp.asarray(x).dtype)


def cosine_similarity(features: Features, agents: Agents) -> jax.Array:
    """Returns the cosine between every feature and every agent: NormFace, Eq. 5.

        d(f, W_j) = <f, W_j> / (||f|| ||W_j||)

    Args:
      features: [batch, dim] array with a feature f per row.
      agents: [classes, dim] array with an agent (class weight) W_j per row.

    Returns:
      [batch, classes] cosines in [-1, 1], at least float32.
    """
    return _products(l2_normalize(_wide(features)), l2_normalize(_wide(agents)))


def softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    normalize: Literal["both", "features", "agents", "none"] = "both",
    scale: ArrayLike | None = None,
    bias: Bias | None = None,
    allow_normalized_bias: bool = False,
    gradient: Literal["exact", "caffe"] = "exact",
) -> Losses:
    """Returns the softmax cross-entropy on scaled cosines: NormFace, Eq. 6 (Eq. 1 with "none").

        L = -log( exp(s <W~_y, f~>) / sum_j exp(s <W~_j, f~>) )

    f~ is the feature and W~_j the agent (class weight) of class j, both at unit length, and y is
    the label. A vector that `normalize` leaves out keeps its own length.

    Args:
      features: [batch, dim] array, f.
      agents: [classes, dim] array, W: one class weight per row.
      labels: [batch] integer class ids.
      normalize: which vectors are scaled to unit length: "both", "features", "agents" or "none".
      scale: s, a scalar or one value per example [batch]; None is 1.
      bias: [classes] numbers that are added to the logits; None adds nothing.
      allow_normalized_bias: whether a bias is accepted if vectors are normalised. By default that
        is an error: NormFace advises against it, because with a bias the features of a class
        may lie around the origin, and normalisation then spreads them over the whole sphere.
      gradient: "exact" is the derivative of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes. It skips the derivative of the agents' normalisation, and
        treats them as agents that already have unit length. The loss is the same, and agents that
        are not normalised have the exact gradient.

    Returns:
      [batch] loss in nats, at least float32.

    Raises:
      ValueError: `normalize` or `gradient` is unknown. Or a bias is given, vectors are normalised,
        and `allow_normalized_bias` is False.

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> print(softmax(jnp.array([[2.0, 0.0]]), agents, jnp.array([0]), scale=2.0).round(4))
      [0.1269]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.
    """
    _known("normalize", normalize, ("both", "features", "agents", "none"))
    _known("gradient", gradient, ("exact", "caffe"))
    if bias is not None and normalize != "none" and not allow_normalized_bias:
        raise ValueError(
            f'expected bias=None with normalize="{normalize}", found a bias: drop it, or pass '
            "allow_normalized_bias=True"
        )
    features, agents = _wide(features), _wide(agents)
    if normalize in ("both", "features"):
        features = l2_normalize(features)
    if normalize in ("both", "agents"):
        agents = l2_normalize(agents) if gradient == "exact" else _forced(agents)
    logits = _column(1.0 if scale is None else scale) * _products(features, agents)
    if bias is not None:
        logits += jnp.asarray(bias)[None, :]
    return jax.nn.logsumexp(logits, axis=1) - _target(logits, labels)


def c_contrastive(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: ArrayLike = 1.0,
    gradient: Literal["exact", "caffe"] = "exact",
) -> Losses:
    """Returns the contrastive loss between a feature and all agents: NormFace, Eq. 10.

        L = ||f~ - W~_y||^2 + sum_{j != y} max(0, m - ||f~ - W~_j||^2)

    f~ is the feature and W~_j the agent (class weight) of class j, both at unit length. y is the
    label.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      margin: m, the margin on the squared distance of unit vectors.
      gradient: "exact" is the derivative of the equation. "caffe" is the gradient that the authors'
        published Caffe code computes. It skips the derivative of the agents' normalisation, and
        treats them as agents that already have unit length. The loss is the same.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32.

    Raises:
      ValueError: `gradient` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> print(c_contrastive(jnp.array([[3.0, 0.0]]), agents, jnp.array([0])).round(3))
      [0.2]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    _known("gradient", gradient, ("exact", "caffe"))
    distance = _squared_distances(features, agents, forced=gradient == "caffe")
    # Not jnp.maximum, whose slope at the corner of the hinge is 1/2; that of relu is 0.
    hinge = jnp.where(_own(distance, labels), 0.0, jax.nn.relu(margin - distance))
    return _target(distance, labels) + jnp.sum(hinge, axis=1)


def c_triplet(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: ArrayLike = 0.8,
    negatives: Literal["all", "hardest"] = "all",
    always_pull: bool = False,
) -> Losses:
    """Returns the triplet loss of a feature, its own agent and the other agents: NormFace, Eq. 11.

        L = sum_{k != y} max(0, m + ||f~ - W~_y||^2 - ||f~ - W~_k||^2)

    f~ is the feature and W~_k the agent (class weight) of class k, both at unit length. y is the
    label, and W_y the feature's own agent.

    `losses.c_triplet` also has `gradient="caffe"`, the gradient that the authors' published Caffe
    code computes. It is not the derivative of any loss, so this function does not have it.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      margin: m, the margin on the difference of squared distances.
      negatives: "all" sums over all other classes k. "hardest" uses only the class whose agent is
        nearest to the feature.
      always_pull: whether ||f~ - W~_y||^2 is added to L for every example. The feature is then
        pulled to its own agent also if all terms of the sum are zero.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32.

    Raises:
      ValueError: `negatives` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> agents = jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> print(c_triplet(jnp.array([[3.0, 0.0]]), agents, jnp.array([1])).round(3))
      [1.6]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
    """
    _known("negatives", negatives, ("all", "hardest"))
    distance = _squared_distances(features, agents)
    to_own = _target(distance, labels)
    hinge = jax.nn.relu(margin + to_own[:, None] - distance)
    hinge = jnp.where(_own(distance, labels), 0.0, hinge)
    value = jnp.sum(hinge, axis=1) if negatives == "all" else _largest(hinge)
    return value + to_own if always_pull else value


def contrastive(
    features_a: Features,
    features_b: Features,
    same: Flags,
    *,
    margin: ArrayLike = 1.0,
) -> Losses:
    """Returns the contrastive loss of pairs of normalised features: NormFace, Eq. 7.

        L = ||f~_a - f~_b||^2                  for a pair of the same class
        L = max(0, m - ||f~_a - f~_b||^2)      for a pair of different classes

    f~_a and f~_b are the two features of the pair at unit length.

    Args:
      features_a: [pairs, dim] array, the first feature of each pair.
      features_b: [pairs, dim] array, the second feature of each pair.
      same: [pairs] bool, True where both features have the same class.
      margin: m, the margin on the squared distance.

    Returns:
      [pairs] loss in squared distance on the unit sphere, at least float32.
    """
    a, b = l2_normalize(_wide(features_a)), l2_normalize(_wide(features_b))
    distance = jnp.sum((a - b) ** 2, axis=1)
    return jnp.where(same, distance, jax.nn.relu(margin - distance))


def triplet(
    anchors: Features,
    positives: Features,
    negatives: Features,
    *,
    margin: ArrayLike = 0.8,
) -> Losses:
    """Returns the triplet loss of normalised features: NormFace, Eq. 8.

        L = max(0, m + ||a~ - p~||^2 - ||a~ - n~||^2)

    a~, p~ and n~ are the anchor, the positive and the negative feature at unit length.

    Args:
      anchors: [triplets, dim] array.
      positives: [triplets, dim] array of features of the anchors' classes.
      negatives: [triplets, dim] array of features of other classes.
      margin: m, the margin on the difference of squared distances.

    Returns:
      [triplets] loss in squared distance on the unit sphere, at least float32.
    """
    a, p, n = (l2_normalize(_wide(x)) for x in (anchors, positives, negatives))
    return jax.nn.relu(margin + jnp.sum((a - p) ** 2, axis=1) - jnp.sum((a - n) ** 2, axis=1))


def batch_contrastive(
    features: Features,
    labels: Labels,
    *,
    margin: ArrayLike = 1.0,
    mining: Literal["all", "violating", "hardest"] = "all",
    counted: Flags | None = None,
) -> Losses:
    """Returns the contrastive loss (NormFace, Eq. 7) of each example's pairs within the batch.

        L_i = mean over same-class j of d_ij + mean over other-class j of max(0, m - d_ij)

    d_ij is the squared distance of the features of i and j, after both are scaled to unit length.

    Args:
      features: [batch, dim] array.
      labels: [batch] integer class ids.
      margin: m, the margin on the squared distance.
      mining: the pairs that are used. "all" uses all pairs. "violating" uses only pairs with
        d_ij < m in the second mean. "hardest" replaces each mean by its largest term: that of the
        farthest example of the same class, and that of the nearest example of another class.
      counted: [batch] bool, False for padding examples, which are in no pair. None means that no
        example is padding.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32. The mean of no pairs is
      zero.

    Raises:
      ValueError: `mining` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
      >>> print(batch_contrastive(features, jnp.array([0, 0, 1]), margin=3.0))
      [2.  3.  0.5]
    """
    _known("mining", mining, ("all", "violating", "hardest"))
    distance, same, different = _pairs(features, labels, counted)
    hinge = jax.nn.relu(margin - distance)
    if mining == "hardest":
        return _largest(jnp.where(same, distance, 0.0)) + _largest(jnp.where(different, hinge, 0.0))
    if mining == "violating":
        different &= hinge > 0
    return _mean(distance, same) + _mean(hinge, different)


def batch_triplet(
    features: Features,
    labels: Labels,
    *,
    margin: ArrayLike = 0.8,
    mining: Literal["all", "violating", "hardest"] = "all",
    counted: Flags | None = None,
) -> Losses:
    """Returns the triplet loss (NormFace, Eq. 8) of each example's triplets within the batch.

    The example is the anchor of its triplets:

        L_i = mean over same-class p and other-class n of max(0, m + d_ip - d_in)

    d_ip is the squared distance of the features of i and p, after both are scaled to unit length.

    Args:
      features: [batch, dim] array.
      labels: [batch] integer class ids.
      margin: m, the margin on the difference of squared distances.
      mining: the triplets that are used. "all" computes the mean over all triplets, and "violating"
        over the triplets with a loss above zero. "hardest" uses only the farthest p and the nearest
        n.
      counted: [batch] bool, False for padding examples, which are in no triplet. None means that no
        example is padding.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32. It is zero for an
      anchor without a triplet.

    Raises:
      ValueError: `mining` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
      >>> print(batch_triplet(features, jnp.array([0, 0, 1]), margin=3.0))
      [1. 3. 0.]
    """
    _known("mining", mining, ("all", "violating", "hardest"))
    distance, same, different = _pairs(features, labels, counted)
    hinge = jax.nn.relu(margin + distance[:, :, None] - distance[:, None, :])
    triplets = same[:, :, None] & different[:, None, :]
    hinge = jnp.where(triplets, hinge, 0.0).reshape(len(hinge), -1)
    if mining == "hardest":
        # max over p and n of (d_ip - d_in) takes the farthest p and the nearest n.
        return _largest(hinge)
    triplets = triplets.reshape(hinge.shape)
    return _mean(hinge, triplets & (hinge > 0) if mining == "violating" else triplets)


def center(
    features: Features,
    centers: Centers,
    labels: Labels,
) -> Losses:
    """Returns half the squared distance of a feature from its class center (Wen et al., Eq. 2).

        L = 1/2 ||f - c_y||^2

    f is the feature, and c_y the center of its class y. The centers are constants in every
    derivative.

    Args:
      features: [batch, dim] array.
      centers: [classes, dim] array, one center per row.
      labels: [batch] integer class ids.

    Returns:
      [batch] loss in squared norm units, at least float32.

    References:
      Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016.
    """
    # Centers are moved by a rule of their own (Wen et al., Eq. 4), and not by this gradient.
    own = jax.lax.stop_gradient(_rows_of(_wide(centers), labels))
    return 0.5 * jnp.sum((_wide(features) - own) ** 2, axis=1)


def ring(
    features: Features,
    radius: ArrayLike,
    *,
    form: Literal["paper", "released-l2", "released-l1", "released-auto"] = "paper",
    counted: Flags | None = None,
) -> Losses:
    """Returns half the squared distance of the feature norm from the radius: Ring loss, Eq. 4.

        L = 1/2 (||f|| - R)^2,   f: the feature

    Args:
      features: [batch, dim] array.
      radius: R, a scalar in units of the feature norm. In training it is a parameter.
      form: the equation of the paper, or one of those in the authors' published code:

        - "paper": the equation above.
        - "released-l2": (||f|| - R)^2.
        - "released-l1": twice the smooth L1 distance: d^2 if d = | ||f|| - R | < 1, else 2 d - 1.
        - "released-auto": (||f|| - R)^2 divided by the batch's mean norm. The mean is clipped to at
          least 0.5, and is a constant in every derivative.

      counted: [batch] bool, False for padding, which is not in the batch's mean norm; None counts
        all.

    Returns:
      [batch] loss in squared norm units, at least float32.

    Raises:
      ValueError: `form` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(ring(jnp.array([[3.0, 4.0], [0.0, 1.0]]), 2.0))
      [4.5 0.5]
      >>> print(jax.hessian(lambda f: ring(f[None], 2.0)[0])(jnp.array([0.0, 4.0])))
      [[0.5 0. ]
       [0.  1. ]]

    References:
      Zheng et al., Ring loss: Convex Feature Normalization for Face Recognition, CVPR 2018, 2.2.
    """
    _known("form", form, ("paper", "released-l2", "released-l1", "released-auto"))
    norm = l2_norm(features)
    apart = norm - radius
    # The released forms lack the paper's factor 1/2, which doubles the gradient.
    if form == "paper":
        return 0.5 * apart**2
    if form == "released-l1":
        return jnp.where(jnp.abs(apart) < 1.0, apart**2, 2.0 * jnp.abs(apart) - 1.0)
    # The released code takes the mean as a number without derivative.
    among = jnp.ones(norm.shape, bool) if counted is None else counted
    # Zero without any example, and then the floor counts.
    mean = jnp.sum(jnp.where(among, norm, 0.0)) / jnp.maximum(jnp.sum(among), 1)
    mean = jax.lax.stop_gradient(mean)
    return apart**2 / jnp.maximum(mean, 0.5) if form == "released-auto" else apart**2


def a_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: int = 4,
    blend: ArrayLike = 0.0,
) -> Losses:
    """Returns A-Softmax, the loss of SphereFace (Liu et al. 2017, Eq. 7).

    Agents (class weights) are scaled to unit length, and features are not:

        L = -log( e^{|f| psi(theta_y)} / (e^{|f| psi(theta_y)} + sum_{j != y} e^{|f| cos theta_j}) )
        psi(theta) = (-1)^k cos(m theta) - 2 k,   theta in [k pi / m, (k + 1) pi / m]

    f is the feature, y its label, and theta_j the angle between f and agent j. m is `margin`, and
    k, from 0 to m - 1, is the number of the interval that contains theta. With lambda (`blend`)
    above 0, (lambda cos theta_y + psi(theta_y)) / (1 + lambda) replaces psi(theta_y).

    `losses.a_softmax` also has `gradient="caffe"`, the gradient that the authors' published Caffe
    code computes. It is not the derivative of any loss, so this function does not have it.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      margin: m, a whole number of at least 1.
      blend: lambda, at least 0: the weight of the cosine without margin.

    Returns:
      [batch] loss in nats, at least float32.

    References:
      Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017.
    """
    features, agents = _wide(features), l2_normalize(_wide(agents))
    return _multiplied_angle(features, agents, labels, l2_norm(features), margin, blend)


def l_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    margin: int = 4,
    blend: ArrayLike = 0.0,
) -> Losses:
    """Returns the large-margin softmax loss (Liu et al. 2016, Eq. 4).

    Neither features nor agents are normalised:

        L = -log( e^{|W_y||f| psi(theta_y)} / (e^{|W_y||f| psi(theta_y)} + sum_{j != y} e^{W_j f}) )

        psi(theta) = (-1)^k cos(m theta) - 2 k,   theta in [k pi / m, (k + 1) pi / m]

    f is the feature, y its label, W_j the agent (class weight) of class j, and theta_y the angle
    between f and W_y. m is `margin`, and k, from 0 to m - 1, is the number of the interval that
    contains theta. With lambda (`blend`) above 0, (lambda cos theta_y + psi(theta_y)) /
    (1 + lambda) replaces psi(theta_y).

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      margin: m, a whole number of at least 1.
      blend: lambda, at least 0: the weight of the cosine without margin.

    Returns:
      [batch] loss in nats, at least float32.

    References:
      Liu et al., Large-Margin Softmax Loss for Convolutional Neural Networks, ICML 2016.
    """
    features, agents = _wide(features), _wide(agents)
    # |W_y| |f|, which turns cos theta_y into the logit; only the target's logit gets the margin.
    length = l2_norm(features) * _rows_of(l2_norm(agents), labels)
    return _multiplied_angle(features, agents, labels, length, margin, blend)


def margin_softmax(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    scale: ArrayLike,
    angular_multiplier: ArrayLike = 1.0,
    angular_margin: ArrayLike = 0.0,
    cosine_margin: ArrayLike = 0.0,
) -> Losses:
    """Returns the loss of ArcFace, CosFace or their mix (ArcFace, Deng et al. 2019, Eq. 4).

    It is softmax cross-entropy on scaled cosines, with margins on the target logit, the logit of
    the example's own class y. theta_j is the angle between the feature and agent (class weight) j:

        target logit s (cos(m1 theta_y + m2) - m3), the others s cos theta_j

    With an angular margin, the loss has a kink where the feature and its own agent have the same
    direction. Around it the loss rises at the slope s p sin(m2) per radian, where p is the
    probability of all other classes. The eps = 1e-12 inside the norms smooths the kink within an
    angle of about 1e-6 / (the shorter of the two norms), so all derivatives are finite. The
    gradient of the target logit is zero at an angle of exactly 0 or pi.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      scale: s, a scalar or one value per example [batch].
      angular_multiplier: m1, the factor of the angle; 1 for ArcFace and CosFace.
      angular_margin: m2 in radians (ArcFace), a scalar or one value per example [batch].
      cosine_margin: m3 (CosFace), a scalar or one value per example [batch].

    Returns:
      [batch] loss in nats, at least float32.

    Example:
      >>> import jax.numpy as jnp
      >>> feature, agents = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> loss = margin_softmax(feature, agents, jnp.array([0]), scale=2.0, cosine_margin=0.5)
      >>> print(loss.round(2))
      [0.31]

    References:
      Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019.
      Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018.
    """
    angle = _angle(_wide(features), _rows_of(_wide(agents), labels))
    target = jnp.cos(angular_multiplier * angle + angular_margin) - cosine_margin
    logits = _column(scale) * cosine_similarity(features, agents)
    return _cross_entropy(logits, labels, scale * target)


def adaface(
    features: Features,
    agents: Agents,
    labels: Labels,
    *,
    statistics: tuple[ArrayLike, ArrayLike],
    scale: ArrayLike = 64.0,
    margin: ArrayLike = 0.4,
    concentration: ArrayLike = 0.333,
) -> Losses:
    """Returns the loss of AdaFace (Kim et al.), whose margins depend on the feature norm.

    The norm serves as a measure of image quality. The target logit is the logit of the example's
    own class y, and theta_j the angle between the feature and agent (class weight) j:

        z = clip(h (||f|| - mean) / (std + 0.001), -1, 1)
        target logit s (cos(theta_y - m z) - (m z + m)), the others s cos theta_j

    f is the feature. Its norm in z is clipped to [0.001, 100], and theta_y - m z to
    [0.001, pi - 0.001]. z is a constant in every derivative.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      statistics: (mean, standard deviation) of the feature norms, two scalars.
      scale: s, a scalar or one value per example [batch].
      margin: m, a scalar or one value per example [batch].
      concentration: h, the factor of the standardised norm; a scalar or one value per example
        [batch].

    Returns:
      [batch] loss in nats, at least float32.

    References:
      Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022.
    """
    features = _wide(features)
    norm = jnp.clip(l2_norm(features), 1e-3, 100.0)
    mean, std = statistics
    quality = jnp.clip(concentration * (norm - mean) / (std + 1e-3), -1.0, 1.0)
    # Without derivative, as in the released code.
    quality = jax.lax.stop_gradient(quality)
    angle = _angle(features, _rows_of(_wide(agents), labels)) - margin * quality
    target = jnp.cos(jnp.clip(angle, 1e-3, math.pi - 1e-3)) - margin * (quality + 1.0)
    logits = _column(scale) * cosine_similarity(features, agents)
    return _cross_entropy(logits, labels, scale * target)


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
) -> Losses:
    """Returns the classification loss of MagFace (Meng et al.).

    Its angular margin grows with the feature norm. The target logit is the logit of the example's
    own class y, and theta_j the angle between the feature and agent (class weight) j:

        m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a),   a = ||f|| clipped to [l_a, u_a]
        target logit s cos(theta_y + m(a)), the others s cos theta_j

    f is the feature.

    Args:
      features: [batch, dim] array.
      agents: [classes, dim] array, one class weight per row.
      labels: [batch] integer class ids.
      scale: s, a scalar or one value per example [batch], like the margins and norms.
      lower_margin: l_m in radians, the margin of the shortest features.
      upper_margin: u_m in radians, the margin of the longest features.
      lower_norm: l_a, the feature norm from which the margin grows.
      upper_norm: u_a, the feature norm up to which the margin grows.
      easy_margin: whether an example with cos theta_y <= 0 gets no margin, as in the authors'
        published code.

    Returns:
      [batch] loss in nats, at least float32.

    References:
      Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment,
      CVPR 2021.
    """
    features = _wide(features)
    above = jnp.clip(l2_norm(features), lower_norm, upper_norm) - lower_norm
    rise = jnp.asarray(upper_margin) - lower_margin
    margin = lower_margin + rise * above / (jnp.asarray(upper_norm) - lower_norm)
    angle = _angle(features, _rows_of(_wide(agents), labels))
    if easy_margin:
        margin = jnp.where(angle < math.pi / 2, margin, 0.0)
    logits = _column(scale) * cosine_similarity(features, agents)
    return _cross_entropy(logits, labels, scale * jnp.cos(angle + margin))


def magface_regularizer(
    features: Features,
    *,
    lower_norm: ArrayLike = 10.0,
    upper_norm: ArrayLike = 110.0,
) -> Losses:
    """Returns MagFace's regulariser (Meng et al.), which is smallest at the upper norm.

        g(a) = 1 / a + a / u_a^2,   a = ||f|| clipped to [l_a, u_a],   f: the feature

    Args:
      features: [batch, dim] array.
      lower_norm: l_a, a scalar or one value per example [batch]. Shorter features count as l_a.
      upper_norm: u_a, a scalar or one value per example [batch]. Longer features count as u_a.

    Returns:
      [batch] in inverse norm units, at least float32.

    References:
      Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment,
      CVPR 2021.
    """
    norm = jnp.clip(l2_norm(features), lower_norm, upper_norm)
    return 1.0 / norm + norm / upper_norm**2


def _multiplied_angle(
    features: jax.Array,
    agents: jax.Array,
    labels: ArrayLike,
    length: jax.Array,
    margin: int,
    blend: ArrayLike,
) -> jax.Array:
    """Returns the loss [batch] of `a_softmax` or of `l_softmax`.

    Args:
      features: [batch, dim].
      agents: [classes, dim], normalised for `a_softmax`.
      labels: [batch] integer class ids.
      length: [batch] factor of psi: |f| for `a_softmax`, |W_y| |f| for `l_softmax`.
      margin: m.
      blend: lambda.
    """
    logits = _products(features, agents)
    target = _target(logits, labels)
    with_margin = length * _psi(target / length, margin)
    return _cross_entropy(logits, labels, (blend * target + with_margin) / (1.0 + blend))


def _psi(cosine: jax.Array, margin: int) -> jax.Array:
    """Returns SphereFace's psi(theta), computed from cos theta.

    The recurrence of Chebyshev's polynomials gives cos(m theta). Computing theta by arccos would
    give infinite slopes at 1 and -1.
    """
    # cos((i + 1) theta) = 2 cos(theta) cos(i theta) - cos((i - 1) theta).
    previous, multiplied = jnp.ones_like(cosine), cosine
    for _ in range(margin - 1):
        previous, multiplied = multiplied, 2.0 * cosine * multiplied - previous
    # k counts the bounds j pi / m that theta exceeds, and so the bounds that cos theta is below.
    bounds = [math.cos(j * math.pi / margin) for j in range(1, margin)]
    k = sum((jnp.where(cosine < bound, 1.0, 0.0) for bound in bounds), jnp.zeros_like(cosine))
    return jnp.where(k % 2 == 1, -multiplied, multiplied) - 2.0 * k


def _angle(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the angles [batch] between the rows of x and y: arccos(<x~, y~>).

    They are computed as 2 atan2(sqrt(1 - cos), sqrt(1 + cos)), because arccos of a rounded cosine
    has few digits near 1 and -1, and an infinite slope there. Because of the eps inside the root,
    |x~|^2 is 1 - eps / ||x||^2 and not 1. Let `missing` be the amount that |x~|^2 and |y~|^2 lack
    together. Then 2 (1 - cos) is |x~ - y~|^2 + missing, and 2 (1 + cos) is |x~ + y~|^2 + missing.
    """
    missing = EPS / l2_norm(x) ** 2 + EPS / l2_norm(y) ** 2
    # `missing` is zero where the squared norm overflows, and sqrt has an infinite slope at zero.
    missing = jnp.maximum(missing, float(jnp.finfo(missing.dtype).eps) ** 2)
    x, y = l2_normalize(x), l2_normalize(y)
    apart, towards = (jnp.sum(z**2, axis=1) + missing for z in (x - y, x + y))
    return 2.0 * jnp.arctan2(jnp.sqrt(apart), jnp.sqrt(towards))


def _cross_entropy(logits: jax.Array, labels: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns the cross-entropy [batch] of logits whose target entry is replaced by `target`."""
    target = jnp.asarray(target)
    logits = jnp.where(_own(logits, labels), target[:, None], logits)
    return jax.nn.logsumexp(logits, axis=1) - target


def _squared_distances(
    features: ArrayLike, agents: ArrayLike, *, forced: bool = False
) -> jax.Array:
    """Returns ||f~ - W~_j||^2 = 2 - 2 cos, [batch, classes]; 2 where either vector is zero."""
    if not forced:
        return 2.0 - 2.0 * cosine_similarity(features, agents)
    # ||W_j||^2 is 1, but its derivative is not 0 here, so it stays in the formula.
    rows = _forced(_wide(agents))
    products = _products(l2_normalize(_wide(features)), rows)
    return 1.0 + jnp.sum(rows**2, axis=1)[None, :] - 2.0 * products


def _forced(agents: jax.Array) -> jax.Array:
    """Returns the normalised rows, with the derivative of rows that are stored at unit length."""
    # The bracketed difference is a constant, so the derivative is that of the agents themselves.
    return agents + jax.lax.stop_gradient(l2_normalize(agents) - agents)


def _pairs(
    features: ArrayLike, labels: ArrayLike, counted: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns three arrays [batch, batch] about all pairs of features.

    They are the squared distances of unit vectors, whether a pair is of one class, and whether it
    is of two classes. Pairs with padding, or of a feature with itself, are in neither of the masks.
    """
    labels = jnp.asarray(labels)
    distance = _squared_distances(features, features)
    counted = jnp.ones(labels.shape, bool) if counted is None else jnp.asarray(counted)
    # An example forms no pair with itself.
    valid = counted[:, None] & counted[None, :] & ~jnp.eye(labels.size, dtype=bool)
    alike = labels[:, None] == labels[None, :]
    return distance, valid & alike, valid & ~alike


def _mean(x: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns the means [batch] of the chosen entries of each row; zero where none is chosen."""
    # At least 1, because 0 / 0 would be NaN, also in the derivative.
    count = jnp.maximum(jnp.sum(chosen, axis=1), 1)
    return jnp.sum(jnp.where(chosen, x, 0.0), axis=1) / count


def _largest(x: jax.Array) -> jax.Array:
    """Returns the largest entries [batch] of each row. The first of equal ones has the derivative.

    `jnp.max` would divide the derivative between equal entries.
    """
    return jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None], axis=1)[:, 0]


def _own(x: jax.Array, labels: ArrayLike) -> jax.Array:
    """Returns a mask [batch, classes] that is True at each example's own class."""
    return jnp.asarray(labels)[:, None] == jnp.arange(x.shape[1])[None, :]


def _target(x: jax.Array, labels: ArrayLike) -> jax.Array:
    """Returns the entries [batch] of x [batch, classes] at each example's own class."""
    return jax.vmap(_rows_of)(x, jnp.asarray(labels))


def _rows_of(x: jax.Array, labels: ArrayLike) -> jax.Array:
    """Returns the rows of x [classes, ...] at the labels; NaN for a label out of range."""
    # By default JAX clips an index that is too large and counts a negative one from the end, so a
    # wrong label would silently get the loss of another class.
    return x.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _products(features: jax.Array, agents: jax.Array) -> jax.Array:
    """Returns the inner products [batch, classes] in full precision, also on accelerators."""
    return jnp.matmul(features, agents.T, precision=jax.lax.Precision.HIGHEST)


def _column(scale: ArrayLike) -> jax.Array:
    """Returns a scalar as [1, 1], and one value per example as [batch, 1]."""
    return jnp.reshape(jnp.asarray(scale), (-1, 1))


def _wide(x: ArrayLike) -> jax.Array:
    """Returns the array in float32 or wider."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _known(name: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise ValueError(f"expected {name} in {tuple(known)}, found {found!r}")
