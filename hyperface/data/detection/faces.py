"""Defines what a detector returns, and chooses among several faces of a photo."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from hyperface.data.landmarks import check_landmarks
from hyperface.errors import InputError, unknown_name


class Faces(NamedTuple):
    """The n faces that a detector found in a photo; n may be 0."""

    boxes: np.ndarray
    """[n, 4] left, top, right, bottom in pixels."""
    scores: np.ndarray
    """[n] how sure the detector is of each face, higher for surer; the scale does not matter."""
    landmarks: np.ndarray
    """[n, 5, 2] points (x, y) in pixels: left eye, right eye, nose, and left and right corner of
    the mouth, where left is left in the image."""


Detector = Callable[[np.ndarray], tuple[Any, Any, Any]]
"""A function from a photo to the arrays of `Faces`: boxes [n, 4], scores [n], landmarks [n, 5, 2].
The photo is upright, [height, width, 3] uint8 in RGB order. For a photo without a face, n is 0."""

Which = Literal["largest", "central", "all"]
"""Which faces of a photo are taken; see `chosen`."""


def checked(found: Any) -> Faces:
    """Checks the result of a detector, which may be the user's own code.

    Args:
      found: what the detector returned: (boxes [n, 4], scores [n], landmarks [n, 5, 2]).

    Returns:
      The same numbers as arrays of float64. Landmarks that are nan are kept; `chosen`, which is
      called next, leaves their faces out.

    Raises:
      InputError: `found` is not three arrays of these shapes, or a box or a score is not finite.
    """
    try:
        boxes, scores, landmarks = (np.asarray(part, np.float64) for part in found)
        # For a photo without a face, a detector may return empty arrays of one axis.
        boxes, landmarks = boxes.reshape(-1, 4), landmarks.reshape(-1, 5, 2)
        if scores.shape != (len(boxes),) or len(landmarks) != len(boxes):
            raise ValueError("numbers of faces that differ")
    except (TypeError, ValueError):
        shapes = [np.shape(part) for part in found] if isinstance(found, tuple | list) else found
        raise InputError(
            "expected boxes [n, 4], scores [n] and landmarks [n, 5, 2] from the detector, found "
            f"{str(shapes)[:200]}."
        ) from None
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError("expected finite boxes and scores from the detector, found nan or inf.")
    return Faces(boxes, scores, landmarks)


def chosen(faces: Faces, shape: tuple[int, int], which: Which = "largest") -> np.ndarray:
    """Chooses among the faces of a photo; faces with impossible landmarks are left out.

    Landmarks are impossible if no face can have them, for example if left and right are swapped or
    a point is far outside of the photo.

    Args:
      faces: the faces of the photo.
      shape: (height, width) of the photo.
      which: "largest" takes the largest face, where a face at the edge of the photo counts as half
        as large as one at its centre. "central" takes the face nearest to the centre by L1
        distance, as NormFace's code does. "all" takes every face, the largest first.

    Returns:
      [k] indices of the chosen faces in `faces`; k is 0 if the photo has no usable face, and at
      most 1 unless `which` is "all".
    """
    usable = np.array([i for i in range(len(faces.boxes)) if _alignable(faces, i, shape)], np.intp)
    boxes = faces.boxes[usable]
    half = np.array(shape[::-1]) / 2
    away = (boxes[:, :2] + boxes[:, 2:]) / 2 - half
    # A detector of the user may return a box with swapped sides, which has a negative area.
    sides = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1))
    if which == "all":
        # A stable sort, so that faces of equal size keep the detector's order.
        return usable[np.argsort(-sides, kind="stable")]
    if which == "largest":
        off_centre = np.clip(np.abs(away) / half, 0.0, 1.0).max(axis=1, initial=0.0)
        return usable[np.argsort(-sides * (1 - off_centre / 2), kind="stable")][:1]
    if which == "central":
        return usable[np.argsort(np.abs(away).sum(axis=1), kind="stable")][:1]
    raise unknown_name("choice of faces", which, get_args(Which))


def _alignable(faces: Faces, index: int, shape: tuple[int, int]) -> bool:
    """Returns whether a face in a photo of this (height, width) has possible landmarks.

    Args:
      faces: the faces of the photo.
      index: number of the face among them.
      shape: (height, width) of the photo.
    """
    try:
        check_landmarks(faces.landmarks[index], shape)
    except ValueError:
        return False
    return True
