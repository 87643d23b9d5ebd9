"""A trained network, or raw pixels, scored on an experiment's test split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hyperface.config.experiment import Experiment
from hyperface.config.loss import SoftmaxTerm, normalization
from hyperface.data.datasets import open_experiment_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError
from hyperface.evaluate.classification import nearest_agent_accuracy
from hyperface.evaluate.embed import (
    MIRROR_STEPS,
    ONE_DEVICE,
    PIXEL_STEP,
    Devices,
    Embeddings,
    embed_split,
    embedder,
)
from hyperface.metrics.svm import THRESHOLD_STEPS
from hyperface.metrics.threshold import RULE_STEPS
from hyperface.metrics.verification import Verification, all_pairs, deal_folds, verify
from hyperface.protocols.pair_rules import ACCURACY_STEP


@dataclass(frozen=True)
class Result:
    """What one method scores on a test split; of several processes, the first alone scores."""

    embeddings: Embeddings
    verification: Verification | None = None
    accuracy: float | None = None
    """Classification accuracy, where that is the protocol."""
    steps: tuple[str, ...] = ()
    """What was done, a sentence each."""

    def figures(self) -> dict[str, float]:
        """Returns the figures of a results table, by name, as shares in [0, 1]."""
        if self.verification is None:
            # Only the process that scores asks for figures, and it has one of the two.
            return {"accuracy": cast(float, self.accuracy)}
        folds = self.verification.folds
        rates = {f"tar_at_far_{far}": tar for far, tar in self.verification.tar_at_far.items()}
        return {"accuracy": folds.mean, "accuracy_standard_error": folds.standard_error, **rates}


def evaluate_network(
    experiment: Experiment,
    network: Any,
    variables: Any,
    data_dir: Path,
    devices: Devices = ONE_DEVICE,
) -> Result:
    """Scores a network by the experiment's protocol on its test split.

    Args:
      experiment: says which split, protocol and mirror merge.
      network: a linen module with a method `embed`.
      variables: its "params", and "batch_stats" where it has them.
      data_dir: where the prepared data set is.
      devices: what embeds it; all processes call this together.
    """
    embed = embedder(
        lambda variables, images: network.apply(variables, images, method="embed"),
        experiment.evaluation.mirror,
    )
    backbone = {n: {"backbone": t["backbone"]} for n, t in variables.items() if "backbone" in t}
    embeddings, images = _embedded(experiment, embed, backbone, data_dir, devices)
    steps = (
        images,
        f"network {experiment.model.title}, {PIXEL_STEP}",
        MIRROR_STEPS[experiment.evaluation.mirror],
    )
    if experiment.evaluation.protocol == "verification":
        return _verified(experiment, embeddings, devices, steps)
    # Which class wins depends on the scale only where a bias is added.
    head_name, terms = next(iter(experiment.loss.agent_heads().items()))
    head, (named, *_) = devices.whole(variables["params"]["head"][head_name]), terms.items()
    if devices.process:
        return Result(embeddings)
    term = named[1]
    if isinstance(term, SoftmaxTerm) and "scale" in head:  # A learned scale has a floor.
        scale = max(head["scale"], term.min_scale)
    else:
        scale = getattr(term, "scale", 1.0)
    accuracy = nearest_agent_accuracy(
        embeddings.features,
        head["agents"],
        embeddings.labels,
        normalize=normalization(*named),
        scale=scale,
        bias=head.get("bias"),
    )
    told = "an image is of the class with the highest logit, as in training without a margin"
    return Result(embeddings, accuracy=accuracy, steps=(*steps, told))


def check_scorable(experiment: Experiment, data_dir: Path) -> None:
    """Refuses, before a run, a test split that its protocol could not score after it.

    Raises:
      InputError: there is no such split, or it has too few pairs for the folds.
    """
    data = experiment.data
    split = open_experiment_split(data, "test", data_dir)
    if experiment.evaluation.protocol == "verification":
        labels = np.array([int(record["label"]) for record in split.records])
        try:
            deal_folds(all_pairs(labels).same, experiment.evaluation.folds)
        except ValueError as error:
            raise InputError(
                f"evaluation.folds on {split.dataset} ({split.name}): {error}."
            ) from None


def evaluate_pixels(
    experiment: Experiment, data_dir: Path, devices: Devices = ONE_DEVICE
) -> Result:
    """Scores verification by the cosine of the raw pixels, the baseline of every network."""
    embed = embedder(lambda _, images: images.reshape(images.shape[0], -1), "none")
    embeddings, images = _embedded(experiment, embed, None, data_dir, devices)
    steps = (images, f"the pixels themselves are the features, {PIXEL_STEP}", MIRROR_STEPS["none"])
    return _verified(experiment, embeddings, devices, steps)


def _embedded(
    experiment: Experiment, embed: Callable, params: Any, data_dir: Path, devices: Devices
) -> tuple[Embeddings, str]:
    """Returns the test split's features, and what is printed of its images."""
    data, size = experiment.data, experiment.evaluation.batch_size
    split = open_experiment_split(data, "test", data_dir)
    batches = evaluation_batches(
        split,
        batch_size=size + -size % devices.num_local,
        process=devices.process,
        processes=devices.processes,
    )
    return embed_split(embed, params, batches, devices), split.step


def _verified(
    experiment: Experiment, embeddings: Embeddings, devices: Devices, steps: tuple[str, ...]
) -> Result:
    if devices.process:
        return Result(embeddings)
    folds = experiment.evaluation.folds
    verification = verify(embeddings.features, embeddings.labels, folds=folds)
    same = verification.pairs.same
    steps = (
        *steps,
        f"all {same.size:,} pairs of images ({same.sum():,} same), dealt into {folds} folds",
        "features scaled to unit length, similarity is the cosine",
        THRESHOLD_STEPS["accuracy"],
        ACCURACY_STEP,
        RULE_STEPS["strict"],
    )
    return Result(embeddings, verification=verification, steps=steps)
