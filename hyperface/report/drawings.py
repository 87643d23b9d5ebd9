"""Draws the papers' figures: curves on one pair of axes, and points on several planes."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface.report import canvas
from hyperface.report.canvas import COLOURS, GREY

SPACE_FOR_TEXT = 1.0
"""Height in inches that the title, the tick labels and the legend below take."""
_DASHES = ("--", ":", "-.")


class Points(NamedTuple):
    """A group of points that are drawn in one colour."""

    places: np.ndarray
    """[points, 2] x and y of each point."""
    label: str = ""
    """Text in the legend; "" for no entry."""
    size: float = 8.0
    """Area of a marker (the symbol that is drawn at each point), in square typographic points, as
    matplotlib measures it."""
    marker: str = "o"
    """Shape of the markers, as matplotlib names it: "o" is a disc."""
    hollow: bool = False
    """Whether only the outline is drawn, so that points below stay visible."""


class Line(NamedTuple):
    """A line through points, or an arrow along them."""

    places: np.ndarray
    """[points, 2] x and y of the points that the line connects."""
    label: str = ""
    """Text in the legend; "" for no entry."""
    colour: str = "#222222"
    """Colour as matplotlib takes it."""
    style: str = "-"
    """Dashes as matplotlib takes them: "-" is a solid line."""
    arrow: bool = False
    """Whether the line ends in an arrow head, at the last point."""


def curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Draws one curve per label on one pair of axes.

    Args:
      lines: label -> (x [points], y [points]).
      title: title of the axes.
      xlabel: quantity on the x axis.
      ylabel: quantity on the y axis.
      marks: label -> y of a dashed horizontal line across the axes; None draws no such line.
      log: whether the y axis is logarithmic.
    """
    figure, (axes,) = canvas.panels()
    for place, (label, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, label=label, color=COLOURS[place % len(COLOURS)])
    for label, height in (marks or {}).items():
        axes.axhline(height, label=label, color=GREY, linestyle="--", linewidth=1)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    # Fractions of a step or a class do not exist.
    if all(canvas.are_whole(x) for x, _ in lines.values()):
        canvas.count_on(axes.xaxis)
    axes.legend()
    return figure


def bands(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    single: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draws one mean curve per label, with a band around it or with the single curves behind it.

    Args:
      lines: label -> (x [points], y [points], half the height of the band [points]). y is a share,
        so the part of a band below 0 is not drawn.
      title: title of the axes.
      xlabel: quantity on the x axis.
      ylabel: quantity on the y axis.
      single: label -> y of the single curves [curves, points] at the same x. They are drawn as thin
        lines in place of the label's band. None draws bands for all labels.
    """
    single = single or {}
    figure = curves(
        {label: line[:2] for label, line in lines.items()},
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
    )
    (axes,) = figure.axes
    for colour, (label, (x, y, half)) in zip(cycle(COLOURS), lines.items(), strict=False):
        if label in single:
            axes.plot(x, single[label].T, color=colour, alpha=0.15, linewidth=0.5, zorder=1)
            continue
        # Shares are not negative, even where they vary by more than their mean.
        axes.fill_between(
            x, np.maximum(y - half, 0), y + half, color=colour, alpha=0.2, linewidth=0
        )
    return figure


def scatter_panels(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    ylabel: str,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draws repeated measurements against one quantity per panel, on logarithmic x axes.

    Each line connects the means over the repetitions, and bars are sample standard deviations. A
    point is left out if the value of one repetition is not finite. All panels share the y axis.

    Args:
      panels: quantity on a panel's x axis -> label of a line -> (x [points], y [points,
        repetitions]). x is above 0, and there are at least two repetitions.
      ylabel: quantity on the y axis.
      marks: label -> y of a horizontal line across each panel. There are three styles of dashes,
        which repeat from the fourth line on. None draws no such line.
    """
    figure, every = canvas.panels(1, len(panels))
    for axes, (xlabel, lines) in zip(every, panels.items(), strict=True):
        axes.sharey(every[0])
        for place, (label, (x, y)) in enumerate(lines.items()):
            known = np.isfinite(y).all(axis=1)
            mean, spread = y[known].mean(axis=1), y[known].std(axis=1, ddof=1)
            colour = COLOURS[place % len(COLOURS)]
            axes.errorbar(x[known], mean, spread, label=label, color=colour, marker="o", capsize=3)
        for dashes, (label, height) in zip(cycle(_DASHES), (marks or {}).items(), strict=False):
            axes.axhline(height, label=label, color="#4a4a4a", linestyle=dashes, linewidth=1.4)
        axes.set(xlabel=xlabel, xscale="log")
        axes.legend()
    every[0].set_ylabel(ylabel)
    return figure


def planes(
    panels: Mapping[str, Sequence[Points]],
    *,
    lines: Mapping[str, Sequence[Line]] | None = None,
    circle: float | None = None,
) -> Figure:
    """Draws points on planes side by side, all with the same limits, and one legend below.

    Args:
      panels: title of a plane -> its groups of points, one colour per group; at least one plane.
      lines: title of a plane -> lines and arrows on it. A plane that is not in the dict has none;
        None means no lines at all.
      circle: radius of a circle around the origin of each plane; None draws no circle.
    """
    figure, every = canvas.panels(1, len(panels), share=True)
    turn = np.linspace(0, 2 * np.pi, 200)
    for axes, (title, groups) in zip(every, panels.items(), strict=True):
        if circle is not None:
            axes.plot(circle * np.cos(turn), circle * np.sin(turn), color="#bbbbbb", linewidth=1)
        for place, group in enumerate(groups):
            _scatter(axes, group, COLOURS[place % len(COLOURS)])
        for line in (lines or {}).get(title, ()):
            _draw_line(axes, line)
        axes.set(title=title, aspect="equal")
    wide, high = np.ptp(every[0].get_xlim()), np.ptp(every[0].get_ylim())
    width = figure.get_figwidth()
    # The height follows the shape of the points, but stays readable for very flat or high ones.
    height = 0.9 * width / len(panels) * np.clip(high / wide, 0.4, 1.5)
    figure.set_size_inches(width, height + SPACE_FOR_TEXT)
    # Two entries fit below each panel.
    canvas.legend_below(figure, columns=2 * len(panels))
    return figure


def _scatter(axes: Axes, group: Points, colour: str) -> None:
    x, y = group.places.T
    axes.scatter(
        x,
        y,
        s=group.size,
        marker=group.marker,
        label=group.label or None,
        linewidths=1.0 if group.hollow else 0,
        facecolors="none" if group.hollow else colour,
        edgecolors=colour,
        zorder=4,
    )


def _draw_line(axes: Axes, line: Line) -> None:
    x, y = line.places.T
    label = line.label or None
    axes.plot(x, y, label=label, color=line.colour, linestyle=line.style, linewidth=1.1)
    if line.arrow:
        before, end = line.places[-2:]
        head = {"arrowstyle": "-|>", "color": line.colour, "mutation_scale": 7, "shrinkB": 0}
        # A short arrow at the end alone: one along the whole line would hide the line's style.
        start = end - 0.01 * (end - before)
        axes.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=head)


def bars(values: Mapping[str, np.ndarray], *, title: str, xlabel: str, ylabel: str) -> Figure:
    """Draws bars in groups: one group per class, and in each group one bar per label.

    Args:
      values: label in the legend -> [classes] heights of its bars; at least one label.
      title: title of the axes.
      xlabel: label of the x axis, on which the classes are numbered from 0.
      ylabel: quantity on the y axis.
    """
    figure, (axes,) = canvas.panels()
    width = 0.8 / len(values)
    classes = len(next(iter(values.values())))
    for place, (label, heights) in enumerate(values.items()):
        # The bars of a class lie side by side around its tick.
        across = np.arange(classes) + (place - (len(values) - 1) / 2) * width
        axes.bar(across, heights, width, label=label, color=COLOURS[place % len(COLOURS)])
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(classes))
    axes.grid(visible=False, axis="x")
    axes.legend()
    return figure
