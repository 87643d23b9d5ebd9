"""The three folds that the papers' losses are made of."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from hyperface.losses._blocks import Block

BOUNDED_SCALE = 70.0
"""exp of a scaled cosine up to here, summed over a million classes, stays within float32."""


@dataclass(frozen=True)
class LogSumExp:
    """log sum_j exp(s z_j); `numbers` is s [batch].

    Attributes:
      bounded: |s z| is known to stay below `BOUNDED_SCALE`, so no maximum is taken off first.
    """

    bounded: bool = False

    additive: ClassVar[bool] = False

    def block(self, block: Block, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(maximum, sum of exponentials relative to it)."""
        logits = numbers[:, None] * block.similarities
        if self.bounded:
            largest = jnp.zeros_like(numbers)
        else:
            largest = jnp.max(jnp.where(block.counted, logits, _lowest(logits)), axis=1)
        exponentials = jnp.exp(logits - largest[:, None])
        return largest, jnp.sum(jnp.where(block.counted, exponentials, 0.0), axis=1)

    def merge(self, first, second):
        """Brings both sums to the larger maximum."""
        if self.bounded:
            return first[0], first[1] + second[1]
        largest = jnp.maximum(first[0], second[0])
        sums = [total * jnp.exp(maximum - largest) for maximum, total in (first, second)]
        return largest, sums[0] + sums[1]

    def value(self, summary) -> jax.Array:
        """The logarithm; a very low finite number where no class was counted."""
        largest, total = summary
        empty = total == 0
        return jnp.where(empty, _lowest(total), largest + jnp.log(jnp.where(empty, 1.0, total)))

    def slope(self, block: Block, numbers: jax.Array, summary):
        """The softmax over the counted classes, times s; and its mean of z, for s."""
        logits = numbers[:, None] * block.similarities
        relative = logits - self.value(summary)[:, None]
        share = jnp.where(block.counted, jnp.exp(jnp.where(block.counted, relative, 0.0)), 0.0)
        return numbers[:, None] * share, jnp.sum(share * block.similarities, axis=1)


@dataclass(frozen=True)
class HingeSum:
    """sum_j max(0, z_j - c); `numbers` is c [batch]."""

    additive: ClassVar[bool] = True

    def block(self, block: Block, numbers: jax.Array) -> jax.Array:
        """The sum over the block."""
        above = block.similarities - numbers[:, None]
        return jnp.sum(jnp.where(block.counted, jnp.maximum(above, 0.0), 0.0), axis=1)

    def merge(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """The sum of both."""
        return first + second

    def value(self, summary: jax.Array) -> jax.Array:
        """The sum itself."""
        return summary

    def slope(self, block: Block, numbers: jax.Array, summary: jax.Array):
        """One for a class above the threshold; minus their count, for the threshold."""
        active = block.counted & (block.similarities > numbers[:, None])
        slope = active.astype(block.similarities.dtype)
        return slope, -jnp.sum(slope, axis=1)


@dataclass(frozen=True)
class Maximum:
    """max_j z_j, the first of equal ones; takes no numbers."""

    additive: ClassVar[bool] = False

    def block(self, block: Block, numbers: None) -> tuple[jax.Array, jax.Array]:
        """(maximum, its class)."""
        counted = jnp.where(block.counted, block.similarities, _lowest(block.similarities))
        place = jnp.argmax(counted, axis=1)
        return jnp.max(counted, axis=1), block.classes[place]

    def merge(self, first, second):
        """The larger one; of equal ones the lower class."""
        later = (second[0] > first[0]) | ((second[0] == first[0]) & (second[1] < first[1]))
        return jnp.where(later, second[0], first[0]), jnp.where(later, second[1], first[1])

    def value(self, summary) -> jax.Array:
        """The maximum; a very low finite number where no class was counted."""
        return summary[0]

    def slope(self, block: Block, numbers: None, summary):
        """One at the class that holds the maximum."""
        hit = block.counted & (block.classes[None, :] == summary[1][:, None])
        return hit.astype(block.similarities.dtype), None


def _lowest(like: jax.Array) -> jax.Array:
    """Far below any similarity, yet finite, so that differences with it are no NaN."""
    return jnp.asarray(jnp.finfo(like.dtype).min / 4, like.dtype)
