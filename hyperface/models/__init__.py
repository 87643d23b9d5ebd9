"""Backbones: images [batch, height, width, channels] in [-1, 1] to features [batch, dim].

`create` makes one by name; the table is `MODELS`.
"""

from collections.abc import Callable
from functools import partial

from flax import linen as nn

from hyperface.errors import unknown_name
from hyperface.models.lenet import LeNet
from hyperface.models.sphereface import SphereFace

__all__ = ["MODELS", "LeNet", "SphereFace", "create"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    # Ring loss' MNIST toy: 5x5 kernels, one slope a PReLU, a feature without bias.
    "lenet": partial(LeNet, kernel_size=5, shared_slopes=True, feature_bias=False),
    # NormFace's MNIST toy: 3x3 kernels, overlapping last pool. Its file asks for a gaussian with
    # `value: 0.01`, a field that Caffe ignores: the standard deviation is 1.
    "lenet-normface": partial(LeNet, kernel_size=3, last_pool=3, feature_init_std=1.0),
    # SphereFace's kind of net at a size for small data and two CPU cores.
    "sphereface-mini": partial(SphereFace, widths=(16, 32, 64, 64, 64), blocks=(0, 1, 1, 0, 0)),
}


def create(name: str, feature_dim: int) -> nn.Module:
    """The backbone of that name with features [batch, feature_dim].

    Raises:
      InputError: no such name; the message has the nearest one.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name](feature_dim=feature_dim)
