"""SphereFace's residual networks, which have no normalisation layers and no pooling."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, PReLU, ResidualBlock, xavier


class SphereFace(Backbone):
    """The residual network of SphereFace, which has no normalisation layers and no pooling.

    It maps images [batch, height, width, channels] to features [batch, feature_dim]. A stage is a
    convolution of stride 2, followed by residual blocks. A linear feature layer follows the last
    stage. Activations are PReLU.

    Attributes:
      widths: number of channels of each stage.
      blocks: number of residual blocks of each stage.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    blocks: Sequence[int] = (1, 2, 4, 1)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32."""
        block_of = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = self.first(images, "conv1")
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            conv = nn.Conv(
                width,
                (3, 3),
                strides=2,
                # In numbers, as in Caffe: at stride 2 Flax's "SAME" would pad only one side.
                padding=1,
                kernel_init=xavier,
                dtype=self.dtype,
                name=f"conv{stage}",
            )
            x = PReLU(name=f"prelu{stage}")(conv(x))
            for block in range(1, blocks + 1):
                x = block_of(width, self.dtype, name=f"block{stage}_{block}")(x)
        x = self.flat(x, images, "feature")
        feature = nn.Dense(self.feature_dim, kernel_init=xavier, dtype=self.dtype, name="feature")
        return feature(x).astype(jnp.float32)
