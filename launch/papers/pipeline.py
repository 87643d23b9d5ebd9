"""NormFace, Figure 1: training by classification and testing by similarity, as a drawing."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from launch.papers.item import Context, Outcome

STEP = 2.6
"""From the middle of one box to that of the next."""
WIDTH, HEIGHT = 1.9, 0.7
TRAINING = ("images, labels", "network", "feature f", "normalise f", "s W f", "softmax loss")
BRANCHES = (("image 1", "network", "feature f"), ("image 2", "network", "feature f"))
ADDED = ("normalise f",)
"""What NormFace adds to training; testing had it before."""


def drawing(context: Context):
    """Both phases side by side; the coloured box is what earlier training did without."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    axes = figure.subplots()
    _row(axes, TRAINING, 3.2)
    axes.annotate("rows of W normalised", (4 * STEP, 3.2 + HEIGHT / 2 + 0.1), ha="center")
    for names, height in zip(BRANCHES, (1.3, 0.0), strict=True):
        _row(axes, (*names, "normalise f"), height)
        _arrow(axes, (3 * STEP + WIDTH / 2, height), (4 * STEP - WIDTH / 2, 0.65))
    _box(axes, "cosine", 4, 0.65)
    _box(axes, "same or not", 5, 0.65)
    _arrow(axes, (4 * STEP + WIDTH / 2, 0.65), (5 * STEP - WIDTH / 2, 0.65))
    for name, height in (("training", 3.2), ("testing", 0.65)):
        axes.text(-1.5, height, name, rotation=90, va="center", ha="center", weight="bold")
    axes.set(xlim=(-2, 5 * STEP + 1.4), ylim=(-0.8, 4.2))
    axes.set_axis_off()
    return Outcome([], "a drawing"), {
        "Training and testing; the coloured step is new in training": figure
    }


def _row(axes: Axes, names: Sequence[str], height: float) -> None:
    for place, name in enumerate(names):
        _box(axes, name, place, height, added=name in ADDED and names is TRAINING)
        if place:
            ends = (place - 1) * STEP + WIDTH / 2, place * STEP - WIDTH / 2
            _arrow(axes, *((end, height) for end in ends))


def _box(axes: Axes, name: str, place: int, height: float, *, added: bool = False) -> None:
    corner = place * STEP - WIDTH / 2, height - HEIGHT / 2
    colour = "#f4c9cf" if added else "#e7eef2"
    axes.add_patch(Rectangle(corner, WIDTH, HEIGHT, facecolor=colour, edgecolor="#444444"))
    axes.text(place * STEP, height, name, ha="center", va="center", fontsize=10)


def _arrow(axes: Axes, tail: tuple[float, float], head: tuple[float, float]) -> None:
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": "#444444"})
