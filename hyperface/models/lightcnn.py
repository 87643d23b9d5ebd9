"""Light CNN (Wu et al. 2015), a network with max-feature-map activations."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, max_pool, xavier

# (name, kernel size, channels after max-feature-map, whether a pool follows).
_CONVOLUTIONS = (
    ("conv1", 5, 48, True),
    ("conv2a", 1, 48, False),
    ("conv2", 3, 96, True),
    ("conv3a", 1, 96, False),
    ("conv3", 3, 192, True),
    ("conv4a", 1, 192, False),
    ("conv4", 3, 128, False),
    ("conv5a", 1, 128, False),
    ("conv5", 3, 128, True),
)


def max_feature_map(x: jax.Array) -> jax.Array:
    """Returns [..., channels / 2]: entry i is the larger of channels i and i + channels / 2."""
    return jnp.maximum(*jnp.split(x, 2, axis=-1))


class LightCNN(Backbone):
    """The Light CNN of Wu et al. (2015): nine convolutions and four pools, with max-feature-map.

    It maps images [batch, height, width, channels] to features [batch, feature_dim].
    Max-feature-map is the activation: it takes the larger value of each two channels, and so halves
    their number. It also follows the linear feature layer. The last feature map of 128 x 128 images
    is 8 x 8 x 128. Biases are initialised with 0.1. The paper's dropout is between the feature and
    the classes, so it is a setting of the loss (`SoftmaxTerm.dropout`).

    Attributes:
      feature_dim: number of values of the feature, 256 in the paper.
      slimmer: number by which the channels of all convolutions are divided, 1 in the paper.
    """

    feature_dim: int = 256
    slimmer: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32."""
        settings = {
            "kernel_init": xavier,
            "bias_init": nn.initializers.constant(0.1),
            "dtype": self.dtype,
        }
        x = self.first(images, "conv1")
        for name, kernel, width, pool in _CONVOLUTIONS:

            def body(
                self: LightCNN,
                x: jax.Array,
                name: str = name,
                kernel: int = kernel,
                width: int = width,
            ) -> jax.Array:
                # Twice as many, because max-feature-map halves them.
                channels = 2 * width // self.slimmer
                conv = nn.Conv(channels, (kernel, kernel), name=name, **settings)
                return max_feature_map(conv(x))

            x = self.block(body, x)
            if pool:
                x = max_pool(x, round_up=True)
        x = self.flat(x, images, "feature")
        feature = nn.Dense(2 * self.feature_dim, name="feature", **settings)
        return max_feature_map(feature(x)).astype(jnp.float32)
