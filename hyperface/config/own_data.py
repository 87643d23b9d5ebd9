"""An experiment that suits a data set of the user's: sizes and schedule follow from the data."""

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
"""Passes over a set of up to so many images. For larger sets they fall with the fourth root of the
size, to 19 for 100,000 images."""
FEWEST_STEPS = 200
BATCHES = {0: 64, 20_000: 128, 200_000: 256}
"""Images per step, from so many images on."""
LEARNING_RATE, DROPS = 0.02, (0.6, 0.85)
"""The rate of the shipped experiments on ORL, and where in the run it is divided by 10."""
LARGEST_SHIFT = 28
"""A shift is at most this part of the height: 4 pixels of an aligned face of 112."""
MOST_TEST_IMAGES = 12_000
"""All pairs of the test images are scored after training: 72 million pairs take some 4 GB."""


class Counts(NamedTuple):
    """What a prepared data set has."""

    image_shape: tuple[int, int, int]
    train: Sequence[int]
    """Images per person of the training split."""
    test: Sequence[int]
    """Images per person of the test split."""
    same_people: bool = False
    """Whether both splits are of the same people, as with digits."""


def experiment_for(name: str, counts: Counts) -> Experiment:
    """Returns the experiment of a prepared data set, named after it.

    It trains `sphereface-mini`, which suits a CPU, by NormFace's softmax. The scale is learned and
    starts where Proposition 2's bound is 0.1 for this number of people.

    Args:
      name: of the data set.
      counts: what it has.

    Raises:
      InputError: the data set has fewer than two people to train on, or a test split that cannot be
        scored.

    Example:
      >>> found = experiment_for("mine", Counts((112, 96, 3), [10] * 30, [10] * 10))
      >>> found.steps, found.data.batch_size, found.optimizer.boundaries
      (200, 64, (120, 170))
    """
    _check_counts(name, counts)
    images = sum(counts.train)
    batch = max(size for least, size in BATCHES.items() if images >= least)
    # A batch of more than a quarter of a small set would show each image many times in a row.
    batch = min(batch, max(8, 2 ** int(math.log2(max(8, images / 4)))))
    epochs = EPOCHS * (FEW_IMAGES / max(images, FEW_IMAGES)) ** 0.25
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
    return Evaluation(folds=min(10, *_pairs(counts.test)))


def _pairs(images: Sequence[int]) -> tuple[int, int]:
    """Returns the number of same and of different pairs of people with so many images."""
    same = sum(n * (n - 1) // 2 for n in images)
    return same, sum(images) * (sum(images) - 1) // 2 - same


def _check_counts(name: str, counts: Counts) -> None:
    people = sum(n > 0 for n in counts.train)
    if people < 2:
        raise InputError(
            f"{name}: expected at least two people in its split 'train', found {people}."
        )
    if counts.same_people:
        return
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
