"""Builds the report of a run that scores people in groups, by networks that never saw them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hyperface.evaluate.people_folds import PeopleFolds
from hyperface.report.drafts import Draft, Drawn
from hyperface.report.run import Lines, Trained, bound_table, training_sections
from hyperface.report.run_page import Report
from hyperface.report.score_figures import mean_roc
from hyperface.report.tables import Table, percent


class TrainedFolds(NamedTuple):
    """The results of a method that was trained once per group of people.

    Each network is trained without the people of its group, and scored on them.
    """

    scores: PeopleFolds
    """The scores on all groups."""
    metrics: list[Lines]
    """For each group, the training curve of its network: the lines of its `metrics.jsonl`."""


def accuracy_table(results: Mapping[str, PeopleFolds], baseline: str | None) -> Table:
    """Returns the table of accuracies and EERs, with each method's difference to the baseline.

    Args:
      results: name of a method -> its scores on all groups. All methods have the same pairs.
      baseline: name of a method, a key of `results`, whose accuracy is subtracted from that of each
        other method. With None the table has no column of differences.
    """
    rows = []
    for name, scores in results.items():
        accuracy = scores.accuracy
        # `accuracy` is in percent, and `percent` takes shares.
        row = [name, percent(accuracy.value / 100, accuracy.error / 100)]
        row.append(percent(scores.equal_error_rate))
        if baseline is not None:
            row.append("" if name == baseline else _shown(scores, results[baseline]))
        rows.append(row)
    compared = [f"points above {baseline} [95 %]"] if baseline is not None else []
    first = next(iter(results.values()))
    # Both sides of the pairs: a person with one image may be on one side only.
    people = np.union1d(first.first, first.second).size
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


def folds_report(
    trained: Mapping[str, TrainedFolds],
    baselines: Mapping[str, PeopleFolds],
    num_classes: int,
    hardest: Draft | None = None,
) -> Report:
    """Returns the report of a run that scored its people group by group.

    The people of each group are scored by a network that was trained without them.

    Args:
      trained: name of a method -> its results and training curves. The first method is the
        experiment itself. If there is a second one, the table of accuracies shows the difference of
        each other method to the second.
      baselines: name of a method that was not trained, such as raw pixels -> its results. These
        methods are shown first.
      num_classes: number of people that the first group's network was trained on.
      hardest: the section with the pairs of faces that have the largest errors; None leaves it out.
    """
    results = {**baselines, **{method: t.scores for method, t in trained.items()}}
    others = list(trained)[1:]
    scores = accuracy_table(results, others[0] if others else None)
    roc = mean_roc({method: found.curves for method, found in results.items()})
    caption = "Mean ROC over the groups; the bands show the standard error"
    # The first group stands for all in figures and tables of one network per method.
    first = {name: Trained(t.scores.groups[:1], t.metrics[0]) for name, t in trained.items()}
    bounds = bound_table(first, num_classes)
    bounds = bounds._replace(title=f"{bounds.title}, first group's network")
    curves = {method: t.metrics for method, t in first.items()}
    norms = {method: t.result.embeddings.norms for method, t in first.items()}
    sections = [
        Draft(scores.title, [scores], {"roc": Drawn(caption, roc)}),
        *training_sections(bounds, curves, norms),
        *([hardest] if hardest else []),
    ]
    record = {
        "groups": {m: [group.figures() for group in s.groups] for m, s in results.items()},
        "training": {m: [lines[-1] for lines in t.metrics] for m, t in trained.items()},
    }
    scored = {method: result.figures() for method, result in results.items()}
    return Report(sections, scored, {method: [scored[method]] for method in trained}, record)
