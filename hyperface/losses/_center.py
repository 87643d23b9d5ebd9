"""Center loss (Wen et al. 2016), and its own rule for the update of the centers."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.rules import automatic, per_example
from hyperface.shapes import Centers, Features, Labels, Losses


def center(
    features: Features,
    centers: Centers,
    labels: Labels,
) -> Losses:
    """Computes center loss: half the squared distance of a feature from its class center.

    It is Eq. 2 of Wen et al. 2016, the paper of center loss:

        L = 1/2 ||f - c_y||^2

    f is the feature and c_y the center of its class y. No gradient reaches the centers: the caller
    updates them by `updated_centers`, or gives `center_direction` to an optimiser as their
    gradient. The gradient to the feature is f - c_y.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      centers: [classes, dim], one row per class.
      labels: [batch] integer class ids.

    Returns:
      [batch] loss in squared norm units, float32 (float64 for float64 inputs). NaN under jit where
      a label is out of range.

    Raises:
      TypeError: features or centers are not floating point, or labels are not integers.
      ValueError: shapes disagree, or a label is out of range (values that jit traces are not
        checked).

    Example:
      >>> import jax.numpy as jnp
      >>> print(center(jnp.array([[3.0, 4.0]]), jnp.zeros((2, 2)), jnp.array([1])))
      [12.5]

    References:
      Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016.
    """
    features, centers, labels = _checked(features, centers, labels)

    def half_squared_distance(
        features: jax.Array, centers: jax.Array, labels: jax.Array
    ) -> jax.Array:
        # A label out of range reads NaN, and not the center of another class.
        own = jax.lax.stop_gradient(centers.at[labels].get(mode="fill", fill_value=jnp.nan))
        return 0.5 * jnp.sum((features - own) ** 2, axis=1)

    return automatic(
        half_squared_distance, features, centers, labels, split=per_example, like=features
    )


def center_direction(
    centers: Centers,
    features: Features,
    labels: Labels,
) -> jax.Array:
    """Returns delta c, the direction that the centers are moved against (Wen et al., Eq. 4).

        delta c_j = sum_{i: y_i = j} (c_j - f_i) / (1 + count_j)

    c_j is the center of class j, f_i the feature of example i, y_i its class, and count_j the
    number of examples of class j in the batch. Because of the 1 in the denominator, the center of a
    class with a single example does not jump onto that example. The paper subtracts alpha delta c_j
    from the centers (`updated_centers`). The authors' published Caffe code passes delta c_j to the
    optimiser as the gradient of the centers, whatever the weight of the loss is. The learning rate
    and momentum then replace alpha.

    Args:
      centers: [classes, dim], floating point.
      features: [batch, dim], floating point.
      labels: [batch] integer class ids.

    Returns:
      [classes, dim] in the dtype of the centers, but at least float32. Rows of classes without an
      example are zero. No gradient flows through the result.

    Raises:
      TypeError: features or centers are not floating point, or labels are not integers.
      ValueError: shapes disagree, or a label is out of range (values that jit traces are not
        checked).

    Example:
      >>> import jax.numpy as jnp
      >>> print(center_direction(jnp.zeros((2, 1)), jnp.array([[4.0]]), jnp.array([1])))
      [[ 0.]
       [-2.]]

    References:
      Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016.
    """
    features, centers, labels = _checked(features, centers, labels)

    def direction(features: jax.Array, centers: jax.Array, labels: jax.Array) -> jax.Array:
        # An example whose label is out of range is dropped below, whatever is read for it here.
        apart = centers.at[labels].get(mode="fill", fill_value=0.0) - features
        sums = jnp.zeros_like(centers).at[labels].add(apart, mode="drop")
        counts = jnp.zeros(centers.shape[0], centers.dtype).at[labels].add(1.0, mode="drop")
        # Because of the 1, classes without an example give 0 / 1 and not 0 / 0.
        return jax.lax.stop_gradient(sums / (1.0 + counts)[:, None])

    return automatic(direction, features, centers, labels, split=per_example, like=centers)


def updated_centers(
    centers: Centers,
    features: Features,
    labels: Labels,
    *,
    rate: ArrayLike = 0.5,
) -> jax.Array:
    """Returns the centers after a batch: c_j - alpha delta c_j (Wen et al., Eq. 4, Algorithm 1).

    c_j is the center of class j, and delta c_j is computed by `center_direction`.

    Args:
      centers: [classes, dim], floating point, one row per class.
      features: [batch, dim], floating point.
      labels: [batch] integer class ids.
      rate: alpha in [0, 1]; the paper uses 0.5.

    Returns:
      [classes, dim] centers in their dtype, but at least float32. Rows of classes without an
      example are unchanged. No gradient flows through the result.

    Raises:
      TypeError: features or centers are not floating point, or labels are not integers.
      ValueError: shapes disagree, or a label or the rate is out of range (values that jit traces
        are not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> print(updated_centers(jnp.zeros((2, 1)), jnp.array([[4.0]]), jnp.array([1])))
      [[0.]
       [1.]]

    References:
      Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016.
    """
    rate = _checks.number("rate", rate, 0.0, 1.0)
    direction = center_direction(centers, features, labels)
    return jax.lax.stop_gradient(jnp.asarray(centers, direction.dtype) - rate * direction)


def _checked(
    features: Features, centers: Centers, labels: Labels
) -> tuple[jax.Array, jax.Array, jax.Array]:
    features, centers = _checks.matrices("centers", features, centers)
    labels = _checks.class_labels(labels, features.shape[0], centers.shape[0])
    # A negative label gets the first invalid index, because -1 would read the last center.
    return features, centers, jnp.where(labels < 0, centers.shape[0], labels)
