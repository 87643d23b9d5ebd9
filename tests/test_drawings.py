"""Drawings of the papers' figures: one scale and one legend, curves of few rates, sketches."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hyperface.metrics.roc import Roc
from hyperface.protocols.result import Figure as Score
from hyperface.report import drawings, score_figures
from hyperface.report.canvas import COLOURS
from hyperface.reproduce import sketches


def test_planes_share_their_scale_and_one_legend():
    small, large = np.eye(2), 5 * np.eye(2)
    line = drawings.Line(np.array([[0.0, 0.0], [0.0, 2.0]]), "target", arrow=True)
    panels = {
        "a": [drawings.Points(small, "before"), drawings.Points(small, "mean", 90, hollow=True)],
        "b": [drawings.Points(large, "before")],
    }
    figure = drawings.planes(panels, lines={"a": [line], "b": [line]})
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert [axes.get_legend() for axes in figure.axes] == [None, None]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "mean", "target"]
    assert first.collections[1].get_facecolor().size == 0  # What lies below is seen.
    (head,) = first.texts
    assert head.xy == pytest.approx((0, 2))
    assert not drawings.planes({"a": [drawings.Points(small)]}).legends


def test_curves_of_few_rates_are_joined_and_told_apart():
    rates = np.array([0.0, 0.01, 1.0])
    curves = dict.fromkeys(("SM", "SM + R"), Roc(rates, rates, np.zeros(3)))
    (axes,) = score_figures.roc_curves(curves, title="LFW", joined=True).axes
    assert axes.get_title() == "LFW"
    assert {line.get_drawstyle() for line in axes.lines} == {"default"}
    below, above = axes.lines
    assert below.get_linestyle() != above.get_linestyle()
    assert below.get_linewidth() > above.get_linewidth()
    (axes,) = score_figures.roc_curves(curves).axes
    assert {line.get_drawstyle() for line in axes.lines} == {"steps-post"}


def test_roc_panels_share_scale_colours_and_one_legend():
    rates = np.array([0.0, 0.01, 1.0])
    curve = Roc(rates, rates, np.zeros(3))
    panels = {f"area / {n}": {"SM": curve, "SM + R": curve} for n in (1, 4, 16)}
    panels["area / 64"] = {"SM + R": curve}
    figure = score_figures.roc_panels(panels)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == list(panels)
    assert len({axes.get_xlim() for axes in shown}) == 1
    assert shown[3].lines[0].get_color() == shown[0].lines[1].get_color()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SM", "SM + R"]


def test_the_legend_has_the_names_of_every_panel():
    rates = np.array([0.0, 0.01, 1.0])
    curve = Roc(rates, rates, np.zeros(3))
    figure = score_figures.roc_panels({"one": {"SM": curve}, "two": {"SM": curve, "NF": curve}})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SM", "NF"]


def test_every_line_has_its_band():
    x = np.arange(3.0)
    lines = {f"method {n}": (x, x + n, np.full(3, 0.1)) for n in range(len(COLOURS) + 2)}
    (axes,) = drawings.bands(lines, title="", xlabel="", ylabel="").axes
    colours = [to_hex(band.get_facecolor()[0]) for band in axes.collections]
    assert colours == [line.get_color() for line in axes.lines] == [*COLOURS, *COLOURS[:2]]


@pytest.mark.parametrize(("spread", "bars"), [(None, False), (0.01, True)])
def test_bars_stand_where_there_is_a_spread(spread, bars):
    sweep = {"SM": {1.0: Score(0.9, spread), 4.0: Score(0.8, spread)}}
    (axes,) = score_figures.resolution_curves(sweep, ylabel="accuracy").axes
    assert axes.get_ylabel() == "accuracy"
    assert axes.containers[0].has_yerr == bars


def test_baselines_are_dashed_each_in_its_own_way():
    lines = {"weight": {"added": (np.array([0.1, 1.0]), np.array([[1.0, 2.0], [3.0, 4.0]]))}}
    marks = {"plain": 1.0, "normalised": 2.0}
    (axes,) = drawings.scatter_panels(lines, ylabel="y", marks=marks).axes
    dashes = {
        line.get_label(): line.get_linestyle() for line in axes.lines if line.get_label() in marks
    }
    assert set(dashes) == set(marks)
    assert len(set(dashes.values())) == 2


def test_margins_at_equal_norms_are_equal_and_at_others_are_not():
    figure = sketches.classification_margins(ratio=2.0)
    spans = [[patch.theta2 - patch.theta1 for patch in axes.patches] for axes in figure.axes]
    # theta_2 is 75 degrees for both: arccos(r cos 75 degrees), r = 1, and 2 and 1 / 2.
    assert spans[0] == pytest.approx([150, 150], abs=1e-3)
    assert spans[1] == pytest.approx([2 * 58.82, 2 * 82.57], abs=0.02)
