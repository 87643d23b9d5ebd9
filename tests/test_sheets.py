"""Sheets and histograms: their sizes, what stands where, and that nothing is blank."""

import numpy as np
import pytest

from hyperface.data.cleaning import Cleaning, Distances
from hyperface.report import cleaning, data_figures
from hyperface.report.canvas import save
from hyperface.report.sheets import GAP, LINE, PAIR_GAP, TILE, contact_sheet, pair_sheet

RED, BLUE = (np.full((56, 48, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
WIDE = np.full((10, 40, 1), 90, np.uint8)
ACROSS, DOWN = 192, TILE  # Of an image of 56 x 48 on a sheet.


def at(sheet, x, y):
    return tuple(np.asarray(sheet)[y, x])


def test_images_stand_row_by_row():
    sheet = contact_sheet([RED, BLUE, RED], columns=2)
    assert sheet.size == (2 * (ACROSS + GAP) + GAP, 2 * (DOWN + GAP) + GAP)
    middle, right = GAP + ACROSS // 2, GAP + ACROSS + GAP + ACROSS // 2
    top, below = GAP + DOWN // 2, GAP + DOWN + GAP + DOWN // 2
    assert at(sheet, middle, top) == at(sheet, middle, below) == (200, 0, 0)
    assert at(sheet, right, top) == (0, 0, 200)
    assert at(sheet, right, below) == (255, 255, 255)


def test_few_images_make_a_narrow_sheet_and_shapes_may_differ():
    assert contact_sheet([RED]).size == (ACROSS + 2 * GAP, DOWN + 2 * GAP)
    sheet = contact_sheet([RED, WIDE])
    assert sheet.size == (2 * (TILE + GAP) + GAP, DOWN + 2 * GAP)
    assert at(sheet, TILE + 2 * GAP, GAP + DOWN - 1) == (90, 90, 90)  # At the bottom, grey.
    assert at(sheet, TILE + 2 * GAP, GAP) == (255, 255, 255)


def test_captions_are_below_their_image_and_cut_to_its_width():
    sheet = contact_sheet([RED, BLUE], ["person\nfile.png", "a name far too long for the place"])
    assert sheet.height == DOWN + 2 * LINE + 2 * GAP
    ink = (np.asarray(sheet)[GAP + DOWN :] < 200).all(axis=-1)
    first, second = ink[:LINE], ink[LINE : 2 * LINE]
    left = GAP + ACROSS + GAP // 2
    assert first[:, :left].any()
    assert first[:, left:].any()
    assert second[:, :left].any()
    assert not second[:, left:].any()
    assert not ink[:, [0, 1, left, -2, -1]].any()


def test_pairs_stand_side_by_side():
    sheet = pair_sheet([(RED, BLUE)] * 3, ["0.9\na\nb"] * 3, columns=2)
    width = 2 * ACROSS + 2
    assert sheet.size == (
        2 * (width + PAIR_GAP) + PAIR_GAP,
        2 * (DOWN + 3 * LINE + PAIR_GAP) + PAIR_GAP,
    )
    assert at(sheet, PAIR_GAP + 1, PAIR_GAP + 1) == (200, 0, 0)
    assert at(sheet, PAIR_GAP + width - 1, PAIR_GAP + 1) == (0, 0, 200)


@pytest.mark.parametrize(
    ("images", "options"),
    [([], {}), ([RED], {"captions": ["a", "b"]}), ([RED], {"columns": 0})],
)
def test_a_sheet_of_nothing_is_refused(images, options):
    with pytest.raises(ValueError, match="expected images with a caption each"):
        contact_sheet(images, **options)


# --------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("counts", "title", "scale"),
    [
        ([10] * 40, "40 identities, 400 images, median 10", "linear"),
        ([2, 5, 5, 30], "4 identities, 42 images, median 5", "linear"),
        ([1] * 4069 + [2] * 779 + [530], "4,849 identities, 6,157 images, median 1", "log"),
    ],
)
def test_every_identity_is_in_the_histogram(counts, title, scale):
    (axes,) = data_figures.images_per_identity(np.array(counts)).axes
    assert axes.get_title() == title
    assert axes.get_xscale() == axes.get_yscale() == scale
    assert sum(bar.get_height() for bar in axes.patches) == len(counts)
    fullest = max(axes.patches, key=lambda bar: bar.get_height())
    assert fullest.get_x() < np.bincount(counts).argmax() < fullest.get_x() + fullest.get_width()


def test_distances_show_their_thresholds(rng, tmp_path):
    classes, images = np.array([0.1, 0.2, np.nan, 0.6]), rng.random(1000)
    figure = data_figures.distance_histogram(classes, images, (0.5, np.inf))
    first, second = figure.axes
    assert first.get_legend().get_texts()[0].get_text() == "above 0.5: 1 of 3"
    assert second.get_legend() is None
    assert [axes.get_title() for axes in figure.axes] == ["3 classes", "1,000 images"]
    assert sum(bar.get_height() for bar in second.patches) == 1000
    path = save({"distances": figure}, tmp_path)["distances"]
    assert path.stat().st_size > 10_000


def test_the_farthest_images_come_first_each_beside_the_nearest_of_its_person(
    tmp_path, monkeypatch
):
    """The user chooses a threshold by this picture."""
    sheets = []
    monkeypatch.setattr(cleaning, "_write_sheet", lambda *found: sheets.append(found))
    labels = np.array([0, 0, 1, 1])
    distances = Distances(
        np.array([0.1, 0.9, 0.5, 0.2]), labels, np.array([0.5, 0.35]), np.array([2, 2])
    )
    kept = Cleaning(np.ones(4, bool), np.zeros(2, bool), 1.0, 1.0)
    images = cleaning.NamedImages(["a/0", "a/1", "b/0", "b/1"], labels, lambda place: RED)
    cleaning.write_distances(tmp_path, images, distances, kept)
    ((path, _, _, shown, captions),) = sheets
    assert path.name == "farthest.png"
    assert [tuple(map(int, pair)) for pair in shown] == [(0, 1), (3, 2), (3, 3), (0, 0)]
    assert captions[0] == "0.900\na/1"
