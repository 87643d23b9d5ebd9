"""The MNIST experiments of both papers: features in the plane, norms, scales, convergence."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hyperface.data.datasets import open_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.evaluate.classification import nearest_agent_accuracy
from hyperface.evaluate.embed import embed_split, embedder
from hyperface.report import drawings, figures
from hyperface.train.experiment import Experiment, check
from hyperface.train.loop import train
from hyperface.train.metrics import read_metrics
from launch import experiments
from launch.papers.faces import pair_accuracy
from launch.papers.item import Context, Entry, Outcome

QUICK_STEPS = 60
SHOWN = {False: 10_000, True: 1_000}
"""Images of each split whose features are taken, in full and in quick runs."""
COMPARED = 1_000
"""Test images of which all pairs are compared."""
SCALES = (1, 2, 4, 7, 11)
LONG, SHORT = (3, 6, 8), (1, 7, 9)
"""Digits that Ring loss, 2.1, finds to have features of high and of low norm."""
_FEATURES = "features.npz"


class Trained(NamedTuple):
    """A run, with features of some training and test images."""

    metrics: list[dict[str, float]]
    agents: np.ndarray
    bias: np.ndarray | None
    features: dict[str, np.ndarray]
    """[images, dim] by split."""
    labels: dict[str, np.ndarray]

    def accuracy(self, *, normalized: bool = False) -> float:
        """Share of test images, in percent: as trained, or by the cosine, which has no bias."""
        return 100 * nearest_agent_accuracy(
            self.features["test"],
            self.agents,
            self.labels["test"],
            normalize="both" if normalized else "none",
            bias=None if normalized else self.bias,
        )

    def norms(self, split: str = "test") -> np.ndarray:
        """[images] feature norms."""
        return np.linalg.norm(self.features[split], axis=1)

    def class_norms(self, split: str = "test") -> np.ndarray:
        """[classes] mean norm of a class over the mean norm of all: Ring loss, Figure 5."""
        norms = self.norms(split)
        by_class = [norms[self.labels[split] == c] for c in range(10)]
        return np.array([found.mean() for found in by_class]) / norms.mean()


def _experiment(name: str, context: Context, **softmax) -> Experiment:
    """A shipped experiment alone, with another softmax term, at the steps asked for."""
    found = dataclasses.replace(experiments.load(name), compare=())
    if softmax:
        term = dataclasses.replace(found.loss.softmax, **softmax)
        found = dataclasses.replace(found, loss=dataclasses.replace(found.loss, softmax=term))
    steps = context.steps or (QUICK_STEPS if context.quick else found.steps)
    if steps != found.steps:
        rate = dataclasses.replace(found.optimizer, boundaries=())
        found = dataclasses.replace(
            found, steps=steps, log_every=5, checkpoint_every=500, optimizer=rate
        )
    return found


def _runs(experiment: Experiment, label: str, context: Context) -> list[Trained]:
    """One run a seed, trained where it is not there yet."""
    return [
        _run(dataclasses.replace(experiment, seed=seed), label, context)
        for seed in range(context.seeds)
    ]


def _run(experiment: Experiment, label: str, context: Context) -> Trained:
    size = f"{label}-{experiment.steps}-steps-{SHOWN[context.quick]}-images-seed{experiment.seed}"
    folder = context.out / "runs" / size
    if not (folder / _FEATURES).exists():
        state = train(check(experiment), context.data_dir, folder, console=context.console)
        _write_features(experiment, state, folder, context)
    with np.load(folder / _FEATURES) as kept:
        stored = dict(kept)
    splits = ("train", "test")
    return Trained(
        read_metrics(folder / "metrics.jsonl"),
        stored["agents"],
        stored.get("bias"),
        {split: stored[split] for split in splits},
        {split: stored[f"{split}_labels"] for split in splits},
    )


def _write_features(experiment: Experiment, state, folder: Path, context: Context) -> None:
    variables = jax.device_put(jax.device_get(state.evaluated))
    network = state.network
    embed = embedder(lambda v, images: network.apply(v, images, method="embed"), "none")
    head = variables["params"]["head"]["softmax"]
    stored = {name: np.asarray(head[name]) for name in ("agents", "bias") if name in head}
    for name in ("train", "test"):
        split = open_split(experiment.data.name, name, context.data_dir)
        count = min(SHOWN[context.quick], len(split.records))
        # Stored by class: a stride takes of all.
        places = np.linspace(0, len(split.records) - 1, count).astype(int)
        some = dataclasses.replace(split, records=[split.records[int(i)] for i in places])
        batches = evaluation_batches(some, batch_size=min(count, experiment.evaluation.batch_size))
        found = embed_split(embed, variables, batches)
        stored |= {name: found.features, f"{name}_labels": found.labels}
    partial = folder / "partial.npz"
    np.savez(partial, **stored)
    partial.rename(folder / _FEATURES)


def _scale(context: Context, name: str, images: bool = True) -> str:
    whole = experiments.load(name).steps
    steps = _experiment(name, context).steps
    seeds = "1 seed" if context.seeds == 1 else f"{context.seeds} seeds"
    size = f"{steps:,} of {whole:,} steps, {seeds}"
    return f"{size}, {SHOWN[context.quick]:,} images of each split" if images else size


def _each(runs: list[Trained], figure) -> list[float]:
    return [float(figure(run)) for run in runs]


def _softmax(context: Context, **term) -> list[Trained]:
    label = "-".join(["softmax", *term])
    return _runs(_experiment("mnist-softmax", context, **term), label, context)


def similarities(context: Context):
    """Table 1 at MNIST's size: pairs compared before and after normalisation."""
    runs = _softmax(context)
    entries, found = [], {}
    for name in ("Inner-Product", "Euclidean"):
        for column, normalized in (("before", False), ("after", True)):
            found[name, column] = _each(
                runs, lambda run, n=name, d=normalized: _pair_accuracy(run, n, d)
            )
            row = f"{name}, 2-d MNIST features"
            entries.append(Entry.of(row, found[name, column], "%", 2, column))
    for name in ("Inner-Product", "Euclidean"):
        pairs = zip(found[name, "before"], found[name, "after"], strict=True)
        better = [after > before for before, after in pairs]
        entries.append(Entry.claim(f"{name}: normalisation helps on MNIST", better))
    reason = "Wen's model needs CASIA-WebFace; table-1-faces has smaller faces"
    missing = dict.fromkeys(("Inner-Product", "Euclidean"), reason)
    scale = (
        f"{_scale(context, 'mnist-softmax')}; all pairs of {COMPARED:,} test digits, best threshold"
        ", both kinds of pairs weigh equally"
    )
    return Outcome(entries, scale, missing=missing), {}


def _pair_accuracy(run: Trained, similarity: str, normalized: bool) -> float:
    every = max(1, len(run.labels["test"]) // COMPARED)
    features, labels = run.features["test"][::every], run.labels["test"][::every]
    return pair_accuracy(features, labels, similarity, normalized=normalized)


def softmax_plane(context: Context):
    """NormFace, Figure 2: radial features, in which angles tell more than distances."""
    runs = _softmax(context)
    before, after = (_each(runs, lambda r, n=n: r.accuracy(normalized=n)) for n in (False, True))
    spread = [float(run.norms("train").std() / run.norms("train").mean()) for run in runs]
    entries = [
        Entry.of("test accuracy, inner product", before, "%"),
        Entry.of("test accuracy, cosine", after, "%"),
        Entry.of("standard deviation of norms / mean norm", spread, "", 3),
    ]
    drawn = figures.feature_plane(
        runs[0].features["train"], runs[0].labels["train"], "softmax, no bias: training features"
    )
    return Outcome(entries, _scale(context, "mnist-softmax")), {"Training features": drawn}


def bias_plane(context: Context):
    """NormFace, Figure 3: with a bias, classes near zero that normalisation scatters."""
    free, biased = _softmax(context), _softmax(context, bias=True)
    entries = [
        Entry.of(
            f"test accuracy, {kind}", _each(runs, lambda r, n=n: r.accuracy(normalized=n)), "%"
        )
        for name, runs in (("no bias", free), ("with a bias", biased))
        for kind, n in ((f"{name}, as trained", False), (f"{name}, cosine", True))
    ]
    nearest = [_each(runs, lambda r: r.class_norms("train").min()) for runs in (free, biased)]
    lost = [run.accuracy() - run.accuracy(normalized=True) for run in biased]
    kept = [run.accuracy() - run.accuracy(normalized=True) for run in free]
    entries += [
        Entry.of("least class norm / mean norm, no bias", nearest[0], "", 3),
        Entry.of("least class norm / mean norm, with a bias", nearest[1], "", 3),
        Entry.claim(
            "with a bias normalisation costs more", [a > b for a, b in zip(lost, kept, strict=True)]
        ),
    ]
    drawn = figures.feature_plane(
        biased[0].features["train"], biased[0].labels["train"], "softmax with a bias: training"
    )
    return Outcome(entries, _scale(context, "mnist-softmax")), {"Training features": drawn}


def convergence(context: Context):
    """NormFace, 3.3: the cosine softmax without a scale, with a fixed one and a learned one."""
    entries, curves, last = [], {}, {}
    for name, scale in (("no scale", 1.0), ("scale 10", 10.0), ("learned", "learned")):
        chosen = _experiment("mnist-normface", context, scale=scale)
        # In 64 dimensions ten agents can form the simplex that meets the bound.
        model = dataclasses.replace(chosen.model, feature_dim=64)
        label = f"convergence-{name.replace(' ', '-')}"
        runs = _runs(dataclasses.replace(chosen, model=model), label, context)
        curves[name] = runs[0].metrics
        last[name] = [run.metrics[-1] for run in runs]
        entries += [
            Entry.of(f"{name}: loss at the end", [m["softmax"] for m in last[name]], "nats", 4),
            Entry.of(f"{name}: bound", [m["softmax_bound"] for m in last[name]], "nats", 4),
        ]
    stuck = [
        m["softmax_bound"] <= m["softmax"] < 1.15 * m["softmax_bound"] for m in last["no scale"]
    ]
    both = zip(last["learned"], last["no scale"], strict=True)
    below = [with_scale["softmax"] < without["softmax_bound"] for with_scale, without in both]
    entries += [
        Entry.of("learned: scale at the end", [m["scale"] for m in last["learned"]], "", 3),
        Entry.of("softmax, not normalised: greatest |logit|", _each(_softmax(context), _logit)),
        Entry.claim("without a scale the loss is stuck just above the bound", stuck),
        Entry.claim("a learned scale goes below it", below),
    ]
    reason = "the figures of CASIA-WebFace need that data set"
    missing = {f"CASIA-WebFace, n = 10,575: loss at the {end}": reason for end in ("start", "end")}
    drawn = figures.loss_with_bound(curves)
    scale = f"{_scale(context, 'mnist-normface', images=False)}, 10 classes, 64 dimensions"
    return Outcome(entries, scale, missing=missing), {"Loss, bound and scale": drawn}


def _logit(run: Trained) -> float:
    """The logit of a test image furthest from zero."""
    return np.abs(run.features["test"] @ run.agents.T).max()


def scales(context: Context):
    """Three-dimensional features at five fixed scales."""
    entries = []
    for scale in SCALES:
        runs = _runs(
            _experiment("mnist-normface", context, scale=float(scale)), f"scale-{scale}", context
        )
        found = _each(runs, lambda run: run.accuracy(normalized=True))
        entries.append(Entry.of(f"test accuracy, scale {scale}", found, "%"))
    return Outcome(entries, _scale(context, "mnist-normface")), {}


def distortion(context: Context):
    """Proposition 3's bound as training shows it."""
    runs = _runs(_experiment("mnist-normface", context), "scale-7", context)
    last = [run.metrics[-1]["distortion"] for run in runs]
    entries = [Entry.of("mean squared distance to the own agent, end of training", last, "", 3)]
    drawn = figures.distortion({"mnist-normface": runs[0].metrics})
    scale = f"{_scale(context, 'mnist-normface', images=False)}; MNIST, where the paper has faces"
    return Outcome(entries, scale), {"The bound in training": drawn}


def _ring(context: Context) -> list[Trained]:
    return _runs(_experiment("mnist-ring", context), "ring", context)


def ring_planes(context: Context):
    """Ring loss, Figure 1: the plane with and without Ring loss, and test accuracy."""
    entries, drawn, deviation, accuracy = [], {}, {}, {}
    plain = _softmax(context)
    for name, runs in (("softmax", plain), ("softmax + Ring loss", _ring(context))):
        deviation[name] = [float(run.norms().std() / run.norms().mean()) for run in runs]
        accuracy[name] = _each(runs, Trained.accuracy)
        entries += [
            Entry.of(f"test accuracy, {name}", accuracy[name], "%"),
            Entry.of(f"standard deviation of norms / mean norm, {name}", deviation[name], "", 3),
        ]
        drawn[name] = figures.feature_plane(
            runs[0].features["train"], runs[0].labels["train"], f"{name}: training features"
        )
    equal = [a < b for a, b in zip(*reversed(deviation.values()), strict=True)]
    entries.append(Entry.claim("Ring loss makes norms alike", equal))
    better = [a > b for a, b in zip(*reversed(accuracy.values()), strict=True)]
    entries.append(Entry.claim("Ring loss raises the test accuracy", better))
    norms = [run.class_norms() for run in plain]
    entries += [
        Entry.claim(
            "softmax: norms of 3, 6 and 8 above the mean", [min(n[[*LONG]]) > 1 for n in norms]
        ),
        Entry.claim(
            "softmax: norms of 1, 7 and 9 below the mean", [max(n[[*SHORT]]) < 1 for n in norms]
        ),
        Entry.claim("softmax: digit 1 has the lowest norm", [np.argmin(n) == 1 for n in norms]),
    ]
    return Outcome(entries, _scale(context, "mnist-ring")), drawn


def digit_eight(context: Context):
    """Ring loss, Figure 4: low norms go with a large variation in angle on test images."""
    runs = _softmax(context)
    entries, angles = [], {}
    for split in ("train", "test"):
        for name, part in (("lowest", 0), ("highest", 3)):
            angles[split, name] = [_angular_spread(run, split, part) for run in runs]
            row = f"{split}: angular deviation of the {name} quarter of norms"
            entries.append(Entry.of(row, angles[split, name], "degrees"))
    both = zip(angles["test", "lowest"], angles["test", "highest"], strict=True)
    entries.append(
        Entry.claim("test: low norms vary more in angle", [low > high for low, high in both])
    )
    spread = {
        split: [
            np.sqrt(np.mean([_angular_spread(run, split, part) ** 2 for part in range(4)]))
            for run in runs
        ]
        for split in ("train", "test")
    }
    entries += [
        Entry.of(f"{split}: angular deviation of all norms", found, "degrees")
        for split, found in spread.items()
    ]
    erratic = [of_test > of_train for of_train, of_test in zip(*spread.values(), strict=True)]
    entries.append(Entry.claim("features vary more in angle on test images", erratic))
    for split in ("train", "test"):
        found = [_norm_spread(run, split) for run in runs]
        entries.append(Entry.of(f"{split}: standard deviation of norms / mean norm", found, "", 3))
    eight = {
        split: runs[0].features[split][runs[0].labels[split] == 8] for split in ("train", "test")
    }
    drawn = drawings.planes({s: [drawings.Points(points, "", 4)] for s, points in eight.items()})
    return Outcome(entries, _scale(context, "mnist-softmax")), {"Features of the digit 8": drawn}


def _angular_spread(run: Trained, split: str, quarter: int) -> float:
    """Root mean squared angle to the class direction in one quarter of the digit 8's norms."""
    features = run.features[split][run.labels[split] == 8]
    order = np.argsort(np.linalg.norm(features, axis=1))
    some = features[np.array_split(order, 4)[quarter]]
    mean = features.sum(axis=0)
    cosines = some @ mean / (np.linalg.norm(some, axis=1) * np.linalg.norm(mean))
    return float(np.degrees(np.sqrt(np.mean(np.arccos(np.clip(cosines, -1, 1)) ** 2))))


def _norm_spread(run: Trained, split: str) -> float:
    """Of the digit 8."""
    norms = run.norms(split)[run.labels[split] == 8]
    return float(norms.std() / norms.mean())


def class_norms(context: Context):
    """Ring loss, Figure 5: norm ratio and accuracy of each class."""
    found = {"softmax": _softmax(context), "softmax + Ring loss": _ring(context)}
    entries, variance = [], {}
    for name, runs in found.items():
        variance[name] = [float(run.class_norms().std()) for run in runs]
        row = f"standard deviation of the ten norm ratios, {name}"
        entries.append(Entry.of(row, variance[name], "", 3))
    shares = {
        name: np.array([[_class_accuracy(run, digit) for digit in range(10)] for run in runs])
        for name, runs in found.items()
    }
    for digit in range(10):
        for name, runs in found.items():
            ratio = [run.class_norms()[digit] for run in runs]
            row = f"digit {digit}, {name}"
            entries.append(Entry.of(row, ratio, "", 3, "norm ratio"))
            entries.append(Entry.of(row, list(shares[name][:, digit]), "%", 2, "test accuracy"))
    gained = shares["softmax + Ring loss"] > shares["softmax"]
    entries.append(
        Entry.of("classes whose accuracy Ring loss raises", list(gained.sum(axis=1)), "of 10", 1)
    )
    entries.append(
        Entry.claim("Ring loss raises the accuracy of all classes", list(gained.all(axis=1)))
    )
    less = [a < b for a, b in zip(*reversed(variance.values()), strict=True)]
    entries.append(Entry.claim("Ring loss reduces the variance of class norms", less))
    drawn = drawings.bars(
        {name: runs[0].class_norms() for name, runs in found.items()},
        title="Mean norm of a class over the mean norm",
        xlabel="digit",
        ylabel="norm ratio",
    )
    errors = drawings.bars(
        {name: 100 - share[0] for name, share in shares.items()},
        title="Test error of a class",
        xlabel="digit",
        ylabel="error, %",
    )
    return Outcome(entries, _scale(context, "mnist-ring")), {
        "Norm ratio of each class": drawn,
        "Test error of each class": errors,
    }


def _class_accuracy(run: Trained, digit: int) -> float:
    chosen = run.labels["test"] == digit
    found = np.argmax(run.features["test"][chosen] @ run.agents.T, axis=1)
    return 100 * float(np.mean(found == digit))
