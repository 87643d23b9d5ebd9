"""Wu's light CNN with max-feature-map activations."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperface.models.layers import Backbone, max_pool, xavier

# (name, kernel, channels that are left by max-feature-map, whether a pool follows).
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
    """The larger of channel i and channel i + half: half as many channels."""
    return jnp.maximum(*jnp.split(x, 2, axis=-1))


class LightCNN(Backbone):
    """Nine convolutions, each with max-feature-map, four pools, and a feature by max-feature-map.

    128 x 128 images end as 8 x 8 x 128 = 8,192 numbers. Biases start at 0.1. The dropout of the
    paper stands between the feature and the classes, and is a setting of the loss' head. `slimmer`
    divides the channels of all convolutions.
    """

    feature_dim: int = 256
    slimmer: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Features [batch, feature_dim] float32."""
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
                channels = 2 * width // self.slimmer
                conv = nn.Conv(channels, (kernel, kernel), name=name, **settings)
                return max_feature_map(conv(x))

            x = self.block(body, x)
            if pool:
                x = max_pool(x, round_up=True)
        x = self.flat(x, images, "feature")
        feature = nn.Dense(2 * self.feature_dim, name="feature", **settings)
        return max_feature_map(feature(x)).astype(jnp.float32)
