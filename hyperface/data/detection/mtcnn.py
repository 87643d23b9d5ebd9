"""Detects faces by MTCNN: three networks in a row, each of which checks what the one before found.

P-net scans the photo at many sizes, R-net rejects most of its windows, and O-net decides and finds
the landmarks.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from hyperface.data.detection import networks
from hyperface.data.detection.boxes import corrected, points_in, squares, suppressed, window_boxes
from hyperface.data.detection.faces import Faces
from hyperface.data.detection.networks import ONET_SIDE, RNET_SIDE, STRIDE
from hyperface.data.detection.pyramid import CANVAS, Photo, Tile, grid, levels, pack_levels
from hyperface.data.detection.weights import Arrays, installed_weights
from hyperface.devices import compiler
from hyperface.errors import expect

SMALLEST, PARTS = 20.0, 50.0
"""By default the smallest face to find has a side of 20 pixels, or of a fiftieth (1 / PARTS) of the
photo's longer side if that is more."""
MOST = 2000
"""Largest number of windows that pass to the next network, per level of the pyramid and per photo.
Photos need a hundred times fewer. The limit bounds time and memory for pictures full of texture."""
BATCHES = {"pnet": 1, "rnet": 32, "onet": 4}
"""Number of inputs per batch of each network; the last batch is filled up. With one size per
network, each network is compiled once for all photos."""


@dataclass(frozen=True)
class Mtcnn:
    """The MTCNN detector: it finds faces and their five landmarks in photos of any size.

    An object is called with a photo, [height, width, 3] uint8 RGB. It returns `Faces`, a tuple
    (boxes [n, 4], scores [n], landmarks [n, 5, 2]) in pixels, the most probable face first. By
    default it finds faces of 20 pixels or more. In photos whose longer side has more than 1,000
    pixels it finds only faces of at least a fiftieth of that side, to limit time and memory.

    The landmarks are one pixel to the right of and below their exact place, because the programs of
    MTCNN's authors count pixels from 1, as MATLAB does. The templates in `hyperface.data.alignment`
    were measured with landmarks of these programs, so aligned faces lie as in the papers.

    Raises:
      InputError: the extra `detect` is not installed, or a setting is out of range.

    Example:
      >>> find = Mtcnn()  # doctest: +SKIP
      >>> boxes, scores, landmarks = find(pixels)  # doctest: +SKIP

    References:
      K. Zhang, Z. Zhang, Z. Li, Y. Qiao. Joint face detection and alignment using multitask
      cascaded convolutional networks. IEEE SPL 23(10), 2016.
    """

    smallest: float | None = None
    """Side in pixels of the smallest face to find, at least 1. None takes 20, or a fiftieth of the
    photo's longer side if that is more."""
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    """One probability of a face, from 0 to 1, for each of P-net, R-net and O-net, the three
    networks that check a window one after the other. A window at or below it is discarded."""
    weights: Arrays = field(default_factory=installed_weights, repr=False, compare=False)
    """The weights: name of a network ("pnet", "rnet" or "onet") -> name of an array, such as
    "conv1/kernel" -> array. By default those in the installed Python package `mtcnn`."""

    def __post_init__(self) -> None:
        expect(self.smallest is None or self.smallest >= 1, "smallest", "1 or more", self.smallest)
        fitting = len(self.thresholds) == 3 and all(0 <= t <= 1 for t in self.thresholds)
        expect(fitting, "thresholds", "three numbers from 0 to 1", self.thresholds)

    def __call__(self, pixels: np.ndarray) -> Faces:
        """Returns the faces of a photo, the most probable one first.

        Args:
          pixels: [height, width, 3] uint8, RGB.
        """
        photo = Photo(pixels)
        boxes = self._proposals(photo)
        boxes = self._refined(photo, boxes)
        return self._judged(photo, boxes)

    def _proposals(self, photo: Photo) -> np.ndarray:
        """Returns squares [n, 4] that may be faces, from P-net's windows at all pyramid levels."""
        longer = max(photo.height, photo.width)
        smallest = self.smallest or max(SMALLEST, longer / PARTS)
        sizes = levels(photo.height, photo.width, smallest)
        tiles = pack_levels(sizes)
        maps = self._run("pnet", _canvases(photo, sizes, tiles))
        kept = []
        for level, size in enumerate(sizes):
            scale = np.array([size[1] / photo.width, size[0] / photo.height])
            own = [_passed(maps, tile, self.thresholds[0]) for tile in tiles if tile.level == level]
            rows, columns, values = (np.concatenate(parts) for parts in zip(*own, strict=True))
            boxes = window_boxes(rows, columns, scale)
            best = _best(boxes, values[:, 0], 0.5)
            # Suppressed on the windows of a level before they are corrected; the corrected boxes of
            # all levels are suppressed again below.
            kept.append((corrected(boxes[best], values[best, 1:]), values[best, 0]))
        if not kept:
            return np.zeros((0, 4))
        boxes, scores = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        return squares(boxes[_best(boxes, scores, 0.7)])

    def _refined(self, photo: Photo, boxes: np.ndarray) -> np.ndarray:
        """Returns the squares [m, 4] that R-net accepts, with its corrections.

        Args:
          photo: the photo.
          boxes: [n, 4] squares that may be faces.
        """
        values = self._run("rnet", photo.windows(boxes, RNET_SIDE))
        passed = values[:, 0] > self.thresholds[1]
        boxes, values = corrected(boxes[passed], values[passed, 1:]), values[passed]
        return squares(boxes[_best(boxes, values[:, 0], 0.7)])

    def _judged(self, photo: Photo, boxes: np.ndarray) -> Faces:
        """Returns the faces that O-net accepts, with its corrections and landmarks.

        Args:
          photo: the photo.
          boxes: [n, 4] squares that may be faces.
        """
        values = self._run("onet", photo.windows(boxes, ONET_SIDE))
        passed = values[:, 0] > self.thresholds[2]
        boxes, scores = corrected(boxes[passed], values[passed, 1:5]), values[passed, 0]
        # Over the smaller box: a box inside a larger one overlaps little with the union of both.
        kept = _best(boxes, scores, 0.7, "smaller")
        boxes, scores = boxes[kept], scores[kept]
        # The square of the first pass is off by some pixels, which moves the landmarks. A second
        # pass on the corrected square reduces the 90th percentile of their error from 5.5 to 4.4 %
        # of the distance between the eyes.
        again = squares(boxes)
        values = self._run("onet", photo.windows(again, ONET_SIDE))
        return Faces(boxes, scores, points_in(again, values[:, 5:]))

    def _run(self, network: str, inputs: np.ndarray) -> np.ndarray:
        """Returns the output of a network, [n, ...] float32, computed batch by batch.

        Args:
          network: "pnet", "rnet" or "onet".
          inputs: [n, height, width, 3] uint8.
        """
        size, run = BATCHES[network], _program(network)
        found = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            # Filled up to the one compiled size; the output of the filler is cut off.
            filled = np.zeros((size, *inputs.shape[1:]), np.uint8)
            filled[: len(batch)] = batch
            found.append(np.asarray(run(self.weights[network], filled))[: len(batch)])
        if not found:
            return np.zeros((0, {"pnet": 5, "rnet": 5, "onet": 15}[network]), np.float32)
        return np.concatenate(found)


@functools.cache
def _program(network: str) -> Callable[[Mapping[str, np.ndarray], np.ndarray], jax.Array]:
    """Returns a network as a compiled function of weights and uint8 pixels, once per process."""
    function = getattr(networks, network)

    def run(weights: networks.Weights, pixels: jax.Array) -> jax.Array:
        # By default accelerators multiply in a shorter format, which moves landmarks visibly.
        with jax.default_matmul_precision("highest"):
            return function(weights, (pixels.astype(jnp.float32) - 127.5) / 128.0)

    return jax.jit(run, compiler_options=compiler.options())


def _canvases(photo: Photo, sizes: list[tuple[int, int]], tiles: list[Tile]) -> np.ndarray:
    """Returns the pyramid of a photo as canvases, [canvases, CANVAS, CANVAS, 3] uint8.

    Args:
      photo: the photo.
      sizes: (height, width) of each level of the pyramid.
      tiles: the parts of the levels, and their places on the canvases.
    """
    canvases = np.zeros((1 + max((t.canvas for t in tiles), default=-1), CANVAS, CANVAS, 3), "u1")
    for level, size in enumerate(sizes):
        pixels = photo.resized(*size)
        for tile in tiles:
            if tile.level == level:
                part = pixels[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
                rows, columns = (
                    slice(tile.row, tile.row + tile.height),
                    slice(tile.column, tile.column + tile.width),
                )
                canvases[tile.canvas, rows, columns] = part
    return canvases


def _passed(
    maps: np.ndarray, tile: Tile, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (rows, columns, values) of the windows of a tile that pass P-net.

    Args:
      maps: [canvases, rows, columns, 5] output of P-net.
      tile: the tile.
      threshold: probability of a face above which a window passes.

    Returns:
      rows [n] and columns [n] of the windows, as positions in the output for the tile's level, and
      values [n, 5], the outputs of P-net.
    """
    # Tiles are at even places, so that the windows of a tile are also windows of the canvas.
    row, column = tile.row // STRIDE, tile.column // STRIDE
    height, width = grid(tile.height), grid(tile.width)
    values = maps[tile.canvas, row : row + height, column : column + width]
    rows, columns = np.nonzero(values[..., 0] > threshold)
    return rows + tile.top // STRIDE, columns + tile.left // STRIDE, values[rows, columns]


def _best(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    of: Literal["union", "smaller"] = "union",
) -> np.ndarray:
    """Returns the indices of the boxes that remain after non-maximum suppression, the best first.

    Only the MOST boxes with the highest scores are considered. The arguments are those of
    `boxes.suppressed`.
    """
    # Limited before the suppression, whose cost grows with the square of the number of boxes.
    order = np.argsort(-scores, kind="stable")[:MOST]
    return order[suppressed(boxes[order], scores[order], threshold, of)]
