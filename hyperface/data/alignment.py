"""Aligns faces: moves each face to the same position, angle and size, by five landmarks.

Landmarks are (x, y) in pixels, in the order left eye, right eye, nose, left and right corner of the
mouth, where left is left in the image. (0, 0) is the centre of the top left pixel.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from hyperface.data.landmarks import check_landmarks, read_landmarks

TEMPLATE_112x96 = np.array(
    [
        (30.2946, 51.6963),
        (65.5318, 51.5014),
        (48.0252, 71.7366),
        (33.5493, 92.3655),
        (62.7299, 92.2041),
    ]
)
"""(x, y) of each landmark in an aligned 112 x 96 image, as in the code of SphereFace, center loss
and NormFace."""
# The image is 16 columns wider, eight on each side.
TEMPLATE_112x112 = TEMPLATE_112x96 + np.array([8.0, 0.0])
"""(x, y) of each landmark in an aligned 112 x 112 image, as in ArcFace."""
TEMPLATES = {(112, 96): TEMPLATE_112x96, (112, 112): TEMPLATE_112x112}
"""Image size (height, width) -> template."""

EYES_ABOVE_MOUTH = 48.0
"""Vertical distance in pixels from the midpoint of the eyes to that of the mouth in Wu's images."""
EYE_ROW = {144: 48.0, 128: 40.0}
"""Size of Wu's square images -> the row of the midpoint of the eyes."""


@dataclass(frozen=True)
class Aligner:
    """Aligns faces by the landmarks in a CSV file: moves each to the same position, angle and size.

    Landmarks are five points of a face (eyes, nose, corners of the mouth). An object is called with
    the name of an image and its pixels, [height, width, 1 or 3] uint8. It returns the aligned
    image, [*size, channels] uint8, which is grey if `size` is (128, 128) or (144, 144).

    The file is read when the object is created; a file that is missing or damaged raises
    InputError. A call raises ValueError if the file has no landmarks for the image, or if the
    landmarks are impossible, for example if left and right are swapped.
    """

    path: Path = field(repr=False)
    """The CSV file of landmarks, one line per face, as `read_landmarks` reads it."""
    size: tuple[int, int]
    """(height, width) of the aligned images: (112, 96), (112, 112), (128, 128) or (144, 144)."""
    landmarks: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)
    """Name of an image -> its landmarks [5, 2], (x, y) in pixels; nan for a photo without a
    face."""
    digest: str = field(init=False)
    """Digest of the file; aligners with equal digests and sizes align images in the same way."""

    def __post_init__(self) -> None:
        # The only way to set a field of a frozen dataclass that follows from the others.
        object.__setattr__(self, "landmarks", read_landmarks(self.path))
        found = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        object.__setattr__(self, "digest", found)

    def __str__(self) -> str:
        height, width = self.size
        return f"aligned to {height} x {width} by the landmarks of {self.path.name}"

    def __call__(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """Returns the aligned face of an image, [*size, channels] uint8.

        Args:
          name: name of the image in the file of landmarks.
          pixels: [height, width, 1 or 3] uint8.

        Raises:
          ValueError: the file has no landmarks for the image, they are nan because the photo shows
            no face, or they are impossible.
        """
        if name not in self.landmarks:
            raise ValueError(f"no landmarks in {self.path.name}")
        points = self.landmarks[name]
        if np.isnan(points).all():
            raise ValueError(f"no face: its landmarks in {self.path.name} are nan")
        return align(pixels, points, self.size)


def align(pixels: np.ndarray, points: np.ndarray, size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """Cuts a face out of an image, upright and at a fixed scale.

    Pixels of the result that lie outside of the given image are black.

    Args:
      pixels: [height, width, 1 or 3] uint8.
      points: [5, 2] landmarks of the face: (x, y) in pixels of the left eye, the right eye, the
        nose, and the left and right corner of the mouth, where left is left in the image.
      size: (height, width) of the result. With (112, 96) or (112, 112), the five landmarks are
        fitted to the template of that size: fixed points to which the landmarks are moved. With
        (144, 144) or (128, 128), the eyes and the mouth are placed as in Wu's LightCNN, and the
        result is grey, so `channels` is 1.

    Returns:
      [*size, channels] uint8.

    Raises:
      ValueError: no upright face can have these landmarks (`check_landmarks` lists the conditions),
        or `size` is not one of the four that are listed above.
    """
    check_landmarks(points, pixels.shape[:2])
    if size in TEMPLATES:
        return warp(pixels, similarity(points, TEMPLATES[size]), size)
    if size in [(side, side) for side in EYE_ROW]:
        return _grey(warp(pixels, eye_mouth(points, size[0]), size))
    known = [*TEMPLATES, *((side, side) for side in EYE_ROW)]
    raise ValueError(f"expected a size of {known}, found {size}")


def similarity(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Returns the rotation, scale and shift that fit points to a template by least squares.

    The solution is that of Umeyama, without reflection.

    Args:
      points: [n, 2] points (x, y), n at least 2.
      template: [n, 2] the place (x, y) to which each point should be moved.

    Returns:
      [2, 3] matrix; its product with the column (x, y, 1) is the moved point. Pass it to `warp`.

    Raises:
      ValueError: all points are equal.

    Example:
      >>> similarity(np.array([(0, 0), (1, 0)]), np.array([(5, 5), (5, 7)])).round(6) + 0.0
      array([[ 0., -2.,  5.],
             [ 2.,  0.,  5.]])

    References:
      S. Umeyama. Least-squares estimation of transformation parameters between two point patterns.
      IEEE TPAMI 13(4), 1991.
    """
    # As complex numbers x + iy, a similarity is z -> m z + t. That is linear in m and t, so that
    # least squares solves it exactly, and it cannot reflect.
    source, target = (np.asarray(p, np.float64) @ (1, 1j) for p in (points, template))
    design = np.stack([source, np.ones_like(source)], axis=1)
    (m, t), _, rank, _ = np.linalg.lstsq(design, target)
    if rank < 2:
        raise ValueError(f"expected at least two different points, found {source.tolist()}")
    return _matrix(m, t)


def eye_mouth(points: np.ndarray, size: int = 128) -> np.ndarray:
    """Returns the transform by which Wu's LightCNN aligns faces, from the eyes and the mouth.

    The eyes become level, their midpoint is at the centre of the width, and the midpoint of the
    mouth is 48 pixels lower.

    Args:
      points: [5, 2] landmarks, (x, y) of the left eye, right eye, nose, and left and right corner
        of the mouth; the nose is not used.
      size: side in pixels of the square result: 144 for training images, with the eyes in row 48,
        or 128 for their central crop, with the eyes in row 40.

    Returns:
      [2, 3] matrix; its product with the column (x, y, 1) is the moved point. Pass it to `warp`.

    Raises:
      ValueError: the size is neither 144 nor 128, the eyes coincide, or the mouth is not below
        them.
    """
    if size not in EYE_ROW:
        raise ValueError(f"expected size 144 or 128, found {size}")
    left, right, _, *mouth = np.asarray(points, np.float64) @ (1, 1j)
    eyes, along = (left + right) / 2, right - left
    level = np.conj(along) / (abs(along) or 1.0)
    # As in the released code, the 48 pixels are a height and not a distance: the mouth of a turned
    # head may lie to the side.
    height = ((sum(mouth) / 2 - eyes) * level).imag
    if height <= 0:
        raise ValueError(f"expected two eyes above the mouth, found {np.asarray(points).tolist()}")
    m = EYES_ABOVE_MOUTH / height * level
    t = complex(size // 2, EYE_ROW[size]) - m * eyes
    return _matrix(m, t)


def warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Transforms an image by an affine map, with bilinear sampling.

    Pixels outside of the image are black. Values are rounded, and the image is not smoothed before
    it is reduced. OpenCV's `warpAffine` does the same by default, apart from its fixed-point
    arithmetic.

    Args:
      pixels: [height, width, channels] uint8.
      matrix: [2, 3] map from the image to the result: its product with the column (x, y, 1) is the
        new place of the point (x, y). (0, 0) is the centre of the top left pixel.
      size: (height, width) of the result.

    Returns:
      [*size, channels] uint8.
    """
    # The inverse map, because each pixel of the result is looked up in the image.
    linear = np.linalg.inv(matrix[:, :2])
    shift = -linear @ matrix[:, 2]
    pixels, start = _needed(pixels, linear, shift, size)
    # Pillow maps from the result to the image, with pixel centres at halves: + 0.5. A black frame
    # of one pixel, into which the edge is blended, shifts the image by one: + 1.
    offset = shift - start + 1.0 + 0.5 - linear @ (0.5, 0.5)
    # In float32, because Pillow's bilinear filter truncates the values of 8-bit images.
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    data = np.column_stack([linear, offset]).ravel().tolist()
    how = {"method": Image.Transform.AFFINE, "resample": Image.Resampling.BILINEAR}
    channels = [
        np.asarray(Image.fromarray(framed[..., c]).transform((size[1], size[0]), data=data, **how))
        for c in range(pixels.shape[2])
    ]
    # Rounded, since the cast alone truncates.
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _matrix(m: complex, t: complex) -> np.ndarray:
    """Returns the complex map z -> m z + t as a real matrix [2, 3]."""
    return np.array([[m.real, -m.imag, t.real], [m.imag, m.real, t.imag]])


def _needed(
    pixels: np.ndarray, linear: np.ndarray, shift: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of an image that the warped result shows, and the part's position.

    Args:
      pixels: [height, width, channels].
      linear: [2, 2] linear part of the map from the result to the image.
      shift: [2] shift of that map.
      size: (height, width) of the result.

    Returns:
      (part, start): the part as a view of `pixels`, and the (x, y) of its top left pixel.
    """
    bottom, right = size[0] - 1, size[1] - 1
    corners = np.array([(0, 0), (right, 0), (0, bottom), (right, bottom)]) @ linear.T + shift
    sides = np.array(pixels.shape[1::-1])
    # One more pixel on each side, because bilinear sampling reads the neighbours.
    start = np.clip(np.floor(corners.min(axis=0)) - 1, 0, sides).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, sides).astype(int)
    return pixels[start[1] : stop[1], start[0] : stop[0]], start


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Converts [height, width, 1 or 3] to one grey channel."""
    if pixels.shape[2] == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
