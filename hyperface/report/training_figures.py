"""Draws the course of a training: loss with its lower bound, scale, feature norms, distances."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface.report.canvas import GREY, Style, count_on, line_styles, panels

Curve = Sequence[Mapping[str, float]]
"""The lines of a run's `metrics.jsonl`. Each line maps a metric's name to its value."""
USUAL_DISTANCE = (0.5, 0.6)
"""Range of the squared distance between a feature and the agent (class weight) of its class that
NormFace, Section 4, calls usual."""


def losses_with_bound(curves: Mapping[str, Curve]) -> Figure:
    """Draws the training loss against the step, with NormFace's lower bound of the softmax loss.

    If the loss of a method is a sum with a softmax term, only this term is drawn. For other methods
    the whole loss is drawn. The bound (NormFace, Proposition 2) depends on the scale of the logits
    at each step. The bound is drawn for the methods whose `metrics.jsonl` contains it.

    Args:
      curves: name of a method -> the lines of its `metrics.jsonl`, at least one.
    """
    figure, (axes,) = panels()
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        shown = "softmax" if "softmax" in lines[0] else "loss"
        label = f"{name}, softmax term" if shown == "softmax" else name
        _draw(axes, lines, shown, style, label)
        if "softmax_bound" in lines[0]:
            _draw(axes, lines, "softmax_bound", _dotted(style))
    if any("softmax_bound" in lines[0] for lines in curves.values()):
        # An empty line, for one entry of the legend in place of one per method.
        axes.plot([], [], label="lower bound, same colour", color=GREY, linestyle=":")
    axes.set(yscale="log", ylabel="loss (nats)", title="Training loss and its lower bound")
    axes.legend()
    return figure


def losses_below_a_guess(groups: Mapping[str, Mapping[str, Curve]], guess: float) -> Figure:
    """Draws the softmax losses of very short trainings, and the loss of a guess to compare with.

    A guess gives all classes the same probability. Short trainings have losses near that of a
    guess, so the y axis is linear, and it begins at zero. A dotted line in the colour of a training
    is the lower bound of its loss (NormFace, Proposition 2). The grey dotted line is the loss of a
    guess.

    Args:
      groups: title of a panel -> name of a training -> the lines of its `metrics.jsonl`.
      guess: the loss of a guess in nats, the logarithm of the number of classes.
    """
    figure, every = panels(1, len(groups), share=True)
    for axes, (title, curves) in zip(every, groups.items(), strict=True):
        for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
            _draw(axes, lines, "softmax", style, name)
            if "softmax_bound" in lines[0]:
                _draw(axes, lines, "softmax_bound", _dotted(style))
        axes.axhline(guess, color=GREY, linestyle=":")
        # Room for the legend above the losses: below them are the bounds, which it would hide.
        axes.set(title=title, ylim=(0.0, 1.7 * guess))
        axes.legend(loc="upper right", ncols=2)
    every[0].set(ylabel="softmax loss (nats)")
    return figure


def scales(curves: Mapping[str, Curve]) -> Figure | None:
    """Draws the scale s of the logits, and the radius R of Ring loss, against the step.

    The scale is drawn for methods whose logits are cosines times s. The radius is the norm towards
    which Ring loss pulls the features, and is drawn for methods with Ring loss. If there are no
    such methods, None is returned.

    Args:
      curves: name of a method -> the lines of its `metrics.jsonl`, at least one.
    """
    figure, (axes,) = panels()
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        # Without a bound there is no softmax of cosines, whose scale this is.
        if "softmax_bound" in lines[0]:
            _draw(axes, lines, "scale", style, f"{name}: scale s")
        if "radius" in lines[0]:
            dashed = Style(color=style["color"], linestyle="-.")
            _draw(axes, lines, "radius", dashed, f"{name}: radius R")
    if not axes.has_data():
        return None
    axes.set(title="Scale s and radius R in training")
    axes.legend()
    return figure


def training_norms(curves: Mapping[str, Curve]) -> Figure:
    """Draws the mean feature norm of the training images against the step.

    Args:
      curves: name of a method -> the lines of its `metrics.jsonl`, at least one.
    """
    figure, (axes,) = panels()
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        _draw(axes, lines, "feature_norm", style, name)
    axes.set(ylabel="mean ||f||", title="Feature norm in training")
    axes.legend()
    return figure


def norm_histogram(norms: Mapping[str, np.ndarray]) -> Figure:
    """Draws histograms of the feature norms of test images, one per method.

    The norms are divided by their mean over the method's images, so that methods can be compared.

    Args:
      norms: name of a method -> [images] feature norm of each test image.
    """
    figure, (axes,) = panels()
    # About eight images per bin of the method with the fewest images.
    bins = int(np.clip(min(map(len, norms.values())) // 8, 10, 60))
    for style, (name, values) in zip(line_styles(norms), norms.items(), strict=True):
        relative = values / values.mean()
        label = f"{name}: std/mean {relative.std():.3f}"
        axes.hist(relative, bins, histtype="step", linewidth=1.6, label=label, **style)
    axes.set(xlabel="||f|| / mean ||f||", ylabel="images", title="Feature norms of test images")
    count_on(axes.yaxis)
    axes.margins(y=0.1 + 0.1 * len(norms))  # Room for the legend above the bars.
    axes.legend()
    return figure


def distortion(curves: Mapping[str, Curve]) -> Figure:
    """Draws the mean squared distance of features to their own agents against the step.

    The own agent of a feature is the class weight of its class, and the features are normalised.
    The distance is a moving average over classes. NormFace, Proposition 3, shows that this average
    cannot become zero.

    Args:
      curves: name of a method -> the lines of its `metrics.jsonl`; each line has "distortion".
    """
    figure, (axes,) = panels()
    for style, (name, lines) in zip(line_styles(curves), curves.items(), strict=True):
        _draw(axes, lines, "distortion", style, name)
    axes.axhspan(*USUAL_DISTANCE, color="#cccccc", alpha=0.5, zorder=0, label="usual in the paper")
    axes.set(ylabel="squared distance", ylim=(0, None), title="Squared distance to own agent")
    axes.legend()
    return figure


def _draw(axes: Axes, lines: Curve, name: str, style: Style, label: str | None = None) -> None:
    """Draws the metric `name` against the step."""
    steps, values = (np.array([line[key] for line in lines]) for key in ("step", name))
    # A line through one point alone would not be seen.
    axes.plot(steps, values, label=label, marker="o" if len(lines) == 1 else None, **style)
    axes.set(xlabel="step")
    count_on(axes.xaxis)


def _dotted(style: Style) -> Style:
    return Style(color=style["color"], linestyle=":")
