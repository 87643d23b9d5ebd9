"""Finds the faces of photos, aligns them for a network, and computes their features."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from hyperface.data.alignment import EYE_ROW, align
from hyperface.data.detection import Detector, Which, checked, chosen
from hyperface.data.images import upright
from hyperface.data.landmarks import face_name
from hyperface.data.sources.members import Member, select
from hyperface.data.sources.source import check_size
from hyperface.data.sources.walk import walk
from hyperface.errors import InputError, expect
from hyperface.evaluate.embed import Devices, Images, embed_split
from hyperface.runs.embedding import Network, check_directions

Faces = Which | Literal["one"]
"""Which faces of a photo are taken. With "one", a photo of several faces is not used."""
BATCH = 64
"""Largest number of faces that are embedded at once."""
SQUARE, PORTRAIT = (112, 112), (112, 96)
"""Height and width of the two templates of the papers."""


class Face(NamedTuple):
    """An aligned face, at the image size of a network."""

    name: str
    """Name of the photo, such as "a/1.jpg", relative to the folder that was searched. The second
    face of a photo is named "a/1.jpg#2"."""
    pixels: np.ndarray
    """[height, width, channels] uint8, of the network's image size."""
    landmarks: np.ndarray
    """[5, 2] eyes, nose and corners of the mouth as (x, y) in pixels of the photo; NaN for an image
    that was aligned already."""

    def without_pixels(self) -> "Face":
        """Returns a copy whose `pixels` are an empty array, since they take most of the memory."""
        return self._replace(pixels=np.zeros((0, 0, 1), np.uint8))


class NotUsed(NamedTuple):
    """A photo without a usable face, and the reason."""

    name: str
    """Path of the photo, relative to the folder that was searched."""
    reason: str
    """The reason in words, such as "no face was found"."""


class Features(NamedTuple):
    """The features of faces, in the order of the faces."""

    features: np.ndarray
    """[faces, dim] float32, merged with the features of the mirror images, not normalised."""
    norms: np.ndarray
    """[faces] Euclidean norm of the feature of the image itself, before the merge."""


def list_photos(path: Path) -> tuple[list[Member], list[NotUsed]]:
    """Lists the photos of a folder and of all folders below it.

    The photos are not decoded. A symbolic link that leads out of the folder is left out.

    Args:
      path: a folder, or a single photo.

    Returns:
      (photos, not_used). `photos` contains the name and size of each photo, and a function that
      reads it. `not_used` contains the images that cannot be used, with the reasons. Files that
      are no images are in neither list.

    Raises:
      InputError: the path does not exist, or the folder contains no image.
    """
    if path.is_file():
        return [Member(path.name, path.stat().st_size, _FileReader(path))], []
    if not path.is_dir():
        raise InputError(f"{path}: expected a photo or a folder of photos, found none.")
    # Without links out of the folder: only photos of the folder that the user named are taken.
    found = select(walk(path, follow_links=False))
    if not found.images:
        raise InputError(f"{path}: expected photos in the folder, found none.")
    return list(found.images.values()), [NotUsed(*reject) for reject in found.rejected]


class _FileReader:
    """Reads the bytes of one photo, at most `limit` of them if that is not negative."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, limit: int = -1) -> bytes:
        with self._path.open("rb") as file:
            return file.read(limit)


def find_faces(
    photos: Sequence[Member],
    image_shape: tuple[int, int, int] | None,
    detector: Detector | None,
    which: Faces = "largest",
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Face], list[NotUsed]]:
    """Finds the faces of photos and aligns them.

    A photo that cannot be read, or has no usable face, raises no error and is returned as not used.

    Args:
      photos: the photos that `list_photos` returned.
      image_shape: (height, width, channels) of the network's images. None for a network that
        accepts any size; its images must be aligned already.
      detector: finds the faces. It is a function from one photo, [height, width, 3] uint8, to boxes
        [n, 4], scores [n] and landmarks [n, 5, 2] of its n faces. None if the images are aligned
        faces of the shape `image_shape`.
      which: which faces are used if a photo has several: "largest", "central" (nearest to the
        centre), "all", or "one", with which a photo with several faces is not used.
      progress: function that is called after each photo with the number of photos that are done.

    Returns:
      (faces, not_used): the aligned faces, and the photos that are not used, with the reasons.

    Raises:
      InputError: faces cannot be aligned to `image_shape` (`check_alignable` tells which shapes are
        possible), or the user's detector does not return arrays of these shapes.
    """
    if detector is not None:
        check_alignable(image_shape)
    faces: list[Face] = []
    not_used: list[NotUsed] = []
    for done, photo in enumerate(photos, 1):
        try:
            faces += _faces_of(photo, image_shape, detector, which)
        # A subclass of ValueError: a user's detector is wrong, which concerns every photo.
        except InputError:
            raise
        # Any other error concerns this photo alone, such as a damaged file.
        except (ValueError, OSError) as error:
            not_used.append(NotUsed(photo.name, str(error).removesuffix(".")))
        if progress is not None:
            progress(done)
    return faces, not_used


def check_alignable(shape: tuple[int, int, int] | None) -> None:
    """Checks that faces can be aligned to the image shape of a network.

    A template is a list of the places at which eyes, nose and mouth are in an aligned image. There
    are templates of 112 x 96, 112 x 112, 128 x 128 and 144 x 144 pixels (height x width). The
    images must have the size or the proportions of one of them.

    Args:
      shape: (height, width, channels) of the network's images; None if it accepts any size.

    Raises:
      InputError: the shape is None, or has the proportions of no template.
    """
    if shape is None:
        raise InputError("expected a network that takes images of one size, found one of any.")
    if _template(shape[0], shape[1]) is None:
        raise InputError(
            f"expected a network of aligned faces, 112 x 96, 112 x 112, 128 x 128, 144 x 144 or "
            f"another size of these shapes, found one of {shape[0]} x {shape[1]}. Align the "
            "images as its training images were, and pass --aligned."
        )


def _template(height: int, width: int) -> tuple[int, int] | None:
    """Returns (height, width) of the template for images of a size, or None if there is none.

    Faces are aligned to the template's size first, and then resized.
    """
    # The sizes in EYE_ROW have templates of their own; 112 is the usual square.
    if height == width:
        return (height, width) if height in EYE_ROW else SQUARE
    # A width of the same shape may be rounded by up to half a pixel.
    return PORTRAIT if abs(width - height * 96 / 112) < 0.5 else None


def _faces_of(
    photo: Member,
    shape: tuple[int, int, int] | None,
    detector: Detector | None,
    which: Faces,
) -> Iterator[Face]:
    """Yields the faces of one photo; the arguments are those of `find_faces`.

    Raises:
      ValueError: the photo has no usable face; the message gives the reason.
    """
    # Before it is read, because a huge file would fill the memory.
    check_size(photo.size)
    data = photo.read()
    if detector is None or shape is None:
        pixels = upright(data, channels=1 if shape is not None and shape[2] == 1 else 3)
        fits = shape is None or pixels.shape == shape
        if not fits:
            raise ValueError(f"expected an aligned image of {shape}, found one of {pixels.shape}")
        yield Face(photo.name, pixels, np.full((5, 2), np.nan))
        return
    # In colour even for a network of grey images, because detectors take colour photos.
    pixels = upright(data, channels=3)
    found = checked(detector(pixels))
    # With "one" all faces are taken at first, so that they can be counted.
    taken = chosen(found, pixels.shape[:2], "all" if which == "one" else which)
    if not taken.size:
        raise ValueError("no face was found")
    if which == "one" and taken.size > 1:
        raise ValueError(
            f"{taken.size} faces were found; pass --faces largest to take the largest one"
        )
    for number, index in enumerate(taken, 1):
        points = found.landmarks[index]
        yield Face(face_name(photo.name, number), aligned(pixels, points, shape), points)


def aligned(pixels: np.ndarray, points: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns a face of a photo, aligned to the size that a network takes.

    A template is a list of the places at which eyes, nose and mouth are in an aligned image. The
    photo is moved, rotated and scaled so that the landmarks come to these places. If no template
    has the size of `shape`, one of the same proportions is used, and the aligned face is resized
    with Pillow's bicubic filter.

    Args:
      pixels: the photo, [height, width, 3] uint8.
      points: the face's landmarks [5, 2]: eyes, nose and corners of the mouth as (x, y) in pixels
        of the photo.
      shape: (height, width, channels) of the network's images; one channel gives a grey image.

    Raises:
      ValueError: the points cannot be the landmarks of a face, or the shape has no template.
    """
    template = _template(shape[0], shape[1])
    expect(template, "size", "that of a template", shape)
    assert template is not None  # `expect` raised otherwise, which type checkers do not know.
    crop = align(pixels, points, template)
    # The alignment to LightCNN's templates gives grey images also for colour photos. Pillow wants
    # those without the axis of channels.
    image = Image.fromarray(crop.squeeze(-1) if crop.shape[2] == 1 else crop)
    image = image.convert("L" if shape[2] == 1 else "RGB")
    if crop.shape[:2] != shape[:2]:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(shape)


def embed_faces(faces: Sequence[Face], network: Network) -> Features:
    """Computes the features [faces, dim] of faces with a network, at most 64 faces at once.

    Raises:
      InputError: there is no face, the images differ in size, or a feature is zero or not finite.
    """
    shapes = {face.pixels.shape for face in faces}
    expect(len(shapes) == 1, "faces", "images of one size", sorted(shapes) or "none")
    found = embed_split(
        lambda _, images: network.apply(images), None, _batches(faces), _OneProcess()
    )
    check_directions(found, "photos")
    return Features(found.features, found.norms)


class _OneProcess(Devices):
    """A single process whose network itself puts the images on devices."""

    def split(self, images: np.ndarray) -> Images:
        """Returns the batch unchanged, on the host."""
        return images


def _batches(faces: Sequence[Face]) -> Iterator[dict[str, np.ndarray]]:
    """Yields padded batches of equal size, so that the network is compiled only once."""
    size = min(BATCH, len(faces))
    for start in range(0, len(faces), size):
        part = faces[start : start + size]
        images = np.zeros((size, *part[0].pixels.shape), np.float32)
        images[: len(part)] = (np.stack([face.pixels for face in part]) - 127.5) / 128
        # `embed_split` wants labels, which photos do not have. It drops the rows of mask 0.
        yield {
            "images": images,
            "labels": np.zeros(size, np.int32),
            "mask": (np.arange(size) < len(part)).astype(np.float32),
        }
