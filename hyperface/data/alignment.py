"""Faces brought to one place and one size by five landmarks.

Points are (x, y) in pixels, the centre of the top left pixel being (0, 0), in the order left eye,
right eye, nose, left and right corner of the mouth; left is left in the image.
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
"""Where the points come to lie in a 112 x 96 image: SphereFace, center loss and NormFace's code."""
TEMPLATE_112x112 = TEMPLATE_112x96 + np.array([8.0, 0.0])
"""The same in a 112 x 112 image, as ArcFace has it."""
TEMPLATES = {(112, 96): TEMPLATE_112x96, (112, 112): TEMPLATE_112x112}

EYES_ABOVE_MOUTH = 48.0
"""Height between the midpoints of eyes and mouth in Wu's images, in pixels."""
EYE_ROW = {144: 48.0, 128: 40.0}
"""Row of the eyes' midpoint in Wu's square images, by their size."""


@dataclass(frozen=True)
class Aligner:
    """Aligns the images of a source by a file of landmarks; an image without any is refused."""

    path: Path = field(repr=False)
    """CSV, as `read_landmarks` takes it."""
    size: tuple[int, int]
    landmarks: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)
    digest: str = field(init=False)
    """Of the file: equal digests align alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", read_landmarks(self.path))
        found = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        object.__setattr__(self, "digest", found)

    def __str__(self) -> str:
        height, width = self.size
        return f"aligned to {height} x {width} by the landmarks of {self.path.name}"

    def __call__(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """Returns the aligned face; ValueError says why there is none."""
        if name not in self.landmarks:
            raise ValueError(f"no landmarks in {self.path.name}")
        points = self.landmarks[name]
        if np.isnan(points).all():
            raise ValueError(f"no face: its landmarks in {self.path.name} are nan")
        return align(pixels, points, self.size)


def align(pixels: np.ndarray, points: np.ndarray, size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """Returns the face cut out of an image, upright and at one scale; black where the image ends.

    Args:
      pixels: [height, width, 1 or 3] uint8.
      points: [5, 2] landmarks in that image.
      size: (112, 96) or (112, 112): the five points fitted to the template. (144, 144) or
        (128, 128): Wu's alignment for LightCNN by eyes and mouth, in grey.

    Returns:
      [*size, channels] uint8.

    Raises:
      ValueError: the points are no face in this image, or the size is another one.
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

    With (x, y) as the complex number x + iy a similarity is z -> m z + t, linear in m and t, and
    cannot reflect. The solution is Umeyama's.

    Args:
      points: [n, 2], n at least 2.
      template: [n, 2], where they should come to lie.

    Returns:
      [2, 3], to be multiplied with (x, y, 1).

    Raises:
      ValueError: the points are all the same.

    Example:
      >>> similarity(np.array([(0, 0), (1, 0)]), np.array([(5, 5), (5, 7)])).round(6) + 0.0
      array([[ 0., -2.,  5.],
             [ 2.,  0.,  5.]])

    References:
      S. Umeyama. Least-squares estimation of transformation parameters between two point patterns.
      IEEE TPAMI 13(4), 1991.
    """
    # As complex numbers: a similarity is then z -> m z + t, which is linear in m and t.
    source, target = (np.asarray(p, np.float64) @ (1, 1j) for p in (points, template))
    design = np.stack([source, np.ones_like(source)], axis=1)
    (m, t), _, rank, _ = np.linalg.lstsq(design, target)
    if rank < 2:
        raise ValueError(f"expected at least two different points, found {source.tolist()}")
    return _matrix(m, t)


def eye_mouth(points: np.ndarray, size: int = 128) -> np.ndarray:
    """Wu's alignment: eyes level, their midpoint centred in x, the mouth's 48 pixels lower.

    As in the released code the 48 pixels are a height: a turned head's mouth may lie to the side.

    Args:
      points: [5, 2]; the nose is not used.
      size: 144, the training image with the eyes in row 48, or 128, its central crop.

    Returns:
      [2, 3], to be multiplied with (x, y, 1).

    Raises:
      ValueError: the size is another one, the eyes coincide, or the mouth is not below them.
    """
    if size not in EYE_ROW:
        raise ValueError(f"expected size 144 or 128, found {size}")
    left, right, _, *mouth = np.asarray(points, np.float64) @ (1, 1j)
    eyes, along = (left + right) / 2, right - left
    level = np.conj(along) / (abs(along) or 1.0)
    height = ((sum(mouth) / 2 - eyes) * level).imag
    if height <= 0:
        raise ValueError(f"expected two eyes above the mouth, found {np.asarray(points).tolist()}")
    m = EYES_ABOVE_MOUTH / height * level
    t = complex(size // 2, EYE_ROW[size]) - m * eyes
    return _matrix(m, t)


def warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image under an affine map: bilinear, rounded, black outside, no smoothing before.

    This is what OpenCV's `warpAffine` computes by default, without its fixed-point tables.

    Args:
      pixels: [height, width, channels] uint8.
      matrix: [2, 3], from the image's pixels to the result's, pixel centres at whole numbers.
      size: (height, width) of the result.
    """
    linear = np.linalg.inv(matrix[:, :2])
    shift = -linear @ matrix[:, 2]
    pixels, start = _needed(pixels, linear, shift, size)
    # Pillow goes from result to image, with pixel centres at halves; a black frame of one pixel is
    # what the edge fades into, and moves the image by one.
    offset = shift - start + 1.0 + 0.5 - linear @ (0.5, 0.5)
    # Of 8-bit images pillow's bilinear filter cuts the decimals off.
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    data = np.column_stack([linear, offset]).ravel().tolist()
    how = {"method": Image.Transform.AFFINE, "resample": Image.Resampling.BILINEAR}
    channels = [
        np.asarray(Image.fromarray(framed[..., c]).transform((size[1], size[0]), data=data, **how))
        for c in range(pixels.shape[2])
    ]
    # Rounded, since the cast alone cuts the decimals off.
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _matrix(m: complex, t: complex) -> np.ndarray:
    """z -> m z + t as a matrix."""
    return np.array([[m.real, -m.imag, t.real], [m.imag, m.real, t.imag]])


def _needed(
    pixels: np.ndarray, linear: np.ndarray, shift: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of the image that the result shows, and the (x, y) where it starts."""
    bottom, right = size[0] - 1, size[1] - 1
    corners = np.array([(0, 0), (right, 0), (0, bottom), (right, bottom)]) @ linear.T + shift
    sides = np.array(pixels.shape[1::-1])
    # A pixel more on each side, which bilinear sampling reads.
    start = np.clip(np.floor(corners.min(axis=0)) - 1, 0, sides).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, sides).astype(int)
    return pixels[start[1] : stop[1], start[0] : stop[0]], start


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
