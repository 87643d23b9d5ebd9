"""A sheet of photos with the faces that were found in them, to look at a detector's work by eye."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from hyperface.data.alignment import Aligner
from hyperface.data.detection.record import BOX
from hyperface.data.images import upright
from hyperface.data.landmarks import COLUMNS, image_of
from hyperface.data.sources import Source
from hyperface.report.sheets import TILE, pair_sheet

WITHOUT, DOUBTFUL, OTHERS = 10, 20, 20
"""Photos on a sheet: without a face, of the lowest scores, and drawn at random."""
GREEN, RED = "#00e000", "#ff3030"


class _Line(NamedTuple):
    """A line of the landmarks file."""

    name: str
    score: float
    """nan where no face was found."""
    box: np.ndarray
    points: np.ndarray
    faces: str


def detection_sheet(source: Source, aligner: Aligner) -> Image.Image | None:
    """Draws photos with box and points of the face that was taken, beside the aligned crops.

    Photos without a face come first, then those of which the detector was least sure, then some
    drawn at random.

    Args:
      source: the photos, by the names of the landmarks file.
      aligner: has the path of the file that `find_landmarks` wrote.

    Returns:
      The sheet; None if no photo of the file can be read.
    """
    places = {name: index for index, name in enumerate(source.names)}
    pairs, captions = [], []
    for line in _selected(_lines(aligner.path)):
        try:
            pixels = upright(source.read(places[image_of(line.name)]), channels=3)
        except (KeyError, OSError, ValueError):
            continue
        try:
            crop = aligner(line.name, pixels)
        except ValueError:  # There is no face, or none that can be aligned.
            crop = np.full((*aligner.size, 1), 255, np.uint8)
        pairs.append((_marked(pixels, line), crop))
        captions.append(_caption(line))
    return pair_sheet(pairs, captions) if pairs else None


def _lines(path: Path) -> list[_Line]:
    """Reads a landmarks file that `find_landmarks` wrote and a person may have edited."""
    lines = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            box, points = ([_number(row.get(key)) for key in keys] for keys in (BOX, COLUMNS))
            points = np.array(points).reshape(5, 2)
            score, faces = _number(row.get("score")), row.get("faces") or ""
            lines.append(_Line(row["file"], score, np.array(box), points, faces))
    return lines


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return np.nan


def _selected(lines: list[_Line]) -> list[_Line]:
    """Returns the lines that a sheet shows."""
    rng = np.random.default_rng(0)
    with_face = sorted((x for x in lines if np.isfinite(x.points).all()), key=lambda x: x.score)
    without = [x for x in lines if not np.isfinite(x.points).all()]
    others = with_face[DOUBTFUL:]
    drawn = np.sort(rng.permutation(len(others))[:OTHERS])
    return [*without[:WITHOUT], *with_face[:DOUBTFUL], *(others[place] for place in drawn)]


def _marked(pixels: np.ndarray, line: _Line) -> np.ndarray:
    """Returns the photo at the size of a tile, with the box in green and the points in red."""
    image = Image.fromarray(pixels)
    scale = TILE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = line.box * scale
    if left < right and top < bottom:  # False for nan, too.
        draw.rectangle((left, top, right, bottom), outline=GREEN, width=2)
    for x, y in line.points[np.isfinite(line.points).all(axis=1)] * scale:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=RED)
    return np.asarray(image)


def _caption(line: _Line) -> str:
    """Returns the name and what the detector found, on two lines."""
    if not np.isfinite(line.points).all():
        return f"{line.name}\nno face"
    score = "" if np.isnan(line.score) else f" {line.score:.3f}"
    several = f", 1 of {line.faces} faces" if line.faces not in ("", "1") else ""
    return f"{line.name}\nface{score}{several}"
