"""The papers' bounds on normalised softmax, as functions of the number of classes and the scale.

In all functions `scale` is s = l^2, the factor of the cosine, and losses are in nats.
"""

import jax
import jax.numpy as jnp

from hyperface.normalize import l2_normalize
from hyperface.shapes import (
    Agents,
    Features,
    Flags,
    Labels,
    Losses,
    NumberEach,
    Numbers,
    PerClass,
)


def softmax_lower_bound(num_classes: int, scale: Numbers) -> NumberEach:
    """Returns the smallest softmax loss that normalised features can reach: NormFace, Prop. 2.

        log(1 + (n - 1) exp(-s n / (n - 1))),   s = l^2

    Features and agents (class weights) have the norm l, so s is the factor of their cosines. The
    bound assumes that all classes are equally frequent. The loss equals it if every feature equals
    the agent of its class and all angles between agents are equal and as large as possible. That
    needs n - 1 dimensions; with fewer, the true minimum is higher.

    Args:
      num_classes: n, at least 1. With one class the bound is zero.
      scale: s, a number or an array of any shape.

    Returns:
      The bound in nats, of scale's shape.

    Raises:
      ValueError: num_classes is below 1.

    Example:
      >>> print(f"{softmax_lower_bound(10575, 1.0):.4f}")  # the paper: 8.27, loss stuck at 8.50
      8.2663

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3, 8.2.
    """
    n = _checked_classes(num_classes, least=1)
    scale = jnp.asarray(scale, jnp.result_type(float))
    if n == 1:
        return jnp.zeros_like(scale)
    # log(1 + exp(x)) as written would overflow for large x, and lose the digits of a small bound.
    return jax.nn.softplus(jnp.log(n - 1.0) - n / (n - 1.0) * scale)


def scale_for_bound(num_classes: int, bound: Numbers) -> NumberEach:
    """Returns the scale at which the bound of NormFace's Proposition 2 has a given value.

        s = ((n - 1) / n) log((n - 1) / (exp(bound) - 1))

    s is the factor of the cosines between features and agents (class weights), and n the number of
    classes.

    Args:
      num_classes: n, at least 2.
      bound: the lower bound of the loss in nats, above zero.

    Returns:
      The scale s, of bound's shape. It is negative if the bound exceeds log(n), which is the loss
      of guessing.

    Raises:
      ValueError: num_classes is below 2.

    Example:
      >>> print(f"{scale_for_bound(10572, 0.1):.3f}")
      11.517

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3.
    """
    n = _checked_classes(num_classes, least=2)
    bound = jnp.asarray(bound, jnp.result_type(float))
    # exp(bound) - 1 would lose the digits of a small bound.
    return (n - 1.0) / n * (jnp.log(n - 1.0) - jnp.log(jnp.expm1(bound)))


def max_probability(num_classes: int, scale: Numbers = 1.0) -> NumberEach:
    """Returns the largest probability that a softmax over n scaled cosines can have: NormFace, 3.3.

        e^s / (e^s + (n - 1) e^-s),   s: the factor of the cosines

    It is the extreme case where the cosine to one agent is 1 and the cosine to all others is -1.
    For n > 2 this cannot hold for the features of all classes at once.

    Args:
      num_classes: n, at least 1.
      scale: s; the paper's example has 1.

    Returns:
      Probability in (0, 1], of scale's shape.

    Raises:
      ValueError: num_classes is below 1.

    Example:
      >>> print(f"{max_probability(10):.2f} {max_probability(1000):.3f}")  # the paper's two numbers
      0.45 0.007

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 3.3.
    """
    n = _checked_classes(num_classes, least=1)
    scale = jnp.asarray(scale, jnp.result_type(float))
    # Divided by e^s, which overflows float32 from s = 89 on.
    return 1.0 / (1.0 + (n - 1.0) * jnp.exp(-2.0 * scale))


def agent_distortion(
    features: Features, agents: Agents, labels: Labels, num_classes: int
) -> PerClass:
    """Returns for each class the bound of NormFace's Proposition 3.

    It bounds the error of comparing with the agent of a class instead of with its examples:

        1 / n_c sum_{j in class c} d(f_j, W_c)^2

    f_j are the n_c features of class c, and W_c is its agent (class weight). d is the Euclidean
    distance of two vectors after both are scaled to unit length. For any feature f_0 the result is
    at least the mean of (d(f_0, f_j) - d(f_0, W_c))^2 over the class: the squared error of using
    the distance to the agent instead of the distance to an example. NormFace observes 0.5 to 0.6 in
    training.

    Args:
      features: [batch, dim], floating point, of any length.
      agents: [classes, dim] class weights.
      labels: [batch] integer class ids.
      num_classes: n, the number of rows of agents.

    Returns:
      [classes] mean squared distance, from 0 to 4; NaN for a class without an example.

    Raises:
      ValueError: the number of rows of agents is not num_classes.

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[0.0, 2.0], [3.0, 0.0]])
      >>> print(agent_distortion(features, jnp.eye(2), jnp.array([0, 0]), 2))
      [ 1. nan]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4, 8.3.
    """
    agents, labels = jnp.asarray(agents), jnp.asarray(labels)
    if agents.shape[0] != num_classes:
        raise ValueError(f"expected {num_classes} agents, found {agents.shape[0]}")
    apart = l2_normalize(features) - l2_normalize(agents)[labels]
    sums = jnp.zeros(num_classes).at[labels].add(jnp.sum(apart**2, axis=1))
    # 0 / 0 is the NaN of a class without an example; 0 would pass for no distortion.
    return sums / jnp.zeros(num_classes).at[labels].add(1.0)


def updated_distortion(
    average: PerClass,
    distances: Losses,
    labels: Labels,
    *,
    decay: float = 0.9,
    counted: Flags | None = None,
) -> PerClass:
    """Updates a moving average of NormFace's bound (Proposition 3) for each class in the batch.

    The bound of a class is the mean squared distance between its normalised features and its
    normalised agent (class weight), as `agent_distortion` returns it. For a class in the batch

        new average = decay x old average + (1 - decay) x mean

    `mean` is the mean of the distances of this class in the batch. If the old average is NaN, the
    new average is `mean`.

    Args:
      average: [classes] the average so far; NaN for a class without examples so far.
      distances: [batch] squared distance between a normalised feature and the normalised agent
        (class weight) of its own class.
      labels: [batch] integer class ids.
      decay: share of the old average in the new one.
      counted: [batch] bool, False for padding examples, which have no effect. None means that no
        example is padding.

    Returns:
      [classes] the new averages, unchanged for classes without an example. They have no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> average = jnp.array([0.5, jnp.nan])
      >>> print(updated_distortion(average, jnp.array([1.0, 0.25]), jnp.array([0, 1])))
      [0.55 0.25]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4, 8.3.
    """
    average, labels = jnp.asarray(average), jnp.asarray(labels)
    counted = jnp.ones(labels.shape, bool) if counted is None else jnp.asarray(counted)
    # Padding gets an index beyond the last class, which mode="drop" ignores below.
    place = jnp.where(counted, labels, average.shape[0])
    zeros = jnp.zeros_like(average)
    sums = zeros.at[place].add(jnp.where(counted, distances, 0.0), mode="drop")
    counts = zeros.at[place].add(1.0, mode="drop")
    mean = sums / jnp.maximum(counts, 1.0)
    # The average of a class begins with the mean of its first batch.
    blended = jnp.where(jnp.isnan(average), mean, decay * average + (1.0 - decay) * mean)
    return jax.lax.stop_gradient(jnp.where(counts > 0, blended, average))


def angular_margin(norm_ratio: Numbers, cos_other: Numbers) -> NumberEach:
    """Returns the largest angle at which feature x_1 has a higher logit than x_2: Ring loss, 2.1.

        theta_1 < arccos(r delta),   r = ||x_2|| / ||x_1||,   delta = cos theta_2

    theta_1 and theta_2 are the angles of x_1 and x_2 to the same weight vector. Figure 2b of the
    paper plots this function.

    Args:
      norm_ratio: r, above zero.
      cos_other: delta, the cosine between x_2 and the weight vector.

    Returns:
      The bound arccos(r delta) in radians, of the arguments' broadcast shape. It is 0 where r delta
      is 1 or more, since x_1 then never has the higher logit, and pi where r delta is -1 or less,
      since x_1 then always has it.

    Example:
      >>> print(f"{angular_margin(1.0, 0.5):.4f} {angular_margin(2.0, 0.5):.4f}")
      1.0472 0.0000

    References:
      Zheng et al., Ring loss: Convex Feature Normalization for Face Recognition, CVPR 2018, 2.1.
    """
    product = jnp.asarray(norm_ratio, jnp.result_type(float)) * jnp.asarray(cos_other)
    # Clipped, because arccos is NaN above 1, where x_2 wins at any angle.
    return jnp.arccos(jnp.clip(product, -1.0, 1.0))


def _checked_classes(num_classes: int, least: int) -> int:
    if num_classes < least:
        raise ValueError(f"expected at least {least} classes, found {num_classes}")
    return num_classes
