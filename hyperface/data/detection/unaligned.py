"""Whether images are raw photos instead of aligned faces, by a look at a few."""

import numpy as np

from hyperface.data import images
from hyperface.data.detection.faces import Detector, checked, chosen
from hyperface.data.sources import Source

SAMPLE = 8
"""Images that are looked at."""
EYES = 0.25
"""Distance of the eyes in parts of the image's width. Aligned faces have 0.32 to 0.39 in every
template, LFW's raw photos 0.17."""
SPREAD = 0.25
"""Median distance of a point from its usual place, in parts of the distance of the eyes: 0.05 to
0.07 in aligned images, 0.18 in the loose crops of ORL."""


def look_raw(source: Source, detector: Detector) -> str:
    """Says why images look like photos that nobody has aligned.

    Args:
      source: images of one size.
      detector: as `Detector` says.

    Returns:
      A clause such as "the eyes are 0.17 of the width apart, expected 0.25 or more"; "" if the
      images look aligned, or if fewer than half of the sample show a face, so that nothing is
      known.
    """
    # Spread over all, since neighbours are often images of one person.
    places = np.unique(np.linspace(0, len(source.names) - 1, SAMPLE).astype(int))
    found = [points for place in places for points in _points(source, int(place), detector)]
    if 2 * len(found) < len(places):
        return ""
    points = np.array(found)
    eyes = float(np.median(np.linalg.norm(points[:, 1] - points[:, 0], axis=1)))
    if eyes < EYES:
        return f"the eyes are {eyes:.2f} of the width apart, expected {EYES} or more"
    # Medians, so that one wrong face in a small sample decides nothing.
    usual = np.median(points, axis=0)
    spread = float(np.median(np.linalg.norm(points - usual, axis=2))) / eyes
    if spread > SPREAD:
        return (
            f"a face's points are {spread:.2f} of the distance of the eyes from where they are in "
            f"most images, expected {SPREAD} or less"
        )
    return ""


def _points(source: Source, index: int, detector: Detector) -> list[np.ndarray]:
    """Returns the main face's points in parts of the image's width; none if there is no face."""
    try:
        pixels = images.upright(source.read(index), channels=3)
    except (ValueError, OSError):
        return []
    faces = checked(detector(pixels))
    taken = chosen(faces, pixels.shape[:2])
    return [faces.landmarks[i] / pixels.shape[1] for i in taken]
