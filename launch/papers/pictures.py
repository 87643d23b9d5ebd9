"""Figures drawn of the results of runs at small scale: curves, low resolution, score histograms."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hyperface.evaluate.roc import Roc
from hyperface.evaluate.scored import Figure as Score
from hyperface.report import drawings, figures
from launch.papers import sketches
from launch.papers.item import Context
from launch.papers.methods import EVALUATION, SCORED, TRAINED, Small, folder, seeds
from launch.papers.runs import OWN_TEST, small_figures

PAIRS = {OWN_TEST: "60 people of CFP, small scale", "blufr": "LFW, BLUFR pairs, small scale"}
"""What the curves of a protocol are of."""
SWEEP = (
    "Accuracy against the factor by which images were made smaller; the paper draws ROC curves, a "
    "factor each, and does not say that it is of the area: that is how it is read here"
)
PAIR = (
    "a: how a pair of videos gets its histogram, of two made-up videos of one person: the cosines "
    "of all frames of one with all of the other are counted into bins"
)


def draw(printed: Mapping[str, Any], context: Context) -> dict[str, Figure]:
    """The pictures that a table asks for by `draw`, by caption; {} where no run is there.

    `curves` are those of a protocol, of the least seed of each row; `sweep` is every column, with
    its deviation over seeds; `histograms` are of the videos of a protocol, a row a picture.
    """
    wanted, drawn = printed.get("draw", {}), {}
    if protocol := wanted.get("curves"):
        curves = {row: c for row, run in _runs(printed, context) if (c := _curve(run, protocol))}
        if curves:
            title = f"ROC: {PAIRS[protocol]}"
            drawn |= {title: figures.roc_curves(curves, title=title, joined=True)}
    if label := wanted.get("sweep"):
        sweeps = _sweeps(printed, label, context.runs)
        if sweeps:
            ylabel = "accuracy on LFW's 6,000 pairs"
            drawn[SWEEP] = figures.resolution_curves(sweeps, ylabel=ylabel)
    if protocol := wanted.get("histograms"):
        for row, run in _runs(printed, context):
            shares = _scored(run, protocol).get("details", {}).get("histograms")
            if shares:
                drawn.setdefault(PAIR, sketches.pair_histogram())
                drawn[f"b: similarities of two videos, {row}"] = _histograms(shares)
    return drawn


def _runs(printed: Mapping[str, Any], context: Context) -> Iterator[tuple[str, Path]]:
    """Rows with the folder of their least seed."""
    for row in printed["rows"]:
        found = seeds(context.runs, row["small"]) if "small" in row else []
        if found:
            yield row["row"], folder(context.runs, row["small"], found[0])


def _scored(run: Path, protocol: str) -> dict[str, Any]:
    path = run / EVALUATION / SCORED
    return json.loads(path.read_text())["protocols"].get(protocol, {}) if path.exists() else {}


def _curve(run: Path, protocol: str) -> Roc | None:
    if protocol == OWN_TEST:
        record = json.loads((run / TRAINED).read_text())
        rates = record.get("curves", {}).get(record["experiment"])
    else:
        rates = _scored(run, protocol).get("curves", {}).get(protocol)
    if rates is None:
        return None
    far, tar = np.array(rates["far"]), np.array(rates["tar"])
    return Roc(far, tar, np.full(far.size, np.nan))


def _sweeps(printed: Mapping[str, Any], label: str, runs: Path) -> dict[str, dict[float, Score]]:
    """Row -> area factor -> share; the columns are the label and a factor."""
    factors = {name: float(name.removeprefix(label)) for name in Small.of(printed).columns}
    sweeps: dict[str, dict[float, Score]] = {}
    for (row, column), of_seeds in small_figures(printed, runs).items():
        shares = [found.value / 100 for found in of_seeds.values()]
        spread = stdev(shares) if len(shares) > 1 else None
        sweeps.setdefault(row, {})[factors[column]] = Score(mean(shares), spread)
    return sweeps


def _histograms(shares: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """Share of the frame similarities of a pair of videos in each bin, with its deviation.

    Histograms of single pairs, which the paper draws, are not kept with the scores.
    """
    bands = {}
    for kind, found in shares.items():
        middle, deviation = np.array(found["mean"]), np.array(found["deviation"])
        edges = np.linspace(-1, 1, middle.size + 1)
        bands[{"same": "one person", "different": "two people"}[kind]] = (
            (edges[:-1] + edges[1:]) / 2,
            middle,
            deviation,
        )
    return drawings.bands(
        bands,
        title="Mean and deviation over all pairs; the paper draws 200 single ones",
        xlabel="similarity of two frames",
        ylabel="share of the pair's frame similarities",
    )
