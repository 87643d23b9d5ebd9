"""A photo at many sizes: the pyramid that P-net searches and the windows of the other two.

All levels of a pyramid are packed onto canvases of one size, so that P-net is compiled once for
photos of every size, and needs the same memory for each.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from hyperface.data.detection.networks import PNET_SIDE, STRIDE

CANVAS = 256
"""Side of a canvas in pixels. The pyramid of a photo of 250 x 250 pixels fits onto one."""
FACTOR = 0.709
"""How much smaller each level is than the one before: half the area."""
GREY = 128
"""Value of the pixels outside of a photo, which the networks see as zero."""
_OVERLAP = PNET_SIDE - STRIDE


class Tile(NamedTuple):
    """A part of a level of the pyramid, and where it lies on a canvas."""

    level: int
    top: int
    left: int
    """Place of the part in its level."""
    height: int
    width: int
    canvas: int
    row: int
    column: int
    """Place of the part on the canvas."""


class Photo:
    """A photo with copies of half, a quarter, ... of its size, from which parts are resized.

    Pillow's resizing of a small part of a large image reads every pixel below it. With these copies
    a window costs the same, whatever the size of the face.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        """Takes [height, width, 3] uint8."""
        self.height, self.width = pixels.shape[:2]
        self.copies = [Image.fromarray(pixels)]
        while min(self.copies[-1].size) >= 4 * PNET_SIDE:
            self.copies.append(self.copies[-1].reduce(2))

    def _halvings(self, shrink: float) -> int:
        """Place of the smallest copy that is at least as large as the photo over `shrink`."""
        return min(int(math.log2(max(shrink, 1.0))), len(self.copies) - 1)

    def resized(self, height: int, width: int) -> np.ndarray:
        """Returns the whole photo at another size, [height, width, 3] uint8."""
        copy = self.copies[self._halvings(min(self.height / height, self.width / width))]
        return np.asarray(copy.resize((width, height), Image.Resampling.BILINEAR))

    def windows(self, boxes: np.ndarray, side: int) -> np.ndarray:
        """Returns square parts at one size; what lies outside of the photo is grey.

        Args:
          boxes: [n, 4] as in `boxes`.
          side: of the result, in pixels.

        Returns:
          [n, side, side, 3] uint8.
        """
        found = np.empty((len(boxes), side, side, 3), np.uint8)
        for place, box in enumerate(boxes):
            # `transform` weighs four pixels: from a larger copy it would skip those in between.
            halvings = self._halvings((box[2] - box[0]) / side)
            part = self.copies[halvings].transform(
                (side, side),
                Image.Transform.EXTENT,
                # Half of an odd side is rounded up, so that the scale is a power of two.
                tuple(box / 2**halvings),
                Image.Resampling.BILINEAR,
                fillcolor=(GREY, GREY, GREY),
            )
            found[place] = np.asarray(part)
        return found


def levels(height: int, width: int, smallest: float) -> list[tuple[int, int]]:
    """Returns the (height, width) of each level of a photo's pyramid, the largest first.

    Args:
      height: of the photo.
      width: of the photo.
      smallest: side in pixels of the smallest face to find, which fills a window of P-net at the
        first level.
    """
    sizes = []
    scale = PNET_SIDE / smallest
    # A level must hold at least one window of P-net.
    while min(height, width) * scale >= PNET_SIDE:
        sizes.append((round(height * scale), round(width * scale)))
        scale *= FACTOR
    return sizes


def packed(sizes: list[tuple[int, int]]) -> list[Tile]:
    """Cuts levels into tiles and lays these on canvases in rows, the highest tiles first.

    Neighbouring tiles overlap, so that each window of a level lies completely in one tile. Tiles
    start at even rows and columns, as windows do, so a window's result does not depend on the place
    of its tile.

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
    # The highest first: the first tile of a row sets its height, and little stays empty.
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
    # The next tile must start at a place where a window of P-net starts.
    return length + length % STRIDE


def _starts(length: int) -> range:
    """Returns where the tiles along one side of a level start; the last has an own window."""
    return range(0, length - PNET_SIDE + 1, CANVAS - _OVERLAP)
