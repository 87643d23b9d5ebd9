"""Lists the sizes and the sources of our backbones, as a table that needs no JAX.

The numbers are stored, because computing them would load JAX and build every network. A test
compares them with the networks.
"""

from typing import NamedTuple


class Description(NamedTuple):
    """The description of one backbone, with the image and feature sizes of its paper."""

    image_shape: tuple[int, int, int]
    """(height, width, channels) of the images; the network can be trained on other sizes too."""
    feature_dim: int
    """Number of values of the feature."""
    parameters: int
    """Number of parameters, without the classifier."""
    flops: int
    """Floating-point operations per image. A multiply-add counts as 2, and padding as 0."""
    source: str
    """The paper or the code that describes the network."""


_MNIST, _FACE, _SQUARE = (28, 28, 1), (112, 96, 3), (112, 112, 3)
_SPHEREFACE = "Liu et al. 2017, SphereFace"
_MINI = "this library, for small data"
_IRESNET = "Duta et al. 2020, as insightface arranges it"
_MOBILE = "Chen et al. 2018, MobileFaceNets"

BACKBONES: dict[str, Description] = {
    "lenet": Description(
        _MNIST, 2, 797_158, 129_979_072, "Zheng et al. 2018, Ring loss, MNIST toy"
    ),
    "lenet-normface": Description(
        _MNIST, 3, 290_339, 52_001_348, "Wang et al. 2017, NormFace, MNIST toy"
    ),
    "lenet-caffe": Description(
        _MNIST, 2, 797_604, 129_984_832, "Wen et al. 2016, center loss, MNIST toy"
    ),
    "lenet-plane": Description(
        _MNIST, 2, 427_642, 4_616_802, "Wang et al. 2017, NormFace, Figure 2"
    ),
    "wen28": Description(
        _FACE, 512, 27_536_800, 3_864_614_656, "Wen et al. 2016, center loss; NormFace's ResNet"
    ),
    "lightcnn-9": Description(
        (128, 128, 1), 256, 5_480_864, 1_885_642_240, "Wu et al. 2015, light CNN; NormFace's Wu"
    ),
    "lightcnn-mini": Description(_FACE, 128, 426_744, 112_435_072, _MINI),
    "sphereface-mini": Description((112, 92, 1), 128, 288_176, 61_168_096, _MINI),
    "sphereface-20": Description(_FACE, 512, 22_666_944, 3_199_355_904, _SPHEREFACE),
    "sphereface-36": Description(_FACE, 512, 32_771_392, 6_086_506_496, _SPHEREFACE),
    "sphereface-64": Description(
        _FACE, 512, 48_186_816, 11_154_483_200, f"{_SPHEREFACE}; Ring loss' Res64"
    ),
    "sphereface-64-released": Description(
        _FACE, 512, 47_891_648, 10_777_704_448, f"{_SPHEREFACE}, released file"
    ),
    "iresnet-18": Description(_SQUARE, 512, 24_025_088, 4_957_478_912, _IRESNET),
    "iresnet-50": Description(_SQUARE, 512, 43_590_336, 11_715_328_000, _IRESNET),
    "iresnet-100": Description(_SQUARE, 512, 65_155_648, 22_414_241_792, _IRESNET),
    # "-folded" is the form in which released ONNX files have a network: batch normalisation is
    # folded into the other layers, so it has fewer parameters and operations.
    "iresnet-18-folded": Description(
        _SQUARE, 512, 24_019_712, 4_948_282_880, f"{_IRESNET}, folded"
    ),
    "iresnet-50-folded": Description(
        _SQUARE, 512, 43_577_152, 11_701_006_336, f"{_IRESNET}, folded"
    ),
    "iresnet-100-folded": Description(
        _SQUARE, 512, 65_131_968, 22_391_439_360, f"{_IRESNET}, folded"
    ),
    "mobilefacenet": Description(_SQUARE, 128, 1_003_136, 458_977_536, _MOBILE),
    "mobilefacenet-folded": Description(
        _SQUARE, 512, 1_190_336, 452_940_288, f"{_MOBILE}, as a released file has it"
    ),
    "mobilefacenet-wide": Description(
        _SQUARE, 512, 2_059_520, 895_932_160, f"{_MOBILE}, as insightface widens it"
    ),
    "mobilefacenet-wide-folded": Description(
        _SQUARE, 512, 2_047_616, 887_802_880, f"{_MOBILE}, as insightface widens it, folded"
    ),
}
"""Every backbone that `hyperface.models.create` builds."""
