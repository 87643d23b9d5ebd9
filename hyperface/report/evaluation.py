"""Writes the report of an evaluation: each protocol's tables and figures, and the hardest pairs."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Picture

from hyperface import owned
from hyperface.protocols.result import Figure, HardPair, Result
from hyperface.report import figures
from hyperface.report.calibration import probability_table, reliability_diagram, threshold_table
from hyperface.report.groups import group_tables
from hyperface.report.html import write_report
from hyperface.report.quality import discard_curves, quality_table, resolution_table
from hyperface.report.sheets import pair_sheet
from hyperface.report.tables import Table, percent

Pixels = Callable[[str], np.ndarray]
"""A function from the name of an image to its pixels [height, width, 1 or 3] uint8."""
Drawn = dict[str, tuple[str, Picture]]
"""File name without its suffix -> caption and picture."""


def protocol_table(title: str, scored: Result) -> Table:
    """Returns the table of one protocol, one row per score, with the procedure as its note."""
    header, rows = ["figure", "measured"], []
    if scored.intervals:
        header.append("95 % over people")
    for name, figure in scored.figures.items():
        row = [name, percent(figure.value, figure.spread)]
        if scored.intervals:
            limits = scored.intervals.get(name)
            row.append("" if limits is None else " to ".join(map(percent, limits)))
        rows.append(row)
    spread = any(figure.spread is not None for figure in scored.figures.values())
    steps = [*scored.steps, *([f"± is the {scored.spread}"] if spread and scored.spread else [])]
    return Table(title, header, rows, "\n".join(f"- {step}" for step in steps))


def protocol_tables(
    titles: Mapping[str, str], scored: Mapping[str, Result], areas: Mapping[str, float]
) -> list[Table]:
    """Returns the tables of all protocols, each followed by those of what it found besides.

    Args:
      titles: protocol -> its title.
      scored: protocol -> its outcome.
      areas: protocol -> the factor by which its images were made smaller in area; 1 for none.
    """
    tables = []
    for name, found in scored.items():
        tables.append(protocol_table(titles[name], found))
        if found.calibration is not None:
            tables.append(threshold_table(titles[name], found.calibration))
            tables.append(probability_table(titles[name], found.calibration))
        if found.quality is not None:
            tables.append(quality_table(titles[name], found.quality))
        if found.groups:
            tables += group_tables(titles[name], found.groups)
    norms = {titles[n]: (areas[n], x.quality) for n, x in scored.items() if x.quality is not None}
    if len({area for area, _ in norms.values()}) > 1:
        tables.append(resolution_table(norms))
    return tables


def write_evaluation(
    folder: Path,
    *,
    source: str,
    scored: Mapping[str, Result],
    titles: Mapping[str, str],
    pixels: Mapping[str, Pixels],
    sweeps: Mapping[str, Mapping[float, Figure]],
    areas: Mapping[str, float],
    settings: Mapping[str, Any],
) -> None:
    """Writes `evaluation.json`, `evaluation.html` and their figures.

    Args:
      folder: that receives the files.
      source: name of the run or of the features that were evaluated.
      scored: protocol -> its outcome.
      titles: protocol -> its title.
      pixels: protocol -> its images, for the protocols whose images are at hand.
      sweeps: label -> area factor -> score, if images of reduced resolution were scored too.
      areas: protocol -> the factor by which its images were made smaller in area; 1 for none.
      settings: written into the JSON file unchanged, beside the scores.
    """
    drawn = _draw(scored)
    if sweeps:
        drawn["resolution"] = ("Low resolution", figures.resolution_curves(sweeps))
    paths = figures.save({key: figure for key, (_, figure) in drawn.items()}, folder / "figures")
    pictures = {caption: paths[key] for key, (caption, _) in drawn.items()}
    for name, found in scored.items():
        if name in pixels:
            pictures |= _sheets(folder / "figures", name, titles[name], found, pixels[name])
    record = {
        "source": source,
        "protocols": {name: found.record() for name, found in scored.items()},
        "settings": settings,
    }
    owned.write_text(
        folder / "evaluation.json", json.dumps(record, indent=2, allow_nan=False) + "\n"
    )
    write_report(
        folder / "evaluation.html",
        title=f"hyperface: {source}",
        summary=f"{source}, scored by {', '.join(titles[name] for name in scored)}.",
        tables=protocol_tables(titles, scored, areas),
        pictures=pictures,
        settings=json.dumps(settings, indent=2),
    )


def _draw(scored: Mapping[str, Result]) -> Drawn:
    """Draws the figures of all protocols."""
    drawn: Drawn = {}
    curves = {
        label if label == name else f"{name}: {label}": curve
        for name, found in scored.items()
        for label, curve in found.curves.items()
    }
    if curves:
        drawn["roc"] = ("ROC", figures.roc_curves(curves))
        drawn["det"] = ("DET", figures.det_curves(curves))
    histograms = {name: found.scores for name, found in scored.items() if found.scores is not None}
    if histograms:
        drawn["similarities"] = ("Similarities", figures.similarity_histograms(histograms))
    ranked = {name: found.ranks for name, found in scored.items() if found.ranks is not None}
    if ranked:
        drawn["cmc"] = ("Cumulative match characteristic", figures.cmc_curves(ranked))
    for name, found in scored.items():
        if found.calibration is not None:
            picture = reliability_diagram(found.calibration.quality)
            drawn[f"{name}-reliability"] = (f"Reliability of probabilities: {name}", picture)
        if found.quality is not None:
            caption = f"Feature norm as quality: {name}"
            drawn[f"{name}-quality"] = (caption, discard_curves(found.quality))
    return drawn


def _sheets(folder: Path, name: str, title: str, scored: Result, pixels: Pixels) -> dict[str, Path]:
    """Writes the hardest pairs as image sheets; returns caption -> file."""
    written = {}
    for kind, pairs in (
        ("different people taken for one", scored.false_accepts),
        ("one person taken for two", scored.false_rejects),
    ):
        if pairs:
            path = folder / f"{name}-{kind.split()[0]}.png"
            owned.write_bytes(path, _sheet(pairs, pixels))
            written[f"{title}: {kind}, worst first"] = path
    return written


def _sheet(pairs: Sequence[HardPair], pixels: Pixels) -> bytes:
    images = [(pixels(pair.first), pixels(pair.second)) for pair in pairs]
    captions = [f"{pair.score:.3f}\n{pair.first}\n{pair.second}" for pair in pairs]
    data = io.BytesIO()
    pair_sheet(images, captions, columns=4).save(data, "PNG")
    return data.getvalue()
