"""Writes the report of a sweep: tables of settings and runs as CSV and JSON, and curves."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperface import owned
from hyperface.report.figures import save
from hyperface.report.html import write_report
from hyperface.report.tables import Table, percent

DONE = "done"
DECADE = 10.0
"""An axis is logarithmic if its largest value is at least this many times its smallest."""


class SweptRun(NamedTuple):
    """One run of a sweep: its settings and its outcome."""

    name: str
    values: dict[str, Any]
    """Swept field -> its value in this run."""
    seed: int
    status: str
    """DONE, or the reason for no result: "diverged", "failed", "not run"."""
    figures: Mapping[str, float] = MappingProxyType({})
    """Scores by name, as shares in [0, 1]; empty unless the run is done."""
    message: str = ""
    """The error message of a run that is not done."""


class Setting(NamedTuple):
    """The runs whose settings are equal and whose seeds differ."""

    values: dict[str, Any]
    runs: list[SweptRun]

    def scores(self, figure: str) -> list[float]:
        """Returns the score of this name of every run that has one."""
        return [run.figures[figure] for run in self.runs if figure in run.figures]

    def spread(self, figure: str) -> float | None:
        """Returns the sample standard deviation over the seeds; None for fewer than two scores."""
        scores = self.scores(figure)
        return stdev(scores) if len(scores) > 1 else None


def settings_of(runs: Sequence[SweptRun]) -> list[Setting]:
    """Groups runs by their settings, in the order of each setting's first run."""
    found: dict[tuple, Setting] = {}
    for run in runs:
        found.setdefault(tuple(run.values.items()), Setting(run.values, [])).runs.append(run)
    return list(found.values())


def figure_names(runs: Sequence[SweptRun]) -> list[str]:
    """Returns the names of the runs' scores, without the standard errors of single runs."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return [name for name in names if "standard_error" not in name]


def sweep_table(runs: Sequence[SweptRun]) -> Table:
    """Returns the table of means and standard deviations over seeds, one row per setting."""
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
    return Table(
        "Settings",
        [*fields, "runs done", *(name.replace("_", " ") for name in names)],
        rows,
        "Mean over the runs that are done; ± is the sample standard deviation over their seeds.",
    )


def sweep_curves(runs: Sequence[SweptRun], field: str) -> Figure:
    """Draws each score against the values of a field, one line per setting of the other fields.

    Points are runs, lines are means and bars are sample standard deviations. The x axis is
    logarithmic if the numbers range over a decade or more; zero then stands on a short linear part.
    Values that are not numbers are spaced evenly.

    Args:
      runs: of the sweep; only finished runs are drawn.
      field: name of a swept field.
    """
    names = figure_names(runs)
    drawn = Figure(figsize=(max(4.6 * len(names), 5.2), 3.8), layout="constrained")
    every = list(dict.fromkeys(run.values[field] for run in runs))
    lines: dict[str, list[Setting]] = {}
    for setting in settings_of(runs):
        others = {name: value for name, value in setting.values.items() if name != field}
        label = ", ".join(f"{name}={value}" for name, value in others.items())
        lines.setdefault(label, []).append(setting)
    for axes, name in zip(drawn.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        places = dict(zip(every, _places(axes, every), strict=True))
        for label, settings in lines.items():
            _line(axes, [(places[s.values[field]], s.scores(name)) for s in settings], label)
        axes.set(xlabel=field, ylabel="%", title=name.replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if len(lines) > 1:
            axes.legend(fontsize=8)
    return drawn


def write_sweep_report(
    folder: Path, *, name: str, runs: Sequence[SweptRun], settings: Mapping[str, Any]
) -> None:
    """Writes `sweep.csv`, `settings.csv`, `sweep.json`, `sweep.html` and its figures.

    Args:
      folder: of the sweep.
      name: of the experiment.
      runs: all runs, finished or not.
      settings: experiment and options, written beside the scores.
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
    drawn = {f: sweep_curves(runs, f) for f in found[0].values} if figure_names(runs) else {}
    paths = save(drawn, folder / "figures")
    ended = sum(run.status == DONE for run in runs)
    write_report(
        folder / "sweep.html",
        title=f"hyperface: sweep of {name}",
        summary=f"{ended} of {len(runs)} runs are done: {len(found)} settings, each with "
        f"{len(found[0].runs)} seeds.",
        tables=[sweep_table(runs), _undone_table(runs)],
        pictures={f"Figures against {field}": path for field, path in paths.items()},
        settings=json.dumps(settings, indent=2),
    )


def _summary(setting: Setting) -> dict[str, Any]:
    names = figure_names(setting.runs)
    return {
        "values": setting.values,
        "done": sum(run.status == DONE for run in setting.runs),
        "mean": {name: mean(setting.scores(name)) for name in names},
        "standard_deviation": {name: setting.spread(name) for name in names},
    }


def _csv(runs: Sequence[SweptRun]) -> str:
    figures = dict.fromkeys(name for run in runs for name in run.figures)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *runs[0].values, "seed", "status", *figures, "message"])
    for run in runs:
        found = [run.figures.get(name, "") for name in figures]
        values = map(str, run.values.values())
        writer.writerow([run.name, *values, run.seed, run.status, *found, run.message])
    return text.getvalue()


def _settings_csv(settings: Sequence[Setting]) -> str:
    """Returns one row per setting: runs, finished runs, mean and sample standard deviation."""
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
    note = "" if undone else "None: every run is done."
    return Table("Runs that are not done", ("run", "status", "why"), undone, note)


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Sets the scale and ticks of the x axis; returns the position of each value on it."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        axes.set_xticks(range(len(values)), list(map(str, values)))
        return list(map(float, range(len(values))))
    sizes = [abs(value) for value in values if value]
    if sizes and max(sizes) >= DECADE * min(sizes):
        if min(values) > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(sizes))
    return [float(value) for value in values]


def _line(axes: Axes, points: Sequence[tuple[float, Sequence[float]]], label: str) -> None:
    """Draws the mean over the scores at each x, and the scores themselves as points."""
    scored = [(x, 100 * np.array(scores)) for x, scores in points if scores]
    scored.sort(key=lambda point: point[0])
    if not scored:
        return
    spread = [scores.std(ddof=1) if scores.size > 1 else 0.0 for _, scores in scored]
    means = [scores.mean() for _, scores in scored]
    bars = axes.errorbar(
        [x for x, _ in scored], means, spread, marker="o", capsize=3, label=label or None
    )
    for x, scores in scored:
        axes.plot(np.full(scores.size, x), scores, ".", alpha=0.5, color=bars[0].get_color())
