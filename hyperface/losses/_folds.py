"""The three folds, the reductions over classes from which the papers' losses are built.

A fold reduces an example's similarities z_j to all classes j except its own to one value. It works
block by block. `block` summarises one block of classes, and `merge` joins two summaries. `value`
computes the result from a summary, and `slope` the result's derivative by the similarities of one
block.

Blocks have the classes first: [block, batch]. Both matrix products with a block's class rows are
then row-major, the only form in which XLA's CPU backend multiplies bfloat16.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

BOUNDED_SCALE = 70.0
"""Largest scale for which exp(scale x cosine), summed over a million classes, fits into float32."""


class Block(NamedTuple):
    """The similarities of one block of classes, which a fold (a reduction over classes) reads."""

    similarities: jax.Array
    """[block, batch] inner products <W~_j, f~> of class weights and features. Each side has unit
    length if the terms normalise it."""
    counted: jax.Array
    """[block, batch] bool. False for the example's own class, for classes that do not take part,
    and for classes that another block counts."""
    classes: jax.Array
    """[block] global class ids."""
    bias: jax.Array | None = None
    """[block] numbers that are added to the logits of the classes; None adds nothing."""


class Slope(NamedTuple):
    """Derivatives of a fold's value (a reduction over classes), for one block of classes."""

    similarities: jax.Array
    """[block, batch] derivative by each similarity."""
    fold_args: Any = None
    """[batch] derivative by the fold's argument, such as the scale; only the part that comes from
    this block. None for a fold without an argument."""
    bias: jax.Array | None = None
    """[block, batch] derivative by each logit; None if the fold uses no bias."""


Maxima = tuple[jax.Array, jax.Array]
"""A summary: [batch] the maximum, and [batch] the sum of exponentials or the class of the
maximum."""


@dataclass(frozen=True)
class LogSumExp:
    """The reduction log sum_j exp(s z_j + b_j) of the similarities z_j to all other classes.

    Its argument is the scale s [batch]. b_j is the bias of class j, 0 without a bias.

    Attributes:
      bounded: whether |s z_j| is known to be at most 70 (`BOUNDED_SCALE`). Without a bias, exp then
        cannot overflow, and the largest logit is not subtracted before exp.
    """

    bounded: bool = False

    takes_bias: ClassVar[bool] = True
    """The fold adds `Block.bias` to its logits."""

    @property
    def additive(self) -> bool:
        """Returns False: `slope` needs the summary (the partial result) over all classes.

        So one scan over the classes computes the value, and a second scan the gradients.
        """
        return False

    def block(self, block: Block, fold_args: jax.Array) -> Maxima:
        """Returns the block's summary (largest, sum of exp(logit - largest)), two arrays [batch].

        `largest` is the largest logit of the block, or 0 if the fold is `bounded`.

        Args:
          block: the block of classes.
          fold_args: the scale s [batch].
        """
        logits = self._logits(block, fold_args)
        largest = jnp.zeros_like(fold_args) if self.bounded else jnp.max(logits, axis=0)
        exponentials = jnp.exp(logits - largest[None, :])
        # Masked here too, for two reasons. Bounded logits are not masked yet. And if a block counts
        # no class, its maximum is the value of the mask itself, whose relative exponential is 1.
        return largest, jnp.sum(jnp.where(block.counted, exponentials, 0.0), axis=0)

    def merge(self, first: Maxima, second: Maxima) -> Maxima:
        """Returns the summary of two sets of classes from the summary of each.

        The new maximum is the larger one. The two sums of exponentials are rescaled to it and
        added.
        """
        if self.bounded:
            # Both maxima are the constant zero, so that no exponential has to be rescaled.
            return first[0], first[1] + second[1]
        largest = jnp.maximum(first[0], second[0])
        sums = [total * jnp.exp(maximum - largest) for maximum, total in (first, second)]
        return largest, sums[0] + sums[1]

    def value(self, summary: Maxima) -> jax.Array:
        """Returns log sum_j exp(s z_j + b_j) [batch], from the summary over all classes.

        z_j is the similarity to class j, s the scale and b_j the bias.

        If no class was counted, the result is a very low finite number instead of -inf.
        """
        largest, total = summary
        empty = total == 0
        return jnp.where(empty, _lowest(total), largest + jnp.log(jnp.where(empty, 1.0, total)))

    def slope(self, block: Block, fold_args: jax.Array, summary: Maxima) -> Slope:
        """Returns the derivatives of the value by the similarities, by the scale and by the logits.

        The derivative by z_j, the similarity to class j, is s p_j. The derivative by the scale s is
        the sum of p_j z_j over the classes of the block, and that by the logit of class j is p_j.
        p is the softmax over all counted classes of all blocks.

        Args:
          block: the block of classes.
          fold_args: the scale s [batch].
          summary: the summary over all classes.
        """
        relative = self._logits(block, fold_args) - self.value(summary)[None, :]
        # `where` and not a product with the mask: where the value is `_lowest`, exp is infinite,
        # and infinity times 0 is NaN.
        share = jnp.where(block.counted, jnp.exp(relative), 0.0)
        to_scale = jnp.sum(share * block.similarities, axis=0)
        return Slope(fold_args[None, :] * share, to_scale, share)

    def _logits(self, block: Block, scale: jax.Array) -> jax.Array:
        """Returns the logits s z + b, [block, batch].

        Unless they are bounded, classes that are not counted get a logit far below all others.
        """
        logits = scale[None, :] * block.similarities
        if block.bias is not None:
            logits += block.bias[:, None]
        if self.bounded:
            return logits
        # Logits are masked before any subtraction for two reasons. First, exp of a class that is
        # not counted could overflow. Second, a product must not be followed directly by a
        # subtraction: compilers fuse both and skip the rounding of the product. Logits of 1e9 minus
        # their own maximum would then be wrong by up to 64, and exp of that is infinite.
        return jnp.where(block.counted, logits, _lowest(logits))


@dataclass(frozen=True)
class HingeSum:
    """The reduction sum_j max(0, z_j - c) of the similarities z_j to all other classes.

    Its argument c [batch] is the similarity above which a class adds to the sum.
    """

    @property
    def additive(self) -> bool:
        """Returns True: `merge` adds two sums, and `slope` does not need the sum over all classes.

        So one scan over the classes computes both the value and the gradients.
        """
        return True

    def block(self, block: Block, fold_args: jax.Array) -> jax.Array:
        """Returns the block's summary [batch]: the sum of hinges over its classes.

        Args:
          block: the block of classes.
          fold_args: c [batch], the similarity above which a class adds to the sum.
        """
        above = block.similarities - fold_args[None, :]
        return jnp.sum(jnp.where(block.counted, jnp.maximum(above, 0.0), 0.0), axis=0)

    def merge(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Returns the sum [batch] over two sets of classes, from the sum [batch] over each set."""
        return first + second

    def value(self, summary: jax.Array) -> jax.Array:
        """Returns the result of the reduction [batch], which is the summary itself."""
        return summary

    def slope(self, block: Block, fold_args: jax.Array, summary: jax.Array | None) -> Slope:
        """Returns the derivatives of the value by each similarity and by the argument c.

        The derivative by a similarity is 1 if the similarity exceeds c, and otherwise 0. The
        derivative by c is -1 times the sum of these derivatives.

        Args:
          block: the block of classes.
          fold_args: c [batch], the similarity above which a class adds to the sum.
          summary: not used.
        """
        active = block.counted & (block.similarities > fold_args[None, :])
        slope = active.astype(block.similarities.dtype)
        return Slope(slope, -jnp.sum(slope, axis=0))


@dataclass(frozen=True)
class Maximum:
    """The reduction max_j z_j of the similarities z_j to all other classes.

    The reduction needs no argument, so `fold_args` is None.

    Of several classes with the same maximum, the one with the lowest id gets the gradient.
    """

    @property
    def additive(self) -> bool:
        """Returns False: `slope` needs the summary (the partial result) over all classes.

        So one scan over the classes computes the value, and a second scan the gradients.
        """
        return False

    def block(self, block: Block, fold_args: None) -> Maxima:
        """Returns the block's summary: the maximum [batch] and the id of its class [batch].

        Args:
          block: the block of classes.
          fold_args: not used.
        """
        counted = jnp.where(block.counted, block.similarities, _lowest(block.similarities))
        # argmax returns the first of equal values, and the class ids of a block rise.
        place = jnp.argmax(counted, axis=0)
        return jnp.max(counted, axis=0), block.classes[place]

    def merge(self, first: Maxima, second: Maxima) -> Maxima:
        """Returns (maximum, class id), arrays [batch], for two sets of classes from those of each.

        If the two sets have the same maximum, the id is the lower one.
        """
        # Class ids are compared, because the scan starts at the last block: the order of merging
        # does not tell which class is lower.
        later = (second[0] > first[0]) | ((second[0] == first[0]) & (second[1] < first[1]))
        return jnp.where(later, second[0], first[0]), jnp.where(later, second[1], first[1])

    def value(self, summary: Maxima) -> jax.Array:
        """Returns [batch]: for each example the largest similarity to another class than its own.

        Classes that are left out of the loss do not count. If none counts, the value is a finite
        number far below any similarity.
        """
        return summary[0]

    def slope(self, block: Block, fold_args: None, summary: Maxima) -> Slope:
        """Returns the derivative by each similarity: 1 for the class of the maximum, else 0.

        Args:
          block: the block of classes.
          fold_args: not used.
          summary: the maximum over all classes, and its class.
        """
        # Classes are compared and not values, because only one of several equal similarities
        # counts.
        is_largest = block.counted & (block.classes[:, None] == summary[1][None, :])
        return Slope(is_largest.astype(block.similarities.dtype))


def _lowest(like: jax.Array) -> jax.Array:
    """Returns a finite number far below any similarity; with -inf, differences could be NaN."""
    # A quarter of the range leaves room for a bias and for differences of two such numbers.
    return jnp.asarray(jnp.finfo(like.dtype).min / 4, like.dtype)
