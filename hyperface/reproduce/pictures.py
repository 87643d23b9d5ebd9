"""Draws figures from the scores of trained runs.

They are ROC curves, scores at low resolution, accuracy against the weight of a loss, and histograms
of the similarities between two videos. The figures of runs at the paper's scale come first, then
the same figures of runs at small scale.
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
"""Protocol at small scale -> title of the figure with its ROC curves."""
AREA = "area / "
"""A column with scores of reduced images has this prefix, and then the factor of the area."""
READ = "the paper does not say whether a factor divides area or side; here it divides the area"
PAIR = (
    "a: how the histogram of a pair of videos is computed, shown for two artificial videos of one "
    "person: the cosines between all frames of one and all frames of the other are counted in bins"
)


class _Scored(NamedTuple):
    """A row of a table, the run that belongs to it, and access to the scores of that run."""

    row: str
    run: Path
    evaluation: str | None = None
    """Name of the folder, in the run's folder, with the scores at the paper's scale. It is None at
    small scale, where the name of a protocol contains the folder's name."""

    def record(self, protocol: str) -> Mapping[str, Any]:
        """Reads a protocol's scores; returns {} if there are none of the run as it is now."""
        where, name = (self.evaluation, protocol) if self.evaluation else evaluation_of(protocol)
        path = self.run / where / SCORED
        if not path.exists():
            return {}
        record = json.loads(path.read_text())
        # A run that was trained again keeps its folder, and in it the scores of the former run.
        current = record["settings"]["run"] == run_digest(self.run)
        return record["protocols"].get(name, {}) if current else {}

    def curve(self, protocol: str) -> Roc | None:
        """Reads the ROC curve of a protocol; returns None if there is none."""
        name = protocol if self.evaluation else evaluation_of(protocol)[1]
        rates = self.record(protocol).get("curves", {}).get(name)
        if rates is None:
            return None
        far, tar = np.array(rates["far"]), np.array(rates["tar"])
        # The evaluation stores no thresholds, and the figures need none.
        return Roc(far, tar, np.full(far.size, np.nan))


def draw(printed: Mapping[str, Any], context: Context) -> dict[str, Figure]:
    """Draws the figures of a table of trained runs, and returns them by caption.

    The entry `draw` of the table in `published.toml` has a key for each kind of figure:

    - "curves": ROC curves of all rows, one figure per protocol. The value of the key is the name of
      the protocol for runs at small scale.
    - "sweep": scores and ROC curves of every column, where each column has test images of another
      size.
    - "weights": accuracies against the weight of one of the losses.
    - "histograms": similarities of the frames of two videos, one figure per row. The value of the
      key is the name of the protocol for runs at small scale.

    Figures of runs at the paper's scale come first, then those of runs at small scale (on smaller
    data). A figure for which no run has scores is left out. Curves and histograms at small scale
    are those of the lowest seed.

    Args:
      printed: the table as in `published.toml`.
      context: contains the folder of runs.
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
    """Yields each row with its run at the paper's scale or, at small scale, its lowest seed."""
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
    """Draws ROC curves, one figure per protocol.

    Args:
      scored: the rows with their runs.
      printed: the table as in `published.toml`.
      protocol: the protocol at small scale; at the paper's scale the table names the protocols.
      whole: whether the runs are those at the paper's scale.
    """
    protocols = dict.fromkeys(_protocols(printed)) if whole else (protocol,)
    drawn = {}
    for name in protocols:
        curves = {one.row: curve for one in scored if (curve := one.curve(name))}
        if curves:
            title = f"ROC: {PROTOCOLS[name].title if whole else PAIRS[name]}"
            drawn[title] = score_figures.roc_curves(curves, title=title, joined=True)
    return drawn


def _protocols(printed: Mapping[str, Any]) -> list[str]:
    """Returns the names of the protocols that the runs at the paper's scale are scored by."""
    rows = [row.get("protocols", printed["protocols"]) for row in printed["rows"] if "run" in row]
    return [name for names in rows for name in names if name]


def _low_resolution(
    scored: list[_Scored], printed: Mapping[str, Any], runs: Path, *, whole: bool
) -> dict[str, Figure]:
    """Draws Ring loss, Figure 8: ROC curves and scores of images that were made smaller.

    One figure has a panel of ROC curves per factor. Another has the scores against the factor.

    Args:
      scored: the rows with their runs.
      printed: the table as in `published.toml`.
      runs: folder of runs.
      whole: whether the runs are those at the paper's scale.
    """
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
    # "lfw-area4" is the protocol "lfw" on reduced images; the registry has only "lfw".
    title = PROTOCOLS[evaluation_of(protocols[-1])[1].partition("-area")[0]].title
    drawn = {}
    if panels:
        caption = f"{title}: ROC curves, one panel per factor by which images were made smaller"
        drawn[f"{caption}; {READ}"] = score_figures.roc_panels(panels)
    # Panels need the protocol of each factor, and sweeps the factor of each column.
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
    """Returns row -> factor -> score.

    Args:
      printed: the table as in `published.toml`.
      runs: folder of runs.
      factors: column -> factor by which its images were made smaller.
      whole: whether scores at the paper's scale are read, and not those at small scale.
    """
    sweeps: dict[str, dict[float, Score]] = {}
    for (row, column), found in _scores(printed, runs, whole=whole).items():
        if column in factors:
            sweeps.setdefault(row, {})[factors[column]] = found
    return sweeps


def _scores(printed: Mapping[str, Any], runs: Path, *, whole: bool) -> dict[tuple[str, str], Score]:
    """Reads (row, column) -> score as a fraction, with its standard deviation.

    The deviation is over the snapshots of a run or, at small scale, over seeds.
    """
    # Tables have scores in percent, and the functions that draw take shares from 0 to 1.
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
    """Draws NormFace, Figure 8: accuracy against the weight of a loss term.

    Without a curve of at least two weights it returns {}.
    """
    curves: dict[str, dict[float, Score]] = {}
    marks: dict[str, float] = {}
    rows = {row["row"]: row for row in printed["rows"]}
    first = printed.get("columns", [""])[0] if whole else SmallScale.of(printed).columns[0]
    for (name, column), found in _scores(printed, runs, whole=whole).items():
        if column == first and "weight" in rows[name]:
            curves.setdefault(rows[name]["curve"], {})[rows[name]["weight"]] = found
        elif column == first and "curve" in rows[name]:
            # A row with a curve but no weight is a loss on its own: a horizontal line.
            marks[rows[name]["curve"]] = found.value
    # A single weight makes a point and no curve.
    if max(map(len, curves.values()), default=0) < 2:
        return {}
    scale = "mean and deviation over snapshots" if whole else "small scale, over seeds"
    ylabel = "accuracy on LFW's 6,000 pairs"
    drawn = score_figures.weight_curves(curves, marks=marks, ylabel=ylabel)
    return {f"Accuracy against the loss' weight, {scale}": drawn}


def _video_histograms(
    scored: list[_Scored], printed: Mapping[str, Any], protocol: str, *, whole: bool
) -> dict[str, Figure]:
    """Draws NormFace, Figure 9: how a histogram is computed, and one figure of histograms per row.

    The arguments are those of `_curves`.
    """
    drawn = {}
    for one in scored:
        name = printed["protocols"][0] if whole else protocol
        shares = one.record(name).get("details", {}).get("histograms")
        if shares:
            # Under one caption, so that the explanation is drawn once for all rows.
            drawn[PAIR] = sketches.pair_histogram()
            of = "two videos of YTF" if whole else "two videos"
            drawn[f"b: similarities of {of}, {one.row}"] = _histograms(shares)
    return drawn


def _histograms(shares: Mapping[str, Mapping[str, list[float] | list[list[float]]]]) -> Figure:
    """Draws histograms of the similarities between the frames of two videos.

    A curve shows the mean histogram of all pairs of one person, another that of two people. Around
    them are the histograms of single pairs or, if the scores have none, a band of one standard
    deviation.

    Args:
      shares: "same" or "different" -> its "mean" and "deviation" [bins] and, in some scores,
        "single" [pairs, bins]: the share of a pair's similarities in each bin.
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
