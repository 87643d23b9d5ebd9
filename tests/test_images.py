"""Encoded images: kept byte for byte where they can be, refused with the reason where not."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from hyperface.data import images


def encoded(pixels, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


@pytest.fixture
def grey(rng):
    return rng.integers(0, 256, (9, 7), dtype=np.uint8)


def test_jpeg_and_png_are_kept_byte_for_byte(grey):
    for kind in ("PNG", "JPEG"):
        data = encoded(grey, kind)
        assert images.conform(data, channels=1) == (data, (9, 7, 1))


def test_a_photograph_is_turned_upright_and_harmless_exif_is_kept(grey):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    data = encoded(grey, "JPEG", exif=exif)
    assert images.conform(data, channels=1)[0] == data
    exif[ExifTags.Base.Orientation] = 6  # The camera was held on its side.
    data, shape = images.conform(encoded(grey, "PNG", exif=exif), channels=1)
    assert shape == (7, 9, 1)
    np.testing.assert_array_equal(images.decode(data)[..., 0], np.rot90(grey, -1))


def transparent(mode, **options):
    """Four pixels of one hidden red or grey: opaque, half, hardly and not at all."""
    red = np.array([[(200, 0, 0, alpha) for alpha in (255, 128, 1, 0)]], np.uint8)
    image = Image.fromarray(red).convert(mode)
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def test_what_is_transparent_shows_the_background_and_not_its_hidden_colour():
    data, shape = images.conform(transparent("RGBA"), channels=3)
    assert shape == (1, 4, 3)
    expected = [[200, 0, 0], [227, 127, 127], [255, 254, 254], [255, 255, 255]]
    np.testing.assert_allclose(images.decode(data)[0], expected, atol=1)
    grey = images.decode(images.conform(transparent("LA"), channels=1)[0])[0, :, 0]
    np.testing.assert_allclose(grey, [60, 157, 254, 255], atol=1)
    # One colour of a palette, of grey or of RGB may be named as transparent.
    for mode, hidden in (("P", 0), ("L", 60), ("RGB", (200, 0, 0))):
        named = transparent(mode, transparency=hidden)
        kept, _ = images.conform(named, channels=1 if mode == "L" else 3)
        with Image.open(io.BytesIO(named)) as seen:
            alpha = np.asarray(seen.convert("RGBA"))[..., 3]
        assert (images.decode(kept)[alpha == 0] == 255).all()
        assert (alpha == 0).any()


def test_an_opaque_alpha_channel_changes_no_pixel(rng):
    pixels = rng.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    data, _ = images.conform(encoded(pixels), channels=3)
    np.testing.assert_array_equal(images.decode(data), pixels[..., :3])


def test_the_first_frame_of_an_animation_is_taken(grey):
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    data, _ = images.conform(out.getvalue(), channels=1)
    np.testing.assert_array_equal(images.decode(data)[..., 0], grey)


def test_sixteen_bits_are_refused():
    deep = encoded(np.full((4, 4), 3000, np.uint16))
    with pytest.raises(ValueError, match="8 bits per channel, found mode I"):
        images.conform(deep, channels=1)


def test_other_formats_and_modes_become_png_of_the_wanted_mode(grey):
    data, shape = images.conform(encoded(grey, "BMP"), channels=1)
    assert shape == (9, 7, 1)
    np.testing.assert_array_equal(images.decode(data)[..., 0], grey)
    data, shape = images.conform(encoded(grey), channels=3)
    assert shape == (9, 7, 3)
    np.testing.assert_array_equal(images.decode(data), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"not an image at all", "found bytes starting b'not an i'"),
        (encoded(NOISE)[:800], "a whole image"),
        (encoded(NOISE, "JPEG")[:800], "a whole image"),
    ],
)
def test_broken_images_say_why(data, message):
    with pytest.raises(ValueError, match=message):
        images.conform(data, channels=1)


def test_a_huge_header_is_refused_before_decoding():
    for side, message in ((9_000, "at most 64000000 pixels, found 9000 x 9000"), (50_000, "limit")):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        check = struct.pack(">I", zlib.crc32(header))
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check
        png += struct.pack(">I", 9) + b"IDAT" + bytes(9)
        with pytest.raises(ValueError, match=message):
            images.conform(png, channels=1)


def test_a_damaged_exif_block_is_said_like_any_other_damage(grey):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(grey, "PNG", exif=exif)
    place = data.index(b"eXIf")
    length = struct.unpack(">I", data[place - 4 : place])[0]
    body = b"XX" + data[place + 6 : place + 4 + length]
    check = struct.pack(">I", zlib.crc32(b"eXIf" + body))
    broken = data[: place + 4] + body + check + data[place + 8 + length :]
    with pytest.raises(ValueError, match="expected readable EXIF data"):
        images.conform(broken, channels=1)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 14\nshowpage\n%%EOF\n"


def test_no_image_starts_a_program(monkeypatch):
    """Pillow gives EPS to Ghostscript, whatever the file is called."""

    def start(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", start)
    with pytest.raises(ValueError, match=r"expected an image \(JPEG, .*found bytes starting b'%!"):
        images.conform(EPS, channels=3)
    with pytest.raises(ValueError, match=r"expected an image \(JPEG"):
        images.decode(EPS)


def test_an_image_is_opened_in_one_place():
    """So that the list of formats holds everywhere."""
    root = Path(images.__file__).parents[2]
    files = (root / "hyperface").rglob("*.py")
    opening = [f.name for f in files if re.search(r"Image\.open|imread|imdecode", f.read_text())]
    assert opening == ["images.py"]
    assert Path(images.__file__).read_text().count("Image.open(") == 1


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("by zero"), IndexError("3")])
def test_any_error_of_a_decoder_is_about_that_image(grey, monkeypatch, error):
    from PIL import PngImagePlugin

    def fail(self):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ValueError, match=r"expected a whole image, found: (MemoryErr|by zero|3)"):
        images.conform(encoded(grey), channels=1)


def test_a_jpeg_of_endless_scans_is_refused(grey):
    data = encoded(grey, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    bomb = data[:-2] + scan * 200 + data[-2:]
    with pytest.raises(ValueError, match="expected at most 100 scans, found 2"):
        images.conform(bomb, channels=1)
