"""Resizes a photo to the pyramid that P-net searches, and to the windows of R-net and O-net.

All levels of a pyramid are packed onto canvases of one size, so that P-net is compiled once, and
needs the same memory, for photos of every size.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from hyperface.data.detection.networks import PNET_SIDE, STRIDE

CANVAS = 256
"""Side of a canvas in pixels. The pyramid of a photo of 250 x 250 pixels fits onto one."""
FACTOR = 0.709
"""Side of each level over the side of the level before; the area halves."""
GREY = 128
"""Value of the pixels outside of a photo; scaled for the networks it is about zero."""
_OVERLAP = PNET_SIDE - STRIDE
"""Pixels by which neighbouring tiles overlap."""


class Tile(NamedTuple):
    """A part of a level of the pyramid, and its place on a canvas; all in pixels."""

    level: int
    """Index of the level."""
    top: int
    left: int
    """The top left corner of the part in its level, with `top`."""
    height: int
    width: int
    canvas: int
    """Index of the canvas."""
    row: int
    column: int
    """The top left corner of the part on its canvas, with `row`."""


class Photo:
    """A photo with copies of a half, a quarter and so on of its size, from which parts are resized.

    To reduce a part of an image, Pillow reads all of its pixels. With these copies the cost of a
    window does not depend on the size of the face.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        """Computes the copies of a photo, [height, width, 3] uint8."""
        self.height, self.width = pixels.shape[:2]
        self.copies = [Image.fromarray(pixels)]
        while min(self.copies[-1].size) >= 4 * PNET_SIDE:
            self.copies.append(self.copies[-1].reduce(2))

    def _halvings(self, shrink: float) -> int:
        """Returns the index of the smallest copy that is not smaller than the photo / `shrink`."""
        return min(int(math.log2(max(shrink, 1.0))), len(self.copies) - 1)

    def resized(self, height: int, width: int) -> np.ndarray:
        """Returns the whole photo at another size, [height, width, 3] uint8."""
        copy = self.copies[self._halvings(min(self.height / height, self.width / width))]
        return np.asarray(copy.resize((width, height), Image.Resampling.BILINEAR))

    def windows(self, boxes: np.ndarray, side: int) -> np.ndarray:
        """Cuts square parts out of the photo at one size; grey outside of the photo.

        Args:
          boxes: [n, 4] boxes (left, top, right, bottom) in pixels of the photo.
          side: side of each result in pixels.

        Returns:
          [n, side, side, 3] uint8.
        """
        found = np.empty((len(boxes), side, side, 3), np.uint8)
        for place, box in enumerate(boxes):
            # `transform` blends only the four nearest pixels, and would skip the others.
            halvings = self._halvings((box[2] - box[0]) / side)
            part = self.copies[halvings].transform(
                (side, side),
                Image.Transform.EXTENT,
                # `reduce` rounds half of an odd side up, so the scale is exactly a power of two.
                tuple(box / 2**halvings),
                Image.Resampling.BILINEAR,
                fillcolor=(GREY, GREY, GREY),
            )
            found[place] = np.asarray(part)
        return found


def levels(height: int, width: int, smallest: float) -> list[tuple[int, int]]:
    """Returns the (height, width) of each level of a photo's pyramid, the largest first.

    Args:
      height: height of the photo.
      width: width of the photo.
      smallest: side in pixels of the smallest face to find; at the first level such a face fills a
        window of P-net.
    """
    sizes = []
    scale = PNET_SIDE / smallest
    # A level must be at least as large as one window of P-net.
    while min(height, width) * scale >= PNET_SIDE:
        sizes.append((round(height * scale), round(width * scale)))
        scale *= FACTOR
    return sizes


def pack_levels(sizes: list[tuple[int, int]]) -> list[Tile]:
    """Cuts levels into tiles, and places the tiles in rows on canvases.

    Neighbouring tiles overlap, so that each window of a level is completely inside one tile. Tiles
    start at even rows and columns, as P-net's windows do, so that the result of a window does not
    depend on the place of its tile.

    Args:
      sizes: (height, width) of each level.
    """
    parts = [
        (min(CANVAS, height - top), min(CANVAS, width - left), level, top, left)
        for level, (height, width) in enumerate(sizes)
        for top in _starts(height)
        for left in _starts(width)
    ]
    tiles, canvas, row, column, bottom = [], 0, 0, 0, 0
    # The highest tiles first: the first tile of a row sets its height, and little stays empty.
    for height, width, level, top, left in sorted(parts, key=lambda part: -part[0]):
        if column + width > CANVAS:
            row, column = bottom, 0
        if row + height > CANVAS:
            canvas, row, column, bottom = canvas + 1, 0, 0, 0
        tiles.append(Tile(level, top, left, height, width, canvas, row, column))
        bottom = max(bottom, row + _even(height))
        column += _even(width)
    return tiles


def grid(length: int) -> int:
    """Returns the number of P-net's windows that fit into a length in pixels."""
    return (length - PNET_SIDE) // STRIDE + 1


def _even(length: int) -> int:
    """Returns the next even number."""
    # The next tile must start at a place where a window of P-net starts.
    return length + length % STRIDE


def _starts(length: int) -> range:
    """Returns where the tiles along one side of a level start."""
    # The end of the range leaves out a last tile that would have no window of its own.
    return range(0, length - PNET_SIDE + 1, CANVAS - _OVERLAP)
