"""Encoded images: checked once when a data set is prepared, decoded when it is read."""

import io
import struct
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MAX_VALUE = 16.0
"""No usual scaling of pixels, to [-1, 1] or to mean 0 and deviation 1, makes larger values."""
MAX_PIXELS = 25_000_000
"""A larger header is refused before a pixel is decoded."""


def conform(data: bytes, channels: int) -> tuple[bytes, tuple[int, int, int]]:
    """Image bytes that decode to [height, width, channels] uint8, and that shape.

    JPEG and PNG of the right mode and upright are kept byte for byte; anything else is turned
    upright, as its EXIF orientation says, and stored as PNG.

    Args:
      data: an encoded image of any format that pillow reads.
      channels: 1 for grey, 3 for RGB.

    Raises:
      ValueError: the bytes are empty, not an image, truncated, too large, with a damaged EXIF
        block, or grey of more than 8 bits.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    image = _decoded(data)
    try:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)
        if image.format in ("JPEG", "PNG") and image.mode == mode and upright:
            return data, (image.height, image.width, channels)
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"expected readable EXIF data, found: {error}") from None
    shape = (image.height, image.width, channels)
    return encode_png(np.asarray(image.convert(mode)).reshape(shape)), shape


def encode_png(pixels: np.ndarray) -> bytes:
    """[height, width, 1 or 3] uint8 as PNG, without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    """[height, width, 1 or 3] uint8 of bytes that `conform` has passed."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def warn_of_range(images: np.ndarray) -> None:
    """Warns where a batch for a network looks like pixels that nobody has scaled.

    Args:
      images: [batch, height, width, channels] on the host.
    """
    low, high = float(images.min()), float(images.max())
    if images.dtype == np.uint8 or max(-low, high) > MAX_VALUE:
        warnings.warn(
            f"images: expected floats in [-1, 1], found {images.dtype} from {low:g} to {high:g}. "
            "Take (pixels - 127.5) / 128.",
            stacklevel=3,
        )


def _decoded(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("expected an image, found an empty file")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"expected at most {MAX_PIXELS} pixels, found {image.width} x {image.height}"
            )
        if image.mode[0] in "IF":
            raise ValueError(f"expected 8 bits a channel, found mode {image.mode}")
        image.load()
    except UnidentifiedImageError:
        raise ValueError(f"expected an image, found bytes starting {data[:8]!r}") from None
    except (OSError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a whole image, found: {error}") from None
    return image
