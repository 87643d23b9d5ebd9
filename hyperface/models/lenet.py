"""The LeNets of both papers' MNIST toys."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, PReLU, max_pool, xavier


class LeNet(Backbone):
    """Three pairs of convolutions of 32, 64 and 128 channels with PReLU, each pair pooled by two.

    28 x 28 images end as 3 x 3 x 128 = 1,152 numbers, from which one linear layer makes the
    feature, so small (2 or 3) that it can be drawn.

    Attributes:
      feature_dim: 2 to plot on a plane, 3 in NormFace's toy.
      kernel_size: 5 (Ring loss, center loss) or 3 (NormFace); padding keeps the size.
      last_pool: window of the last pool, 2 or 3; the stride is 2 always.
      shared_slopes: one PReLU slope per layer instead of one per channel.
      feature_bias: whether the feature layer has a bias.
      feature_init_std: standard deviation of the feature layer's first weights; None is xavier. At
        xavier's size features start short, and Eq. 4 divides their gradient by that length.
      feature_prelu: whether a PReLU follows the feature layer.
    """

    feature_dim: int = 2
    kernel_size: int = 5
    last_pool: int = 2
    shared_slopes: bool = False
    feature_bias: bool = True
    feature_init_std: float | None = None
    feature_prelu: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Features [batch, feature_dim] float32."""
        x = self.first(images, "conv1a")
        for stage, (width, window) in enumerate([(32, 2), (64, 2), (128, self.last_pool)], 1):

            def pair(
                self: LeNet, x: jax.Array, stage: int = stage, width: int = width
            ) -> jax.Array:
                for place in ("a", "b"):
                    conv = nn.Conv(
                        width,
                        (self.kernel_size,) * 2,
                        kernel_init=xavier,
                        dtype=self.dtype,
                        name=f"conv{stage}{place}",
                    )
                    x = PReLU(self.shared_slopes, name=f"prelu{stage}{place}")(conv(x))
                return x

            x = max_pool(self.block(pair, x), window)
        std = self.feature_init_std
        feature = nn.Dense(
            self.feature_dim,
            use_bias=self.feature_bias,
            kernel_init=xavier if std is None else nn.initializers.normal(std),
            dtype=self.dtype,
            name="feature",
        )
        x = feature(self.flat(x, images, "feature"))
        if self.feature_prelu:
            x = PReLU(self.shared_slopes, name="prelu_feature")(x)
        # Features are float32 whatever the layers compute in: the losses need the digits.
        return x.astype(jnp.float32)


class PlaneLeNet(Backbone):
    """LeNet's two convolutions, 20 and 50 of 5 x 5 without padding, and 500 hidden numbers.

    The net that draws NormFace's Figure 2: a twenty-eighth of `LeNet`'s arithmetic.

    Attributes:
      feature_dim: 2 to plot on a plane.
      dense_init_std: standard deviation of the two linear layers' first weights. The released file
        has 0.001, from which features need a thousand steps to leave zero; None is xavier.
    """

    feature_dim: int = 2
    dense_init_std: float | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Features [batch, feature_dim] float32."""
        x = self.first(images, "conv1")
        for number, width in enumerate((20, 50), 1):
            conv = nn.Conv(
                width,
                (5, 5),
                padding="VALID",
                kernel_init=xavier,
                dtype=self.dtype,
                name=f"conv{number}",
            )
            # A slope above zero keeps the order, and after the pool there are fewer numbers.
            x = PReLU(name=f"prelu{number}")(max_pool(conv(x)))
        std = self.dense_init_std
        init = xavier if std is None else nn.initializers.normal(std)
        hidden = nn.Dense(500, kernel_init=init, dtype=self.dtype, name="hidden")
        x = PReLU(name="prelu_hidden")(hidden(self.flat(x, images, "hidden")))
        feature = nn.Dense(self.feature_dim, kernel_init=init, dtype=self.dtype, name="feature")
        return feature(x).astype(jnp.float32)
