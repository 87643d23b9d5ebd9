"""Finds out from a few images whether a source has raw photos instead of aligned faces."""

import numpy as np

from hyperface.data import images
from hyperface.data.detection.faces import Detector, checked, chosen
from hyperface.data.sources import Source

SAMPLE = 8
"""Number of images in the sample."""
EYES = 0.25
"""Smallest distance between the eyes of aligned faces, as a share of the image's width. It is 0.32
to 0.39 in every template, and 0.17 in LFW's raw photos."""
SPREAD = 0.25
"""Largest median distance of a landmark from its usual place in aligned faces, as a share of the
distance between the eyes. It is 0.05 to 0.07 in aligned images, and 0.18 in the loose crops of
ORL."""


def look_raw(source: Source, detector: Detector) -> str:
    """Finds out from a sample of images whether they look like photos that were not aligned.

    Two properties of aligned images are checked. The distance between the eyes is at least a
    quarter of the image's width, and each landmark is at nearly the same place in every image.

    Args:
      source: images of one size, of which 8 are examined.
      detector: function from one photo, [height, width, 3] uint8 RGB, to (boxes [n, 4], scores [n],
        landmarks [n, 5, 2]), such as `Mtcnn()`.

    Returns:
      The reason why the images look unaligned, a clause such as "the eyes are 0.17 of the width
      apart, expected 0.25 or more". It is "" if the images look aligned, and also if less than half
      of the sample shows a face, since such a sample is too small for an answer.
    """
    # Evenly spaced, since neighbouring images often show one person.
    places = np.unique(np.linspace(0, len(source.names) - 1, SAMPLE).astype(int))
    found = [points for place in places for points in _points(source, int(place), detector)]
    if 2 * len(found) < len(places):
        return ""
    points = np.array(found)
    eyes = float(np.median(np.linalg.norm(points[:, 1] - points[:, 0], axis=1)))
    if eyes < EYES:
        return f"the eyes are {eyes:.2f} of the width apart, expected {EYES} or more"
    # Medians, so that one wrong detection in a small sample cannot decide.
    usual = np.median(points, axis=0)
    spread = float(np.median(np.linalg.norm(points - usual, axis=2))) / eyes
    if spread > SPREAD:
        return (
            f"the landmarks of a face are {spread:.2f} of the distance between the eyes away from "
            f"their usual place, expected {SPREAD} or less"
        )
    return ""


def _points(source: Source, index: int, detector: Detector) -> list[np.ndarray]:
    """Returns a list with the landmarks [5, 2] of the main face of an image; [] without a face.

    The landmarks are divided by the width of the image.

    Args:
      source: the images.
      index: number of the image.
      detector: finds the faces.
    """
    try:
        pixels = images.upright(source.read(index), channels=3)
    except (ValueError, OSError):
        return []
    faces = checked(detector(pixels))
    taken = chosen(faces, pixels.shape[:2])
    return [faces.landmarks[i] / pixels.shape[1] for i in taken]
