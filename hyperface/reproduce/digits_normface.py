"""Measures three of NormFace's items on MNIST: convergence, fixed scales, and distortion."""

import dataclasses

import numpy as np

from hyperface.report import training_figures
from hyperface.reproduce import digits
from hyperface.reproduce.digits import Trained
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

SCALES = (1, 2, 4, 7, 11)
"""The fixed scales s for which NormFace's released code has MNIST results in its file names."""


def convergence(context: Context) -> Measured:
    """Measures how far the loss of a cosine softmax falls (NormFace, 3.3).

    Networks are trained without a scale, with scale 10, and with a learned scale. Without a scale,
    the lower bound of NormFace's Proposition 2 keeps the loss high.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    entries, curves, last = [], {}, {}
    for name, scale in (("no scale", 1.0), ("scale 10", 10.0), ("learned", "learned")):
        chosen = digits.experiment("mnist-plane-normface", context, scale=scale)
        # The bound is reached by a regular simplex of ten agents, which needs nine dimensions.
        model = dataclasses.replace(chosen.model, feature_dim=64)
        label = f"convergence-{name.replace(' ', '-')}"
        runs = digits.train_runs(dataclasses.replace(chosen, model=model), label, context)
        curves[name] = runs[0].metrics
        last[name] = [run.metrics[-1] for run in runs]
        entries += [
            Entry.of(f"{name}: loss at the end", [m["softmax"] for m in last[name]], "nats", 4),
            Entry.of(f"{name}: bound", [m["softmax_bound"] for m in last[name]], "nats", 4),
        ]
    # Up to 15 % above counts as "just above": training ends before the loss reaches the bound.
    stuck = [
        m["softmax_bound"] <= m["softmax"] < 1.15 * m["softmax_bound"] for m in last["no scale"]
    ]
    both = zip(last["learned"], last["no scale"], strict=True)
    # Compared with the bound at scale 1: no training without a scale can pass that one.
    below = [with_scale["softmax"] < without["softmax_bound"] for with_scale, without in both]
    entries += [
        Entry.of("learned: scale at the end", [m["scale"] for m in last["learned"]], "", 3),
        Entry.of(
            "softmax, not normalised: greatest |logit|",
            digits.per_run(digits.softmax_runs(context), _logit),
        ),
        Entry.claim("without a scale the loss is stuck just above the bound", stuck),
        Entry.claim("a learned scale goes below it", below),
    ]
    reason = "the figures of CASIA-WebFace need that data set"
    missing = {f"CASIA-WebFace, n = 10,575: loss at the {end}": reason for end in ("start", "end")}
    drawn = {"Loss and its lower bound": training_figures.losses_with_bound(curves)}
    if (scale_figure := training_figures.scales(curves)) is not None:
        drawn["The scale"] = scale_figure
    size = digits.sizes_in_words(context, "mnist-plane-normface", images=False)
    scale = f"{size}, 10 classes, 64 dimensions"
    return Outcome(entries, scale, missing=missing), drawn


def _logit(run: Trained) -> float:
    """Returns the greatest absolute logit of the test images."""
    return np.abs(run.features["test"] @ run.agents.T).max()


def scales(context: Context) -> Measured:
    """Measures the MNIST test accuracy of a cosine softmax at five fixed scales.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    entries = []
    for scale in SCALES:
        runs = digits.train_runs(
            digits.experiment("mnist-plane-normface", context, scale=float(scale)),
            f"scale-{scale}",
            context,
        )
        found = digits.per_run(runs, lambda run: run.accuracy(normalized=True))
        entries.append(Entry.of(f"test accuracy, scale {scale}", found, "%"))
    return Outcome(entries, digits.sizes_in_words(context, "mnist-plane-normface")), {}


def distortion(context: Context) -> Measured:
    """Measures the bound of NormFace's Proposition 3 during training on MNIST.

    The bound is the mean squared distance between normalised features and the normalised agents
    (class weights) of their classes.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    runs = digits.train_runs(digits.experiment("mnist-plane-normface", context), "scale-7", context)
    last = [run.metrics[-1]["distortion"] for run in runs]
    entries = [Entry.of("mean squared distance to the own agent, end of training", last, "", 3)]
    drawn = training_figures.distortion({"mnist-plane-normface": runs[0].metrics})
    size = digits.sizes_in_words(context, "mnist-plane-normface", images=False)
    scale = f"{size}; MNIST, where the paper has faces"
    return Outcome(entries, scale), {"The bound in training": drawn}
