"""Drawings of the papers' figures: curves on one pair of axes, and points on several planes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d1495b", "#5b8c5a", "#8d6a9f", "#d9922e", "#3aa6a6", "#7a5230", "#4a4a4a")
"""In the order in which they are used."""
_DASHES = ("--", ":", "-.")


class Points(NamedTuple):
    """Points of one colour."""

    places: np.ndarray
    """[points, 2]."""
    label: str = ""
    size: float = 8.0
    marker: str = "o"
    hollow: bool = False
    """Whether only the outline is drawn, so that what lies below is seen."""


class Line(NamedTuple):
    """A line through places, or an arrow along it."""

    places: np.ndarray
    """[points, 2]."""
    label: str = ""
    colour: str = "#222222"
    style: str = "-"
    arrow: bool = False
    """Whether its end has a head."""


def panels(
    rows: int, columns: int, *, width: float, height: float = 3.6, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with light axes, row by row.

    Args:
      rows: how many below each other.
      columns: how many beside each other.
      width: of the whole figure, in inches.
      height: of it.
      share: whether all have the same limits.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    shared = {"sharex": share, "sharey": share}
    found: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, found


def curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Curves by label.

    Args:
      lines: label -> (x [points], y [points]).
      title: what is shown.
      xlabel: what runs along.
      ylabel: what runs up.
      marks: label -> height of a dashed horizontal line.
      log: whether y is logarithmic.
    """
    figure, (axes,) = panels(1, 1, width=6.4, height=4.2)
    for place, (label, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, label=label, color=COLOURS[place % len(COLOURS)])
    for label, height in (marks or {}).items():
        axes.axhline(height, label=label, color="#8a8a8a", linestyle="--", linewidth=1)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.legend(fontsize=8)
    return figure


def bands(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    single: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Curves with a band about each, or with the single ones that they are the mean of.

    Args:
      lines: label -> (x [points], y [points], half the height of the band [points]).
      title: what is shown.
      xlabel: what runs along.
      ylabel: what runs up.
      single: label -> [curves, points], drawn thinly, instead of the label's band.
    """
    figure = curves(
        {label: line[:2] for label, line in lines.items()},
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
    )
    (axes,) = figure.axes
    for colour, (label, (x, y, half)) in zip(COLOURS, lines.items(), strict=False):
        if label in (single or {}):
            axes.plot(x, single[label].T, color=colour, alpha=0.15, linewidth=0.5, zorder=1)
            continue
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
    """Repeated measurements against a quantity over decades, panels side by side on one height.

    Lines are means, bars the sample standard deviation; what is not finite is left out.

    Args:
      panels: xlabel -> label -> (x [points] above 0, y [points, repetitions]).
      ylabel: what runs up.
      marks: label -> height of a dashed horizontal line, each dashed in its own way, at most three.
    """
    figure = Figure(figsize=(max(4.2 * len(panels), 6.0), 3.8), layout="constrained")
    for axes, (xlabel, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True).flat,
        panels.items(),
        strict=True,
    ):
        for place, (label, (x, y)) in enumerate(lines.items()):
            known = np.isfinite(y).all(axis=1)
            mean, spread = y[known].mean(axis=1), y[known].std(axis=1, ddof=1)
            style = {"color": COLOURS[place % len(COLOURS)], "marker": "o", "capsize": 3}
            axes.errorbar(x[known], mean, spread, label=label, **style)
        for dashes, (label, height) in zip(_DASHES, (marks or {}).items(), strict=False):
            axes.axhline(height, label=label, color="#4a4a4a", linestyle=dashes, linewidth=1.4)
        axes.set(xlabel=xlabel, xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel(ylabel)
    return figure


def planes(
    panels: Mapping[str, Sequence[Points]],
    *,
    lines: Mapping[str, Sequence[Line]] | None = None,
    circle: float | None = None,
) -> Figure:
    """Points on planes side by side, all of one scale, with one legend below.

    Args:
      panels: title -> groups of points, a colour each.
      lines: title -> lines and arrows.
      circle: radius of a circle about the origin.
    """
    figure = Figure(layout="constrained")
    turn = np.linspace(0, 2 * np.pi, 200)
    every = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True).flat
    for axes, (title, groups) in zip(every, panels.items(), strict=True):
        if circle is not None:
            axes.plot(circle * np.cos(turn), circle * np.sin(turn), color="#bbbbbb", linewidth=1)
        for place, group in enumerate(groups):
            _scatter(axes, group, COLOURS[place % len(COLOURS)])
        for line in (lines or {}).get(title, ()):
            _draw_line(axes, line)
        axes.set(title=title, aspect="equal")
        axes.grid(alpha=0.25)
    wide, high = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    figure.set_size_inches(4.4 * len(panels), 4.0 * np.clip(high / wide, 0.4, 1.5) + 1.2)
    _legend_below(figure)
    return figure


def _scatter(axes: Axes, group: Points, colour: str) -> None:
    filling = {"facecolors": "none", "edgecolors": colour} if group.hollow else {"color": colour}
    width = 1.0 if group.hollow else 0
    label = group.label or None
    style = {"marker": group.marker, "label": label, "linewidths": width, "zorder": 4, **filling}
    axes.scatter(*group.places.T, s=group.size, **style)


def _draw_line(axes: Axes, line: Line) -> None:
    style = {"color": line.colour, "linestyle": line.style, "linewidth": 1.1}
    axes.plot(*line.places.T, label=line.label or None, **style)
    if line.arrow:
        before, end = line.places[-2:]
        head = {"arrowstyle": "-|>", "color": line.colour, "mutation_scale": 7, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=end - 0.01 * (end - before), arrowprops=head)


def _legend_below(figure: Figure) -> None:
    """One for all panels, off the points; a label that several have stands once."""
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    known = {
        label: one for handles, labels in drawn for one, label in zip(handles, labels, strict=True)
    }
    if known:
        columns = min(len(known), 2 * len(figure.axes))
        place = {"loc": "outside lower center", "ncols": columns, "fontsize": 8}
        figure.legend(known.values(), known.keys(), **place)


def bars(values: Mapping[str, np.ndarray], *, title: str, xlabel: str, ylabel: str) -> Figure:
    """Groups of bars, one bar a label and class.

    Args:
      values: label -> [classes].
      title: what is shown.
      xlabel: what the classes are.
      ylabel: what runs up.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(values)
    for place, (label, heights) in enumerate(values.items()):
        across = np.arange(len(heights)) + (place - (len(values) - 1) / 2) * width
        axes.bar(across, heights, width, label=label, color=COLOURS[place % len(COLOURS)])
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(heights)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure
