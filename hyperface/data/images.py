"""Checks encoded images when a data set is prepared, and decodes them when it is read."""

import contextlib
import io
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

_AVIF = ("AVIF",) if features.check("avif") else ()  # Pillow can be built without it.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", *_AVIF)
"""Formats that are accepted, whatever the suffix of a file is. Pillow decodes them in this process.
For other formats it starts a program (EPS starts Ghostscript) or reads fonts and documents."""
BACKGROUND = (255, 255, 255)
"""Background colour (red, green, blue) of transparent images: white, as in most viewers."""
MAX_VALUE = 16.0
"""Largest absolute value that scaled pixels usually have. Both usual scalings, to [-1, 1] and to
mean 0 and deviation 1, stay below it."""
MAX_PIXELS = 64_000_000
"""Largest number of pixels of an image; a header that announces more is refused before decoding.
Telephones take photos of 48 to 50 million pixels."""
LARGE = 4_000_000
"""Number of pixels above which images are decoded one at a time. The largest images need up to
640 MB each during decoding."""
MAX_SCANS = 100
"""Largest number of scans in a JPEG. Cameras write 1 to 10. A hostile file can cause a pass over
all pixels by a scan of thirty bytes."""
MAX_SCANNED = 2_500_000_000
"""Largest product of the scans of a JPEG and its pixels, which bounds the time of decoding."""


def conform(data: bytes, channels: int) -> tuple[bytes, tuple[int, int, int]]:
    """Checks an encoded image, and converts it to the form in which a data set stores it.

    A JPEG or PNG that is upright and has the right number of channels is returned byte for byte.
    Any other image is turned upright by its EXIF orientation, its transparent parts become white,
    and it is encoded as PNG. Only the first frame of an animation is used.

    Args:
      data: an encoded image in one of `FORMATS` (JPEG, PNG, BMP, PPM, TIFF, WebP, GIF, AVIF), which
        may be damaged or hostile.
      channels: 1 for grey, 3 for RGB; the stored image has this number of channels.

    Returns:
      (encoded bytes, (height, width, channels)) of the image to store.

    Raises:
      ValueError: the bytes are empty, are no image, are truncated, announce more than MAX_PIXELS
        (64 million) pixels, have a damaged EXIF block, or have more than 8 bits per channel. The
        message gives the reason.
    """
    image = _opened(data)
    with _turn(image):
        return _conformed(_loaded(image), data, channels)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes pixels [height, width, 1 or 3] uint8 as PNG, without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decodes a stored image to pixels [height, width, 1 or 3] uint8.

    Args:
      data: encoded bytes that `conform` returned.

    Raises:
      ValueError: the bytes are empty or damaged, or announce too many pixels.
    """
    image = _opened(data)
    with _turn(image):
        pixels = np.asarray(_loaded(image))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def size_and_resolution(data: bytes) -> tuple[int, int, float | None]:
    """Returns (width, height, pixels per inch) of an encoded image, from its header alone.

    The number of pixels per inch is None if the header does not state it. No pixel is decoded, so
    that a truncated image is not noticed.

    Raises:
      ValueError: the bytes are empty or no image, or the header announces more than MAX_PIXELS (64
        million) pixels or more than 8 bits per channel.
    """
    image = _opened(data)
    resolution = image.info.get("dpi")
    return image.width, image.height, float(resolution[0]) if resolution else None


def upright(data: bytes, channels: int) -> np.ndarray:
    """Decodes an encoded image and turns it upright by its EXIF orientation.

    Transparent parts become white.

    Args:
      data: an encoded image in one of `FORMATS` (JPEG, PNG, BMP, PPM, TIFF, WebP, GIF, AVIF), which
        may be damaged or hostile.
      channels: 1 converts the image to grey, 3 to RGB.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: the image is refused for one of the reasons in `conform`: it is damaged, has too
        many pixels, or has more than 8 bits per channel.
    """
    image = _opened(data)
    with _turn(image):
        _turn_upright(_loaded(image))
        pixels = np.asarray(_converted(image, channels))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def warn_of_range(images: np.ndarray) -> None:
    """Warns if the pixels of a batch do not look scaled, as networks expect, to [-1, 1].

    It issues a `UserWarning` if the images are uint8, or if a value exceeds MAX_VALUE (16).

    Args:
      images: [batch, height, width, channels], a NumPy array.
    """
    low, high = float(images.min()), float(images.max())
    if images.dtype == np.uint8 or max(-low, high) > MAX_VALUE:
        warnings.warn(
            f"images: expected floats in [-1, 1], found {images.dtype} from {low:g} to {high:g}. "
            "Take (pixels - 127.5) / 128.",
            stacklevel=3,
        )


def _opened(data: bytes) -> Image.Image:
    """Reads the header of an image and checks it; the pixels are not decoded yet.

    Every image is opened here, so that these limits hold everywhere.
    """
    if not data:
        raise ValueError("expected an image, found an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            f"expected an image ({', '.join(FORMATS)}), found bytes starting {data[:8]!r}"
        ) from None
    # As in `_loaded`: parsers of many formats raise errors of many types.
    except Exception as error:
        raise ValueError(f"expected a whole image, found: {_reason(error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"expected at most {MAX_PIXELS} pixels, found {image.width} x {image.height}"
        )
    if data.startswith(_JPEG):
        most = min(MAX_SCANS, MAX_SCANNED // max(1, image.width * image.height))
        if data.count(_SCAN) > most:
            raise ValueError(f"expected at most {most} scans, found {data.count(_SCAN)}")
    # Pillow would clip 16-bit and float pixels to 255 instead of scaling them.
    if image.mode[0] in "IF":
        raise ValueError(f"expected 8 bits per channel, found mode {image.mode}")
    return image


def _loaded(image: Image.Image) -> Image.Image:
    """Decodes the pixels of an opened image, and returns the image."""
    try:
        image.load()
    # The decoders of the formats raise errors of many types; all are about this one image.
    except Exception as error:
        raise ValueError(f"expected a whole image, found: {_reason(error)}") from None
    return image


def _conformed(
    image: Image.Image, data: bytes, channels: int
) -> tuple[bytes, tuple[int, int, int]]:
    """Returns (encoded bytes, shape) as `conform` does.

    Args:
      image: the decoded image.
      data: the bytes that it was decoded from.
      channels: 1 for grey, 3 for RGB.
    """
    turned = _turn_upright(image)
    right_mode = image.mode == _MODES[channels] and not image.has_transparency_data
    if image.format in ("JPEG", "PNG") and right_mode and not turned:
        return data, (image.height, image.width, channels)
    image = _converted(image, channels)
    image.info = {}  # Pillow would store the colour profile and the EXIF block too.
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), (image.height, image.width, channels)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to grey or RGB; transparent parts are laid on the background."""
    if image.has_transparency_data:
        # The colour of a transparent pixel is arbitrary; without its alpha it would be visible.
        ground = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert(_MODES[channels])


def _turn_upright(image: Image.Image) -> bool:
    """Turns a decoded image upright by its EXIF orientation; returns whether it was turned."""
    try:
        # 1 means upright; 0 is not defined, but occurs in files.
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        if turned:
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's EXIF parser fails in as many ways as its decoders.
        raise ValueError(f"expected readable EXIF data, found: {_reason(error)}") from None
    return turned


_MODES = {1: "L", 3: "RGB"}
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"
"""The bytes at the start of a JPEG file, and those at the start of each scan."""
_large = threading.Lock()


def _turn(image: Image.Image) -> contextlib.AbstractContextManager:
    """Returns a lock that lets only one large image be decoded at a time; small ones need none."""
    return _large if image.width * image.height > LARGE else contextlib.nullcontext()


def _reason(error: Exception) -> str:
    """Returns the first line of an error, or the name of its type if it has no text."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
