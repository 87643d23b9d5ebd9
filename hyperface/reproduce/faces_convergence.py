"""Measures the convergence failure of the cosine softmax on thousands of people (NormFace, 3.3).

With unit features and unit agents (class weights) and no scale, the loss cannot fall below the
bound of NormFace's Proposition 2. For thousands of classes this bound is almost the loss of a
guess. A scale lowers the bound.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.report import training_figures
from hyperface.report.run import snapshot_means
from hyperface.reproduce import commands
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.reproduce.runs import ACCURACY
from hyperface.train.logs import read_metrics

CLASSES = 2733
"""Number of people in the training set faces56."""
RATES = (0.2, 0.02, 0.002)
SCALES = (4, 8, 16, 32)
WITHOUT_SCALE = {f"no scale, rate {rate:g}": f"faces56-no-scale-{rate:g}" for rate in RATES}
"""Row -> method, of unit features and agents without a scale, by the learning rate."""
FIXED = {f"scale {scale}": f"faces56-scale-{scale}" for scale in SCALES}
"""Row -> method, of fixed scales."""
LEARNED, PLAIN = "learned scale", "softmax, not normalised"
METHODS = WITHOUT_SCALE | FIXED | {LEARNED: "faces56-learned-scale", PLAIN: "faces56-plain"}
"""Row -> method."""
LAST = 5
"""Number of logged lines at the end whose mean is the final loss; one batch alone is noisy."""


class Trained(NamedTuple):
    """The logged metrics and the accuracy of one finished run."""

    metrics: Sequence[Mapping[str, float]]
    """One dictionary per logged step: name of the metric, such as "softmax" -> its value."""
    accuracy: float
    """Verification accuracy in percent, on the run's test people, who are not trained on."""

    def loss(self) -> float:
        """Returns the final softmax loss in nats, as the mean of the last five logged values."""
        return float(np.mean([line["softmax"] for line in self.metrics[-LAST:]]))

    def bound(self) -> float:
        """Returns the loss' lower bound (NormFace, Proposition 2) at the final scale, in nats."""
        # One line is enough: the bound depends on the scale alone, which has no noise of batches.
        return self.metrics[-1]["softmax_bound"]


def convergence(context: Context) -> Measured:
    """Measures how far the loss of a cosine softmax falls on thousands of people (NormFace, 3.3).

    Networks are trained with several scales and learning rates. For each of them the final loss,
    the loss' lower bound by NormFace's Proposition 2 and the verification accuracy are measured.
    Without a scale the bound keeps the loss high.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    found = {row: _trained(context, method) for row, method in METHODS.items()}
    entries = []
    for row, by_seed in found.items():
        runs = list(by_seed.values())
        entries.append(Entry.of(row, [run.loss() for run in runs], "nats", 3, "final loss"))
        # Without normalisation the loss has no lower bound but zero.
        if row != PLAIN:
            entries.append(Entry.of(row, [run.bound() for run in runs], "nats", 3, "its bound"))
        accuracies = [run.accuracy for run in runs]
        entries.append(Entry.of(row, accuracies, "%", 2, "60 other people: accuracy"))
    scales = [run.metrics[-1]["scale"] for run in found[LEARNED].values()]
    entries.append(Entry.of(LEARNED, scales, "", 2, "scale"))
    claims = _claims(found)
    entries += [Entry.claim(row, holds) for row, holds in claims.items() if holds]
    missing = {row: "no seed is that of a run of each row" for row in claims if not claims[row]}
    first = {row: next(iter(by_seed.values())).metrics for row, by_seed in found.items()}
    groups = {
        "No scale, and a learned one": [*WITHOUT_SCALE, LEARNED],
        "Fixed scales, and no normalisation": [*FIXED, PLAIN],
    }
    drawn = training_figures.losses_below_a_guess(
        {title: {row: first[row] for row in rows} for title, rows in groups.items()},
        math.log(CLASSES),
    )
    steps = f"{first[PLAIN][-1]['step']:,.0f} steps"
    scale = (
        f"{CLASSES:,} people, from random weights, {steps}; the final loss is of training batches"
    )
    outcome = Outcome(entries, scale, missing=missing)
    return outcome, {"Loss and its lower bound, of the first seed": drawn}


def _claims(found: Mapping[str, Mapping[int, Trained]]) -> dict[str, list[bool]]:
    """Returns statement -> whether it holds, once per seed with which each row has a run.

    Args:
      found: row -> seed -> its run. Rows may have runs of different seeds.
    """
    without = [found[row] for row in WITHOUT_SCALE]
    stuck, falls = [], []
    for seed in sorted(set.intersection(*map(set, found.values()))):
        stuck.append(all(of[seed].bound() <= of[seed].loss() for of in without))
        # The bound without a scale does not depend on the learning rate, so one row is enough.
        falls.append(found[LEARNED][seed].loss() < without[0][seed].bound())
    return {
        "without a scale the loss stays above the bound, at every learning rate": stuck,
        "with a learned scale the loss falls below that bound": falls,
    }


def _trained(context: Context, method: str) -> dict[int, Trained]:
    """Returns seed -> finished run of a method, in rising order of the seeds."""
    found = {}
    for seed in commands.seeds(context.runs, method):
        run = commands.folder(context.runs, method, seed)
        found[seed] = Trained(read_metrics(run / "metrics.jsonl"), _accuracy(run))
    return found


def _accuracy(run: Path) -> float:
    """Returns the verification accuracy of a run's own test people, in percent."""
    return 100 * snapshot_means(json.loads((run / commands.TRAINED).read_text()))[ACCURACY]
