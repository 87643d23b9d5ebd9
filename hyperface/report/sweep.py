"""The report of a sweep: tables of its settings and its runs, as CSV and JSON, and its curves."""

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
"""Values that reach this far apart are drawn on a logarithmic axis."""


class SweptRun(NamedTuple):
    """One run of a sweep."""

    name: str
    values: dict[str, Any]
    """Of the fields that are swept."""
    seed: int
    status: str
    """DONE, or what became of it instead: "diverged", "failed", "not run"."""
    figures: Mapping[str, float] = MappingProxyType({})
    """What it scored, as shares in [0, 1]; of a run that is done."""
    message: str = ""
    """Why it is not done."""


class Setting(NamedTuple):
    """The runs that differ in their seed alone."""

    values: dict[str, Any]
    runs: list[SweptRun]

    def scores(self, figure: str) -> list[float]:
        """A figure of each run that is done and has it."""
        return [run.figures[figure] for run in self.runs if figure in run.figures]

    def spread(self, figure: str) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        scores = self.scores(figure)
        return stdev(scores) if len(scores) > 1 else None


def settings_of(runs: Sequence[SweptRun]) -> list[Setting]:
    """The settings in order of their first run."""
    found: dict[tuple, Setting] = {}
    for run in runs:
        found.setdefault(tuple(run.values.items()), Setting(run.values, [])).runs.append(run)
    return list(found.values())


def figure_names(runs: Sequence[SweptRun]) -> list[str]:
    """The figures that runs have, without the standard errors of single runs."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return [name for name in names if "standard_error" not in name]


def sweep_table(runs: Sequence[SweptRun]) -> Table:
    """Mean and spread over the seeds of every setting."""
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
    """Each figure against the values of a field, a line for each setting of the others.

    Points are runs, lines their means and bars their sample standard deviation. The axis is
    logarithmic where numbers reach a decade apart, with zero beside them if it is a value, and has
    a place for each value where they are no numbers.

    Args:
      runs: of the sweep; those that are done are drawn.
      field: one of those that were swept.
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
      name: the experiment.
      runs: all of them, also those that are not done.
      settings: experiment and options, kept with the figures.
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
    """A row a setting: runs, how many are done, mean and sample standard deviation over these."""
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
    """Where values stand on the x axis, whose scale and ticks are set for them."""
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
    found = [(x, 100 * np.array(scores)) for x, scores in points if scores]
    points = sorted(found, key=lambda point: point[0])
    if not points:
        return
    spread = [scores.std(ddof=1) if scores.size > 1 else 0.0 for _, scores in points]
    means = [scores.mean() for _, scores in points]
    bars = axes.errorbar(
        [x for x, _ in points], means, spread, marker="o", capsize=3, label=label or None
    )
    for x, scores in points:
        axes.plot(np.full(scores.size, x), scores, ".", alpha=0.5, color=bars[0].get_color())
