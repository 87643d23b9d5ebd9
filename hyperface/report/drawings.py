"""Drawings of the papers' figures: curves on one pair of axes, and points on several planes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#0b6e99", "#d1495b", "#5b8c5a", "#8d6a9f", "#d9922e", "#3aa6a6", "#7a5230", "#4a4a4a")


class Points(NamedTuple):
    """Points of one colour."""

    places: np.ndarray
    """[points, 2]."""
    label: str = ""
    size: float = 8.0
    marker: str = "o"


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
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (label, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, label=label, color=_COLOURS[place % len(_COLOURS)])
    for label, height in (marks or {}).items():
        axes.axhline(height, label=label, color="#8a8a8a", linestyle="--", linewidth=1)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def bands(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Curves with a band about each, by label.

    Args:
      lines: label -> (x [points], y [points], half the height of the band [points]).
      title: what is shown.
      xlabel: what runs along.
      ylabel: what runs up.
    """
    figure = curves(
        {label: line[:2] for label, line in lines.items()},
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
    )
    (axes,) = figure.axes
    for colour, (x, y, half) in zip(_COLOURS, lines.values(), strict=False):
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
      marks: label -> height of a dashed horizontal line.
    """
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    for axes, (xlabel, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True).flat,
        panels.items(),
        strict=True,
    ):
        for place, (label, (x, y)) in enumerate(lines.items()):
            known = np.isfinite(y).all(axis=1)
            mean, spread = y[known].mean(axis=1), y[known].std(axis=1, ddof=1)
            style = {"color": _COLOURS[place % len(_COLOURS)], "marker": "o", "capsize": 3}
            axes.errorbar(x[known], mean, spread, label=label, **style)
        for label, height in (marks or {}).items():
            axes.axhline(height, label=label, color="#8a8a8a", linestyle="--", linewidth=1)
        axes.set(xlabel=xlabel, xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel(ylabel)
    return figure


def planes(
    panels: Mapping[str, Sequence[Points]],
    *,
    arrows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]] | None = None,
    circle: float | None = None,
) -> Figure:
    """Points on planes side by side.

    Args:
      panels: title -> groups of points, a colour each.
      arrows: title -> (tail [2], head [2]) pairs.
      circle: radius of a circle about the origin.
    """
    figure = Figure(figsize=(4.2 * len(panels), 4.4), layout="constrained")
    turn = np.linspace(0, 2 * np.pi, 200)
    for axes, (title, groups) in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True
    ):
        if circle is not None:
            axes.plot(circle * np.cos(turn), circle * np.sin(turn), color="#bbbbbb", linewidth=1)
        for place, group in enumerate(groups):
            axes.scatter(
                *group.places.T,
                s=group.size,
                marker=group.marker,
                color=_COLOURS[place % len(_COLOURS)],
                label=group.label or None,
                linewidths=0,
            )
        for tail, head in (arrows or {}).get(title, ()):
            style = {"arrowstyle": "->", "color": "#222222"}
            axes.annotate("", xy=head, xytext=tail, arrowprops=style)
        axes.set(title=title, aspect="equal")
        axes.grid(alpha=0.25)
        if any(group.label for group in groups):
            axes.legend(fontsize=8)
    return figure


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
        axes.bar(across, heights, width, label=label, color=_COLOURS[place % len(_COLOURS)])
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(heights)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure
