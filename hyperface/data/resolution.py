"""Low resolution, as Ring loss tests it: an image made small and brought back to its size."""

import math

import numpy as np
from PIL import Image

FACTORS = (4, 16, 25, 36, 64)
"""How many times fewer pixels Ring loss' Exp. 6 keeps: sides over 2, 4, 5, 6 and 8."""


def degrade(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image as if taken with `factor` times fewer pixels, in its old size.

    Bicubic down, smoothed as the smaller image needs it, and bicubic up again. Sides that do not
    divide are rounded: 112 x 96 becomes 22 x 19 at factor 25.

    Args:
      pixels: [height, width, 1 or 3] uint8.
      factor: of area, at least 1; 1 gives the image itself.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: the factor is below 1 or not finite, or leaves no pixel of a side.

    Example:
      >>> degrade(np.full((112, 96, 3), 200, np.uint8), 64).mean()
      np.float64(200.0)

    References:
      Ring loss, Exp. 6.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"expected an area factor of at least 1, found {factor}")
    height, width, channels = pixels.shape
    small = tuple(round(side / math.sqrt(factor)) for side in (width, height))
    if min(small) < 1:
        raise ValueError(
            f"expected an area factor that leaves a pixel of {width} x {height}, found {factor}"
        )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for shape in (small, (width, height)):
        image = image.resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(pixels.shape)
