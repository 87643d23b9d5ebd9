"""Scores a trained network, or the raw pixels, on the test split of an experiment."""

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
    """The result of one network (or of the raw pixels) on the test split of an experiment.

    Either `verification` or `accuracy` is set, depending on the protocol of the experiment. With
    several processes, only the first process computes scores: in the results of the other processes
    both are None and `steps` is empty.
    """

    embeddings: Embeddings
    """The features, feature norms and labels of all test images, in all processes."""
    verification: Verification | None = None
    """Result of the verification protocol: k-fold accuracy, TAR at FAR and ROC curve over all pairs
    of test images. None for the classification protocol."""
    accuracy: float | None = None
    """Result of the classification protocol: the share of test images, in [0, 1], for which the
    logit of their own class is the highest. None for the verification protocol."""
    steps: tuple[str, ...] = ()
    """Text for the report that describes the evaluation, one sentence per step."""

    def figures(self) -> dict[str, float]:
        """Returns the scores for a results table: name -> share in [0, 1].

        The names are "accuracy" and, for verification, also "accuracy_standard_error" and one name
        such as "tar_at_far_0.01" (true accept rate) per false accept rate. Call it only in the
        first process, the only one that has scores.
        """
        if self.verification is None:
            # Only the process that scores calls this, and it has one of the two scores.
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
    """Scores a network on the test split of an experiment, by the protocol of the experiment.

    The protocol "verification" measures how well scores separate pairs of images of one person from
    pairs of two people. The protocol "classification" measures how often an image's own class has
    the highest logit. Its class weights are those of the first loss term (summand of the loss) that
    has one weight vector per class, such as the softmax loss.

    Args:
      experiment: the settings. They name the test split, the protocol, and how features of image
        and mirror image are merged.
      network: a linen module with a method `embed`, images -> features.
      variables: the network's collections: "params", with the class weights for the protocol
        "classification", and "batch_stats" if the network has any.
      data_dir: the folder of prepared data sets.
      devices: the devices that compute the features. With `AllDevices`, all processes must call
        this function, and only the first process gets scores. In the other processes, the `Result`
        contains only features, norms and labels.

    Raises:
      InputError: the test split is missing or damaged.
    """
    embed = embedder(
        lambda variables, images: network.apply(variables, images, method="embed"),
        experiment.evaluation.mirror,
    )
    # Without the heads, which need not be copied to each device.
    backbone = {n: {"backbone": t["backbone"]} for n, t in variables.items() if "backbone" in t}
    embeddings, images = _embedded(experiment, embed, backbone, data_dir, devices)
    steps = (
        images,
        f"network {experiment.model.title}, {PIXEL_STEP}",
        MIRROR_STEPS[experiment.evaluation.mirror],
    )
    if experiment.evaluation.protocol == "verification":
        return _verified(experiment, embeddings, devices, steps)
    # The head of the first class-wise term decides. The scale matters only if there is a bias.
    head_name, terms = next(iter(experiment.loss.agent_heads().items()))
    # The agents may be split over the devices of all processes, so all processes must gather them
    # before any of them returns.
    head, (named, *_) = devices.whole(variables["params"]["head"][head_name]), terms.items()
    if devices.process:
        return Result(embeddings)
    term = named[1]
    # A learned scale acts as at least its floor, as in training.
    if isinstance(term, SoftmaxTerm) and "scale" in head:
        scale = max(head["scale"], term.min_scale)
    else:
        # Terms of distances, such as C-triplet, have no scale.
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
    """Checks, before the training of an experiment, that its test split can be scored afterwards.

    Args:
      experiment: the settings. They name the test split, the protocol ("verification" or
        "classification") and the number of folds (groups of pairs for cross-validation).
      data_dir: the folder of prepared data sets.

    Raises:
      InputError: the test split is missing or damaged. Also if the protocol is "verification", and
        the split has fewer pairs of one person, or fewer pairs of two people, than folds.
    """
    data = experiment.data
    split = open_experiment_split(data, "test", data_dir)
    if experiment.evaluation.protocol == "verification":
        # From the labels alone, so that no image is decoded.
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
    """Scores verification by the cosine of raw pixels, a baseline that every network must beat.

    This function runs the verification protocol, even if the experiment names another protocol.

    Args:
      experiment: the settings, which name the test split and the number of folds (groups of pairs
        for cross-validation).
      data_dir: the folder of prepared data sets.
      devices: the devices to which the images are copied in batches. With `AllDevices`, all
        processes must call this function, and only the first process gets scores.

    Raises:
      InputError: the test split is missing or damaged.
    """
    embed = embedder(lambda _, images: images.reshape(images.shape[0], -1), "none")
    embeddings, images = _embedded(experiment, embed, None, data_dir, devices)
    steps = (images, f"the pixels themselves are the features, {PIXEL_STEP}", MIRROR_STEPS["none"])
    return _verified(experiment, embeddings, devices, steps)


def _embedded(
    experiment: Experiment, embed: Callable, params: Any, data_dir: Path, devices: Devices
) -> tuple[Embeddings, str]:
    """Returns (features of the test split, the sentence of the procedure about its images).

    `embed` is a function as `embedder` returns it, and `params` are its parameters.
    """
    data, size = experiment.data, experiment.evaluation.batch_size
    split = open_experiment_split(data, "test", data_dir)
    batches = evaluation_batches(
        split,
        # Rounded up to a multiple of the devices, so that each batch can be split evenly.
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
