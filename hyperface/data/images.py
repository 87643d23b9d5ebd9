"""Encoded images: checked once when a data set is prepared, decoded when it is read."""

import contextlib
import io
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

_AVIF = ("AVIF",) if features.check("avif") else ()  # Pillow can be built without it.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", *_AVIF)
"""Formats that Pillow decodes in this process. Others start a program (EPS starts Ghostscript)
or read fonts, archives and documents, whatever the name of the file says."""
BACKGROUND = (255, 255, 255)
"""Colour that shows through where an image is transparent, as viewers have it."""
MAX_VALUE = 16.0
"""No usual scaling of pixels, to [-1, 1] or to mean 0 and deviation 1, makes larger values."""
MAX_PIXELS = 64_000_000
"""A larger header is refused before a pixel is decoded. Telephones take photos of 48 to 50 million
pixels."""
LARGE = 4_000_000
"""Pixels above which images are decoded one at a time: each needs up to 640 MB meanwhile."""
MAX_SCANS = 100
"""Scans of a JPEG. Cameras write 1 to 10; thirty bytes of scan can cost a pass over all pixels."""
MAX_SCANNED = 2_500_000_000
"""Scans of a JPEG times its pixels."""


def conform(data: bytes, channels: int) -> tuple[bytes, tuple[int, int, int]]:
    """Returns image bytes that decode to [height, width, channels] uint8, and that shape.

    JPEG and PNG of the right mode and upright are kept byte for byte. Anything else is turned
    upright, as its EXIF orientation says, laid on `BACKGROUND` as far as it is transparent, and
    stored as PNG. An animation is stored as its first frame.

    Args:
      data: an encoded image of one of `FORMATS`.
      channels: 1 for grey, 3 for RGB.

    Raises:
      ValueError: the bytes are empty, not an image, truncated, too large, with a damaged EXIF
        block, or grey of more than 8 bits.
    """
    image = _opened(data)
    with _turn(image):
        return _conformed(_loaded(image), data, channels)


def encode_png(pixels: np.ndarray) -> bytes:
    """Returns pixels [height, width, 1 or 3] uint8 as a PNG file, without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Returns the pixels [height, width, 1 or 3] uint8 of bytes that `conform` returned.

    Raises:
      ValueError: as `conform`, for other bytes.
    """
    image = _opened(data)
    with _turn(image):
        pixels = np.asarray(_loaded(image))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def upright(data: bytes, channels: int) -> np.ndarray:
    """Decodes an encoded image and turns it upright, as its EXIF orientation says.

    Args:
      data: an encoded image of one of `FORMATS`.
      channels: 1 for grey, 3 for RGB.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: as `conform`.
    """
    image = _opened(data)
    with _turn(image):
        _turn_upright(_loaded(image))
        pixels = np.asarray(_converted(image, channels))
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


def _opened(data: bytes) -> Image.Image:
    """Returns the image, not yet decoded. The one place where an image is opened."""
    if not data:
        raise ValueError("expected an image, found an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            f"expected an image ({', '.join(FORMATS)}), found bytes starting {data[:8]!r}"
        ) from None
    except Exception as error:  # As in `_loaded`.
        raise ValueError(f"expected a whole image, found: {_reason(error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"expected at most {MAX_PIXELS} pixels, found {image.width} x {image.height}"
        )
    if data.startswith(_JPEG):
        most = min(MAX_SCANS, MAX_SCANNED // max(1, image.width * image.height))
        if data.count(_SCAN) > most:
            raise ValueError(f"expected at most {most} scans, found {data.count(_SCAN)}")
    if image.mode[0] in "IF":
        raise ValueError(f"expected 8 bits a channel, found mode {image.mode}")
    return image


def _loaded(image: Image.Image) -> Image.Image:
    """Returns the same, decoded."""
    try:
        image.load()
    # Decoders are many programs of many people: any error is about this one image.
    except Exception as error:
        raise ValueError(f"expected a whole image, found: {_reason(error)}") from None
    return image


def _conformed(
    image: Image.Image, data: bytes, channels: int
) -> tuple[bytes, tuple[int, int, int]]:
    turned = _turn_upright(image)
    kept = image.mode == _MODES[channels] and not image.has_transparency_data
    if image.format in ("JPEG", "PNG") and kept and not turned:
        return data, (image.height, image.width, channels)
    image = _converted(image, channels)
    image.info = {}  # Pixels alone are stored: no colour profile.
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), (image.height, image.width, channels)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Returns the image in grey or colour; what is transparent is laid on the background."""
    if image.has_transparency_data:
        # The colour of a transparent pixel is arbitrary: dropping its alpha would show it.
        ground = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert(_MODES[channels])


def _turn_upright(image: Image.Image) -> bool:
    """Turns a decoded image as its EXIF orientation says; returns whether it says so."""
    try:
        says_so = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        if says_so:
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's EXIF parser fails in as many ways as its decoders.
        raise ValueError(f"expected readable EXIF data, found: {_reason(error)}") from None
    return says_so


_MODES = {1: "L", 3: "RGB"}
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"
_large = threading.Lock()


def _turn(image: Image.Image) -> contextlib.AbstractContextManager:
    """Returns the lock under which large images are decoded one after another."""
    return _large if image.width * image.height > LARGE else contextlib.nullcontext()


def _reason(error: Exception) -> str:
    """Returns the first line of an error, or its kind where it has no text."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
