"""Draws contact sheets: grids of small images with captions, to inspect data by eye."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 224
"""Longer side of an image on a sheet, in pixels."""
FONT_SIZE = 22
"""Size of the captions' text in pixels."""
LINE = 28
"""Height of a line of a caption in pixels."""
GAP = 20
"""Pixels between single images."""
PAIR_GAP = 52
"""Pixels between pairs; wider than GAP, so that the eye sees which two images are a pair."""


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str] | None = None, *, columns: int = 10
) -> Image.Image:
    """Draws a grid of images, row by row, each scaled to one size with its caption below.

    Args:
      images: [height, width, 1 or 3] uint8 each, of any sizes. The longer side is scaled to 224
        pixels.
      captions: one caption per image; None for no captions. A caption may have several lines; a
        line that is too wide is cut and ends with "…".
      columns: largest number of images per row, at least 1.

    Raises:
      ValueError: there is no image, or the number of captions differs from the number of images.
    """
    return _grid([_tile(pixels) for pixels in images], captions, columns, GAP)


def pair_sheet(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 5,
) -> Image.Image:
    """Draws a grid of pairs of images, row by row, each pair side by side with its caption below.

    Args:
      pairs: two images per pair, [height, width, 1 or 3] uint8 each, of any sizes. The longer side
        of an image is scaled to 224 pixels.
      captions: one caption per pair; None for no captions. A caption may have several lines; a line
        that is too wide is cut and ends with "…".
      columns: largest number of pairs per row, at least 1.

    Raises:
      ValueError: there is no pair, or the number of captions differs from the number of pairs.
    """
    return _grid([_side_by_side(*map(_tile, pair)) for pair in pairs], captions, columns, PAIR_GAP)


def _grid(
    tiles: list[Image.Image], captions: Sequence[str] | None, columns: int, gap: int
) -> Image.Image:
    texts = [""] * len(tiles) if captions is None else captions
    if not tiles or len(texts) != len(tiles) or columns < 1:
        raise ValueError(
            f"expected images with a caption each in at least one column, found {len(tiles)} "
            f"images, {len(texts)} captions and {columns} columns"
        )
    # Few images give a narrow sheet.
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = (max(sides) for sides in zip(*(tile.size for tile in tiles), strict=True))
    lines = max(len(text.splitlines()) for text in texts)
    across, down = width + gap, height + LINE * lines + gap
    sheet = Image.new("RGB", (columns * across + gap, rows * down + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for place, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        row, column = divmod(place, columns)
        x, y = gap + column * across, gap + row * down
        # In the middle and at the bottom of the cell, close to the caption.
        sheet.paste(tile, (x + (width - tile.width) // 2, y + height - tile.height))
        for i, line in enumerate(text.splitlines()):
            # "ma" in the next line: the middle of the top of the text is at this point.
            at = (x + width // 2, y + height + i * LINE + 2)
            draw.text(at, _cut(line, width + gap // 2, font), "#333333", font, anchor="ma")
    return sheet


def _tile(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    scale = TILE / max(image.size)
    # Pillow refuses a side of 0, which rounding gives for a very long image.
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width + 2, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
