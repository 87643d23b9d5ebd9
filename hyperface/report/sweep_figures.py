"""Draws the scores of a sweep against the values of a field."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface.report.canvas import COLOURS, panels
from hyperface.report.swept import Setting, SweptRun, settings_of
from hyperface.report.tables import score_title

DECADE = 10.0
"""An axis is logarithmic if its largest number is at least this many times its smallest number."""
MOST_TICKS = 8
"""Largest number of values of a field for which each value has a tick of its own."""


def sweep_curve(runs: Sequence[SweptRun], field: str, figure: str) -> Figure:
    """Draws a score against the values of a swept field.

    A swept field is a setting of which the sweep tries several values. There is one line per choice
    of values for the other swept fields. Points are runs; lines are means over seeds, and bars are
    sample standard deviations. The x axis is logarithmic if the largest absolute value is at least
    ten times the smallest one above zero. If a value is zero or negative, a short part of the
    logarithmic axis around zero is linear. Values that are not numbers are spaced evenly.

    Args:
      runs: the runs of the sweep; a run without the score is not drawn.
      field: name of a swept field, a key of `SweptRun.values`.
      figure: name of a score, a key of `SweptRun.figures`.
    """
    drawn, (axes,) = panels()
    every = list(dict.fromkeys(run.values[field] for run in runs))
    places = dict(zip(every, _places(axes, every), strict=True))
    lines: dict[str, list[Setting]] = {}
    for setting in settings_of(runs):
        others = {name: value for name, value in setting.values.items() if name != field}
        label = ", ".join(f"{name}={value}" for name, value in others.items())
        lines.setdefault(label, []).append(setting)
    for colour, (label, settings) in zip(cycle(COLOURS), lines.items(), strict=False):
        points = [(places[s.values[field]], s.scores(figure)) for s in settings]
        _line(axes, points, label, colour)
    axes.set(xlabel=field, ylabel="%", title=score_title(figure))
    if len(lines) > 1:
        axes.legend()
    return drawn


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Sets the scale and ticks of the x axis, and returns the position of each value on it."""
    # A bool is an int in Python, but is no number of an axis.
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        axes.set_xticks(range(len(values)), list(map(str, values)))
        return list(map(float, range(len(values))))
    sizes = [abs(value) for value in values if value]
    if sizes and max(sizes) >= DECADE * min(sizes):
        if min(values) > 0:
            axes.set_xscale("log")
        else:
            # Zero and negative numbers have no logarithm.
            axes.set_xscale("symlog", linthresh=min(sizes))
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        # A logarithmic axis would add ticks at values that were not tried.
        axes.set_xticks([], minor=True)
    return [float(value) for value in values]


def _line(
    axes: Axes, points: Sequence[tuple[float, Sequence[float]]], label: str, colour: str
) -> None:
    """Draws a line through the means of the scores at each x, and the single scores as points.

    Args:
      axes: the axes to draw on.
      points: (x, scores at this x, as shares); an x without scores is left out.
      label: label of the line; "" for none.
      colour: colour of line and points.
    """
    scored = [(x, 100 * np.array(scores)) for x, scores in points if scores]
    # Otherwise the line would run back and forth.
    scored.sort(key=lambda point: point[0])
    if not scored:
        return
    spread = [scores.std(ddof=1) if scores.size > 1 else 0.0 for _, scores in scored]
    means = [scores.mean() for _, scores in scored]
    places = [x for x, _ in scored]
    style = {"marker": "o", "capsize": 3, "color": colour}
    axes.errorbar(places, means, spread, label=label or None, **style)
    for x, scores in scored:
        axes.plot(np.full(scores.size, x), scores, ".", alpha=0.5, color=colour)
