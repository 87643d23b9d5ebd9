"""Draws NormFace, Figure 1: a network is trained by classification and tested by similarity."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hyperface.report.canvas import WIDEST
from hyperface.reproduce.item import Context, Measured, Outcome

STEP = 2.6
"""Horizontal distance between the centres of neighbouring boxes."""
WIDTH, HEIGHT = 2.0, 0.7
"""Size of a box, in the same unit."""
BEFORE = {0: "images", 1: "network", 2: "feature f", 4: "inner product", 5: "softmax loss"}
AFTER = BEFORE | {3: "normalise f", 4: "cosine times s"}
BRANCH = {1: "network", 2: "feature f", 3: "normalise f"}
"""Column -> text of its box: training before NormFace, training by it, and one image in a test."""
ADDED = ("normalise f", "normalise\nrows of W", "cosine times s")
"""The steps that NormFace adds to training, drawn in another colour. In tests, features were
normalised before NormFace too, so nothing is new there."""
ABOVE = 1.1
"""Vertical distance from a row of boxes to the boxes of labels and weights above it."""


def drawing(context: Context) -> Measured:
    """Draws NormFace's pipeline as three rows of boxes; nothing is measured.

    The rows are training before NormFace, training by NormFace, and testing.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` has no values. `figures` is a dictionary caption -> figure.
    """
    figure = Figure(figsize=(WIDEST, 6.4), layout="constrained")
    axes = figure.subplots()
    for height, row in ((6.2, BEFORE), (3.5, AFTER)):
        _row(axes, row, height, added=ADDED)
        _row(axes, {5: "labels"}, height + ABOVE)
        _down(axes, 5, height)
        _down(axes, 4, height)
    _row(axes, {4: "weights W"}, 6.2 + ABOVE)
    _row(axes, {3: "weights W", 4: "normalise\nrows of W"}, 3.5 + ABOVE, added=ADDED)
    _testing(axes)
    for name, height in (("training\nbefore", 6.2), ("training\nNormFace", 3.5), ("testing", 1.05)):
        axes.text(-1.6, height, name, rotation=90, va="center", ha="center", weight="bold")
    for height in (5.35, 2.55):
        axes.axhline(height, color="#cccccc", linewidth=0.8)
    axes.set(xlim=(-2.1, 5 * STEP + 1.3), ylim=(0, 7.8))
    axes.set_axis_off()
    return Outcome([], "a drawing"), {
        "Training as it was and as NormFace proposes it, and testing, which is the same for both; "
        "the coloured steps are new in training": figure
    }


def _testing(axes: Axes) -> None:
    """Draws the row of testing: the normalised features of two images, and their cosine."""
    heights = {1.7: "image 1", 0.4: "image 2"}
    for height, image in heights.items():
        _row(axes, {0: image, **BRANCH}, height)
        _arrow(axes, (3 * STEP + WIDTH / 2, height), (4 * STEP - WIDTH / 2, 1.05))
    _row(axes, {4: "cosine", 5: "same or not"}, 1.05)


def _row(axes: Axes, boxes: dict[int, str], height: float, *, added: Sequence[str] = ()) -> None:
    """Draws a row of boxes, with an arrow from each box to the next.

    Args:
      axes: the axes to draw on.
      boxes: column -> text of the box.
      height: vertical place of the row.
      added: texts of the boxes that are drawn in the colour of new steps.
    """
    columns = sorted(boxes)
    for column, name in boxes.items():
        corner = column * STEP - WIDTH / 2, height - HEIGHT / 2
        colour = "#f4c9cf" if name in added else "#e7eef2"
        axes.add_patch(Rectangle(corner, WIDTH, HEIGHT, facecolor=colour, edgecolor="#444444"))
        axes.text(column * STEP, height, name, ha="center", va="center")
    # Between columns that are drawn: the arrow also bridges a column without a box.
    for one, other in pairwise(columns):
        ends = one * STEP + WIDTH / 2, other * STEP - WIDTH / 2
        _arrow(axes, *((end, height) for end in ends))


def _down(axes: Axes, column: int, height: float) -> None:
    """Draws a vertical arrow from the box above a row to the row's box in that column."""
    x = column * STEP
    _arrow(axes, (x, height + ABOVE - HEIGHT / 2), (x, height + HEIGHT / 2))


def _arrow(axes: Axes, tail: tuple[float, float], head: tuple[float, float]) -> None:
    """Draws an arrow from tail to head."""
    # Matplotlib shortens arrows by 2 points at each end; without that they touch the boxes.
    style = {"arrowstyle": "->", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=style)
