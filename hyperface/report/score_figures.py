"""Draws the scores of methods and protocols: ROC, DET, ranks, histograms and low resolution."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface.metrics.roc import Roc, det
from hyperface.protocols.result import Figure as Score
from hyperface.report.canvas import (
    BASELINE,
    COLOURS,
    Style,
    count_on,
    legend_below,
    line_styles,
    panels,
)

PANEL_HEIGHT = 2.9
"""Height in inches of each row of panels, in a figure with several rows."""
_DASHES = ("-", "--", "-.", ":")
RATES = np.geomspace(1e-3, 1, 61)
"""False-accept rates at which the ROC curves of several groups of people are averaged."""


def roc_curves(
    curves: Mapping[str, Roc], *, title: str = "ROC of the test pairs", joined: bool = False
) -> Figure:
    """Draws the true accept rate against the false accept rate, on a logarithmic x axis.

    Args:
      curves: name of a method or protocol -> its ROC curve.
      title: title of the axes.
      joined: how the points of a curve are connected. False draws steps, for curves with a point
        per score. True draws straight lines, for curves with points at only a few rates. These
        lines differ in dashes, and get thinner from curve to curve, so that curves that lie on each
        other all stay visible.
    """
    figure, (axes,) = panels()
    _draw_roc(axes, curves, joined=joined)
    axes.set(title=title, ylabel="true accept rate")
    axes.legend(loc="lower right")
    return figure


def roc_panels(curves_of: Mapping[str, Mapping[str, Roc]]) -> Figure:
    """Draws ROC curves on panels with the same limits, three per row, with one legend.

    Args:
      curves_of: title of a panel -> name of a method -> its ROC curve. A name has the same colour
        on all panels. The legend has the names of all panels, each once.
    """
    names = list(dict.fromkeys(name for curves in curves_of.values() for name in curves))
    # Rounded up, so that an incomplete row counts.
    rows, columns = -(-len(curves_of) // 3), min(3, len(curves_of))
    figure, axes = panels(rows, columns, share=True, height=PANEL_HEIGHT * rows + 0.5)
    styles = dict(zip(names, line_styles(dict.fromkeys(names)), strict=True))
    for panel, (title, curves) in zip(axes, curves_of.items(), strict=False):
        _draw_roc(panel, curves, joined=False, styles=styles)
        panel.set(title=title)
    for panel in axes[len(curves_of) :]:
        panel.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel("true accept rate")
    legend_below(figure, columns=4)
    return figure


def _draw_roc(
    axes: Axes,
    curves: Mapping[str, Roc],
    *,
    joined: bool,
    styles: Mapping[str, Style] | None = None,
) -> None:
    styles = styles or dict(zip(curves, line_styles(curves), strict=True))
    for place, (name, curve) in enumerate(curves.items()):
        # A logarithmic axis has no place for a rate of 0, so a curve starts at its lowest rate.
        shown = curve.far > 0
        style, width = styles[name], None
        if joined:
            style = Style(color=style["color"], linestyle=_DASHES[place % len(_DASHES)])
            width = 1.2 + 2.2 / (1 + place)
        axes.plot(
            curve.far[shown],
            curve.tar[shown],
            drawstyle="default" if joined else "steps-post",
            linewidth=width,
            label=name,
            **style,
        )
    axes.set(xscale="log", xlim=(None, 1), ylim=(0, 1.02), xlabel="false accept rate")


def det_curves(curves: Mapping[str, Roc]) -> Figure | None:
    """Draws the false reject rate against the false accept rate, both on logarithmic axes.

    A curve is left out if it has no point at which both rates are above zero. If all curves are
    left out, None is returned.

    Args:
      curves: name of a method or protocol -> its ROC curve.
    """
    figure, (axes,) = panels()
    for style, (name, curve) in zip(line_styles(curves), curves.items(), strict=True):
        errors = det(curve)
        # A logarithmic axis has no place for 0.
        shown = (errors.far > 0) & (errors.frr > 0)
        if shown.any():
            axes.plot(errors.far[shown], errors.frr[shown], label=name, **style)
    if not axes.has_data():
        return None
    axes.set(xlabel="false accept rate", ylabel="false reject rate", title="DET of the test pairs")
    axes.set(xscale="log", yscale="log")
    axes.legend(loc="lower left")
    return figure


def cmc_curves(ranked: Mapping[str, np.ndarray]) -> Figure:
    """Draws the share of searches that find the mate among the r best matches, against the rank r.

    The mate of a searched image is the image of the same person in the gallery.

    Args:
      ranked: name of a protocol -> [max_rank] cumulative match characteristic: the share for r = 1,
        2, ... max_rank.
    """
    figure, (axes,) = panels()
    for style, (name, shares) in zip(line_styles(ranked), ranked.items(), strict=True):
        axes.plot(np.arange(1, shares.size + 1), shares, label=name, **style)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="rank", ylabel="share of searches")
    axes.set_title("Share of searches with the mate among the best matches")
    count_on(axes.xaxis)
    axes.legend(loc="lower right")
    return figure


def similarity_histogram(name: str, scores: np.ndarray, same: np.ndarray) -> Figure:
    """Draws two histograms of similarities: for pairs of one person, and for pairs of two people.

    Args:
      name: name of the method or protocol, for the title.
      scores: [pairs] similarities.
      same: [pairs] bool, True where both images show one person.
    """
    figure, (axes,) = panels()
    # Cosines lie in [-1, 1], distances and sums of cosines elsewhere.
    bins = np.linspace(min(-1.0, scores.min()), max(1.0, scores.max()), 61).tolist()
    for colour, kind, label in ((COLOURS[1], ~same, "different"), (COLOURS[0], same, "same")):
        # Densities, since there are often far more different pairs than same pairs.
        axes.hist(scores[kind], bins, density=True, alpha=0.6, color=colour, label=label)
    axes.set(title=f"Similarities: {name}", xlabel="similarity", ylabel="density of pairs")
    axes.set(yticks=[])
    axes.legend()
    return figure


def resolution_curves(
    sweeps: Mapping[str, Mapping[float, Score]], *, ylabel: str = "share"
) -> Figure:
    """Draws a score against the factor by which the images' area was reduced.

    This is the plot of experiment 6 in the Ring loss paper.

    Args:
      sweeps: label of a curve -> area factor (4 is half the width and height) -> the score, with
        its spread if it has one.
      ylabel: name of the score, for the y axis.
    """
    figure, (axes,) = panels()
    for factors in _draw_sweeps(axes, sweeps):
        axes.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axes.set(xlabel="area factor of downsampling", ylabel=ylabel, title="Low resolution")
    axes.legend()
    return figure


def weight_curves(
    curves: Mapping[str, Mapping[float, Score]], *, marks: Mapping[str, float], ylabel: str
) -> Figure:
    """Draws a score against the weight of a loss term, as in NormFace, Figure 8.

    Args:
      curves: label of a curve -> weight above 0 -> the score, with its spread if it has one.
      marks: label -> score at which a dashed horizontal line is drawn, such as that of a training
        without the term.
      ylabel: name of the score, for the y axis.
    """
    figure, (axes,) = panels()
    _draw_sweeps(axes, curves)
    for label, height in marks.items():
        axes.axhline(height, label=label, **BASELINE)
    axes.set(xscale="log", xlabel="weight of the added loss", ylabel=ylabel, title="Loss weights")
    axes.legend()
    return figure


def _draw_sweeps(axes: Axes, sweeps: Mapping[str, Mapping[float, Score]]) -> list[list[float]]:
    """Draws one line per label, with error bars if there is a spread.

    Args:
      axes: the axes to draw on.
      sweeps: label -> x value -> the score, with its spread if it has one.

    Returns:
      The rising x values of each line.
    """
    places = []
    for style, (name, values) in zip(line_styles(sweeps), sweeps.items(), strict=True):
        places.append(sorted(values))
        shares = [values[place].value for place in places[-1]]
        spreads = [values[place].spread or 0.0 for place in places[-1]]
        # Without this, lines without any spread would have error bars of length 0.
        spread = spreads if any(spreads) else None
        axes.errorbar(places[-1], shares, spread, marker="o", capsize=3, label=name, **style)
    return places


def mean_roc(groups_of: Mapping[str, Sequence[Roc]]) -> Figure:
    """Draws the mean ROC over groups of people, with its standard error as a band.

    Args:
      groups_of: name of a method -> the ROC of each group, at least two. All methods have the same
        number of groups.
    """
    figure, (axes,) = panels()
    for style, (name, curves) in zip(line_styles(groups_of), groups_of.items(), strict=True):
        # At each rate the TAR of the last point of the curve whose FAR does not exceed the rate.
        tars = np.array([c.tar[np.searchsorted(c.far, RATES, side="right") - 1] for c in curves])
        mean, error = tars.mean(axis=0), tars.std(axis=0, ddof=1) / np.sqrt(len(tars))
        axes.plot(RATES, mean, label=name, **style)
        axes.fill_between(
            RATES, mean - error, mean + error, color=style["color"], alpha=0.15, linewidth=0
        )
    count = len(next(iter(groups_of.values())))
    axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(None, 1))
    axes.set_title(f"Mean ROC of {count} groups of people")
    axes.legend(loc="lower right")
    return figure
