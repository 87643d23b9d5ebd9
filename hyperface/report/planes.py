"""Draws two-dimensional features as points on the plane: the papers' MNIST figures."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface.report.canvas import panels

SQUARE = 4.1
"""Height in inches of a figure with a plane and the legend at its side."""


def feature_plane(features: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Draws two-dimensional features as points, one colour per class.

    Args:
      features: [examples, 2] features of a network with two dimensions, for example of digits.
      labels: [examples] class ids from 0.
      title: title of the axes.
    """
    figure, (axes,) = panels(height=SQUARE)
    _class_points(axes, features, labels)
    axes.set(title=title, aspect="equal")
    axes.legend(markerscale=4, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def probability_plane(
    features: np.ndarray,
    labels: np.ndarray,
    agents: np.ndarray,
    *,
    marks: Mapping[str, np.ndarray],
    title: str,
) -> Figure:
    """Draws features and the softmax probability of class 0 on the plane (NormFace, Figure 2).

    The left panel shows the features, and the right panel the probability at each point.

    Args:
      features: [examples, 2] two-dimensional features.
      labels: [examples] class ids from 0.
      agents: [classes, 2] agents (class weights). The logit of a class is the inner product of
        feature and agent, without a bias.
      marks: label -> [2], x and y of a point that is marked on both panels.
      title: title of the panel with the features.
    """
    figure, (points, heat) = panels(1, 2, height=SQUARE)
    _class_points(points, features, labels)
    points.set(title=title, aspect="equal")
    points.legend(markerscale=4, loc="center left", bbox_to_anchor=(1, 0.5))
    # The heat map shows the same part of the plane as the panel of points.
    edges = [np.linspace(*limits, 301) for limits in (points.get_xlim(), points.get_ylim())]
    # Each cell shows the probability at its middle.
    x, y = (edge[:-1] / 2 + edge[1:] / 2 for edge in edges)
    probability = softmax_probability(np.stack(np.meshgrid(x, y), axis=-1), agents)[..., 0]
    drawn = heat.pcolormesh(*edges, probability, vmin=0, vmax=1, cmap="viridis", rasterized=True)
    figure.colorbar(drawn, ax=heat, label="probability of class 0")
    heat.set(title="softmax probability of class 0", aspect="equal")
    heat.grid(False)
    for axes, colour in ((points, "#000000"), (heat, "#ffffff")):
        for label, place in marks.items():
            across, up = place.tolist()
            axes.plot(across, up, "o", color=colour, markersize=5, markerfacecolor="none")
            axes.annotate(
                f"${label}$",
                (across, up),
                xytext=(5, 4),
                textcoords="offset points",
                color=colour,
            )
    return figure


def softmax_probability(features: np.ndarray, agents: np.ndarray) -> np.ndarray:
    """Returns [..., classes], the softmax over the classes of feature times agent (inner product).

    Args:
      features: [..., dim] features.
      agents: [classes, dim] agents (class weights).
    """
    logits = features @ agents.T
    # The factor cancels, and no exponential overflows.
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def _class_points(axes: Axes, features: np.ndarray, labels: np.ndarray) -> None:
    """Draws the points of each class in its own colour, and the two axes through zero."""
    for label in np.unique(labels):
        points = features[labels == label]
        axes.scatter(*points.T, s=2, color=f"C{label % 10}", label=str(label), linewidths=0)
    axes.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
