"""The LeNets of the MNIST experiments in the NormFace and Ring loss papers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, PReLU, max_pool, xavier


class LeNet(Backbone):
    """A LeNet of three pairs of convolutions whose feature is small enough to be plotted.

    It maps images [batch, height, width, channels] to features [batch, feature_dim]. The pairs of
    convolutions have 32, 64 and 128 channels, with PReLU after each convolution and max pooling
    after each pair. The last feature map of 28 x 28 images is 3 x 3 x 128, and one linear layer
    computes the feature from it.

    Attributes:
      feature_dim: size of the feature: 2 to plot it on a plane, 3 in NormFace's MNIST experiment.
      kernel_size: 5 (Ring loss, center loss) or 3 (NormFace); padding keeps the size of the map.
      last_pool: window of the last pool, 2 or 3; its stride is always 2.
      shared_slopes: whether a PReLU layer has one slope for all channels instead of one each.
      feature_bias: whether the feature layer has a bias.
      feature_init_std: standard deviation of the feature layer's initial weights; None uses Caffe's
        xavier initialisation. Xavier values make the first features short. The gradient that passes
        through their normalisation is then large, because it is divided by their length (NormFace,
        Eq. 4).
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
        """Returns the features [batch, feature_dim] in float32."""
        x = self.first(images, "conv1a")
        for stage, (width, window) in enumerate([(32, 2), (64, 2), (128, self.last_pool)], 1):
            # `self` is an argument because `nn.remat` requires the module as the first one.
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
        # Float32 even if the layers compute in bfloat16: the losses need the precision.
        return x.astype(jnp.float32)


class PlaneLeNet(Backbone):
    """The small LeNet of NormFace's Figure 2, with a feature that is plotted on a plane.

    It maps images [batch, height, width, channels] to features [batch, feature_dim]. It has two 5 x
    5 convolutions of 20 and 50 channels without padding, and a hidden layer of 500 units. It needs
    about 1/28 of the operations of `LeNet`.

    Attributes:
      feature_dim: size of the feature: 2 to plot it on a plane.
      dense_init_std: standard deviation of the initial weights of the two linear layers; None uses
        Caffe's xavier initialisation. The authors' published file uses 0.001, with which the
        features stay near zero for the first thousand steps.
    """

    feature_dim: int = 2
    dense_init_std: float | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32."""
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
            # PReLU after the pool equals PReLU before it while the slope is positive, and computes
            # on a quarter of the values.
            x = PReLU(name=f"prelu{number}")(max_pool(conv(x)))
        std = self.dense_init_std
        init = xavier if std is None else nn.initializers.normal(std)
        hidden = nn.Dense(500, kernel_init=init, dtype=self.dtype, name="hidden")
        x = PReLU(name="prelu_hidden")(hidden(self.flat(x, images, "hidden")))
        feature = nn.Dense(self.feature_dim, kernel_init=init, dtype=self.dtype, name="feature")
        return feature(x).astype(jnp.float32)
