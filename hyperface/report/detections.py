"""Draws a sheet of photos with the faces that a detector found, to check them by eye."""

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
"""Largest number of photos on a sheet: without a face, with the lowest scores, and at random."""
GREEN, RED = "#00e000", "#ff3030"


class _Line(NamedTuple):
    """A line of the landmarks file."""

    name: str
    """Name of the face: that of its photo, with "#2" at the end for the photo's second face."""
    score: float
    """Score of the detector; NaN where no face was found."""
    box: np.ndarray
    """[4] left, top, right and bottom of the face, in pixels."""
    points: np.ndarray
    """[5, 2] x and y of the landmarks, in pixels."""
    faces: str
    """Number of faces in the photo, as text; empty if it is not known."""


def detection_sheet(source: Source, aligner: Aligner) -> Image.Image | None:
    """Draws photos with the box and landmarks of a detected face, beside the aligned crops.

    The sheet lets a person check the detector by eye. Boxes, landmarks and scores are read from the
    file of landmarks. The sheet has at most 10 photos without a face, then the 20 faces with the
    lowest scores of the detector, then 20 other faces chosen at random. Photos that cannot be read
    are left out.

    Args:
      source: the photos. They have the names that are in the landmarks file.
      aligner: the object that cuts the aligned crops out of the photos. `aligner.path` is the CSV
        file of landmarks, boxes and scores that `find_landmarks` wrote.

    Returns:
      The sheet; None if no photo of the file can be read.
    """
    photos = {name: index for index, name in enumerate(source.names)}
    pairs, captions = [], []
    for line in _selected(_lines(aligner.path)):
        try:
            pixels = upright(source.read(photos[image_of(line.name, photos)]), channels=3)
        # A photo that was removed or damaged since then is left out.
        except (KeyError, OSError, ValueError):
            continue
        try:
            crop = aligner(line.name, pixels)
        except ValueError:  # There is no face, or none that can be aligned.
            # A white tile keeps the two columns of the sheet in place.
            crop = np.full((*aligner.size, 1), 255, np.uint8)
        pairs.append((_marked(pixels, line), crop))
        captions.append(_caption(line))
    return pair_sheet(pairs, captions) if pairs else None


def _lines(path: Path) -> list[_Line]:
    """Returns the lines of a landmarks file; a number that cannot be read becomes NaN.

    `find_landmarks` wrote the file, and a person may have edited it.
    """
    lines = []
    # utf-8-sig drops the byte-order mark that spreadsheets write.
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
    """Returns the lines that a sheet shows: photos without a face, the lowest scores, and others.

    The others are drawn at random, but are the same at each call for the same lines.
    """
    rng = np.random.default_rng(0)
    with_face = sorted((x for x in lines if np.isfinite(x.points).all()), key=lambda x: x.score)
    without = [x for x in lines if not np.isfinite(x.points).all()]
    others = with_face[DOUBTFUL:]
    # Sorted, so that the drawn photos stand in the order of their scores too.
    drawn = np.sort(rng.permutation(len(others))[:OTHERS])
    return [*without[:WITHOUT], *with_face[:DOUBTFUL], *(others[place] for place in drawn)]


def _marked(pixels: np.ndarray, line: _Line) -> np.ndarray:
    """Returns the photo at the size of a tile, with the box in green and the points in red."""
    image = Image.fromarray(pixels)
    # Scaled before drawing, so that lines have the same width on photos of any size.
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
    """Returns two lines of text: the name, and the score and number of faces, or "no face"."""
    if not np.isfinite(line.points).all():
        return f"{line.name}\nno face"
    score = "" if np.isnan(line.score) else f" {line.score:.3f}"
    several = f", 1 of {line.faces} faces" if line.faces not in ("", "1") else ""
    return f"{line.name}\nface{score}{several}"
