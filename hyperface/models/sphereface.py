"""SphereFace's residual nets: PReLU, stride-2 convolutions, no normalisation layers, no pooling."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from hyperface.models.layers import PReLU, xavier


class SphereFace(nn.Module):
    """Stages of one stride-2 convolution and some residual blocks, then a linear feature layer.

    A block is conv, PReLU, conv, PReLU and the sum; nothing follows the sum. Its convolutions start
    at standard deviation 0.01, so that a fresh block is nearly the identity. The released nets give
    them biases with learning rate zero, frozen at zero: here they have none.

    Attributes:
      widths: channels of each stage.
      blocks: residual blocks of each stage.
      feature_dim: size of the feature.
    """

    widths: Sequence[int]
    blocks: Sequence[int]
    feature_dim: int = 512

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            name = f"conv{stage}"
            x = nn.Conv(width, (3, 3), strides=2, padding=1, kernel_init=xavier, name=name)(x)
            x = PReLU(name=f"prelu{stage}")(x)
            for block in range(1, blocks + 1):
                x = _ResidualBlock(width, name=f"block{stage}_{block}")(x)
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.feature_dim, kernel_init=xavier, name="feature")(x)


class _ResidualBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branch = x
        for _ in range(2):
            branch = nn.Conv(
                self.width,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=nn.initializers.normal(0.01),
            )(branch)
            branch = PReLU()(branch)
        return x + branch
