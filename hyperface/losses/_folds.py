"""The three folds that the papers' losses are made of.

A fold reduces an example's similarities to the classes that are not its own to one value. It works
block by block: `block` summarises one block of classes, `merge` joins two summaries, `value` reads
the result, and `slope` gives the value's derivative by the similarities of one block.

Blocks have the classes first: [block, batch]. Both matrix products with a block's class rows are
then row-major, the one form in which XLA's CPU backend multiplies bfloat16.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

BOUNDED_SCALE = 70.0
"""exp of a scaled cosine up to here, summed over a million classes, stays within float32."""


class Block(NamedTuple):
    """The similarities of one block of classes, as a fold sees them."""

    similarities: jax.Array
    """[block, batch] <W~_j, f~>, or the inner product of whichever sides are not normalised."""
    counted: jax.Array
    """[block, batch] bool. False at the target and at classes that do not take part here."""
    classes: jax.Array
    """[block] global class ids."""
    bias: jax.Array | None = None
    """[block] numbers that are added to the logits of the classes."""


class Slope(NamedTuple):
    """Derivatives of a fold's value by what one block of classes contributes."""

    similarities: jax.Array
    """[block, batch]."""
    fold_args: Any = None
    """The derivative by the fold's arguments: the part that comes from this block."""
    bias: jax.Array | None = None
    """[block, batch], from folds that take a bias."""


Maxima = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class LogSumExp:
    """The fold log sum_j exp(s z_j + b_j). Its argument is s [batch].

    Attributes:
      bounded: whether |s z| is known to stay below `BOUNDED_SCALE`, so that no maximum has to be
        subtracted before exp.
    """

    bounded: bool = False

    takes_bias: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        """Whether summaries are merged by addition and `slope` does not need them."""
        return False

    def block(self, block: Block, fold_args: jax.Array) -> Maxima:
        """Returns the largest logit and the sum of exponentials relative to it."""
        logits = self._logits(block, fold_args)
        largest = jnp.zeros_like(fold_args) if self.bounded else jnp.max(logits, axis=0)
        exponentials = jnp.exp(logits - largest[None, :])
        # Masked here too: bounded logits are not masked yet, and where a block counts no class at
        # all its maximum is itself the mask's value, whose exponential is 1.
        return largest, jnp.sum(jnp.where(block.counted, exponentials, 0.0), axis=0)

    def merge(self, first: Maxima, second: Maxima) -> Maxima:
        """Returns the larger maximum, and both sums rescaled to it and added."""
        if self.bounded:
            # Both maxima are the constant zero, so that no exponential has to be rescaled.
            return first[0], first[1] + second[1]
        largest = jnp.maximum(first[0], second[0])
        sums = [total * jnp.exp(maximum - largest) for maximum, total in (first, second)]
        return largest, sums[0] + sums[1]

    def value(self, summary: Maxima) -> jax.Array:
        """Returns the logarithm; a very low finite number where no class was counted."""
        largest, total = summary
        empty = total == 0
        return jnp.where(empty, _lowest(total), largest + jnp.log(jnp.where(empty, 1.0, total)))

    def slope(self, block: Block, fold_args: jax.Array, summary: Maxima) -> Slope:
        """Returns the derivatives by z (s times the softmax) and by s (the softmax' mean of z)."""
        relative = self._logits(block, fold_args) - self.value(summary)[None, :]
        # `where`, not a product with the mask: exp is infinite where the value is `_lowest`.
        share = jnp.where(block.counted, jnp.exp(relative), 0.0)
        to_scale = jnp.sum(share * block.similarities, axis=0)
        return Slope(fold_args[None, :] * share, to_scale, share)

    def _logits(self, block: Block, scale: jax.Array) -> jax.Array:
        """Returns s z + b; unless bounded, far below all others for classes not counted."""
        logits = scale[None, :] * block.similarities
        if block.bias is not None:
            logits += block.bias[:, None]
        if self.bounded:
            return logits
        # Masking comes before any subtraction for two reasons: exp of a class that is not counted
        # could overflow, and a product must not meet a subtraction, since compilers fuse the two
        # and skip the product's rounding. Logits of 1e9 minus their own maximum would then be off
        # by up to 64, and exp of that is infinite.
        return jnp.where(block.counted, logits, _lowest(logits))


@dataclass(frozen=True)
class HingeSum:
    """The fold sum_j max(0, z_j - c). Its argument is c [batch]."""

    @property
    def additive(self) -> bool:
        """Whether summaries are merged by addition and `slope` does not need them."""
        return True

    def block(self, block: Block, fold_args: jax.Array) -> jax.Array:
        """Returns the sum over the block."""
        above = block.similarities - fold_args[None, :]
        return jnp.sum(jnp.where(block.counted, jnp.maximum(above, 0.0), 0.0), axis=0)

    def merge(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Returns the sum of both."""
        return first + second

    def value(self, summary: jax.Array) -> jax.Array:
        """Returns the sum itself."""
        return summary

    def slope(self, block: Block, fold_args: jax.Array, summary: jax.Array | None) -> Slope:
        """Returns the derivatives by z (1 above threshold c, else 0) and by c (minus their sum).

        A class exactly at the threshold has slope zero.
        """
        active = block.counted & (block.similarities > fold_args[None, :])
        slope = active.astype(block.similarities.dtype)
        return Slope(slope, -jnp.sum(slope, axis=0))


@dataclass(frozen=True)
class Maximum:
    """The fold max_j z_j, with the lowest class among equal maxima. It takes no arguments."""

    @property
    def additive(self) -> bool:
        """Whether summaries are merged by addition and `slope` does not need them."""
        return False

    def block(self, block: Block, fold_args: None) -> Maxima:
        """Returns the maximum and its class."""
        counted = jnp.where(block.counted, block.similarities, _lowest(block.similarities))
        # argmax takes the first of equal values, and the classes of a block rise.
        place = jnp.argmax(counted, axis=0)
        return jnp.max(counted, axis=0), block.classes[place]

    def merge(self, first: Maxima, second: Maxima) -> Maxima:
        """Returns the larger maximum and its class; the lower class if both are equal."""
        # The scan starts at the last block: the order of merging does not tell the lower class.
        later = (second[0] > first[0]) | ((second[0] == first[0]) & (second[1] < first[1]))
        return jnp.where(later, second[0], first[0]), jnp.where(later, second[1], first[1])

    def value(self, summary: Maxima) -> jax.Array:
        """Returns the maximum; a very low finite number where no class was counted."""
        return summary[0]

    def slope(self, block: Block, fold_args: None, summary: Maxima) -> Slope:
        """Returns the derivative by z: 1 for the class of the maximum, and 0 for all others."""
        # By class and not by value: of several equal similarities only one is the maximum.
        is_largest = block.counted & (block.classes[:, None] == summary[1][None, :])
        return Slope(is_largest.astype(block.similarities.dtype))


def _lowest(like: jax.Array) -> jax.Array:
    """Returns a number far below any similarity that is finite, so that differences are no NaN."""
    # A quarter of the range leaves room for a bias and for differences of two such numbers.
    return jnp.asarray(jnp.finfo(like.dtype).min / 4, like.dtype)
