"""Converts MTCNN's windows to boxes, corrects boxes and removes boxes that overlap too much.

A box is (left, top, right, bottom) in pixels. Pixel i extends from i to i + 1, so that the box of a
whole image is (0, 0, width, height). Landmarks are measured from the centre of the first pixel.
"""

from typing import Literal

import numpy as np

from hyperface.data.detection.networks import PNET_SIDE, STRIDE

POINT_SHIFT = 0.5
"""Number that is added to the x and the y of a landmark, the sum of two corrections.

Half a pixel is subtracted, since landmarks are measured from the centre of the first pixel. One
pixel is added, since the programs by which the templates were measured count pixels from 1: on 250
photos, the landmarks of another such program are 1.0 pixel to the right of and below the exact
place."""


def window_boxes(rows: np.ndarray, columns: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns where the windows of P-net lie in the photo.

    P-net, the first network of the detector MTCNN, scores each window of 12 x 12 pixels, with
    stride 2, in several resized copies of the photo. A copy is called a level. The output of P-net
    for a level is a map with one element per window.

    Args:
      rows: [n] row of each window in the map of one level.
      columns: [n] column of each window in this map.
      scale: [2] width of the level divided by the width of the photo, and the same of the heights.

    Returns:
      [n, 4] boxes (left, top, right, bottom) in pixels of the photo.
    """
    corner = STRIDE * np.stack([columns, rows], axis=1)
    return np.concatenate([corner, corner + PNET_SIDE], axis=1) / np.tile(scale, 2)


def corrected(boxes: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Moves each side of a box by a fraction of the box's width or height.

    The networks of the detector MTCNN output these fractions beside the probability of a face.

    Args:
      boxes: [n, 4] boxes (left, top, right, bottom) in pixels.
      corrections: [n, 4] fractions for the left, top, right and bottom side; positive values move a
        side to the right or down.

    Returns:
      [n, 4] corrected boxes.

    Example:
      >>> corrected(np.array([[0.0, 0.0, 10.0, 20.0]]), np.array([[0.1, 0.1, -0.1, 0.0]]))
      array([[ 1.,  2.,  9., 20.]])
    """
    return boxes + corrections * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def squares(boxes: np.ndarray) -> np.ndarray:
    """Makes boxes square: the shorter sides are lengthened, and the centres stay.

    Args:
      boxes: [n, 4] boxes (left, top, right, bottom).

    Returns:
      [n, 4] square boxes.

    Example:
      >>> squares(np.array([[0.0, 0.0, 10.0, 20.0]]))
      array([[-5.,  0., 15., 20.]])
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def overlap(
    box: np.ndarray, boxes: np.ndarray, of: Literal["union", "smaller"] = "union"
) -> np.ndarray:
    """Returns the area that a box shares with each of several boxes, as a fraction.

    Args:
      box: [4], (left, top, right, bottom).
      boxes: [n, 4], in the same order.
      of: the area by which the shared area is divided: "union", the area that at least one of the
        two boxes covers, or "smaller", the area of the smaller of the two boxes.

    Returns:
      [n] fractions, from 0 (no common area) to 1.
    """
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    # Each side is clipped, since two negative sides would multiply to a positive area.
    shared = np.maximum(high - low, 0.0).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    whole = area + areas - shared if of == "union" else np.minimum(area, areas)
    # A box without area overlaps nothing; without the maximum, 0 / 0 would be NaN.
    return shared / np.maximum(whole, 1e-9)


def suppressed(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    of: Literal["union", "smaller"] = "union",
) -> np.ndarray:
    """Applies non-maximum suppression: of boxes that overlap too much, only the best one stays.

    Args:
      boxes: [n, 4], (left, top, right, bottom).
      scores: [n], higher for more certain boxes.
      threshold: the overlap, from 0 to 1, above which the box with the lower score is removed.
      of: the overlap is the shared area divided by the area of the "union" of both boxes, or by
        that of the "smaller" box.

    Returns:
      Indices of the boxes that stay, with the best score first; equal scores keep their order.
    """
    # A stable sort, so that equal scores keep the order of the windows on every machine.
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        # Compared only with boxes that stay: a suppressed box does not suppress others.
        order = order[overlap(boxes[best], boxes[order], of) <= threshold]
    return np.array(kept, np.intp)


def points_in(boxes: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Converts landmarks from fractions of a window to pixels of the photo.

    O-net, the last network of the detector MTCNN, outputs five landmarks per window: left eye,
    right eye, nose, left and right corner of the mouth.

    Args:
      boxes: [n, 4] the windows, as (left, top, right, bottom) in pixels of the photo.
      fractions: [n, 10] O-net's output: first the x of the five landmarks, then their y. x is the
        distance from the window's left edge, divided by its width. y is the distance from its top
        edge, divided by its height.

    Returns:
      [n, 5, 2] landmarks (x, y) in pixels. POINT_SHIFT, half a pixel, is added to each x and y,
      because the templates of `hyperface.data.alignment` were measured by such shifted landmarks.
    """
    xy = np.stack([fractions[:, :5], fractions[:, 5:]], axis=-1)
    return boxes[:, None, :2] + xy * (boxes[:, None, 2:] - boxes[:, None, :2]) + POINT_SHIFT
