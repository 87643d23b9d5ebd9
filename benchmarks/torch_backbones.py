"""The backbones of `hyperface.models` in Torch, with the same layers, to compare their speed."""

import torch
from torch import nn

from hyperface.models.mobilefacenet import MobileFaceNet, Stage


def create(name: str, channels: int) -> nn.Module:
    """Builds a net with the layers of one of our backbones, for images [batch, channels, ...].

    Args:
      name: name of the backbone, such as "iresnet-50".
      channels: number of channels of the images.
    """
    family, _, depth = name.partition("-")
    if family in ("lenet", "lightcnn", "mobilefacenet", "wen28") and depth not in ("", "9"):
        raise ValueError(f"expected a network that has a counterpart in Torch, found {name!r}")
    builders = {
        "iresnet": _iresnet,
        "lenet": _lenet,
        "lightcnn": _lightcnn,
        "mobilefacenet": _mobilefacenet,
        "sphereface": _sphereface,
        "wen28": _wen28,
    }
    return builders[family](depth, channels)


class Sum(nn.Module):
    """The sum of a branch and a shortcut, which is the input itself if it is None."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum, which has the shape of the branch's output."""
        return self.branch(x) + (x if self.shortcut is None else self.shortcut(x))


class MaxFeatureMap(nn.Module):
    """The larger one of two channels, for each pair of channels half the width apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [batch, channels / 2, ...]."""
        return torch.maximum(*x.chunk(2, dim=1))


def _lenet(depth: str, channels: int) -> nn.Module:
    layers = []
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 5, padding=2), nn.PReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2, bias=False))


def _lightcnn(depth: str, channels: int) -> nn.Module:
    layers = []
    sizes = [(5, 48), (1, 48), (3, 96), (1, 96), (3, 192), (1, 192), (3, 128), (1, 128), (3, 128)]
    for place, (kernel, width) in enumerate(sizes):
        conv = nn.Conv2d(channels, 2 * width, kernel, padding=kernel // 2)
        layers += [conv, MaxFeatureMap()]
        layers += [nn.MaxPool2d(2)] if place in (0, 2, 4, 8) else []
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(512), MaxFeatureMap())


def _iresnet(depth: str, channels: int) -> nn.Module:
    def block(inputs, width, stride):
        branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        if stride == 1:
            return Sum(branch)
        shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
        return Sum(branch, nn.Sequential(shortcut, nn.BatchNorm2d(width)))

    number = {"18": (2, 2, 2, 2), "50": (3, 4, 14, 3), "100": (3, 13, 30, 3)}[depth]
    layers = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    channels = 64
    for width, blocks in zip((64, 128, 256, 512), number, strict=True):
        for place in range(blocks):
            layers.append(block(channels, width, 1 if place else 2))
            channels = width
    last = nn.BatchNorm1d(512)
    # insightface keeps the scale of the last layer at 1, and so does our backbone.
    last.weight.requires_grad = False
    return nn.Sequential(*layers, nn.BatchNorm2d(512), nn.Flatten(), nn.LazyLinear(512), last)


def _mobilefacenet(depth: str, channels: int) -> nn.Module:
    def conv(inputs, width, kernel=1, stride=1, groups=1, prelu=True):
        made = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [made, nn.BatchNorm2d(width), *([nn.PReLU(width)] if prelu else [])]

    def block(inputs, width, inside, stride):
        branch = nn.Sequential(
            *conv(inputs, inside),
            *conv(inside, inside, 3, stride, inside),
            *conv(inside, width, prelu=False),
        )
        return Sum(branch) if stride == 1 else branch

    ours = MobileFaceNet()
    layers = [*conv(channels, ours.stem, 3, 2), *conv(ours.stem, ours.stem, 3, 1, ours.stem)]
    channels = ours.stem
    for stage in map(Stage._make, ours.stages):
        for place in range(stage.blocks):
            inside = stage.expansion if place else stage.first_expansion
            layers.append(block(channels, stage.width, inside, 1 if place else 2))
            channels = stage.width
    # The global depthwise layer has a kernel as large as the last map of 112 x 112 images.
    layers += [
        *conv(channels, ours.last),
        nn.Conv2d(ours.last, ours.last, 7, groups=ours.last, bias=False),
    ]
    layers += [nn.BatchNorm2d(ours.last), nn.Flatten(), nn.Linear(ours.last, 128, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm1d(128))


def _sphereface(depth: str, channels: int) -> nn.Module:
    layers = []
    number = {"20": (1, 2, 4, 1), "64": (3, 8, 16, 3)}[depth]
    for width, blocks in zip((64, 128, 256, 512), number, strict=True):
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.PReLU(width)]
        layers += [_residual(width) for _ in range(blocks)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(512))


def _wen28(depth: str, channels: int) -> nn.Module:
    layers, channels = [nn.Conv2d(channels, 32, 3), nn.PReLU(32)], 32
    for width, blocks in zip((64, 128, 256, 512), (1, 2, 5, 3), strict=True):
        layers += [nn.Conv2d(channels, width, 3), nn.PReLU(width)]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [_residual(width) for _ in range(blocks)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(512))


def _residual(width: int) -> nn.Module:
    conv = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
    return Sum(nn.Sequential(conv[0], nn.PReLU(width), conv[1], nn.PReLU(width)))
