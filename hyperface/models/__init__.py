"""Backbones: networks from images [batch, height, width, channels] in [-1, 1] to features.

The features have shape [batch, dim]. `create` builds a backbone by its name in `BACKBONES`, and
`from_object` builds a user's own.
"""

from hyperface.extras import require

require("train", "flax")

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.config.backbones import BACKBONES
from hyperface.errors import InputError, unknown_name
from hyperface.models.iresnet import IResNet
from hyperface.models.layers import Backbone
from hyperface.models.lenet import LeNet, PlaneLeNet
from hyperface.models.lightcnn import LightCNN
from hyperface.models.mobilefacenet import MobileFaceNet, Stage
from hyperface.models.sphereface import SphereFace
from hyperface.models.wen import Wen

__all__ = [
    "BACKBONES",
    "Backbone",
    "IResNet",
    "LeNet",
    "LightCNN",
    "MobileFaceNet",
    "PlaneLeNet",
    "SphereFace",
    "Wen",
    "create",
    "from_object",
]


# Ending of the names of networks whose batch normalisation is merged ("folded") into the other
# layers, as in files for deployment.
_FOLDED = "-folded"

MAKERS: dict[str, Callable[..., nn.Module]] = {
    # Ring loss' network: 5x5 kernels, one slope per PReLU, a feature without bias.
    "lenet": partial(LeNet, kernel_size=5, shared_slopes=True, feature_bias=False),
    # NormFace's network: 3x3 kernels, an overlapping last pool. Its prototxt asks for a gaussian
    # filler with `value: 0.01`. Caffe ignores that field there, so the standard deviation is 1.
    "lenet-normface": partial(LeNet, kernel_size=3, last_pool=3, feature_init_std=1.0),
    "lenet-caffe": partial(LeNet, kernel_size=5, last_pool=3, feature_prelu=True),
    "lenet-plane": PlaneLeNet,
    "wen28": Wen,
    "lightcnn-9": LightCNN,
    # Light CNN and SphereFace's network in a size for small data sets and two CPU cores.
    "lightcnn-mini": partial(LightCNN, slimmer=4),
    "sphereface-mini": partial(SphereFace, widths=(16, 32, 64, 64, 64), blocks=(0, 1, 1, 0, 0)),
    "sphereface-20": SphereFace,
    "sphereface-36": partial(SphereFace, blocks=(2, 4, 8, 2)),
    "sphereface-64": partial(SphereFace, blocks=(3, 8, 16, 3)),
    # The paper has 8 blocks in its second stage, and the released file has 7.
    "sphereface-64-released": partial(SphereFace, blocks=(3, 7, 16, 3)),
    **{
        f"iresnet-{depth}{ending}": partial(IResNet, blocks=blocks, folded=bool(ending))
        for ending in ("", _FOLDED)
        for depth, blocks in ((18, (2, 2, 2, 2)), (50, (3, 4, 14, 3)), (100, (3, 13, 30, 3)))
    },
    "mobilefacenet": MobileFaceNet,
    "mobilefacenet-folded": partial(MobileFaceNet, folded=True),
    **{
        f"mobilefacenet-wide{ending}": partial(
            MobileFaceNet,
            stem=128,
            stem_groups=64,
            stages=(Stage(128, 128, 128, 5), Stage(256, 256, 256, 7), Stage(256, 512, 256, 3)),
            folded=bool(ending),
        )
        for ending in ("", _FOLDED)
    },
}
"""Name of a backbone -> function that builds it from `feature_dim`, `dtype` and `remat`."""


def create(
    name: str,
    feature_dim: int | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> nn.Module:
    """Returns the backbone (a network from images to features) of this name, for any image size.

    Args:
      name: one of `BACKBONES`, such as "sphereface-mini".
      feature_dim: number of values of the feature; None takes the default of this backbone
        (the field `feature_dim` of its class).
      dtype: type that the layers compute in; parameters and features are always float32.
      remat: recompute the activations inside of blocks in the backward pass instead of storing
        them. This takes less memory and more time.

    Raises:
      InputError: there is no such name; the message suggests the nearest one.
    """
    if name not in BACKBONES:
        raise unknown_name("model", name, BACKBONES)
    dim = feature_dim or BACKBONES[name].feature_dim
    return MAKERS[name](feature_dim=dim, dtype=dtype, remat=remat)


def from_object(
    backbone: Any, *, feature_dim: int, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> nn.Module:
    """Returns the backbone that a user supplied as an object.

    Args:
      backbone: a flax linen module, or a function or class that returns one. The function is called
        with `feature_dim`, `dtype` and `remat`, if its signature has parameters of these names.
      feature_dim: size of the feature.
      dtype: type that the layers compute in; parameters and features are always float32.
      remat: recompute the activations inside of blocks in the backward pass instead of storing
        them. This takes less memory and more time.

    Raises:
      InputError: the function does not return a linen module.
    """
    if not isinstance(backbone, nn.Module):
        known = inspect.signature(backbone).parameters
        settings = {"feature_dim": feature_dim, "dtype": dtype, "remat": remat}
        module = backbone(**{name: x for name, x in settings.items() if name in known})
        if not isinstance(module, nn.Module):
            raise InputError(
                "model.backbone: expected a flax linen module, or a function that returns one, "
                f"found {type(module).__name__}."
            )
        backbone = module
    # A module may have a name of its own, under which linen would put the parameters. Checkpoints
    # and optimiser groups expect them under the name "backbone".
    return backbone.clone(name=None, parent=None)
