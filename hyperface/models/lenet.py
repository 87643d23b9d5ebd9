"""The deeper LeNet of both papers' MNIST toys."""

import jax
from flax import linen as nn

from hyperface.models.layers import PReLU, xavier


class LeNet(nn.Module):
    """Three pairs of convolutions of 32, 64 and 128 channels with PReLU, each pair pooled by two.

    28 x 28 images end as 3 x 3 x 128 = 1,152 numbers, from which one linear layer makes the
    feature, so small (2 or 3) that it can be drawn.

    Attributes:
      feature_dim: 2 to plot on a plane, 3 in NormFace's toy.
      kernel_size: 5 (Ring loss) or 3 (NormFace); padding keeps the size.
      last_pool: window of the last pool, 2 or 3; the stride is 2 always.
      shared_slopes: one PReLU slope a layer instead of one a channel.
      feature_bias: whether the feature layer has a bias.
      feature_init_std: standard deviation of the feature layer's first weights; None is xavier. At
        xavier's size features start short, and Eq. 4 divides their gradient by that length.
    """

    feature_dim: int = 2
    kernel_size: int = 5
    last_pool: int = 2
    shared_slopes: bool = False
    feature_bias: bool = True
    feature_init_std: float | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for stage, (width, window) in enumerate([(32, 2), (64, 2), (128, self.last_pool)], 1):
            for place in ("a", "b"):
                name = f"conv{stage}{place}"
                x = nn.Conv(width, (self.kernel_size,) * 2, kernel_init=xavier, name=name)(x)
                x = PReLU(self.shared_slopes, name=f"prelu{stage}{place}")(x)
            x = nn.max_pool(x, (window, window), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        std = self.feature_init_std
        init = xavier if std is None else nn.initializers.normal(std)
        feature = nn.Dense(
            self.feature_dim, use_bias=self.feature_bias, kernel_init=init, name="feature"
        )
        return feature(x)
