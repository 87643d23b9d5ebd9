"""Degrades images to low resolution, as Ring loss' Experiment 6 tests it."""

import math

import numpy as np
from PIL import Image

FACTORS = (4, 16, 25, 36, 64)
"""The factors of Experiment 6, by which the number of pixels is divided: sides are divided by 2, 4,
5, 6 and 8."""


def degrade(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Returns an image of the same size, but with only the detail of a smaller image.

    The image is reduced to 1 / `factor` of its number of pixels with a bicubic filter that smooths
    first, and is then enlarged to its old size with a bicubic filter. The sides of the small image
    are rounded: 112 x 96 becomes 22 x 19 at factor 25.

    Args:
      pixels: [height, width, 1 or 3] uint8.
      factor: factor by which the area is divided, at least 1; 1 returns the image itself.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: the factor is below 1 or not finite, or a side of the small image has no pixel.

    Example:
      >>> degrade(np.full((112, 96, 3), 200, np.uint8), 64).mean()
      np.float64(200.0)

    References:
      Zheng et al., Ring loss: Convex Feature Normalization for Face Recognition, CVPR 2018, Exp. 6.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"expected an area factor of at least 1, found {factor}")
    height, width, channels = pixels.shape
    # The factor divides the area, so its root divides each side. The paper leaves open which it is.
    small = tuple(round(side / math.sqrt(factor)) for side in (width, height))
    if min(small) < 1:
        raise ValueError(
            f"expected an area factor that leaves a pixel of {width} x {height}, found {factor}"
        )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for shape in (small, (width, height)):
        image = image.resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(pixels.shape)
