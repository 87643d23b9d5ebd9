"""Draws the papers' explanatory figures, with values that the project's own functions compute.

They show the tangent plane of a normalised vector, the angular margins of two features, and how the
histogram of a pair of videos is computed.
"""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge

from hyperface import losses, theory
from hyperface.normalize import l2_normalize
from hyperface.protocols.frames import BINS, group_frames, video_similarities
from hyperface.report.canvas import COLOURS, GREY, WIDEST, WIDTH

BLUE, RED, GREEN, _, YELLOW = COLOURS[:5]


def tangent_line() -> Figure:
    """Draws NormFace, Figure 4, left: the gradient of L2 normalisation in the plane.

    It shows x, the normalised x, the gradients of the loss with respect to both, and a step along
    the gradient.
    """
    unit, slope = np.array([0.6, 0.8]), np.array([0.95, 0.15])
    x = 1.5 * unit
    gradient = np.asarray(jax.grad(lambda x: l2_normalize(x) @ slope)(x))
    along = slope - unit * (unit @ slope)
    # Twice the gradient, so that one can see that the end of the step is outside of the circle.
    moved = x + 2.0 * gradient
    # Without pyplot, which would keep every figure in memory until it is closed.
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.add_patch(Circle((0, 0), 1.0, fill=False, color=GREY))
    axes.add_patch(Circle((0, 0), 1.5, fill=False, color=GREY, linestyle=":"))
    for start in (unit, x):
        axes.axline(tuple(start), tuple(start + along), color=GREY, linewidth=0.6)
    axes.plot(*zip(unit + slope, unit + along, strict=True), color=BLUE, linestyle=":")
    _arrow(axes, np.zeros(2), moved, GREY, r"$x + \alpha\,\partial L/\partial x$", (0.06, -0.02))
    _arrow(axes, x, moved, GREY)
    _arrow(axes, np.zeros(2), x, "#222222", "$x$", (-0.05, 0.06))
    _arrow(axes, unit, unit + slope, BLUE, r"$\partial L/\partial\tilde{x}$", (0.04, 0.0))
    _arrow(axes, unit, unit + along, RED, "its projection\non the tangent", (0.04, -0.08))
    _arrow(axes, x, x + gradient, RED, r"$\partial L/\partial x$", (-0.02, 0.06))
    axes.plot(*unit, "o", color="#222222")
    axes.text(unit[0] - 0.12, unit[1] + 0.02, r"$\tilde{x}$")
    for radius, name in ((1.0, "1"), (1.5, r"$\|x\|$")):
        axes.text(radius - 0.03, -0.12, name, color="#5a5a5a", ha="right")
    axes.set(xlim=(-0.25, 2.1), ylim=(-0.25, 1.65), aspect="equal")
    axes.set_axis_off()
    return figure


def tangent_plane() -> Figure:
    """Draws NormFace, Figure 4, right: how features of three classes pull one class weight.

    The gradients with respect to the weight lie in the tangent plane of the sphere at the weight.
    """
    rng = np.random.default_rng(3)
    centers = _on_sphere(np.array([[0.1, -0.75, 0.65], [0.85, -0.1, 0.5], [-0.65, 0.3, 0.7]]))
    labels = np.repeat([0, 1, 2], 4)
    features = _on_sphere(centers[labels] + 0.13 * rng.normal(size=(12, 3)))
    weights = centers.copy()
    weights[0] = weight = _on_sphere(np.array([0.12, -0.3, 1.0]))
    # The Jacobian has one gradient per feature; [:, 0] is its part for the drawn weight. The factor
    # scales the arrows for the drawing.
    loss = jax.jacobian(lambda w: losses.softmax(features, w, labels, scale=2.0))
    steps = -0.6 * np.asarray(loss(weights))[:, 0]
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    # Matplotlib's own order compares whole objects by depth and ignores the `zorder` set below.
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, 40), np.linspace(0, np.pi, 20))
    sphere = np.sin(height) * np.cos(turn), np.sin(height) * np.sin(turn), np.cos(height)
    axes.plot_wireframe(*sphere, color="#c9c9c9", linewidth=0.4, zorder=1)
    # Two orthogonal unit vectors in the tangent plane at the weight.
    first = _on_sphere(np.cross(weight, [0.0, 1.0, 0.0]))
    second = np.cross(weight, first)
    sides = np.array([[-0.85], [0.85]])
    corners = weight + sides[:, None] * first + sides[None] * second
    axes.plot_surface(*np.moveaxis(corners, 2, 0), color=BLUE, alpha=0.22, zorder=2)
    head = {"arrow_length_ratio": 0.15}
    for place, (colour, name) in enumerate(
        ((RED, "features of the weight's class"), (YELLOW, "a second class"), (GREEN, "a third"))
    ):
        some = labels == place
        axes.scatter(*features[some].T, color=colour, s=24, zorder=4, label=name, depthshade=False)
        for step in steps[some]:
            axes.quiver(*weight, *step, color=colour, linewidth=1.3, zorder=5, **head)
    # Normalised, since only the direction of the sum matters here.
    total = 0.7 * _on_sphere(steps.sum(axis=0))
    axes.quiver(*weight, *total, color="#222222", zorder=6, label="direction of the sum", **head)
    axes.scatter(*weight, color=BLUE, s=50, zorder=7, depthshade=False, label="weight")
    axes.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), zlim=(-0.4, 1.2), box_aspect=(1, 1, 1))
    axes.view_init(elev=30, azim=-55)
    axes.set_axis_off()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def classification_margins(ratio: float = 2.0) -> Figure:
    """Draws Ring loss, Figure 2a: two class weights, a feature of each class, and their margins.

    Args:
      ratio: r = ||x_2|| / ||x_1|| in the right panel; it is 1 in the left panel.
    """
    towards = {"w_1": 125.0, "x_1": 110.0, "x_2": 50.0, "w_2": 35.0}
    figure = Figure(figsize=(WIDEST, 4.6), layout="constrained")
    for axes, r in zip(figure.subplots(1, 2), (1.0, ratio), strict=True):
        lengths = {"w_1": 1.25, "x_1": 1.0, "x_2": r, "w_2": 1.25}
        for own, other, norms, colour in (
            ("w_1", "x_2", r, YELLOW),
            ("w_2", "x_1", 1 / r, GREEN),
        ):
            # The margin around a weight is limited by the other class' feature; for the second
            # class the roles are swapped, and with them the norm ratio.
            delta = np.cos(np.radians(towards[own] - towards[other]))
            margin = float(np.degrees(theory.angular_margin(norms, delta)))
            ends = towards[own] - margin, towards[own] + margin
            label = f"margin of class {own[-1]}: {margin:.0f}° to either side of ${own}$"
            axes.add_patch(Wedge((0, 0), 0.9, *ends, color=colour, alpha=0.25, label=label))
        for name, degrees in towards.items():
            direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
            colour = {"1": RED, "2": BLUE}[name[-1]] if name[0] == "x" else "#222222"
            _arrow(
                axes,
                np.zeros(2),
                lengths[name] * direction,
                colour,
                f"${name}$",
                tuple(0.1 * direction),
            )
        _angle(axes, towards["x_1"], towards["w_1"], 0.62, r"$\theta_1$")
        _angle(axes, towards["x_2"], towards["w_1"], 0.36, r"$\theta_2$")
        axes.set(xlim=(-1.25, 1.75), ylim=(-0.95, 1.85), aspect="equal")
        axes.set_title(rf"$\|x_1\| = 1$, $\|x_2\| = r = {r:g}$")
        axes.set_axis_off()
        axes.legend(loc="lower center")
    return figure


def pair_histogram() -> Figure:
    """Draws NormFace, Figure 9a: how the histogram of a pair of videos is computed.

    The cosines between all frames of two artificial videos are counted in bins.
    """
    rng = np.random.default_rng(0)
    sizes = 12, 16
    # The frames of one person are one vector with noise, different in each frame.
    person = rng.normal(size=64)
    frames = person + 0.9 * rng.normal(size=(sum(sizes), 64))
    unit = _on_sphere(frames)
    found = video_similarities(
        group_frames(frames, np.repeat([0, 1], sizes)), np.array([0]), np.array([1])
    )
    figure = Figure(figsize=(WIDEST, 3.7), layout="constrained")
    matrix, counted = figure.subplots(1, 2)
    shown = matrix.imshow(unit[: sizes[0]] @ unit[sizes[0] :].T, cmap="viridis")
    figure.colorbar(shown, ax=matrix, label="cosine")
    matrix.set(
        title="1. Scores of all frames", xlabel="frame of video 2", ylabel="frame of video 1"
    )
    # The left edges of the bins; `align` puts each bar to the right of its edge.
    counted.bar(
        np.linspace(-1, 1, BINS, endpoint=False),
        found.histogram[0],
        2 / BINS,
        align="edge",
        color=BLUE,
    )
    counted.set(
        title=f"2. Counted into {BINS} bins",
        xlabel="cosine of two frames",
        ylabel="share of the pair's frame similarities",
    )
    counted.spines[["top", "right"]].set_visible(False)
    return figure


def _on_sphere(x: np.ndarray) -> np.ndarray:
    """Returns the vectors [..., dim] scaled to unit length."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _arrow(
    axes: Axes,
    tail: np.ndarray,
    head: np.ndarray,
    colour: str,
    label: str = "",
    offset: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Draws an arrow from tail to head, with a label near its head.

    Args:
      axes: the axes to draw on.
      tail: [2] start of the arrow.
      head: [2] end of the arrow.
      colour: colour of arrow and label.
      label: text of the label.
      offset: vector from the head to the label.
    """
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.4}
    axes.annotate("", xy=tuple(head), xytext=tuple(tail), arrowprops=style)
    axes.text(head[0] + offset[0], head[1] + offset[1], label, color=colour)


def _angle(axes: Axes, start: float, end: float, radius: float, label: str) -> None:
    """Draws an arc around the origin, with a label at its middle.

    Args:
      axes: the axes to draw on.
      start: direction of the start of the arc, in degrees.
      end: direction of its end, in degrees.
      radius: radius of the arc.
      label: text of the label.
    """
    turn = np.radians(np.linspace(start, end, 40))
    axes.plot(radius * np.cos(turn), radius * np.sin(turn), color="#444444", linewidth=1)
    middle = turn[20]
    axes.text(
        (radius + 0.04) * np.cos(middle), (radius + 0.04) * np.sin(middle), label, ha="center"
    )
