"""The residual network of center loss (Wen et al. 2016), which NormFace also trains."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, PReLU, ResidualBlock, max_pool, xavier


class Wen(Backbone):
    """The residual network of center loss (Wen et al. 2016), of 28 layers.

    It maps images [batch, height, width, channels] to features [batch, feature_dim]. Each stage is
    a convolution without padding, a max pool and residual blocks. The last feature map of 112 x 96
    images is 5 x 4 x 512.

    Attributes:
      stem: number of channels of the first convolution, which is in front of the stages.
      widths: number of channels of each stage.
      blocks: number of residual blocks of each stage.
    """

    stem: int = 32
    widths: Sequence[int] = (64, 128, 256, 512)
    blocks: Sequence[int] = (1, 2, 5, 3)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32."""
        block_of = nn.remat(ResidualBlock) if self.remat else ResidualBlock

        def conv(self: Wen, x: jax.Array, width: int, place: str) -> jax.Array:
            made = nn.Conv(
                width,
                (3, 3),
                padding="VALID",
                kernel_init=xavier,
                dtype=self.dtype,
                name=f"conv{place}",
            )
            return PReLU(name=f"prelu{place}")(made(x))

        x = conv(self, self.first(images, "conv1a"), self.stem, "1a")
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            # The names in Wen's released prototxt: conv1a, conv1b, conv2, conv3, conv4.
            place = "1b" if stage == 1 else str(stage)

            def pooled(
                self: Wen, x: jax.Array, width: int = width, place: str = place
            ) -> jax.Array:
                return max_pool(conv(self, x, width, place), round_up=True)

            x = self.block(pooled, x)
            for block in range(1, blocks + 1):
                x = block_of(width, self.dtype, name=f"block{stage}_{block}")(x)
        x = self.flat(x, images, "feature")
        feature = nn.Dense(self.feature_dim, kernel_init=xavier, dtype=self.dtype, name="feature")
        return feature(x).astype(jnp.float32)
