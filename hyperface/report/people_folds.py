"""Writes the report of a run whose people are scored in groups, by networks that never saw them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hyperface import owned
from hyperface.evaluate.people_folds import PeopleFolds
from hyperface.report import figures
from hyperface.report.drawings import panels
from hyperface.report.html import write_report
from hyperface.report.run import Lines, Trained, bound_table
from hyperface.report.tables import Table, percent

RATES = np.geomspace(1e-3, 1, 61)
"""False-accept rates of the drawn curves."""


class TrainedFolds(NamedTuple):
    """A method that was trained once per group of people."""

    scores: PeopleFolds
    metrics: list[Lines]
    """The training curve of each group's network."""


def accuracy_table(results: Mapping[str, PeopleFolds], baseline: str | None) -> Table:
    """Returns the table of accuracies, with each method's difference to the baseline.

    Args:
      results: by method.
      baseline: the method that the others are compared with; None compares none.
    """
    rows = []
    for name, scores in results.items():
        accuracy = scores.accuracy
        row = [name, percent(accuracy.value / 100, accuracy.error / 100)]
        row.append(percent(scores.equal_error_rate))
        if baseline is not None:
            row.append("" if name == baseline else _shown(scores, results[baseline]))
        rows.append(row)
    compared = [f"points above {baseline} [95 %]"] if baseline is not None else []
    first = next(iter(results.values()))
    people = int(first.first.max()) + 1
    return Table(
        f"Verification of {people} people, each by a network that never saw them",
        ("method", "accuracy", "EER", *compared),
        rows,
        f"{len(first.groups)} groups of people, {first.same.sum():,} same and "
        f"{(~first.same).sum():,} different pairs within them.\n"
        "Accuracy weighs both kinds equally; the threshold of a group is chosen on the others.\n"
        "± and intervals are over people, who are resampled.",
    )


def _shown(scores: PeopleFolds, baseline: PeopleFolds) -> str:
    difference = scores.above(baseline)
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def folds_tables(
    trained: Mapping[str, TrainedFolds],
    baselines: Mapping[str, PeopleFolds],
    baseline: str | None,
    num_classes: int,
) -> list[Table]:
    """Returns the tables of the report: accuracies, and training losses beside their bounds.

    Args:
      trained: methods with training curves, the experiment itself first.
      baselines: methods without one, shown before them.
      baseline: as `accuracy_table` takes it.
      num_classes: of the first group's training people.
    """
    results = {**baselines, **{name: t.scores for name, t in trained.items()}}
    first = {name: Trained(t.scores.groups[:1], t.metrics[0]) for name, t in trained.items()}
    bounds = bound_table(first, num_classes)
    return [
        accuracy_table(results, baseline),
        bounds._replace(title=f"{bounds.title}, first group's network"),
    ]


def roc_bands(results: Mapping[str, PeopleFolds]) -> Figure:
    """Draws the mean ROC over the groups of each method, with its standard error as a band."""
    figure, (axes,) = panels(1, 1, width=5.6, height=4.4)
    for style, (name, scores) in zip(figures.line_styles(results), results.items(), strict=True):
        tars = np.array(
            [c.tar[np.searchsorted(c.far, RATES, side="right") - 1] for c in scores.curves]
        )
        mean, error = tars.mean(axis=0), tars.std(axis=0, ddof=1) / np.sqrt(len(tars))
        axes.plot(RATES, mean, label=name, **style)
        axes.fill_between(
            RATES, mean - error, mean + error, color=style["color"], alpha=0.15, linewidth=0
        )
    axes.set(
        xscale="log",
        xlabel="false accept rate",
        ylabel="true accept rate",
        title=f"Mean ROC of {len(next(iter(results.values())).groups)} groups of people",
        ylim=(None, 1),
    )
    axes.legend(loc="lower right", fontsize=9)
    return figure


def write_folds_report(
    folder: Path,
    *,
    name: str,
    summary: str,
    trained: Mapping[str, TrainedFolds],
    baselines: Mapping[str, PeopleFolds],
    tables: Sequence[Table],
    settings: Mapping[str, Any],
) -> None:
    """Writes `figures/*.png`, `results.json` and `report.html`.

    Args:
      folder: the run's folder.
      name: the experiment.
      summary: a sentence about data and protocol.
      trained, baselines: as `folds_tables` takes them.
      tables: as `folds_tables` returns them.
      settings: experiment and versions, written beside the scores.
    """
    results = {**baselines, **{method: t.scores for method, t in trained.items()}}
    curves = {method: t.metrics[0] for method, t in trained.items()}
    norms = {method: t.scores.groups[0].embeddings.norms for method, t in trained.items()}
    drawn = {
        "roc": ("ROC", roc_bands(results)),
        "loss": ("Training loss, bound and scale", figures.loss_with_bound(curves)),
        "norms": ("Feature norms", figures.feature_norms(curves, norms)),
    }
    paths = figures.save({key: figure for key, (_, figure) in drawn.items()}, folder / "figures")
    scored = {method: scores.figures() for method, scores in results.items()}
    record = {
        "experiment": name,
        "results": scored,
        "snapshots": {method: [scored[method]] for method in trained},
        "groups": {m: [group.figures() for group in s.groups] for m, s in results.items()},
        "training": {m: [lines[-1] for lines in t.metrics] for m, t in trained.items()},
        "settings": settings,
    }
    owned.write_text(folder / "results.json", json.dumps(record, indent=2) + "\n")
    write_report(
        folder / "report.html",
        title=f"hyperface: {name}",
        summary=summary,
        tables=tables,
        pictures={caption: paths[key] for key, (caption, _) in drawn.items()},
        settings=json.dumps(settings, indent=2),
    )
