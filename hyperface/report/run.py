"""Builds the report of a run: its tables, its figures and the record of its scores."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hyperface.evaluate.evaluator import Result
from hyperface.metrics.roc import thinned
from hyperface.metrics.threshold import TOO_FEW
from hyperface.report import planes, score_figures, training_figures
from hyperface.report.drafts import Draft, Drawn, file_name
from hyperface.report.run_page import Report
from hyperface.report.tables import TAR, Table, percent, score_title

Lines = list[dict[str, float]]
"""The lines of a run's `metrics.jsonl`. Each line is a dict from a metric's name to its value."""


class Trained(NamedTuple):
    """The results of a trained method, such as "softmax", and its training curve."""

    snapshots: list[Result]
    """Results of the last checkpoints, at least one, in the order of their steps. The last one is
    the result at the last step."""
    metrics: Lines
    """The training curve: the lines of the run's `metrics.jsonl`, each a dict from a metric's name
    to its value."""

    @property
    def result(self) -> Result:
        """The result at the last step of the training."""
        return self.snapshots[-1]


def results_table(results: Mapping[str, Result]) -> Table:
    """Returns the table of measured scores, one row per method.

    For results of verification (pairs of faces) the scores are the accuracy and the TAR at several
    FARs. For results of classification the accuracy is the only score.

    Args:
      results: name of a method -> its result; all methods are scored by the same protocol.
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
    # All methods verify the same pairs of the test split.
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
    """Returns the table of training losses at the last logged step, one row per method.

    The columns are the whole loss, the softmax term of the loss, the scale s of the logits, the
    lower bound of the softmax loss at this scale (NormFace, Proposition 2), and the mean squared
    distance of a feature to the weight of its class. A cell is empty if the method has no such
    value.

    Args:
      trained: name of a method -> its results and training curve.
      num_classes: number of classes (people) of the training.
    """
    columns = (("loss", 4), ("softmax", 4), ("scale", 3), ("softmax_bound", 4), ("distortion", 3))
    rows = [
        # Not every loss has a softmax term, a bound or agents.
        (name, *(f"{lines[-1][c]:.{digits}f}" if c in lines[-1] else "" for c, digits in columns))
        for name, (_, lines) in trained.items()
    ]
    return Table(
        "Training loss and its lower bound",
        ("method", "loss", "softmax (nats)", "scale s", "lower bound", "distance to own agent"),
        rows,
        f"{num_classes} classes. Losses are means of the last logged steps, on augmented images. "
        "The softmax loss with both sides normalised is never below the lower bound, "
        "log(1 + (n - 1) exp(-n s / (n - 1))) (NormFace, Proposition 2). The distance to the own "
        "agent, the row of the classification matrix of an image's class, is squared and averaged "
        "(Proposition 3).",
    )


def snapshot_table(trained: Mapping[str, Trained]) -> Table:
    """Returns the table of means and standard deviations of scores over the last checkpoints.

    Args:
      trained: name of a method -> its results. All methods must have the same number of
        checkpoints, at least two.
    """
    # A mean of the standard errors of single checkpoints is not the error of the mean.
    names = [name for name in next(iter(trained.values())).result.figures() if "error" not in name]
    rows = []
    for method, (snapshots, _) in trained.items():
        found = np.array([[s.figures()[name] for name in names] for s in snapshots])
        spread = found.std(axis=0, ddof=1)
        rows.append((method, *map(percent, found.mean(axis=0), spread)))
    first = next(iter(trained.values()))
    verified, count = first.result.verification, len(first.snapshots)
    few = {f"{TAR}{far}" for far in verified.unsupported} if verified else set()
    return Table(
        f"Mean of the last {count} snapshots",
        ("method", *(score_title(name) + TOO_FEW * (name in few) for name in names)),
        rows,
        "± is the standard deviation over snapshots.",
    )


def snapshot_means(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns a dict from the name of each score of a run to its mean over the last checkpoints.

    Args:
      record: the content of the run's `results.json`, as `write_run_report` writes it. Its entry
        "snapshots" has the scores by method; those of the run's own method, "experiment", are used.
    """
    shots = record["snapshots"][record["experiment"]]
    return {name: float(np.mean([shot[name] for shot in shots])) for name in shots[0]}


def run_report(
    trained: Mapping[str, Trained],
    baselines: Mapping[str, Result],
    num_classes: int,
    hardest: Draft | None = None,
) -> Report:
    """Returns the report of a run: the sections of its page, and the content of `results.json`.

    Args:
      trained: name of a method -> its results and training curve. The first method is the
        experiment itself. The other methods are trained for comparison.
      baselines: name of a method that was not trained, such as raw pixels -> its result. These
        methods are shown first.
      num_classes: number of people in the training split.
      hardest: the section with the pairs of faces that have the largest errors; None for a run that
        does not compare pairs of faces.
    """
    results = {**baselines, **{method: t.result for method, t in trained.items()}}
    verified = {m: r.verification for m, r in results.items() if r.verification is not None}
    scores = results_table(results)
    figures = {}
    if verified:
        roc = score_figures.roc_curves({m: v.curve for m, v in verified.items()})
        figures["roc"] = Drawn("True accept rate at each false accept rate (ROC)", roc)
    for method, found in verified.items():
        picture = score_figures.similarity_histogram(method, found.scores, found.pairs.same)
        figures[f"similarities-{file_name(method)}"] = Drawn(
            f"Similarities of same and of different pairs, {method}", picture
        )
    sections = [Draft(scores.title, [scores], figures)]
    # One checkpoint has no standard deviation.
    if all(len(t.snapshots) > 1 for t in trained.values()):
        means = snapshot_table(trained)
        sections.append(Draft(means.title, [means]))
    curves = {method: t.metrics for method, t in trained.items()}
    norms = {method: t.result.embeddings.norms for method, t in trained.items()}
    sections += training_sections(bound_table(trained, num_classes), curves, norms)
    sections.append(Draft("Features on the plane", figures=_planes(trained)))
    sections += [hardest] if hardest else []
    record = {
        "FARs with too few pairs": {method: v.unsupported for method, v in verified.items()},
        "curves": {method: thinned(v.curve).rates() for method, v in verified.items()},
        "training": {method: t.metrics[-1] for method, t in trained.items()},
    }
    scored = {method: result.figures() for method, result in results.items()}
    snapshots = {m: [s.figures() for s in t.snapshots] for m, t in trained.items()}
    return Report(sections, scored, snapshots, record)


def training_sections(
    bounds: Table, curves: Mapping[str, Lines], norms: Mapping[str, np.ndarray]
) -> list[Draft]:
    """Returns the sections on the training and on the feature norms.

    Args:
      bounds: the table of training losses with their lower bounds, from `bound_table`.
      curves: name of a method -> the lines of its `metrics.jsonl`, at least one.
      norms: name of a method -> [images] feature norm of each test image.
    """
    caption = "Training loss"
    if any("softmax_bound" in lines[0] for lines in curves.values()):
        caption += "; dotted, its lower bound at the scale of that step (NormFace, Proposition 2)"
    figures = {"loss": Drawn(caption, training_figures.losses_with_bound(curves))}
    if (scales := training_figures.scales(curves)) is not None:
        figures["scale"] = Drawn("Scale of the logits, and target of Ring loss", scales)
    with_agents = {method: lines for method, lines in curves.items() if "distortion" in lines[0]}
    if with_agents:
        figures["distortion"] = Drawn(
            "Mean squared distance of a normalised feature to its own agent, the row of the "
            "classification matrix of its class (NormFace, Proposition 3)",
            training_figures.distortion(with_agents),
        )
    of_norms = {
        "training-norms": Drawn(
            "Mean length of the features of training images",
            training_figures.training_norms(curves),
        ),
        "norms": Drawn(
            "Lengths of the features of test images, each divided by the mean of its method",
            training_figures.norm_histogram(norms),
        ),
    }
    return [Draft(bounds.title, [bounds], figures), Draft("Feature norms", figures=of_norms)]


def _planes(trained: Mapping[str, Trained]) -> dict[str, Drawn]:
    """Returns plots of test features by file name, for methods with two-dimensional features."""
    drawn = {}
    for method, t in trained.items():
        features, _, labels = t.result.embeddings
        if features.shape[1] == 2:
            figure = planes.feature_plane(features, np.asarray(labels), f"Features of {method}")
            caption = f"Test features of {method}, coloured by class"
            drawn[f"features-{file_name(method)}"] = Drawn(caption, figure)
    return drawn
