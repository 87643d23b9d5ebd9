"""Writes the report of an evaluation: each protocol's tables and figures, and the hardest pairs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperface import owned
from hyperface.metrics.calibration import Calibration
from hyperface.metrics.quality import NormQuality
from hyperface.protocols.result import Figure, Result
from hyperface.report import score_figures
from hyperface.report.calibration import probability_table, reliability_diagram, threshold_table
from hyperface.report.drafts import Draft, Drawn, file_name, save_drafts
from hyperface.report.groups import group_tables
from hyperface.report.hard_pairs import TITLE, Pixels, hardest_section
from hyperface.report.html import Page, Section, write_page
from hyperface.report.quality import discard_curves, quality_table, resolution_table
from hyperface.report.related import evaluation_links, link_from_run
from hyperface.report.tables import Table, percent


def protocol_table(title: str, scored: Result) -> Table:
    """Returns the table of one protocol, one row per score. `Result.steps` are the note below it.

    Args:
      title: title of the table.
      scored: the result of the protocol.
    """
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
    """Returns the tables of all protocols.

    After the scores of a protocol come its tables of thresholds, probabilities, feature norms and
    groups, if the result has these data. The last table compares the feature norms at several
    resolutions of the images. It is left out if all results with feature norms have the same factor
    in `areas`.

    Args:
      titles: name of a protocol -> its title.
      scored: name of a protocol -> its result.
      areas: name of a protocol -> the factor by which the area of its images was reduced before
        they were scored; 1 for images of full resolution.
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
    return [*tables, *_norms_by_resolution(titles, scored, areas)]


def _norms_by_resolution(
    titles: Mapping[str, str], scored: Mapping[str, Result], areas: Mapping[str, float]
) -> list[Table]:
    """Returns a list of one table, norms against resolution; empty for images of one resolution.

    The arguments are those of `protocol_tables`.
    """
    norms = {titles[n]: (areas[n], x.quality) for n, x in scored.items() if x.quality is not None}
    return [resolution_table(norms)] if len({area for area, _ in norms.values()}) > 1 else []


def write_evaluation(
    folder: Path,
    *,
    source: Path,
    scored: Mapping[str, Result],
    titles: Mapping[str, str],
    pixels: Mapping[str, Pixels],
    sweeps: Mapping[str, Mapping[float, Figure]],
    areas: Mapping[str, float],
    command: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes the results of an evaluation into a folder.

    The files are `evaluation.json` with all scores, the page `evaluation.html`, and its figures.
    For a protocol that scores a list of pairs, a further file has the score of each pair, and
    whether the pair was classified correctly. If the folder is inside the run's folder, the page of
    the run then links to the evaluation.

    Args:
      folder: folder that receives the files.
      source: the folder of the run, or the file of features, that was evaluated.
      scored: name of a protocol -> its result.
      titles: name of a protocol -> its title.
      pixels: name of a protocol -> function that takes an image's name and returns its pixels
        [height, width, 1 or 3] uint8. The page shows no images of protocols that are not in it.
      sweeps: label of a curve -> area factor -> score, for the plot of scores against resolution;
        empty if no images of reduced resolution were scored.
      areas: name of a protocol -> the factor by which the area of its images was reduced before
        they were scored; 1 for images of full resolution.
      command: the command that ran the evaluation; "" if it was run from Python.
      settings: settings and versions, which the JSON file contains beside the scores.
    """
    sections = save_drafts(_drafts(scored, titles, pixels, sweeps, areas), folder / "figures")
    record = {
        "source": str(source),
        "protocols": {name: found.record() for name, found in scored.items()},
        "settings": settings,
    }
    # JSON has no NaN, which `Result.record` has replaced by None.
    text = json.dumps(record, indent=2, allow_nan=False)
    _write_pairs(scored, folder)
    owned.write_text(folder / "evaluation.json", f"{text}\n")
    settings_text = json.dumps(settings, indent=2)
    sections.append(
        Section("Settings and versions", folded={"Settings and versions": settings_text})
    )
    page = Page(
        title=f"hyperface: {source.name}",
        summary=f"{source}, scored by {', '.join(titles[name] for name in scored)}.",
        sections=sections,
        command=command,
        links=evaluation_links(folder, source),
    )
    write_page(folder / "evaluation.html", page)
    # At the end, since only pages that exist are linked.
    link_from_run(source, folder)


def pairs_file(folder: Path, name: str) -> Path:
    """Returns the path of the file with a protocol's scored pairs; the file may not exist.

    Args:
      folder: folder of the evaluation.
      name: name of the protocol.
    """
    return folder / f"pairs-{file_name(name)}.npz"


def _write_pairs(scored: Mapping[str, Result], folder: Path) -> None:
    """Writes a file of all decided pairs per protocol that has them, in place of older files."""
    for name, found in scored.items():
        path = pairs_file(folder, name)
        # Pairs of an earlier evaluation would pass for this one's.
        owned.remove(path)
        if found.pairs is not None:
            owned.write_arrays(path, **found.pairs._asdict())


def _drafts(
    scored: Mapping[str, Result],
    titles: Mapping[str, str],
    pixels: Mapping[str, Pixels],
    sweeps: Mapping[str, Mapping[float, Figure]],
    areas: Mapping[str, float],
) -> list[Draft]:
    """Returns the sections of the page: curves, each protocol's results, and low resolution.

    The arguments are those of `write_evaluation`.
    """
    drafts = []
    for name, found in scored.items():
        title = titles[name]
        drafts.append(Draft(title, [protocol_table(title, found)], _histogram(name, title, found)))
        if found.calibration is not None:
            drafts.append(_calibration(name, title, found.calibration))
        if found.quality is not None:
            drafts.append(_quality(name, title, found.quality))
        if found.groups:
            drafts.append(Draft(f"Groups: {title}", group_tables(title, found.groups)))
        if name in pixels:
            accepts, rejects = found.false_accepts, found.false_rejects
            drafts.append(hardest_section(f"{TITLE}: {title}", accepts, rejects, pixels[name]))
    # A page of one protocol begins with its scores, a page of several with the comparison.
    drafts.insert(1 if len(scored) == 1 else 0, Draft("Curves", figures=_curves(scored)))
    if sweeps:
        figure = score_figures.resolution_curves(sweeps)
        caption = "The score against the factor by which the images' area was reduced"
        tables = _norms_by_resolution(titles, scored, areas)
        drafts.append(Draft("Low resolution", tables, {"resolution": Drawn(caption, figure)}))
    return drafts


def _histogram(name: str, title: str, found: Result) -> dict[str, Drawn]:
    if found.scores is None:
        return {}
    figure = score_figures.similarity_histogram(name, *found.scores)
    caption = f"Similarities of same and of different pairs: {title}"
    return {f"similarities-{file_name(name)}": Drawn(caption, figure)}


def _curves(scored: Mapping[str, Result]) -> dict[str, Drawn]:
    """Returns figures by file name, each with the curves of all protocols, to compare them."""
    drawn = {}
    curves = {
        # The one curve of a protocol has the name of the protocol.
        label if label == name else f"{name}: {label}": curve
        for name, found in scored.items()
        for label, curve in found.curves.items()
    }
    if curves:
        roc, det = score_figures.roc_curves(curves), score_figures.det_curves(curves)
        drawn["roc"] = Drawn("True accept rate at each false accept rate (ROC)", roc)
        if det is not None:
            drawn["det"] = Drawn("False reject rate at each false accept rate (DET)", det)
    ranked = {name: found.ranks for name, found in scored.items() if found.ranks is not None}
    if ranked:
        caption = "Cumulative match characteristic (CMC)"
        drawn["cmc"] = Drawn(caption, score_figures.cmc_curves(ranked))
    return drawn


def _calibration(name: str, title: str, fitted: Calibration) -> Draft:
    """Returns the section on thresholds and probabilities of a protocol that fits them."""
    figure = reliability_diagram(fitted.quality)
    caption = "Observed share of same pairs at each stated probability: reliability"
    return Draft(
        f"Calibration: {title}",
        [threshold_table(title, fitted), probability_table(title, fitted)],
        {f"{file_name(name)}-reliability": Drawn(caption, figure)},
    )


def _quality(name: str, title: str, found: NormQuality) -> Draft:
    """Returns the section on the feature norm as the quality of a protocol's images."""
    caption = "Genuine pairs refused when those of low norm are left out: error against discard"
    return Draft(
        f"Feature norm as quality: {title}",
        [quality_table(title, found)],
        {f"{file_name(name)}-quality": Drawn(caption, discard_curves(found))},
    )
