"""Trains the MNIST runs of both papers and returns their features.

A run that was trained before is read instead. The measurements in `digits_normface`,
`digits_planes` and `digits_ringloss` share the runs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from hyperface import experiments
from hyperface.config.experiment import Experiment, check
from hyperface.data.datasets import open_split
from hyperface.evaluate.classification import nearest_agent_accuracy
from hyperface.evaluate.embed import embedder
from hyperface.metrics.bootstrap import difference_of_means
from hyperface.reproduce import feature_cache
from hyperface.reproduce.item import HOLDS, OF_FEATURES, Context, Entry, code_digest
from hyperface.train.logs import read_metrics
from hyperface.train.loop import run_meta, train
from hyperface.train.run_folder import check_same_run
from hyperface.train.state import TrainState

QUICK_STEPS = 60
"""Number of steps of a training with --quick."""
SHOWN = {False: 10_000, True: 1_000}
"""Whether --quick is on -> number of images per split whose features are computed."""


class Trained(NamedTuple):
    """A trained run, with features of some training and test images."""

    metrics: list[dict[str, float]]
    """The logged metrics by name, one dictionary per logged step."""
    agents: np.ndarray
    """[10, dim] class weights, one row per digit."""
    bias: np.ndarray | None
    """[10] bias of the logits; None if the softmax has none."""
    features: dict[str, np.ndarray]
    """Split ("train" or "test") -> features [images, dim], not normalised."""
    labels: dict[str, np.ndarray]
    """Split ("train" or "test") -> [images] the digit that each image shows."""

    def accuracy(self, *, normalized: bool = False) -> float:
        """Returns the test accuracy in percent.

        Args:
          normalized: whether images are classified by the cosine without bias, and not by the
            logits as trained.
        """
        return 100 * nearest_agent_accuracy(
            self.features["test"],
            self.agents,
            self.labels["test"],
            normalize="both" if normalized else "none",
            bias=None if normalized else self.bias,
        )

    def right(self, *, normalized: bool = False) -> np.ndarray:
        """Returns whether each test image is classified correctly, [test images] bool.

        Args:
          normalized: whether images are classified by the cosine without bias, and not by the
            logits as trained.
        """
        agents, bias = self.agents, self.bias
        if normalized:
            agents, bias = agents / np.linalg.norm(agents, axis=1, keepdims=True), None
        logits = self.features["test"] @ agents.T + (0.0 if bias is None else bias)
        return np.argmax(logits, axis=1) == self.labels["test"]

    def norms(self, split: str = "test") -> np.ndarray:
        """Returns the norms of the features of a split ("train" or "test"), [images]."""
        return np.linalg.norm(self.features[split], axis=1)

    def class_norms(self, split: str = "test") -> np.ndarray:
        """Returns the mean feature norm of each class, divided by that of all images, [classes].

        This is the norm ratio of Ring loss, Figure 5.
        """
        norms = self.norms(split)
        by_class = [norms[self.labels[split] == c] for c in range(10)]
        return np.array([found.mean() for found in by_class]) / norms.mean()


def experiment(name: str, context: Context, **softmax: float | str) -> Experiment:
    """Returns an experiment that comes with the library, with other fields of its softmax loss.

    It is shortened if the command has --steps or --quick.

    Args:
      name: name of the experiment, such as "mnist-plane-softmax".
      context: contains the number of steps, from --steps or --quick.
      **softmax: fields of the experiment's softmax loss and their new values, such as scale=4.0.
    """
    found = dataclasses.replace(experiments.load(name), compare=())
    if softmax:
        term = dataclasses.replace(found.loss.softmax, **softmax)
        found = dataclasses.replace(found, loss=dataclasses.replace(found.loss, softmax=term))
    steps = context.steps or (QUICK_STEPS if context.quick else found.steps)
    if steps != found.steps:
        # The steps at which the rate drops are those of the full length.
        rate = dataclasses.replace(found.optimizer, boundaries=())
        found = dataclasses.replace(
            found, steps=steps, log_every=5, checkpoint_every=500, optimizer=rate
        )
    return found


def train_runs(experiment: Experiment, label: str, context: Context) -> list[Trained]:
    """Returns one run per seed. Runs that do not exist yet are trained first.

    Args:
      experiment: the experiment to train. Its seed is replaced by 0, 1, ...
      label: the beginning of the names of the runs' folders. It must be different for each
        experiment.
      context: contains the folders and the number of seeds.
    """
    return [
        _run(dataclasses.replace(experiment, seed=seed), label, context)
        for seed in range(context.seeds)
    ]


def _run(experiment: Experiment, label: str, context: Context) -> Trained:
    """Returns the run of one seed. It is trained now if it was not trained before.

    Args:
      experiment: the experiment with its seed.
      label: the beginning of the name of the run's folder.
      context: contains the folders.
    """
    size = f"{label}-{experiment.steps}-steps-{SHOWN[context.quick]}-images-seed{experiment.seed}"
    folder = context.out / "runs" / size
    data = experiment.data
    split = open_split(data.name, data.train_split, context.data_dir)
    # Raises if the folder has a run of another experiment or other data, which must not be measured
    # under this one's name.
    check_same_run(folder, run_meta(check(experiment), split))
    # Changed code of the network or of the pipeline gives another file name, so the features of the
    # old code are not read.
    features = folder / f"features-{code_digest(OF_FEATURES)}.npz"
    if not features.exists():
        state = train(experiment, context.data_dir, folder)
        feature_cache.write(features, lambda: _features(experiment, state, context))
    with np.load(features) as kept:
        stored = dict(kept)
    splits = ("train", "test")
    return Trained(
        read_metrics(folder / "metrics.jsonl"),
        stored["agents"],
        stored.get("bias"),
        {split: stored[split] for split in splits},
        {split: stored[f"{split}_labels"] for split in splits},
    )


def _features(experiment: Experiment, state: TrainState, context: Context) -> dict[str, np.ndarray]:
    """Returns the arrays of `Trained` by name: features, labels, agents and bias."""
    # Through the host, so that the arrays are on one device, however the training spread them.
    variables = jax.device_put(jax.device_get(state.evaluated))

    def apply(variables: Any, images: jax.Array) -> jax.Array:
        # Without `mutable`, apply returns the features alone.
        return cast(jax.Array, state.network.apply(variables, images, method="embed"))

    network = embedder(apply, "none")
    head = variables["params"]["head"]["softmax"]
    stored = {name: np.asarray(head[name]) for name in ("agents", "bias") if name in head}
    for name in ("train", "test"):
        split = open_split(experiment.data.name, name, context.data_dir)
        count = min(SHOWN[context.quick], len(split.records))
        # Records are sorted by class, so evenly spaced ones cover all classes.
        chosen = np.linspace(0, len(split.records) - 1, count).astype(int)
        some = dataclasses.replace(split, records=[split.records[int(i)] for i in chosen])
        found = feature_cache.embed(some, lambda images: network(variables, images))
        stored[name], stored[f"{name}_labels"] = found
    return stored


def sizes_in_words(context: Context, name: str, images: bool = True) -> str:
    """Returns the sizes of an experiment's runs in words, for the field `scale` of an `Outcome`.

    The text names the experiment, the network, and the numbers of steps, of images per step and of
    seeds.

    Args:
      context: contains the number of steps and of seeds.
      name: name of the experiment, such as "mnist-plane-softmax".
      images: whether the text also has the number of images whose features are measured.
    """
    whole, chosen = experiments.load(name), experiment(name, context)
    steps = f"{chosen.steps:,} of {whole.steps:,} steps of {chosen.data.batch_size} images"
    seeds = "1 seed" if context.seeds == 1 else f"{context.seeds} seeds"
    size = f"{name}, the network {chosen.model.title}: {steps}, {seeds}"
    return f"{size}, {SHOWN[context.quick]:,} images of each split" if images else size


def per_run(runs: list[Trained], score: Callable[[Trained], float]) -> list[float]:
    """Returns the score of each run, in the order of the runs.

    Args:
      runs: the runs.
      score: function that computes the score of one run.
    """
    return [float(score(run)) for run in runs]


def compared(row: str, better: np.ndarray, than: np.ndarray) -> Entry:
    """Returns the table entry of a sentence such as "A classifies more images correctly than B".

    The entry contains the difference of the accuracies in percentage points. Its confidence
    interval comes from a bootstrap over images and seeds.

    Args:
      row: the sentence, which is the name of the row.
      better: [seeds, images] for the method A that should be better: 1 for a correctly classified
        image, and else 0. It may also be a difference of two such arrays, the gain of one method
        over another. The sentence then compares two gains.
      than: [seeds, images] the same for the method B.
    """
    found = difference_of_means(100.0 * better, 100.0 * than, draws=2_000)
    gains = np.mean(better, axis=1) - np.mean(than, axis=1)
    held = tuple(float(gain > 0) for gain in gains)
    return Entry(row, held, unit=HOLDS, parts=(found,), note="points")


def softmax_runs(context: Context, dim: int = 2, **term: float | str) -> list[Trained]:
    """Returns the runs of the experiment mnist-plane-softmax, one per seed.

    The experiment trains a network on MNIST with softmax loss and features in the plane. Runs that
    do not exist yet are trained first.

    Args:
      context: contains the folders, the steps and the number of seeds.
      dim: number of dimensions of a feature, if it is not to be 2 (a plane).
      **term: fields of the experiment's softmax loss and their new values, such as bias=True.
    """
    chosen = experiment("mnist-plane-softmax", context, **term)
    label = "-".join(["softmax", *term])
    if dim != chosen.model.feature_dim:
        model = dataclasses.replace(chosen.model, feature_dim=dim)
        chosen, label = dataclasses.replace(chosen, model=model), f"{label}-{dim}d"
    return train_runs(chosen, label, context)


def ring_runs(context: Context) -> list[Trained]:
    """Returns the runs of the experiment mnist-plane-ring, one per seed.

    The experiment trains a network on MNIST with softmax loss, Ring loss and features in the plane.
    Runs that do not exist yet are trained first.

    Args:
      context: contains the folders, the steps and the number of seeds.
    """
    return train_runs(experiment("mnist-plane-ring", context), "ring", context)
