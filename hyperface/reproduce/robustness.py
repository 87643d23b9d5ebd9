"""Measures how much the scores depend on the hyper-parameter of a loss.

The paper of Ring loss states that scores depend less on lambda, the weight of Ring loss, than on
alpha, the norm of l2-constrained softmax. NormFace's Figure 8 states that they depend less on the
weight of C-contrastive loss than on that of center loss. Small heads are trained on the fixed
features of a run, because whole networks would take days. One program trains all settings and seeds
(see `heads_at_once`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from hyperface import theory
from hyperface.metrics.verification import deal_folds, verify
from hyperface.report import drawings
from hyperface.reproduce import comparisons, feature_cache, heads_at_once, printed_spreads
from hyperface.reproduce.comparisons import Decisions
from hyperface.reproduce.heads_at_once import Setting
from hyperface.reproduce.item import Context, Entry, Measured, Outcome
from hyperface.runs import program

RUN = "faces-softmax"
STEPS = {False: 1000, True: 60}
"""Quick -> number of steps."""
SEEDS = 3
"""Smallest number of seeds; more are trained if the command asks for more."""
LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
ALPHAS = (1.0, 3.0, 10.0, 20.0, 30.0, 50.0, 100.0)
CENTERS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WEIGHTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
PRINTED = {"lambda": (1e-4, 1e-3, 1e-2), "alpha": (10.0, 20.0, 30.0)}
"""Hyper-parameter -> its values in Ring loss' tables."""
TRIED = {"lambda": LAMBDAS, "alpha": ALPHAS}
"""Hyper-parameter -> all values that are measured here."""
EVERY = "all values: lambda 1e-5 to 10, alpha 1 to 100"
WHOLE, TO_ONE = "weights 0.001 to 10", "weights 0.001 to 1"
FIGURES = {"accuracy": "accuracy", "TAR": "tar"}
"""Name of a score in statements -> its field in `Scores`."""
FAR = 0.01
"""The false accept rate at which the true accept rate (TAR) is measured."""
BOUND = 0.1
"""Proposition 2's bound, in nats, for which the scale of NormFace's softmax is chosen."""


Key = tuple[str, float]
"""A setting: the name of its hyper-parameter and the value; 0 if it has no hyper-parameter."""


class Scores(NamedTuple):
    """The scores of one setting of a loss' hyper-parameter, one number per seed.

    A number is NaN for a seed whose training diverged.
    """

    accuracy: np.ndarray
    """[seeds] verification accuracy in percent."""
    tar: np.ndarray
    """[seeds] true accept rate at a false accept rate of 1 %, in percent."""
    deviation: np.ndarray
    """[seeds] standard deviation of the test features' norms, divided by their mean."""
    decisions: tuple[Decisions, ...] = ()
    """For each seed that did not diverge, whether each pair of test images was classified correctly
    as one person or two."""


def ring(context: Context) -> Measured:
    """Measures how verification scores vary with lambda, with alpha and with center loss' weight.

    lambda is the weight of Ring loss, and alpha the feature norm of l2-constrained softmax. Small
    heads (networks of two layers) are trained on the fixed features of a run, because whole
    networks would take days.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    settings = {("softmax", 0.0): Setting()}
    settings |= {("lambda", w): Setting(ring=w) for w in LAMBDAS}
    settings |= {("alpha", a): Setting(unit_features=True, scale=a) for a in ALPHAS}
    settings |= {("center", w): Setting(center=w) for w in CENTERS}
    found, scale = _scored(settings, context)
    outcome = _outcome(found, scale)
    for label, ranges in {"the paper's values": PRINTED, EVERY: TRIED}.items():
        for name, figure in FIGURES.items():
            over = {k: _spread(found, k, figure, values) for k, values in ranges.items()}
            row = f"{name} varies less over lambda than over alpha, {label}"
            outcome.entries += comparisons.per_seed(row, _margins(over["alpha"], over["lambda"]))
    outcome.unjudged["alpha = 50 explodes"] = (
        "the paper means the gradients of a deep network, and only heads are trained here; their "
        "scores at alpha = 50 are below"
    )
    outcome.entries += printed_spreads.entries()
    for key, values in (("lambda", LAMBDAS), ("alpha", ALPHAS), ("center", CENTERS)):
        for label, some in (("the paper's values", PRINTED.get(key)), ("all values", values)):
            if some is not None:
                outcome.entries += _spread_entries(found, key, some, label)
    panels = {
        "lambda of Ring loss": {"softmax + ring": ("lambda", LAMBDAS)},
        "alpha of l2-constrained softmax": {"softmax, unit features": ("alpha", ALPHAS)},
        "weight of center loss": {"softmax + center": ("center", CENTERS)},
    }
    return outcome, _drawn(found, panels, ["softmax"])


def weights(context: Context) -> Measured:
    """Measures NormFace, Figure 8: how scores vary with the weight of a loss added to softmax.

    The added loss is C-contrastive loss with margin 1, or center loss. Center loss is implemented
    as C-contrastive loss with margin 0, as in NormFace's Table 2. Small heads (networks of two
    layers) are trained on the fixed features of a run.

    Args:
      context: the folders and settings of `hyperface reproduce`.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    scale = theory.scale_for_bound(_num_classes(context), BOUND)
    both = Setting(unit_features=True, unit_agents=True, scale=float(scale))
    settings = {("softmax, not normalised", 0.0): Setting(), ("softmax, normalised", 0.0): both}
    for name, margin in (("C-contrastive", 1.0), ("center", 0.0)):
        settings |= {(name, w): both._replace(c_contrastive=w, margin=margin) for w in WEIGHTS}
        alone = Setting(softmax=0.0, c_contrastive=1.0, margin=margin)
        settings[f"{name} alone", 0.0] = alone
    found, text = _scored(settings, context)
    outcome = _outcome(found, f"{text}; center loss is C-contrastive with m = 0, as in Table 2")
    # Figure 8 has weights of about 0.001 to 1; it is drawn and not printed, so 10 is tried beside.
    over, ranges = ("C-contrastive", "center"), {TO_ONE: WEIGHTS[:-1], WHOLE: WEIGHTS}
    for label, values in ranges.items():
        for name, figure in FIGURES.items():
            spread = {key: _spread(found, key, figure, values) for key in over}
            row = f"{name} varies less over C-contrastive's weight than over center's, {label}"
            outcome.entries += comparisons.per_seed(
                row, _margins(spread["center"], spread["C-contrastive"])
            )
    names = ("C-contrastive alone", "center alone", "softmax, not normalised")
    # The paper compares the losses alone with softmax as it was before, without normalisation.
    alone, center, softmax = (found[name, 0.0] for name in names)
    for row, other in (
        ("alone, C-contrastive verifies better than center", center),
        ("C-contrastive alone is above softmax", softmax),
    ):
        outcome.entries += _verifies_better(row, alone, other)
    for key in over:
        for label, values in ranges.items():
            outcome.entries += _spread_entries(found, key, values, label)
    lines = {f"softmax + {key}": (key, WEIGHTS) for key in over}
    base = ["softmax, not normalised", "softmax, normalised"]
    return outcome, _drawn(found, {"weight of the added loss": lines}, base)


def _scored(settings: Mapping[Key, Setting], context: Context) -> tuple[dict[Key, Scores], str]:
    """Trains and scores all settings, each with several seeds.

    Returns:
      Setting -> its scores, and the procedure in words.
    """
    splits = feature_cache.features(context.runs / RUN, context)
    train, test = splits["train"], splits["test"]
    # A common scale, so that the head's first features and gradients do not depend on the run.
    size = np.sqrt(np.mean(train.features**2))
    steps = context.steps or STEPS[context.quick]
    seeds = max(SEEDS, context.seeds)
    title = f"{len(settings)} settings x {seeds} seeds"
    with program.progress(title, "steps") as advance:
        heads = heads_at_once.train(
            list(settings.values()),
            train.features / size,
            train.labels,
            seeds=seeds,
            steps=steps,
            progress=advance,
        )
    # Mapped over seeds and over settings; all heads get the same images.
    embed = jax.jit(jax.vmap(jax.vmap(heads_at_once.embed, (0, None)), (0, None)))
    both = test.features.reshape(-1, test.features.shape[-1]) / size
    embedded = np.asarray(embed(heads, both))
    # [seeds, settings, images, 2, dim]: an image and its mirror image are side by side again.
    embedded = embedded.reshape(*embedded.shape[:2], *test.features.shape[:2], -1)
    with program.progress("scoring", "settings") as advance:
        found = {}
        for index, key in enumerate(settings):
            found[key] = _scores(embedded[:, index], test.labels)
            advance(index + 1, len(settings))
    return found, (
        f"not end to end: linear, PReLU, linear over the fixed features of {RUN}, {steps:,} steps "
        f"of {heads_at_once.BATCH}, {title} in one program, {train.labels.max() + 1} people; "
        f"{np.unique(test.labels).size} other people, all pairs of {test.labels.size} images"
    )


def _num_classes(context: Context) -> int:
    """Returns the number of people that the heads are trained on."""
    return int(feature_cache.features(context.runs / RUN, context)["train"].labels.max()) + 1


def _scores(features: np.ndarray, labels: np.ndarray) -> Scores:
    """Returns the scores of one setting on all pairs of test images.

    Args:
      features: [seeds, images, 2, dim], of each image and its mirror image.
      labels: [images] ids of the people.
    """
    norms = np.linalg.norm(features[:, :, 0], axis=2)
    accuracy, tar = np.full((2, len(features)), np.nan)
    decisions = []
    # NormFace, 5.1, adds the features of an image and of its mirror image.
    for seed, merged in enumerate(features.sum(axis=2)):
        # A head that diverged has no finite features, or zero ones, which have no direction.
        if np.isfinite(merged).all() and np.linalg.norm(merged, axis=1).all():
            verified = verify(merged, labels)
            accuracy[seed] = 100 * verified.folds.mean
            tar[seed] = 100 * verified.tar_at_far[FAR]
            pairs = verified.pairs
            # Each pair is decided by the threshold that the other folds chose, as it is scored.
            folds = deal_folds(pairs.same, verified.folds.accuracy.size)
            accepted = verified.scores >= verified.folds.thresholds[folds]
            people = labels[pairs.first], labels[pairs.second]
            decisions.append(Decisions(accepted == pairs.same, *people))
    return Scores(accuracy, tar, norms.std(axis=1) / norms.mean(axis=1), tuple(decisions))


def _label(key: Key) -> str:
    """Returns the name of a setting in a table: "lambda 0.01", "softmax"."""
    name, value = key
    return f"{name} {value:g}" if value else name


def _outcome(found: Mapping[Key, Scores], scale: str) -> Outcome:
    """Returns an outcome with the scores of each setting, or the number of seeds that diverged."""
    outcome = Outcome([], scale)
    for key, scores in found.items():
        lost = np.sum(~np.isfinite(scores.accuracy))
        if lost:
            unit = f"of {scores.accuracy.size} seeds diverged"
            outcome.entries.append(Entry.of(_label(key), lost, unit, 0, "accuracy"))
            continue
        outcome.entries += [
            Entry.of(_label(key), list(scores.accuracy), "%", 2, "accuracy"),
            Entry.of(_label(key), list(scores.tar), "%", 2, "TAR at FAR 1 %"),
            Entry.of(_label(key), list(scores.deviation), "", 3, "deviation / mean of norms"),
        ]
    return outcome


def _spread(
    found: Mapping[Key, Scores], key: str, figure: str, values: tuple[float, ...]
) -> np.ndarray:
    """Returns the standard deviation of a score over the values of a hyper-parameter, [seeds].

    It is infinite for a seed in which the training diverged at one of the values.

    Args:
      found: the scores of all settings.
      key: name of the hyper-parameter.
      figure: name of the score, a field of `Scores`.
      values: the values of the hyper-parameter.
    """
    scores = np.array([getattr(found[key, value], figure) for value in values])
    whole = np.isfinite(scores).all(axis=0)
    # A hyper-parameter that can make training fail varies more than one that cannot.
    return np.where(whole, np.nan_to_num(scores).std(axis=0, ddof=1), np.inf)


def _verifies_better(row: str, better: Scores, than: Scores) -> list[Entry]:
    """Returns a list with the table entry of a statement that one setting verifies better.

    A seed that diverged counts as less accurate than any other.

    Args:
      row: the statement.
      better: scores of the setting that should verify better.
      than: scores of the other setting.
    """
    # Resampling people needs the decisions of every seed; without one, only seeds are compared.
    if len(better.decisions) == len(than.decisions) == better.accuracy.size:
        return [comparisons.of_decisions(row, better.decisions, than.decisions)]
    high, low = (np.where(np.isfinite(x), x, -np.inf) for x in (better.accuracy, than.accuracy))
    return comparisons.per_seed(row, _margins(high, low))


def _margins(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Returns the difference of two scores per seed, [seeds]; NaN where both sides diverged."""
    # Two infinities of one sign have no difference; NumPy would warn of it.
    with np.errstate(invalid="ignore"):
        return high - low


def _spread_entries(
    found: Mapping[Key, Scores], key: str, values: tuple[float, ...], label: str
) -> list[Entry]:
    """Returns one entry per score: its standard deviation over the values of a hyper-parameter.

    Values at which a seed diverged are left out. If fewer than two values remain, the list is [].

    Args:
      found: the scores of all settings.
      key: name of the hyper-parameter.
      values: the values of the hyper-parameter.
      label: description of the values, for the name of the row.
    """
    kept = tuple(v for v in values if np.isfinite(found[key, v].accuracy).all())
    return [
        Entry.of(
            f"deviation over {key}, {label}",
            list(_spread(found, key, figure, kept)),
            "points",
            column=column,
        )
        for figure, column in (("accuracy", "accuracy"), ("tar", "TAR at FAR 1 %"))
        if len(kept) > 1
    ]


def _drawn(
    found: Mapping[Key, Scores],
    panels: Mapping[str, Mapping[str, tuple[str, tuple[float, ...]]]],
    bases: Sequence[str],
) -> dict[str, Figure]:
    """Draws one figure per score, of the score against the hyper-parameter.

    Args:
      found: the scores of all settings.
      panels: label of the x axis -> curve -> its hyper-parameter and the values of that.
      bases: names of settings without hyper-parameter; each is a dashed line.
    """
    drawn = {}
    for figure, name in (("accuracy", "Accuracy"), ("tar", "TAR at FAR 1 %")):
        lines = {
            xlabel: {
                label: (
                    np.array(values),
                    np.array([getattr(found[key, value], figure) for value in values]),
                )
                for label, (key, values) in named.items()
            }
            for xlabel, named in panels.items()
        }
        marks = {base: float(getattr(found[base, 0.0], figure).mean()) for base in bases}
        caption = (
            f"{name}, heads over fixed features, mean and deviation over seeds; a dashed line is "
            "softmax alone"
        )
        drawn[caption] = drawings.scatter_panels(lines, ylabel=f"{name}, %", marks=marks)
    return drawn
