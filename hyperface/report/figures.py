"""Draws the figures of a run as matplotlib figures, which `save` writes as PNG files."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hyperface import owned
from hyperface.metrics.roc import Roc, det
from hyperface.protocols.result import Figure as Score
from hyperface.report.drawings import COLOURS, panels

Curve = Sequence[Mapping[str, float]]
"""The lines of a run's `metrics.jsonl`: name of a metric -> its value."""

_DASHES = ("-", "--", "-.", ":")


class _Style(TypedDict):
    """Keyword arguments of the drawing functions of matplotlib."""

    color: str
    linestyle: str


_RAW = _Style(color="#8a8a8a", linestyle="--")


def loss_with_bound(curves: Mapping[str, Curve]) -> Figure:
    """Draws the training loss against the step, with Proposition 2's bound at that step's scale.

    Shows the softmax term alone for a method that has one, and the whole loss for the others.
    """
    figure, (losses, scales) = panels(1, 2, width=9.5)
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        steps = _column(lines, "step")
        shown = "softmax" if "softmax" in lines[0] else "loss"
        label = f"{name}: {'softmax loss' if shown == 'softmax' else 'loss'}"
        losses.plot(steps, _column(lines, shown), label=label, **style)
        if "softmax_bound" in lines[0]:
            bound = _column(lines, "softmax_bound")
            dotted = _Style(color=style["color"], linestyle=":")
            losses.plot(steps, bound, label=f"{name}: lower bound", **dotted)
            scales.plot(steps, _column(lines, "scale"), label=f"{name}: scale s", **style)
        if "radius" in lines[0]:
            dashed = _Style(color=style["color"], linestyle="-.")
            scales.plot(steps, _column(lines, "radius"), label=f"{name}: radius R", **dashed)
    losses.set(yscale="log", xlabel="step", ylabel="loss", title="Loss and Proposition 2")
    scales.set(xlabel="step", title="Learned scale s and radius R")
    losses.legend(fontsize=8)
    if scales.has_data():
        scales.legend(fontsize=8)
    return figure


def roc_curves(
    curves: Mapping[str, Roc], *, title: str = "ROC of the test pairs", joined: bool = False
) -> Figure:
    """Draws the true accept rate against the false accept rate, on a logarithmic x axis.

    Args:
      curves: by name.
      title: of the axes.
      joined: whether straight lines join the points. Curves of a few chosen rates need it, because
        steps between such rates are not in the data. Each line is thinner than the line below it,
        so that equal curves all stay visible.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    _draw_roc(axes, curves, joined=joined)
    axes.set(title=title, ylabel="true accept rate")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def roc_panels(curves_of: Mapping[str, Mapping[str, Roc]]) -> Figure:
    """Draws ROC curves on panels with the same limits, three per row, with one legend.

    Args:
      curves_of: title -> name -> curve; a name has the same colour on all panels.
    """
    names = list(dict.fromkeys(name for curves in curves_of.values() for name in curves))
    rows, columns = -(-len(curves_of) // 3), min(3, len(curves_of))
    width, height = 3.6 * columns, 3.2 * rows + 0.5
    figure, axes = panels(rows, columns, share=True, width=width, height=height)
    styles = dict(zip(names, line_styles(dict.fromkeys(names)), strict=True))
    for panel, (title, curves) in zip(axes, curves_of.items(), strict=False):
        _draw_roc(panel, curves, joined=False, styles=styles)
        panel.set(title=title)
    for panel in axes[len(curves_of) :]:
        panel.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel("true accept rate")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_roc(
    axes: Axes,
    curves: Mapping[str, Roc],
    *,
    joined: bool,
    styles: Mapping[str, _Style] | None = None,
) -> None:
    styles = styles or dict(zip(curves, line_styles(curves), strict=True))
    for place, (name, curve) in enumerate(curves.items()):
        # A logarithmic axis has no place for a rate of 0, so a curve starts at its lowest rate.
        shown = curve.far > 0
        style, width = styles[name], None
        if joined:
            style = _Style(color=style["color"], linestyle=_DASHES[place % len(_DASHES)])
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


def det_curves(curves: Mapping[str, Roc]) -> Figure:
    """Draws the false reject rate against the false accept rate, both on logarithmic axes.

    A curve is left out if it has no point at which both rates are above zero.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    for style, (name, curve) in zip(line_styles(curves), curves.items(), strict=True):
        errors = det(curve)
        shown = (errors.far > 0) & (errors.frr > 0)
        if shown.any():
            axes.plot(errors.far[shown], errors.frr[shown], label=name, **style)
    axes.set(xlabel="false accept rate", ylabel="false reject rate", title="DET of the test pairs")
    if axes.has_data():
        axes.set(xscale="log", yscale="log")
        axes.legend(loc="lower left", fontsize=8)
    return figure


def resolution_curves(
    sweeps: Mapping[str, Mapping[float, Score]], *, ylabel: str = "share"
) -> Figure:
    """Draws a score against the factor by which the images' area was reduced (Ring loss, Exp. 6).

    Args:
      sweeps: label -> area factor -> the score, with its spread if it has one.
      ylabel: name of the score.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    for factors in _draw_sweeps(axes, sweeps):
        axes.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axes.set(xlabel="area factor of downsampling", ylabel=ylabel, title="Low resolution")
    axes.legend(fontsize=8)
    return figure


def weight_curves(
    curves: Mapping[str, Mapping[float, Score]], *, marks: Mapping[str, float], ylabel: str
) -> Figure:
    """Draws a score against the weight of a loss term, as in NormFace, Figure 8.

    Args:
      curves: label -> weight -> the score, with its spread if it has one.
      marks: label -> height of a dashed line.
      ylabel: name of the score.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    _draw_sweeps(axes, curves)
    for label, height in marks.items():
        axes.axhline(height, label=label, **_RAW)
    axes.set(xscale="log", xlabel="weight of the added loss", ylabel=ylabel, title="Loss weights")
    axes.legend(fontsize=8)
    return figure


def _draw_sweeps(axes: Axes, sweeps: Mapping[str, Mapping[float, Score]]) -> list[list[float]]:
    """Draws lines, with error bars if there is a spread; returns the x values of each line."""
    places = []
    for style, (name, values) in zip(line_styles(sweeps), sweeps.items(), strict=True):
        places.append(sorted(values))
        shares = [values[place].value for place in places[-1]]
        spreads = [values[place].spread or 0.0 for place in places[-1]]
        spread = spreads if any(spreads) else None
        axes.errorbar(places[-1], shares, spread, marker="o", capsize=3, label=name, **style)
    return places


def cmc_curves(ranked: Mapping[str, np.ndarray]) -> Figure:
    """Draws the share of searches whose mate is among the best matches, against their number.

    Args:
      ranked: [max_rank] cumulative match characteristic, by name.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    for style, (name, shares) in zip(line_styles(ranked), ranked.items(), strict=True):
        axes.plot(np.arange(1, shares.size + 1), shares, label=name, **style)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="rank", ylabel="share of searches", title="CMC")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def similarity_histograms(scored: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draws histograms of the similarities of same and of different pairs, one panel per method.

    Args:
      scored: name -> (scores [pairs], same [pairs]).
    """
    figure, beside = panels(1, len(scored), width=3.4 * len(scored))
    for axes, (name, (scores, same)) in zip(beside, scored.items(), strict=True):
        # Cosines lie in [-1, 1], distances and sums of cosines elsewhere.
        bins = np.linspace(min(-1.0, scores.min()), max(1.0, scores.max()), 61)
        axes.hist(
            scores[~same],
            bins.tolist(),
            density=True,
            alpha=0.6,
            color="#d1495b",
            label="different",
        )
        axes.hist(
            scores[same], bins.tolist(), density=True, alpha=0.6, color="#0b6e99", label="same"
        )
        axes.set(title=name, xlabel="similarity", yticks=[])
    beside[0].set_ylabel("density of pairs")
    beside[0].legend(fontsize=8)
    return figure


def feature_norms(curves: Mapping[str, Curve], norms: Mapping[str, np.ndarray]) -> Figure:
    """Draws the mean feature norm during training, and a histogram of the norms of test images.

    Args:
      curves: lines of `metrics.jsonl` by method.
      norms: [images] feature norm of each test image, by method.
    """
    figure, (training, test) = panels(1, 2, width=9.5)
    bins = int(np.clip(min(map(len, norms.values())) // 8, 10, 60))
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        training.plot(_column(lines, "step"), _column(lines, "feature_norm"), label=name, **style)
        relative = norms[name] / norms[name].mean()
        label = f"{name}: std/mean {relative.std():.3f}"
        test.hist(relative, bins, histtype="step", linewidth=1.6, label=label, **style)
    training.set(xlabel="step", ylabel="mean ||f||", title="Feature norm in training")
    test.set(xlabel="||f|| / mean ||f||", ylabel="images", title="Feature norms of test images")
    training.legend(fontsize=8)
    test.legend(fontsize=8)
    return figure


def distortion(curves: Mapping[str, Curve]) -> Figure:
    """Draws Proposition 3's bound during training, a moving average over the classes."""
    figure, (axes,) = panels(1, 1, width=5.2)
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        axes.plot(_column(lines, "step"), _column(lines, "distortion"), label=name, **style)
    axes.axhspan(0.5, 0.6, color="#cccccc", alpha=0.5, zorder=0, label="usual, says the paper")
    axes.set(xlabel="step", ylabel="squared distance to the own agent", ylim=(0, None))
    axes.set_title("Proposition 3")
    axes.legend(fontsize=8)
    return figure


def images_per_identity(counts: np.ndarray) -> Figure:
    """Draws a histogram of the number of images per identity.

    Both axes are logarithmic if the counts range over more than 60 values.

    Args:
      counts: [identities] images of each, at least 1.
    """
    figure, (axes,) = panels(1, 1, width=5.2)
    edges = np.arange(counts.min(), counts.max() + 2)
    if edges.size > 60:
        edges = np.unique(np.geomspace(edges[0], edges[-1], 40).astype(int))
        axes.set(xscale="log", yscale="log")
    axes.hist(counts, (edges - 0.5).tolist(), color="#0b6e99", edgecolor="white", linewidth=0.4)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="images of an identity", ylabel="identities")
    axes.set_title(
        f"{counts.size:,} identities, {counts.sum():,} images, median {np.median(counts):g}"
    )
    return figure


def distance_histogram(
    class_distances: np.ndarray, image_distances: np.ndarray, thresholds: tuple[float, float]
) -> Figure:
    """Draws histograms of the squared distances to the class means, with a cleaning's thresholds.

    Args:
      class_distances: [classes] mean squared distance per class; NaN for a class without images.
      image_distances: [images] squared distance per image.
      thresholds: of classes and of images. Classes and images above are dropped; infinity drops
        none.
    """
    figure, beside = panels(1, 2, width=9.5)
    drawn = ("classes", class_distances[~np.isnan(class_distances)]), ("images", image_distances)
    for axes, (name, values), threshold in zip(beside, drawn, thresholds, strict=True):
        axes.hist(values, bins=60, color="#0b6e99")
        if np.isfinite(threshold):
            above = np.sum(values > threshold)
            label = f"above {threshold:.3g}: {above:,} of {values.size:,}"
            axes.axvline(threshold, color="#d1495b", linestyle="--", label=label)
            axes.legend(fontsize=8)
        axes.set(ylabel=name, title=f"{values.size:,} {name}")
        if values.size:
            axes.set(yscale="log", ylim=(0.7, None))
    beside[0].set_xlabel("mean squared distance to the class mean")
    beside[1].set_xlabel("squared distance to the class mean")
    return figure


def save(figures: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Writes `NAME.png` for each figure and returns the paths by name."""
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_picture(paths[name], figure)
    return paths


def write_picture(path: Path, figure: Figure, dpi: int = 130) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    owned.write_bytes(path, data.getvalue())


def line_styles(named: Mapping[str, object]) -> list[_Style]:
    """Returns a style per name: grey and dashed for raw pixels, solid colours for the others."""
    colours = cycle(COLOURS)
    return [
        _RAW if name.startswith("raw pixels") else _Style(color=next(colours), linestyle="-")
        for name in named
    ]


def _column(lines: Curve, name: str) -> np.ndarray:
    return np.array([line[name] for line in lines])
