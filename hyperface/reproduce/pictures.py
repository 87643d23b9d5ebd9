"""Draws the results of runs: ROC curves, low resolution, loss weights, histograms.

The figures of runs at the paper's scale come first, then the same figures of runs at small scale.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hyperface.metrics.roc import Roc
from hyperface.protocols.registry import PROTOCOLS
from hyperface.protocols.result import Figure as Score
from hyperface.report import drawings, score_figures
from hyperface.reproduce import sketches
from hyperface.reproduce.commands import (
    SCORED,
    SmallScale,
    evaluation,
    evaluation_of,
    folder,
    seeds,
)
from hyperface.reproduce.item import Context
from hyperface.reproduce.runs import full_scores, small_scores
from hyperface.train.logs import run_digest

PAIRS = {
    "evaluation-profiles/pairs": "60 people of CFP, frontal-profile pairs, small scale",
    "blufr": "LFW, BLUFR pairs, small scale",
}
"""Protocol at small scale -> title of its curves."""
AREA = "area / "
"""Start of the name of a column of reduced images; the factor of the area follows."""
READ = "the paper does not say that the factor is of the area: that is how it is read here"
PAIR = (
    "a: how a pair of videos gets its histogram, of two made-up videos of one person: the cosines "
    "of all frames of one with all of the other are counted into bins"
)


class _Scored(NamedTuple):
    """The run of a row, with access to its evaluation."""

    row: str
    run: Path
    evaluation: str | None = None
    """Folder of the scores at the paper's scale; None at small scale, where protocols name it."""

    def record(self, protocol: str) -> Mapping[str, Any]:
        """Reads a protocol's scores; returns {} if the current run has not been scored."""
        where, name = (self.evaluation, protocol) if self.evaluation else evaluation_of(protocol)
        path = self.run / where / SCORED
        if not path.exists():
            return {}
        record = json.loads(path.read_text())
        current = record["settings"]["run"] == run_digest(self.run)
        return record["protocols"].get(name, {}) if current else {}

    def curve(self, protocol: str) -> Roc | None:
        """Reads the ROC curve of a protocol; returns None if there is none."""
        name = protocol if self.evaluation else evaluation_of(protocol)[1]
        rates = self.record(protocol).get("curves", {}).get(name)
        if rates is None:
            return None
        far, tar = np.array(rates["far"]), np.array(rates["tar"])
        return Roc(far, tar, np.full(far.size, np.nan))


def draw(printed: Mapping[str, Any], context: Context) -> dict[str, Figure]:
    """Draws the figures that a table asks for by `draw`; returns them by caption.

    The keys of `draw`:
      curves: ROC curves of a protocol at small scale, of the lowest seed of each row.
      sweep: scores and ROC curves of every column of reduced images.
      weights: accuracies against the weight of a loss term.
      histograms: of the videos of a protocol at small scale, one figure per row.

    A figure without any run is left out.
    """
    wanted = printed.get("draw", {})
    drawn: dict[str, Figure] = {}
    for whole in (True, False):
        scored = list(_runs(printed, context, whole=whole))
        if protocol := wanted.get("curves"):
            drawn |= _curves(scored, printed, protocol, whole=whole)
        if wanted.get("sweep"):
            drawn |= _low_resolution(scored, printed, context.runs, whole=whole)
        if wanted.get("weights"):
            drawn |= _weights(printed, context.runs, whole=whole)
        if protocol := wanted.get("histograms"):
            drawn |= _video_histograms(scored, printed, protocol, whole=whole)
    return drawn


def _runs(printed: Mapping[str, Any], context: Context, *, whole: bool) -> Iterator[_Scored]:
    """Yields rows with their run at the paper's scale, or with that of their lowest seed."""
    for row in printed["rows"]:
        if whole and "run" in row:
            run = folder(context.runs, row["run"])
            yield _Scored(row["row"], run, evaluation(printed, row))
        elif not whole and "small" in row:
            for seed in seeds(context.runs, row["small"])[:1]:
                yield _Scored(row["row"], folder(context.runs, row["small"], seed))


def _curves(
    scored: list[_Scored], printed: Mapping[str, Any], protocol: str, *, whole: bool
) -> dict[str, Figure]:
    """Draws ROC curves, one figure per protocol."""
    protocols = dict.fromkeys(_protocols(printed)) if whole else (protocol,)
    drawn = {}
    for name in protocols:
        curves = {one.row: curve for one in scored if (curve := one.curve(name))}
        if curves:
            title = f"ROC: {PROTOCOLS[name].title if whole else PAIRS[name]}"
            drawn[title] = score_figures.roc_curves(curves, title=title, joined=True)
    return drawn


def _protocols(printed: Mapping[str, Any]) -> list[str]:
    """Returns the protocols of all rows at the paper's scale."""
    rows = [row.get("protocols", printed["protocols"]) for row in printed["rows"] if "run" in row]
    return [name for names in rows for name in names if name]


def _low_resolution(
    scored: list[_Scored], printed: Mapping[str, Any], runs: Path, *, whole: bool
) -> dict[str, Figure]:
    """Draws Ring loss, Figure 8: one panel of ROC curves per factor, and scores against factors."""
    small = SmallScale.of(printed)
    columns, protocols, names = (
        (printed[key] for key in ("columns", "protocols", "figures"))
        if whole
        else (small.columns, small.protocols, small.figures)
    )
    of_factor = {
        float(column.partition(AREA)[2]): (column, protocol)
        for column, protocol in zip(columns, protocols, strict=True)
        if AREA in column
    }
    panels = {}
    for factor, (_, protocol) in of_factor.items():
        curves = {one.row: curve for one in scored if (curve := one.curve(protocol))}
        if curves:
            panels[f"area / {factor:g}"] = curves
    title = PROTOCOLS[evaluation_of(protocols[-1])[1].partition("-area")[0]].title
    drawn = {}
    if panels:
        caption = f"{title}: ROC curves, a panel for each factor by which images were made smaller"
        drawn[f"{caption}; {READ}"] = score_figures.roc_panels(panels)
    factors = {column: factor for factor, (column, _) in of_factor.items()}
    sweeps = _against(printed, runs, factors, whole=whole)
    if sweeps:
        ylabel = f"{title}: {names[-1]}"
        caption = f"{ylabel} against the factor by which images were made smaller"
        drawn[f"{caption}; {READ}"] = score_figures.resolution_curves(sweeps, ylabel=ylabel)
    return drawn


def _against(
    printed: Mapping[str, Any], runs: Path, factors: Mapping[str, float], *, whole: bool
) -> dict[str, dict[float, Score]]:
    """Returns row -> factor -> score, from the factor of each column."""
    sweeps: dict[str, dict[float, Score]] = {}
    for (row, column), found in _scores(printed, runs, whole=whole).items():
        if column in factors:
            sweeps.setdefault(row, {})[factors[column]] = found
    return sweeps


def _scores(printed: Mapping[str, Any], runs: Path, *, whole: bool) -> dict[tuple[str, str], Score]:
    """Reads (row, column) -> score; its spread is over snapshots or, at small scale, over seeds."""
    if whole:
        return {
            cell: Score(found.value / 100, None if found.spread is None else found.spread / 100)
            for cell, found in full_scores(printed, runs).items()
        }
    shares = {
        cell: [found.value / 100 for found in by_seed.values()]
        for cell, by_seed in small_scores(printed, runs).items()
    }
    return {c: Score(mean(of), stdev(of) if len(of) > 1 else None) for c, of in shares.items()}


def _weights(printed: Mapping[str, Any], runs: Path, *, whole: bool) -> dict[str, Figure]:
    """Draws NormFace, Figure 8, if a curve has at least two weights."""
    curves: dict[str, dict[float, Score]] = {}
    marks: dict[str, float] = {}
    rows = {row["row"]: row for row in printed["rows"]}
    first = printed.get("columns", [""])[0] if whole else SmallScale.of(printed).columns[0]
    for (name, column), found in _scores(printed, runs, whole=whole).items():
        if column == first and "weight" in rows[name]:
            curves.setdefault(rows[name]["curve"], {})[rows[name]["weight"]] = found
        elif column == first and "curve" in rows[name]:
            marks[rows[name]["curve"]] = found.value
    if max(map(len, curves.values()), default=0) < 2:
        return {}
    scale = "mean and deviation over snapshots" if whole else "small scale, over seeds"
    ylabel = "accuracy on LFW's 6,000 pairs"
    drawn = score_figures.weight_curves(curves, marks=marks, ylabel=ylabel)
    return {f"Accuracy against the loss' weight, {scale}": drawn}


def _video_histograms(
    scored: list[_Scored], printed: Mapping[str, Any], protocol: str, *, whole: bool
) -> dict[str, Figure]:
    """Draws NormFace, Figure 9: how a histogram is computed, and histograms of pairs per row."""
    drawn = {}
    for one in scored:
        name = printed["protocols"][0] if whole else protocol
        shares = one.record(name).get("details", {}).get("histograms")
        if shares:
            drawn[PAIR] = sketches.pair_histogram()
            of = "two videos of YTF" if whole else "two videos"
            drawn[f"b: similarities of {of}, {one.row}"] = _histograms(shares)
    return drawn


def _histograms(shares: Mapping[str, Mapping[str, list[float] | list[list[float]]]]) -> Figure:
    """Draws the share of a video pair's frame similarities in each bin: the mean and single pairs.

    Without single pairs in the scores, a band shows the standard deviation around the mean.
    """
    bands, single = {}, {}
    for kind, found in shares.items():
        label = {"same": "one person", "different": "two people"}[kind]
        middle, deviation = np.array(found["mean"]), np.array(found["deviation"])
        edges = np.linspace(-1, 1, middle.size + 1)
        bands[label] = (edges[:-1] + edges[1:]) / 2, middle, deviation
        if found.get("single"):
            single[label] = np.array(found["single"])
    count = sum(map(len, single.values()))
    return drawings.bands(
        bands,
        title=f"{count} pairs of videos, and the mean over all"
        if count
        else "Mean and deviation over all pairs; the paper draws 200 single ones",
        xlabel="similarity of two frames",
        ylabel="share of the pair's frame similarities",
        single=single,
    )
