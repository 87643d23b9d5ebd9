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
    """A rectangular part of a resized photo, and the place where it is copied to a canvas.

    A photo is searched at many sizes, the levels of its pyramid. The levels are cut into tiles. The
    tiles are copied to square canvases of CANVAS x CANVAS pixels, the only input size of P-net.
    """

    level: int
    """Index of the level, 0 for the largest size."""
    top: int
    """First row of the tile in its level."""
    left: int
    """First column of the tile in its level."""
    height: int
    """Height of the tile in pixels."""
    width: int
    """Width of the tile in pixels."""
    canvas: int
    """Index of the canvas."""
    row: int
    """First row of the tile on its canvas."""
    column: int
    """First column of the tile on its canvas."""


class Photo:
    """A photo from which parts are cut out and resized, quickly for parts of any size.

    It stores copies of the photo at 1/2, 1/4, 1/8, ... of its size. Each part is cut out of the
    smallest copy that is large enough, so that fewer pixels are read.

    Args:
      pixels: [height, width, 3] uint8.
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
        """Cuts square parts out of the photo and resizes all of them to one size.

        Pixels outside of the photo are grey (128).

        Args:
          boxes: [n, 4] square boxes (left, top, right, bottom) in pixels of the photo.
          side: side in pixels of each result.

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
    """Returns the sizes (height, width) at which a photo is searched, the largest first.

    P-net finds faces that fill a window of 12 x 12 pixels. Larger faces are found in reduced copies
    of the photo, the levels of a pyramid; each level has half the area of the level before.

    Args:
      height: height of the photo.
      width: width of the photo.
      smallest: side in pixels of the smallest face to find; it fills a window at the first level.

    Returns:
      The sizes; an empty list if the photo is smaller than the smallest face.
    """
    sizes = []
    scale = PNET_SIDE / smallest
    # A level must be at least as large as one window of P-net.
    while min(height, width) * scale >= PNET_SIDE:
        sizes.append((round(height * scale), round(width * scale)))
        scale *= FACTOR
    return sizes


def pack_levels(sizes: list[tuple[int, int]]) -> list[Tile]:
    """Plans how the levels of a pyramid are cut into tiles and packed onto square canvases.

    P-net then runs on canvases of one size, CANVAS x CANVAS pixels, for photos of every size.
    Neighbouring tiles overlap, so that each window of a level is completely inside one tile. Tiles
    start at even rows and columns, as P-net's windows do, so that the result of a window does not
    depend on the place of its tile.

    Args:
      sizes: (height, width) of each level, as `levels` returns them.

    Returns:
      The tiles, in the order in which they are placed.
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
    """Returns the number of P-net's windows (12 pixels, stride 2) along a side of `length` pixels.

    Args:
      length: height or width in pixels of a tile or a canvas, at least 12.
    """
    return (length - PNET_SIDE) // STRIDE + 1


def _even(length: int) -> int:
    """Returns the next even number."""
    # The next tile must start at a place where a window of P-net starts.
    return length + length % STRIDE


def _starts(length: int) -> range:
    """Returns where the tiles along one side of a level start."""
    # The end of the range leaves out a last tile that would have no window of its own.
    return range(0, length - PNET_SIDE + 1, CANVAS - _OVERLAP)
