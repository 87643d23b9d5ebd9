"""Builds the axes, styles and files of all figures, so that all have the same size of text."""

import io
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TypedDict

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from hyperface import owned

COLOURS = ("#0b6e99", "#d1495b", "#5b8c5a", "#8d6a9f", "#d9922e", "#3aa6a6", "#7a5230", "#4a4a4a")
"""Colours of curves and groups, in the order in which they are used."""
GREY = "#8a8a8a"
"""Colour of lines that are not of a trained method."""
WIDTH, HEIGHT = 4.7, 3.5
"""Size in inches of a figure with one pair of axes. A page shows two such figures side by side, a
phone shows one."""
WIDEST = 2 * WIDTH
"""Width in inches of the widest figure, which is the width of a page."""
TYPE = 9
"""Size of all text in figures, in points; it is 12 pixels on a page."""
DPI = 192
"""Dots per inch: two per pixel of a page, so that screens of high resolution show sharp lines."""


class Style(TypedDict):
    """The colour and dashes of a line, as keyword arguments of matplotlib's drawing functions."""

    color: str
    """Colour as matplotlib takes it, such as "#0b6e99"."""
    linestyle: str
    """Dashes as matplotlib takes them: "-", "--", "-." or ":"."""


BASELINE = Style(color=GREY, linestyle="--")
"""Style of curves and lines that are not of a trained method, such as raw pixels."""


def panels(
    rows: int = 1, columns: int = 1, *, height: float = HEIGHT, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """Creates an empty figure, and returns (figure, its axes row by row).

    Args:
      rows: number of rows of axes.
      columns: number of axes per row. A figure with two or more axes per row has twice the width of
        a figure with one; the axes of a row share this width equally.
      height: height of the whole figure in inches.
      share: whether all axes have the same limits in x and in y.
    """
    figure = Figure(figsize=(min(columns * WIDTH, WIDEST), height), layout="constrained")
    # squeeze=False gives an array even for a single pair of axes.
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    every: list[Axes] = list(grid.flat)
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        # The grid lies behind bars and points.
        axes.set_axisbelow(True)
    return figure, every


def line_styles(named: Mapping[str, object]) -> list[Style]:
    """Returns one line style per name, in the order of the names.

    A name that begins with "raw pixels" (a baseline without a network) gets grey dashes. Other
    names get solid lines in different colours, which repeat after eight names.

    Args:
      named: a mapping whose keys are the names of curves. Its values are not used.
    """
    colours = cycle(COLOURS)
    return [
        BASELINE if name.startswith("raw pixels") else Style(color=next(colours), linestyle="-")
        for name in named
    ]


def legend_below(figure: Figure, columns: int) -> None:
    """Adds one legend below all panels of a figure, with each label of the panels once.

    Args:
      figure: the figure. If nothing in it has a label, no legend is added.
      columns: largest number of labels side by side.
    """
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    known = {
        label: handle
        for handles, labels in drawn
        for handle, label in zip(handles, labels, strict=True)
    }
    if known:
        handles, labels, columns = list(known.values()), list(known), min(columns, len(known))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def count_on(*axes: Axis) -> None:
    """Prepares axes of a figure that show counts, such as steps or images.

    Ticks of linear axes are put on whole numbers, and all tick labels get thousands commas.
    """
    for axis in axes:
        if axis.get_scale() == "linear":
            # By default MaxNLocator takes fractions where two whole numbers do not fit.
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axis.set_major_formatter("{x:,.0f}")


def are_whole(values: np.ndarray) -> bool:
    """Returns whether all numbers of an array are whole, so that its axis needs no fractions."""
    return bool(np.all(values == np.rint(values)))


def save(figures: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Writes each figure as a PNG file, and returns a dict from its name to the path.

    Args:
      figures: name -> figure, which is written to NAME.png.
      folder: folder that receives the files.
    """
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_picture(paths[name], figure)
    return paths


def write_picture(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG file, after all of its text is set to one size.

    An older file is replaced in one step, so that no half-written picture is left.
    """
    # In memory first, so that an error leaves no half of a picture.
    data = io.BytesIO()
    # Titles and legends have larger and smaller text by default.
    for text in figure.findobj(Text):
        text.set_fontsize(TYPE)
    for axes in figure.axes:
        axes.tick_params(which="both", labelsize=TYPE)
    # Ticks are made while the figure is drawn, by the settings of that time.
    with rc_context({"xtick.labelsize": TYPE, "ytick.labelsize": TYPE}):
        figure.savefig(data, format="png", dpi=DPI)
    owned.write_bytes(path, data.getvalue())
