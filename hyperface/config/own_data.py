"""Builds an experiment for a user's data set, with sizes and a schedule that suit the data."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hyperface.config.experiment import (
    Data,
    Evaluation,
    Experiment,
    Model,
    Optimizer,
    check,
)
from hyperface.errors import InputError

EPOCHS, FEW_IMAGES = 40, 5000
"""Number of epochs for a data set of up to FEW_IMAGES images. For larger sets it falls with the
fourth root of the size, to 19 epochs for 100,000 images."""
FEWEST_STEPS = 200
"""Smallest number of steps of a run."""
BATCHES = {0: 64, 20_000: 128, 200_000: 256}
"""Smallest number of images of a data set -> number of images per step."""
LEARNING_RATE, DROPS = 0.02, (0.6, 0.85)
"""The learning rate of the shipped experiments on ORL, and the shares of the run after which it is
divided by 10."""
LARGEST_SHIFT = 28
"""The largest shift is the image height divided by this: 4 pixels for a face of 112 pixels."""
MOST_TEST_IMAGES = 12_000
"""Largest number of test images. All their pairs are scored after training, and the 72 million
pairs of 12,000 images take about 4 GB of memory."""


class Counts(NamedTuple):
    """The image shape of a prepared data set, and its numbers of images per person.

    `experiment_for` chooses batch size and number of steps from them.
    """

    image_shape: tuple[int, int, int]
    """[height, width, channels] of the images."""
    train: Sequence[int]
    """Number of images of each person in the training split."""
    test: Sequence[int]
    """Number of images of each person in the test split."""
    same_people: bool = False
    """Whether both splits contain the same people or classes, as with digits. The experiment then
    scores classification, and otherwise verification."""


def experiment_for(name: str, counts: Counts) -> Experiment:
    """Returns an experiment for a prepared data set, with the data set's name.

    It trains `sphereface-mini`, a backbone for CPUs, with NormFace's softmax. The scale is learned,
    and starts at the value at which the loss' lower bound is 0.1 nats (NormFace, Proposition 2).

    Args:
      name: name of the data set.
      counts: its image shape and numbers of images per person.

    Raises:
      InputError: the data set has fewer than two people to train on, or its test split cannot be
        scored.

    Example:
      >>> found = experiment_for("mine", Counts((112, 96, 3), [10] * 30, [10] * 10))
      >>> found.steps, found.data.batch_size, found.optimizer.boundaries
      (200, 64, (120, 170))
    """
    _check_counts(name, counts)
    images = sum(counts.train)
    # The table's first key is 0, so that there is always a size.
    batch = max(size for least, size in BATCHES.items() if images >= least)
    # For a small set a batch is at most a quarter of the images, and a power of two.
    batch = min(batch, max(8, 2 ** int(math.log2(max(8, images / 4)))))
    epochs = EPOCHS * (FEW_IMAGES / max(images, FEW_IMAGES)) ** 0.25
    # Steps and checkpoints are multiples of log_every (10), as a run requires of checkpoints.
    steps = max(FEWEST_STEPS, 10 * math.ceil(epochs * images / batch / 10))
    return check(
        Experiment(
            name=name,
            steps=steps,
            checkpoint_every=max(10, steps // 40 * 10),
            data=Data(name=name, batch_size=batch, shift=counts.image_shape[0] // LARGEST_SHIFT),
            model=Model(name="sphereface-mini"),
            optimizer=Optimizer(
                learning_rate=LEARNING_RATE,
                boundaries=tuple(int(share * steps) for share in DROPS),
            ),
            evaluation=_evaluation(counts),
        )
    )


def _evaluation(counts: Counts) -> Evaluation:
    if counts.same_people:
        return Evaluation(protocol="classification")
    # Each fold needs at least one same pair and one different pair.
    return Evaluation(folds=min(10, *_pairs(counts.test)))


def _pairs(images: Sequence[int]) -> tuple[int, int]:
    """Returns the numbers of pairs of one person and of pairs of different people.

    Args:
      images: number of images of each person.
    """
    same = sum(n * (n - 1) // 2 for n in images)
    return same, sum(images) * (sum(images) - 1) // 2 - same


def _check_counts(name: str, counts: Counts) -> None:
    """Checks that there are people to train on, and pairs of other people to score on."""
    # A person whose images were all unusable still has a count, which is 0.
    people = sum(n > 0 for n in counts.train)
    if people < 2:
        raise InputError(
            f"{name}: expected at least two people in its split 'train', found {people}."
        )
    if counts.same_people:
        return
    # Two of each kind, because a fold needs one and there are at least two folds.
    if min(_pairs(counts.test)) < 2:
        raise InputError(
            f"{name}: expected a split 'test' of other people, two or more with two images or "
            f"more, to score the network on; found {sum(n > 0 for n in counts.test)} people with "
            f"{sum(counts.test)} images. Prepare it again with --held-out "
            f"{max(2, people // 4)} --replace."
        )
    if sum(counts.test) > MOST_TEST_IMAGES:
        held_out = MOST_TEST_IMAGES * len(counts.test) // sum(counts.test)
        raise InputError(
            f"{name}: expected at most {MOST_TEST_IMAGES:,} test images, whose pairs are all "
            f"scored, found {sum(counts.test):,}. Prepare it again with --held-out {held_out} "
            "--replace."
        )
