"""Pair and triplet losses over the pairs and triplets of a batch: all of them, or the hardest.

These are the baselines that NormFace replaces by agents (class weights). The number of pairs grows
with the square of the number of images, and that of triplets with its cube. After some training few
of them still violate the margin.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperface.losses import _checks
from hyperface.losses.shards import AxisName, first_row, whole_batch
from hyperface.normalize import l2_normalize
from hyperface.rules import automatic, per_example
from hyperface.shapes import Features, Flags, Labels, Losses

Mining = Literal["all", "violating", "hardest"]

TRIPLET_BYTES = 16 * 2**20
"""Size in bytes of the hinges that are in memory at a time: those of all triplets of a few
anchors."""


def batch_contrastive(
    features: Features,
    labels: Labels,
    *,
    margin: ArrayLike = 1.0,
    mining: Mining = "all",
    axis_name: AxisName | None = None,
    counted: Flags | None = None,
) -> Losses:
    """Computes the contrastive loss (NormFace, Eq. 7) over the pairs of each example in a batch.

        L_i = mean over same-class j of d_ij + mean over other-class j of max(0, m - d_ij)

    d_ij is the squared distance of the features i and j at unit length, and m is the margin. Since
    these are two means, the few same-class pairs weigh as much as the many other pairs.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      labels: [batch] integer class ids.
      margin: m, on the squared distance, 0 to 4.
      mining: "all" uses all pairs. "violating" restricts the second mean to pairs with d_ij < m.
        "hardest" uses only the farthest example of the same class and the nearest example of
        another class.
      axis_name: the mapped axis over which the batch is split. The arrays are then this device's
        part, and the other examples of its pairs come from all devices.
      counted: [batch] bool, False for padding, which is in no pair; None counts all.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32. The mean of no pairs is
      zero.

    Raises:
      TypeError: features are not floating point, labels not integers, or counted is not bool.
      ValueError: shapes disagree, `mining` is unknown, or the margin is outside [0, 4] (a value
        that jit traces is not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
      >>> print(batch_contrastive(features, jnp.array([0, 0, 1]), margin=3.0))
      [2.  3.  0.5]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
      Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006.
    """
    margin = _checks.number("margin", margin, 0.0, 4.0)
    _checks.one_of("mining", mining, get_args(Mining))
    arrays = _checked(features, labels, counted)
    loss = partial(_contrastive, mining=mining, axis_name=axis_name)
    return automatic(loss, margin, *arrays, split=per_example, like=arrays[0])


def _contrastive(
    margin: ArrayLike,
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None,
    *,
    mining: Mining,
    axis_name: AxisName | None,
) -> jax.Array:
    """Returns the result of `batch_contrastive` for checked arguments."""
    distance, same, different = _pairs(features, labels, counted, axis_name)
    hinge = jnp.maximum(0.0, margin - distance)
    if mining == "hardest":
        return _largest(distance, same) + _largest(hinge, different)
    if mining == "violating":
        different &= hinge > 0
    return _mean(distance, same) + _mean(hinge, different)


def batch_triplet(
    features: Features,
    labels: Labels,
    *,
    margin: ArrayLike = 0.8,
    mining: Mining = "all",
    axis_name: AxisName | None = None,
    counted: Flags | None = None,
) -> Losses:
    """Computes the triplet loss (NormFace, Eq. 8) over the triplets of each example in a batch.

    The example i is the anchor of its triplets (i, p, n):

        L_i = mean over same-class p and other-class n of max(0, m + d_ip - d_in)

    d_ij is the squared distance of the features i and j at unit length, and m is the margin.
    Anchors are processed a few at a time, so the triplets of a batch are never in memory together.

    Args:
      features: [batch, dim], floating point, un-normalised; half precision is computed in float32.
      labels: [batch] integer class ids.
      margin: m, on the difference of squared distances, 0 to 4.
      mining: "all" is the mean over all triplets (batch-all), and "violating" the mean over
        triplets with a loss above zero. "hardest" uses only the triplet of the farthest example of
        the same class and the nearest example of another class (batch-hard).
      axis_name: the mapped axis over which the batch is split. The arrays are then this device's
        part, and the other examples of its triplets come from all devices.
      counted: [batch] bool, False for padding, which is in no triplet; None counts all.

    Returns:
      [batch] loss in squared distance on the unit sphere, at least float32; zero for an anchor
      without a triplet.

    Raises:
      TypeError: features are not floating point, labels not integers, or counted is not bool.
      ValueError: shapes disagree, `mining` is unknown, or the margin is outside [0, 4] (a value
        that jit traces is not checked).

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
      >>> print(batch_triplet(features, jnp.array([0, 0, 1]), margin=3.0))
      [1. 3. 0.]

    References:
      Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, 4.
      Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017.
    """
    margin = _checks.number("margin", margin, 0.0, 4.0)
    _checks.one_of("mining", mining, get_args(Mining))
    arrays = _checked(features, labels, counted)
    loss = partial(_triplet, mining=mining, axis_name=axis_name)
    return automatic(loss, margin, *arrays, split=per_example, like=arrays[0])


def _triplet(
    margin: ArrayLike,
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None,
    *,
    mining: Mining,
    axis_name: AxisName | None,
) -> jax.Array:
    """Returns the result of `batch_triplet` for checked arguments."""
    distance, same, different = _pairs(features, labels, counted, axis_name)
    if mining == "hardest":
        farthest, nearest = _largest(distance, same), -_largest(-distance, different)
        # If there is no such pair, `_largest` returns zero, which must not count as a distance.
        found = jnp.any(same, axis=1) & jnp.any(different, axis=1)
        return jnp.where(found, jnp.maximum(0.0, margin + farthest - nearest), 0.0)

    # The hinges of all anchors would be an array [batch, batch, batch]. So they are not saved for
    # the backward pass, which computes them again.
    @jax.checkpoint
    def of_anchor(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        distance, same, different = row
        hinge = jnp.maximum(0.0, margin + distance[:, None] - distance[None, :])
        triplets = same[:, None] & different[None, :]
        if mining == "violating":
            triplets &= hinge > 0
        return _mean(hinge, triplets, axis=None)

    # One anchor has a hinge for each two examples of the whole batch.
    anchors, batch = distance.shape
    size = distance.dtype.itemsize * batch**2
    together = max(1, min(anchors, TRIPLET_BYTES // max(size, 1)))
    return jax.lax.map(of_anchor, (distance, same, different), batch_size=together)


def _checked(
    features: ArrayLike, labels: ArrayLike, counted: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    features = _checks.float_matrix("features", features, "batch, dim")
    labels = _checks.group_ids(labels, features.shape[0])
    if counted is not None:
        counted = _checks.flags("counted", counted, features.shape[0], "per feature")
    return features, labels, counted


def _pairs(
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None,
    axis_name: AxisName | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (distance, same, different), [batch, batch of all devices] each.

    There is one row per example of this device, since a loss needs the pairs of its own anchor
    alone. `distance` are the squared distances of unit features. `same` marks the valid pairs of
    one class, and `different` those of two classes.
    """
    unit = l2_normalize(features)
    all_unit, all_labels, all_counted = whole_batch((unit, labels, counted), axis_name)
    # By default accelerators round the operands, and 2 - 2 cos of a near pair would consist mostly
    # of that error.
    similarity = jnp.matmul(unit, all_unit.T, precision=jax.lax.Precision.HIGHEST)
    # The rounded cosine of equal features may exceed 1.
    distance = jnp.maximum(0.0, 2.0 - 2.0 * similarity)
    of_one_class = labels[:, None] == all_labels[None, :]
    # An example forms no pair with itself: its distance 0 would lower every mean.
    own = first_row(labels.size, axis_name) + jnp.arange(labels.size)
    valid = own[:, None] != jnp.arange(all_labels.size)[None, :]
    if counted is not None and all_counted is not None:
        valid &= counted[:, None] & all_counted[None, :]
    return distance, valid & of_one_class, valid & ~of_one_class


def _mean(x: jax.Array, chosen: jax.Array, axis: int | None = 1) -> jax.Array:
    """Returns the mean of the chosen values along an axis; zero if none is chosen."""
    count = jnp.sum(chosen, axis=axis)
    # At least one, so that a mean over nothing is zero.
    return jnp.sum(jnp.where(chosen, x, 0.0), axis=axis) / jnp.maximum(count, 1)


def _largest(x: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns the largest chosen value of each row; zero if none is chosen."""
    # With an initial value the maximum is defined for an empty batch too.
    largest = jnp.max(jnp.where(chosen, x, -jnp.inf), axis=1, initial=-jnp.inf)
    return jnp.where(jnp.any(chosen, axis=1), largest, 0.0)
