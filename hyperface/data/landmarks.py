"""Reads a CSV file with five landmarks per face, and refuses landmarks that no face can have.

Landmarks are (x, y) in pixels in the order left eye, right eye, nose, left and right corner of the
mouth, where left is left in the image. The second face of an image is listed as IMAGE#2, the third
as IMAGE#3, and so on.
"""

import csv
import re
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.files import text_lines

COLUMNS = ("lex", "ley", "rex", "rey", "nx", "ny", "lmx", "lmy", "rmx", "rmy")
"""Names of the columns with the x and y of each landmark."""
OUTSIDE = 0.25
"""Largest distance of a landmark from the image, as a share of the image's side. A landmark can be
outside because a face can be cut off at an edge."""


def check_landmarks(points: np.ndarray, shape: tuple[int, int]) -> None:
    """Raises ValueError for landmarks that no upright face in the image can have.

    Args:
      points: [5, 2] the landmarks: (x, y) in pixels of the left eye, the right eye, the nose, and
        the left and right corner of the mouth, where left is left in the image.
      shape: (height, width) of the image.

    Raises:
      ValueError: a point is not finite, or outside of the image by more than a quarter of its side;
        the eyes and the mouth are less than a pixel apart; or left and right are swapped.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f"expected five finite points (x, y), found {points.tolist()}")
    # From the left to the right eye, and from the midpoint of the eyes to that of the mouth.
    right = points[1] - points[0]
    down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    # The transform that aligns points enlarges them without limit as they come together.
    if np.hypot(*down) < 1.0:
        raise ValueError(
            f"expected eyes and mouth at least a pixel apart, found {np.hypot(*down):.2g} pixels"
        )
    # The sign of the cross product shows that the eyes are swapped, or the face is upside down.
    if right[0] * down[1] <= right[1] * down[0]:
        raise ValueError(
            "expected the left eye on the left of an upright face, found the left eye at "
            f"{tuple(points[0].tolist())} and the right eye at {tuple(points[1].tolist())}"
        )
    sides = np.array(shape[::-1])
    far = (points < -OUTSIDE * sides) | (points > (1 + OUTSIDE) * sides)
    if far.any():
        x, y = points[far.any(axis=1)][0]
        raise ValueError(
            f"expected points in the image of {shape[1]} x {shape[0]} pixels, found ({x:g}, {y:g})"
        )


def read_landmarks(path: Path) -> dict[str, np.ndarray]:
    """Reads a CSV file of landmarks, with one line per face.

    The first line names the columns file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy: the name of the
    image, then x and y of the left eye, the right eye, the nose, and the left and right corner of
    the mouth. Other columns are ignored. The landmarks of a photo without a face may be nan; then
    only this photo is rejected when it is aligned.

    Returns:
      Name in the column `file` -> landmarks [5, 2]. Face k of an image, for k from 2, has the name
      IMAGE#k.

    Raises:
      InputError: the file cannot be read or has no line, a column or a number is missing, or a name
        occurs twice. The message names the line.
    """
    landmarks: dict[str, np.ndarray] = {}
    for line, row in _rows(path):
        name, numbers = row["file"], [row[column] for column in COLUMNS]
        # DictReader has surplus values under the key None, and None for each missing value.
        if None in row or not name or None in numbers:
            raise InputError(
                f"{path}:{line}: expected a value for each column, found {str(row)[:200]}."
            )
        if name in landmarks:
            raise InputError(f"{path}:{line}: expected each image once, found {name!r} again.")
        try:
            landmarks[name] = np.array(numbers, np.float64).reshape(5, 2)
        except ValueError:
            raise InputError(
                f"{path}:{line}: expected ten numbers, found {str(numbers)[:200]}."
            ) from None
    if not landmarks:
        raise InputError(f"{path}: expected a line for each image, found none.")
    return landmarks


def face_name(name: str, number: int) -> str:
    """Returns the name of a face in a landmarks file.

    The first face of an image has the name of the image. Face k, for k from 2, has the name
    IMAGE#k.

    Args:
      name: name of the image.
      number: number of the face in the image, from 1.

    Example:
      >>> face_name("a/1.jpg", 1), face_name("a/1.jpg", 2)
      ('a/1.jpg', 'a/1.jpg#2')
    """
    return name if number == 1 else f"{name}#{number}"


def image_of(name: str, images: Container[str]) -> str:
    """Returns the name of the image that shows a face; the inverse of `face_name`.

    A name that does not end in "#" and a number is returned unchanged.

    Args:
      name: name of the face.
      images: names of the images. An image can itself be named "a#2"; then that name is the image's
        and not that of a second face of "a".

    Example:
      >>> image_of("a#2", ["a"]), image_of("a#2", ["a", "a#2"])
      ('a', 'a#2')
    """
    return name if name in images else re.sub(r"#[1-9][0-9]*$", "", name)


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields each row of the file as a dictionary by column, with the number of its line."""
    try:
        # Strict, so that an unbalanced quote raises an error instead of hiding the next lines.
        rows = csv.DictReader((line + "\n" for line in text_lines(path)), strict=True)
        missing = [name for name in ("file", *COLUMNS) if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}:1: expected the columns file,{','.join(COLUMNS)}, found none named "
                f"{', '.join(missing)}."
            )
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise InputError(f"expected a CSV file of landmarks at {path}, found: {error}.") from error
