"""Writes the report of a sweep: a page, and tables of settings and runs as CSV and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from hyperface import owned
from hyperface.report.drafts import Draft, Drawn, file_name, save_drafts
from hyperface.report.html import Link, Page, Section, write_page
from hyperface.report.related import REPORT, SWEEP
from hyperface.report.sweep_figures import sweep_curve
from hyperface.report.swept import DONE, Setting, SweptRun, figure_names, settings_of
from hyperface.report.tables import Table, percent, score_title

FILES = ("sweep.json", "sweep.csv", "settings.csv")


def sweep_table(runs: Sequence[SweptRun]) -> Table:
    """Returns the table of means and standard deviations over seeds, one row per setting.

    A sweep trains one experiment with several values of some fields. A setting is one choice of
    these values; its runs differ in their seeds only. If there are several rows, the row with the
    best mean of the first score is marked: the highest mean, or for an error rate the lowest.

    Args:
      runs: the runs of the sweep, finished or not, at least one.
    """
    names, settings = figure_names(runs), settings_of(runs)
    fields = list(settings[0].values)
    rows = []
    for setting in settings:
        done = sum(run.status == DONE for run in setting.runs)
        found = [
            percent(mean(setting.scores(name)), setting.spread(name))
            if setting.scores(name)
            else ""
            for name in names
        ]
        rows.append([*map(str, setting.values.values()), f"{done} of {len(setting.runs)}", *found])
    # A single setting has nothing to be better than.
    best = _best(settings, names[0]) if names and len(settings) > 1 else None
    note = "Mean over the runs that are done; ± is the sample standard deviation over their seeds."
    if best is not None:
        note += (
            f" The best setting has the best mean of {score_title(names[0])}. It was chosen by "
            "these scores, so that it will score a little less on other people."
        )
    header = [*fields, "runs done", *map(score_title, names)]
    return Table("Settings", header, rows, note, best=best, sortable=True)


def _best(settings: Sequence[Setting], figure: str) -> int | None:
    """Returns the position of the setting with the best mean of a score; None if no run has it."""
    # The lowest error rate is the best one.
    sign = -1 if "error" in figure else 1
    means = {
        place: sign * mean(scores)
        for place, setting in enumerate(settings)
        if (scores := setting.scores(figure))
    }
    return max(means, key=means.__getitem__, default=None)


def runs_table(folder: Path, runs: Sequence[SweptRun]) -> Table:
    """Returns the table of all runs, each linked to its own page if it has one.

    Args:
      folder: folder of the sweep, which contains one folder per run.
      runs: the runs of the sweep, finished or not. A run without scores has empty cells.
    """
    names = figure_names(runs)
    rows = [
        [
            run.name,
            str(run.seed),
            run.status,
            *(percent(run.figures[name]) if name in run.figures else "" for name in names),
        ]
        for run in runs
    ]
    pages = (folder / run.name / REPORT for run in runs)
    links = [page if page.is_file() else None for page in pages]
    header = ["run", "seed", "status", *map(score_title, names)]
    return Table("Runs", header, rows, links=links, sortable=True)


def write_sweep_report(
    folder: Path,
    *,
    name: str,
    runs: Sequence[SweptRun],
    command: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes the results of a sweep into its folder.

    The files are `sweep.csv` with one line per run, `settings.csv` with one line per setting
    (values of the swept fields), `sweep.json` with both, the page `sweep.html`, and its figures.

    Args:
      folder: folder of the sweep, which contains one folder per run.
      name: name of the experiment.
      runs: all runs, finished or not, at least one.
      command: the command that started the sweep; "" if it was started from Python.
      settings: experiment and options of the sweep, which `sweep.json` and the page contain beside
        the scores.
    """
    found = settings_of(runs)
    record = {
        "experiment": name,
        "settings": [_summary(setting) for setting in found],
        "runs": [run._asdict() | {"figures": dict(run.figures)} for run in runs],
        "options": settings,
    }
    owned.write_text(folder / "sweep.json", json.dumps(record, indent=2) + "\n")
    owned.write_text(folder / "sweep.csv", _csv(runs))
    owned.write_text(folder / "settings.csv", _settings_csv(found))
    ended = sum(run.status == DONE for run in runs)
    sections = save_drafts(
        [
            Draft("Settings", [sweep_table(runs)], _curves(runs, list(found[0].values))),
            Draft("Runs", [runs_table(folder, runs)]),
            Draft("Runs that are not done", [_undone_table(runs)]),
        ],
        folder / "figures",
    )
    text = json.dumps(settings, indent=2)
    page = Page(
        title=f"hyperface: sweep of {name}",
        summary=f"{ended} of {len(runs)} runs are done: {len(found)} settings, each with "
        f"{len(found[0].runs)} seeds.",
        sections=[*sections, Section("Options and versions", folded={"Options": text})],
        command=command,
        links=[Link(file, folder / file) for file in FILES],
    )
    write_page(folder / SWEEP, page)


def _curves(runs: Sequence[SweptRun], fields: Sequence[str]) -> dict[str, Drawn]:
    """Returns plots by file name: each score against the values of each swept field."""
    return {
        file_name(f"{field}-{figure}"): Drawn(
            f"{score_title(figure)} against {field}. Points are runs, lines are means, bars are "
            "standard deviations over seeds.",
            sweep_curve(runs, field, figure),
        )
        for field in fields
        for figure in figure_names(runs)
    }


def _summary(setting: Setting) -> dict[str, Any]:
    names = figure_names(setting.runs)
    return {
        "values": setting.values,
        "done": sum(run.status == DONE for run in setting.runs),
        "mean": {name: mean(setting.scores(name)) for name in names},
        "standard_deviation": {name: setting.spread(name) for name in names},
    }


def _csv(runs: Sequence[SweptRun]) -> str:
    # With the standard errors of single runs, which the tables of the page leave out.
    figures = dict.fromkeys(name for run in runs for name in run.figures)
    text = io.StringIO()
    # The csv module ends lines as Windows does by default.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *runs[0].values, "seed", "status", *figures, "message"])
    for run in runs:
        found = [run.figures.get(name, "") for name in figures]
        values = map(str, run.values.values())
        writer.writerow([run.name, *values, run.seed, run.status, *found, run.message])
    return text.getvalue()


def _settings_csv(settings: Sequence[Setting]) -> str:
    """Returns CSV text with one row per setting.

    Its columns are the values of the swept fields, the numbers of runs and of finished runs, and
    the mean and sample standard deviation of each score.
    """
    names = figure_names([run for setting in settings for run in setting.runs])
    columns = [f"{name}: {what}" for name in names for what in ("mean", "standard deviation")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*settings[0].values, "runs", "done", *columns])
    for setting in settings:
        found = []
        for name in names:
            scores, spread = setting.scores(name), setting.spread(name)
            found += [mean(scores) if scores else "", "" if spread is None else spread]
        done = sum(run.status == DONE for run in setting.runs)
        writer.writerow([*map(str, setting.values.values()), len(setting.runs), done, *found])
    return text.getvalue()


def _undone_table(runs: Sequence[SweptRun]) -> Table:
    undone = [(run.name, run.status, run.message) for run in runs if run.status != DONE]
    return Table("Runs that are not done", ("run", "status", "why"), undone)
