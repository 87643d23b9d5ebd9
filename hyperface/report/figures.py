"""The figures of a run. Each function returns a matplotlib figure; `save` writes them as PNG."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hyperface import owned
from hyperface.metrics.roc import Roc, det
from hyperface.protocols.result import Figure as Score
from hyperface.report.drawings import COLOURS, panels

Curve = Sequence[Mapping[str, float]]
"""Lines of a run's `metrics.jsonl`."""

_DASHES = ("-", "--", "-.", ":")
_RAW = {"color": "#8a8a8a", "linestyle": "--"}


def loss_with_bound(curves: Mapping[str, Curve]) -> Figure:
    """Training loss against step, with Proposition 2's bound at the scale of that step.

    Of a method with a softmax term that term alone, else its whole loss.
    """
    figure, (losses, scales) = panels(1, 2, width=9.5)
    for style, (name, lines) in zip(_styles(curves), curves.items(), strict=True):
        steps = _column(lines, "step")
        shown = "softmax" if "softmax" in lines[0] else "loss"
        label = f"{name}: {'softmax loss' if shown == 'softmax' else 'loss'}"
        losses.plot(steps, _column(lines, shown), label=label, **style)
        if "softmax_bound" in lines[0]:
            bound = _column(lines, "softmax_bound")
            losses.plot(steps, bound, label=f"{name}: lower bound", **style | {"linestyle": ":"})
            scales.plot(steps, _column(lines, "scale"), label=f"{name}: scale s", **style)
        if "radius" in lines[0]:
            style = style | {"linestyle": "-."}
            scales.plot(steps, _column(lines, "radius"), label=f"{name}: radius R", **style)
    losses.set(yscale="log", xlabel="step", ylabel="loss", title="Loss and Proposition 2")
    scales.set(xlabel="step", title="Learned scale s and radius R")
    losses.legend(fontsize=8)
    if scales.has_data():
        scales.legend(fontsize=8)
    return figure


def roc_curves(
    curves: Mapping[str, Roc], *, title: str = "ROC of the test pairs", joined: bool = False
) -> Figure:
    """True against false accept rate, the latter on a logarithmic axis.

    Args:
      curves: by name.
      title: what is shown.
      joined: whether lines join the points, for curves of few rates, where steps would be none of
        the data's; each is thinner than the one below, so that those that are alike are all seen.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    _draw_roc(axes, curves, joined=joined)
    axes.set(title=title, ylabel="true accept rate")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def roc_panels(curves_of: Mapping[str, Mapping[str, Roc]]) -> Figure:
    """ROC curves on panels of one scale, three side by side, with one legend.

    Args:
      curves_of: title -> name -> curve; a name has one colour on all.
    """
    names = list(dict.fromkeys(name for curves in curves_of.values() for name in curves))
    rows, columns = -(-len(curves_of) // 3), min(3, len(curves_of))
    size = {"width": 3.6 * columns, "height": 3.2 * rows + 0.5}
    figure, axes = panels(rows, columns, share=True, **size)
    styles = dict(zip(names, _styles(dict.fromkeys(names)), strict=True))
    for panel, (title, curves) in zip(axes, curves_of.items(), strict=False):
        _draw_roc(panel, curves, joined=False, styles=styles)
        panel.set(title=title)
    for panel in axes[len(curves_of) :]:
        panel.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel("true accept rate")
    known = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(known.values(), known, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_roc(
    axes: Axes,
    curves: Mapping[str, Roc],
    *,
    joined: bool,
    styles: Mapping[str, dict[str, str]] | None = None,
) -> None:
    styles = styles or dict(zip(curves, _styles(curves), strict=True))
    for place, (name, curve) in enumerate(curves.items()):
        # Each from its own lowest rate on: below, it measures nothing.
        shown = curve.far > 0
        style = {**styles[name]}
        if joined:
            style |= {"linestyle": _DASHES[place % 4], "linewidth": 1.2 + 2.2 / (1 + place)}
        drawstyle = "default" if joined else "steps-post"
        axes.plot(curve.far[shown], curve.tar[shown], drawstyle=drawstyle, label=name, **style)
    axes.set(xscale="log", xlim=(None, 1), ylim=(0, 1.02), xlabel="false accept rate")


def det_curves(curves: Mapping[str, Roc]) -> Figure:
    """False reject against false accept rate, both on logarithmic axes.

    A curve without a point at which both are above zero is left out.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    for style, (name, curve) in zip(_styles(curves), curves.items(), strict=True):
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
    """A figure against the area factor by which images were made smaller, as in Ring loss, Exp. 6.

    Args:
      sweeps: label -> area factor -> the figure, with its spread where it has one.
      ylabel: what the figure is.
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
    """A figure against the weight of a loss, as in NormFace, Figure 8.

    Args:
      curves: label -> weight -> the figure, with its spread where it has one.
      marks: label -> height of a dashed line.
      ylabel: what the figure is.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    _draw_sweeps(axes, curves)
    for label, height in marks.items():
        axes.axhline(height, label=label, **_RAW)
    axes.set(xscale="log", xlabel="weight of the added loss", ylabel=ylabel, title="Loss weights")
    axes.legend(fontsize=8)
    return figure


def _draw_sweeps(axes: Axes, sweeps: Mapping[str, Mapping[float, Score]]) -> list[list[float]]:
    """Lines with bars where there is a spread; returns where each has its points."""
    places = []
    for style, (name, values) in zip(_styles(sweeps), sweeps.items(), strict=True):
        places.append(sorted(values))
        shares = [values[place].value for place in places[-1]]
        spreads = [values[place].spread or 0.0 for place in places[-1]]
        spread = spreads if any(spreads) else None
        axes.errorbar(places[-1], shares, spread, marker="o", capsize=3, label=name, **style)
    return places


def cmc_curves(ranked: Mapping[str, np.ndarray]) -> Figure:
    """Share of searches whose mate is among the best, against their number.

    Args:
      ranked: [max_rank] cumulative match characteristic, by name.
    """
    figure, (axes,) = panels(1, 1, width=5.2, height=4.2)
    for style, (name, shares) in zip(_styles(ranked), ranked.items(), strict=True):
        axes.plot(np.arange(1, shares.size + 1), shares, label=name, **style)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="rank", ylabel="share of searches", title="CMC")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def similarity_histograms(scored: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Similarities of same and of different pairs, one panel a method.

    Args:
      scored: name -> (scores [pairs], same [pairs]).
    """
    figure, beside = panels(1, len(scored), width=3.4 * len(scored))
    for axes, (name, (scores, same)) in zip(beside, scored.items(), strict=True):
        # Cosines lie in [-1, 1], distances and sums of cosines elsewhere.
        bins = np.linspace(min(-1.0, scores.min()), max(1.0, scores.max()), 61)
        axes.hist(scores[~same], bins, density=True, alpha=0.6, color="#d1495b", label="different")
        axes.hist(scores[same], bins, density=True, alpha=0.6, color="#0b6e99", label="same")
        axes.set(title=name, xlabel="similarity", yticks=[])
    beside[0].set_ylabel("density of pairs")
    beside[0].legend(fontsize=8)
    return figure


def feature_norms(curves: Mapping[str, Curve], norms: Mapping[str, np.ndarray]) -> Figure:
    """Mean feature norm in training, and the spread of norms over test images.

    Args:
      curves: lines of `metrics.jsonl` by method.
      norms: [images] feature norm of each test image, by method.
    """
    figure, (training, test) = panels(1, 2, width=9.5)
    bins = int(np.clip(min(map(len, norms.values())) // 8, 10, 60))
    for style, (name, lines) in zip(_styles(curves), curves.items(), strict=True):
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
    """Proposition 3's bound in training, a moving average over the classes."""
    figure, (axes,) = panels(1, 1, width=5.2)
    for style, (name, lines) in zip(_styles(curves), curves.items(), strict=True):
        axes.plot(_column(lines, "step"), _column(lines, "distortion"), label=name, **style)
    axes.axhspan(0.5, 0.6, color="#cccccc", alpha=0.5, zorder=0, label="usual, says the paper")
    axes.set(xlabel="step", ylabel="squared distance to the own agent", ylim=(0, None))
    axes.set_title("Proposition 3")
    axes.legend(fontsize=8)
    return figure


def images_per_identity(counts: np.ndarray) -> Figure:
    """How many identities have how many images; both axes logarithmic where counts range far.

    Args:
      counts: [identities] images of each, at least 1.
    """
    figure, (axes,) = panels(1, 1, width=5.2)
    edges = np.arange(counts.min(), counts.max() + 2)
    if edges.size > 60:
        edges = np.unique(np.geomspace(edges[0], edges[-1], 40).astype(int))
        axes.set(xscale="log", yscale="log")
    axes.hist(counts, edges - 0.5, color="#0b6e99", edgecolor="white", linewidth=0.4)
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
    """Squared distances to the class means, with the thresholds of a cleaning.

    Args:
      class_distances: [classes] mean over each; NaN for a class without images.
      image_distances: [images].
      thresholds: of classes and of images; what lies above is dropped, infinity drops nothing.
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


def _styles(named: Mapping[str, object]) -> list[dict[str, str]]:
    """Raw pixels grey and dashed, the others in a fixed order of colours."""
    colours = cycle(COLOURS)
    return [_RAW if name.startswith("raw pixels") else {"color": next(colours)} for name in named]


def _column(lines: Curve, name: str) -> np.ndarray:
    return np.array([line[name] for line in lines])
