"""Writes the report of one run: tables, figures and the HTML page that contains both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hyperface import owned
from hyperface.evaluate.evaluator import Result
from hyperface.metrics.roc import thinned
from hyperface.metrics.threshold import TOO_FEW
from hyperface.report import figures, planes
from hyperface.report.html import write_report
from hyperface.report.tables import Table, percent

Lines = list[dict[str, float]]
"""The lines of a run's `metrics.jsonl`: name of a metric -> its value."""
Drawn = dict[str, tuple[str, Figure]]
"""File name without its suffix -> caption and figure."""


class Trained(NamedTuple):
    """A trained method: its results and its training curve."""

    snapshots: list[Result]
    """Results of one or several checkpoints; the result of the last step is the last."""
    metrics: Lines

    @property
    def result(self) -> Result:
        """The result at the last step."""
        return self.snapshots[-1]


def results_table(results: Mapping[str, Result]) -> Table:
    """Returns the table of measured scores, one row per method.

    All methods of a report are scored by the same protocol.
    """
    verified = [r.verification for r in results.values() if r.verification is not None]
    if not verified:
        accuracies = [r.accuracy for r in results.values() if r.accuracy is not None]
        rows = list(zip(results, map(percent, accuracies), strict=True))
        return Table("Classification of the test split", ("method", "accuracy"), rows)
    rows = [
        (
            method,
            percent(found.folds.mean, found.folds.standard_error),
            *(percent(tar) for tar in found.tar_at_far.values()),
        )
        for method, found in zip(results, verified, strict=True)
    ]
    first = verified[0]
    pairs, few = first.pairs, first.unsupported
    rates = [
        f"TAR at FAR {100 * far:g} %{TOO_FEW if far in few else ''}" for far in first.tar_at_far
    ]
    return Table(
        "Verification of the test people",
        ("method", "accuracy", *rates),
        rows,
        f"{pairs.same.sum()} same and {(~pairs.same).sum()} different pairs, "
        f"{first.folds.accuracy.size} folds; accuracy weighs both kinds equally, ± is the "
        "standard error over folds.",
    )


def bound_table(trained: Mapping[str, Trained], num_classes: int) -> Table:
    """Returns the table of final training losses beside the bounds of Propositions 2 and 3."""
    columns = (("loss", 4), ("softmax", 4), ("scale", 3), ("softmax_bound", 4), ("distortion", 3))
    rows = [
        (name, *(f"{lines[-1][c]:.{digits}f}" if c in lines[-1] else "" for c, digits in columns))
        for name, (_, lines) in trained.items()
    ]
    return Table(
        "Training loss and its lower bound",
        ("method", "loss", "softmax (nats)", "scale s", "Proposition 2", "Proposition 3"),
        rows,
        f"{num_classes} classes. Losses are means of the last logged steps, on augmented images. "
        "Proposition 2 bounds the softmax loss with both sides normalised from below, by "
        "log(1 + (n - 1) exp(-n s / (n - 1))); Proposition 3 is the mean squared distance to the "
        "own agent.",
    )


def snapshot_table(trained: Mapping[str, Trained]) -> Table:
    """Returns the table of means and standard deviations of scores over the last checkpoints."""
    names = [name for name in next(iter(trained.values())).result.figures() if "error" not in name]
    rows = []
    for method, (snapshots, _) in trained.items():
        found = np.array([[s.figures()[name] for name in names] for s in snapshots])
        spread = found.std(axis=0, ddof=1)
        rows.append((method, *map(percent, found.mean(axis=0), spread)))
    first = next(iter(trained.values()))
    verified, count = first.result.verification, len(first.snapshots)
    few = {f"tar_at_far_{far}" for far in verified.unsupported} if verified else set()
    return Table(
        f"Mean of the last {count} snapshots",
        ("method", *(name.replace("_", " ") + TOO_FEW * (name in few) for name in names)),
        rows,
        "± is the standard deviation over snapshots.",
    )


def snapshot_means(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scores of a run by its own protocol, each the mean over its snapshots.

    Args:
      record: the content of the run's `results.json`, as `write_run_report` writes it.
    """
    shots = record["snapshots"][record["experiment"]]
    return {name: float(np.mean([shot[name] for shot in shots])) for name in shots[0]}


def run_tables(
    trained: Mapping[str, Trained], baselines: Mapping[str, Result], num_classes: int
) -> list[Table]:
    """Returns the tables of a run's report.

    Args:
      trained: methods with a training curve, the experiment itself first.
      baselines: methods without one, shown before them.
      num_classes: of the training split.
    """
    results = {**baselines, **{method: t.result for method, t in trained.items()}}
    tables = [results_table(results), bound_table(trained, num_classes)]
    if all(len(t.snapshots) > 1 for t in trained.values()):
        tables.insert(1, snapshot_table(trained))
    return tables


def write_run_report(
    folder: Path,
    *,
    name: str,
    summary: str,
    trained: Mapping[str, Trained],
    baselines: Mapping[str, Result],
    tables: Sequence[Table],
    settings: Mapping[str, Any],
) -> None:
    """Writes `figures/*.png`, `results.json` and `report.html`.

    Args:
      folder: the run's folder.
      name: the experiment.
      summary: a sentence about data and protocol.
      trained: methods with a training curve, the experiment itself first.
      baselines: methods without one, shown before them.
      tables: as `run_tables` builds them.
      settings: experiment and versions, written beside the scores.
    """
    results = {**baselines, **{method: t.result for method, t in trained.items()}}
    drawn = _draw(trained, results)
    paths = figures.save({key: figure for key, (_, figure) in drawn.items()}, folder / "figures")
    record = {
        "experiment": name,
        "results": {method: result.figures() for method, result in results.items()},
        "snapshots": {
            method: [shot.figures() for shot in t.snapshots] for method, t in trained.items()
        },
        "FARs with too few pairs": {
            method: result.verification.unsupported
            for method, result in results.items()
            if result.verification is not None
        },
        "curves": {
            method: thinned(result.verification.curve).rates()
            for method, result in results.items()
            if result.verification is not None
        },
        "training": {method: t.metrics[-1] for method, t in trained.items()},
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


def _draw(trained: Mapping[str, Trained], results: Mapping[str, Result]) -> Drawn:
    """Draws the figures of the report."""
    curves = {method: t.metrics for method, t in trained.items()}
    norms = {method: t.result.embeddings.norms for method, t in trained.items()}
    drawn: Drawn = {
        "loss": ("Training loss, bound and scale", figures.loss_with_bound(curves)),
        "norms": ("Feature norms", figures.feature_norms(curves, norms)),
    }
    with_agents = {method: c for method, c in curves.items() if "distortion" in c[0]}
    if with_agents:
        drawn["distortion"] = ("Distance to the agents", figures.distortion(with_agents))
    verified = {m: r.verification for m, r in results.items() if r.verification is not None}
    if verified:
        scored = {m: (v.scores, v.pairs.same) for m, v in verified.items()}
        drawn["roc"] = ("ROC", figures.roc_curves({m: v.curve for m, v in verified.items()}))
        drawn["similarities"] = ("Similarities", figures.similarity_histograms(scored))
    for method, t in trained.items():
        features, _, labels = t.result.embeddings
        if features.shape[1] == 2:
            figure = planes.feature_plane(features, np.asarray(labels), f"{method}: test features")
            drawn[f"features-{method}"] = (f"Features of {method}", figure)
    return drawn
