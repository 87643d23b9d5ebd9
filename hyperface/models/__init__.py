"""Backbones: images [batch, height, width, channels] in [-1, 1] to features [batch, dim].

`create` builds one by name, `from_object` takes a user's own, and `describe` says what one of ours
is. The table of ours is `MODELS`.
"""

from hyperface.extras import require

require("train", "flax")

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.errors import InputError, unknown_name
from hyperface.models.iresnet import IResNet
from hyperface.models.layers import Backbone
from hyperface.models.lenet import LeNet, PlaneLeNet
from hyperface.models.lightcnn import LightCNN
from hyperface.models.mobilefacenet import MobileFaceNet, Stage
from hyperface.models.sphereface import SphereFace
from hyperface.models.wen import Wen

__all__ = [
    "MODELS",
    "Backbone",
    "Description",
    "Entry",
    "IResNet",
    "LeNet",
    "LightCNN",
    "MobileFaceNet",
    "PlaneLeNet",
    "SphereFace",
    "Wen",
    "create",
    "describe",
    "from_object",
]


class Entry(NamedTuple):
    """A named backbone, at the sizes of its paper."""

    make: Callable[..., nn.Module]
    image_shape: tuple[int, int, int]
    """(height, width, channels); any other size that is large enough can be trained too."""
    feature_dim: int
    source: str


class Description(NamedTuple):
    """Description of a backbone at the sizes of its paper."""

    name: str
    image_shape: tuple[int, int, int]
    feature_dim: int
    parameters: int
    gflops: float
    """10^9 floating-point operations per feature; a multiply-add counts as 2, padding as 0."""
    source: str


_MNIST, _FACE, _SQUARE = (28, 28, 1), (112, 96, 3), (112, 112, 3)
_SPHEREFACE = "Liu et al. 2017, SphereFace"
_MINI = "this library, for small data"
_IRESNET = "Duta et al. 2020, as insightface arranges it"
_MOBILE = "Chen et al. 2018, MobileFaceNets"
# Batch normalisation is part of the other layers, as deployed files have it.
_FOLDED = "-folded"

MODELS: dict[str, Entry] = {
    # 5x5 kernels, one slope a PReLU, a feature without bias.
    "lenet": Entry(
        partial(LeNet, kernel_size=5, shared_slopes=True, feature_bias=False),
        _MNIST,
        2,
        "Zheng et al. 2018, Ring loss, MNIST toy",
    ),
    # 3x3 kernels, overlapping last pool. Its file asks for a gaussian with `value: 0.01`, a field
    # that Caffe ignores: the standard deviation is 1.
    "lenet-normface": Entry(
        partial(LeNet, kernel_size=3, last_pool=3, feature_init_std=1.0),
        _MNIST,
        3,
        "Wang et al. 2017, NormFace, MNIST toy",
    ),
    "lenet-caffe": Entry(
        partial(LeNet, kernel_size=5, last_pool=3, feature_prelu=True),
        _MNIST,
        2,
        "Wen et al. 2016, center loss, MNIST toy",
    ),
    "lenet-plane": Entry(PlaneLeNet, _MNIST, 2, "Wang et al. 2017, NormFace, Figure 2"),
    "wen28": Entry(Wen, _FACE, 512, "Wen et al. 2016, center loss; NormFace's ResNet"),
    "lightcnn-9": Entry(LightCNN, (128, 128, 1), 256, "Wu et al. 2015, light CNN; NormFace's Wu"),
    # These two kinds of net at a size for small data and two CPU cores.
    "lightcnn-mini": Entry(partial(LightCNN, slimmer=4), _FACE, 128, _MINI),
    "sphereface-mini": Entry(
        partial(SphereFace, widths=(16, 32, 64, 64, 64), blocks=(0, 1, 1, 0, 0)),
        (112, 92, 1),
        128,
        _MINI,
    ),
    "sphereface-20": Entry(SphereFace, _FACE, 512, _SPHEREFACE),
    "sphereface-36": Entry(partial(SphereFace, blocks=(2, 4, 8, 2)), _FACE, 512, _SPHEREFACE),
    "sphereface-64": Entry(
        partial(SphereFace, blocks=(3, 8, 16, 3)), _FACE, 512, f"{_SPHEREFACE}; Ring loss' Res64"
    ),
    # The released file has 7 blocks in its second stage, and so 62 convolutions.
    "sphereface-64-released": Entry(
        partial(SphereFace, blocks=(3, 7, 16, 3)), _FACE, 512, f"{_SPHEREFACE}, released file"
    ),
    **{
        f"iresnet-{depth}{ending}": Entry(
            partial(IResNet, blocks=blocks, folded=bool(ending)),
            _SQUARE,
            512,
            _IRESNET + ending.replace("-", ", "),
        )
        for ending in ("", _FOLDED)
        for depth, blocks in ((18, (2, 2, 2, 2)), (50, (3, 4, 14, 3)), (100, (3, 13, 30, 3)))
    },
    "mobilefacenet": Entry(MobileFaceNet, _SQUARE, 128, _MOBILE),
    "mobilefacenet-folded": Entry(
        partial(MobileFaceNet, folded=True), _SQUARE, 512, f"{_MOBILE}, as a released file has it"
    ),
    **{
        f"mobilefacenet-wide{ending}": Entry(
            partial(
                MobileFaceNet,
                stem=128,
                stem_groups=64,
                stages=(
                    Stage(128, 128, 128, 5),
                    Stage(256, 256, 256, 7),
                    Stage(256, 512, 256, 3),
                ),
                folded=bool(ending),
            ),
            _SQUARE,
            512,
            f"{_MOBILE}, as insightface widens it{ending.replace('-', ', ')}",
        )
        for ending in ("", _FOLDED)
    },
}


def create(
    name: str,
    feature_dim: int | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> nn.Module:
    """Returns the backbone of a name, for images of any size.

    Args:
      name: one of `MODELS`.
      feature_dim: size of the feature; the paper's by default.
      dtype: of the computation; parameters and features are float32.
      remat: compute the insides of blocks again in the backward pass instead of keeping them.

    Raises:
      InputError: no such name; the message has the nearest one.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    entry = MODELS[name]
    return entry.make(feature_dim=feature_dim or entry.feature_dim, dtype=dtype, remat=remat)


def from_object(
    backbone: Any, *, feature_dim: int, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> nn.Module:
    """Returns the backbone that a user gave as an object.

    Args:
      backbone: a linen module; or a function or class that returns one, and is given those of the
        other arguments that it has parameters for.
      feature_dim, dtype, remat: as of `create`.

    Raises:
      InputError: the object is no linen module, and the function returns none.
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
    return backbone.clone(name=None, parent=None)


def describe(name: str) -> Description:
    """Describes the backbone of a name at its paper's sizes; nothing is computed or compiled.

    Raises:
      InputError: no such name; the message has the nearest one.
    """
    model = create(name)
    entry = MODELS[name]
    images = jax.ShapeDtypeStruct((1, *entry.image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    cost = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert cost is not None  # XLA counts on each of its platforms.
    return Description(
        name, entry.image_shape, entry.feature_dim, parameters, cost["flops"] / 1e9, entry.source
    )
