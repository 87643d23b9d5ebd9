"""Plans a data set: which images of a source are stored, in which split, and in which shard."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hyperface.data.sources import Source
from hyperface.errors import InputError

SHARD_IMAGES = 20_000
"""Largest number of images per shard."""
FEWEST_PEOPLE, FEWEST_HELD_OUT = 30, 10
"""A source with at least FEWEST_PEOPLE people has a test split by default: a tenth of the people,
but at least FEWEST_HELD_OUT."""

Align = Callable[[str, np.ndarray], np.ndarray]
"""A function (name, pixels) -> aligned pixels, which raises ValueError with the reason if an image
cannot be aligned. Aligners with equal `repr` align equally; `str` describes the alignment."""


@dataclass(frozen=True)
class Options:
    """The options of preparing a data set: which images of a source are stored, and how.

    A source is the collection of original images, with the person of each. By default all images
    are stored as they are, and the people are divided into a training split and a test split.
    `held_out` and `test_people` change that division; they are an error for a source that has
    splits of its own (such as MNIST) or pairs of images for verification.
    """

    held_out: int | Literal["all"] | None = None
    """Number of people in the test split. They are the last ones in the source's order of people;
    all others are in the training split. "all" puts everybody into the test split. None takes the
    source's default number, `Source.held_out`. If that is None too, the number is a tenth of the
    people but at least 10, or 0 if there are fewer than 30 people."""
    test_people: Collection[str] = ()
    """Names of the people who form the test split. If it is not empty, `held_out` is ignored."""
    keep: Collection[str] | None = None
    """Names of the images to store, such as a cleaned list; all other images are left out. None
    stores all images. A name that the source does not have is an error."""
    channels: Literal[1, 3] | None = None
    """1 stores grey images, 3 stores RGB images; None takes `Source.channels`."""
    align: Align | None = None
    """Function (name of the image, pixels [height, width, channels] uint8) -> aligned pixels, such
    as an `Aligner`. An image for which it raises ValueError is rejected with that reason. None
    stores the images without alignment."""
    strict: bool = False
    """True stops with an InputError if an image cannot be used, or if `Source.doubt` says that
    other folders could be the people. False leaves such images out, lists them in the data set's
    manifest, and accepts the doubt."""


class Shard(NamedTuple):
    """The plan of one shard: a file of the data set that contains a part of a split."""

    split: str
    """Name of the split, such as "train"."""
    file: str
    """Name of the file, such as "train.array_record-00000-of-00003"."""
    indices: np.ndarray
    """[images] index in the source of each image that the file will contain."""
    labels: np.ndarray
    """[images] label of each of these images. Labels run from 0 without gaps within a split."""


def plan_shards(source: Source, options: Options) -> tuple[list[Shard], dict[str, list[str]]]:
    """Divides the people among the splits, and the images of each split into shards.

    The images keep the order of the source, because an archive is read fastest in that order.

    A shard is one file of the data set.

    Args:
      source: the images and their people.
      options: which images are stored, and which people form the test split.

    Returns:
      (shards, people). `shards` are the plans of the files, of at most SHARD_IMAGES (20,000) images
      each. `people` is a dict: name of a split -> list of its people's names. The person at place k
      of this list, counted from 0, has the label k in the split.

    Raises:
      InputError: one of these:

        - The options name people or images that the source does not have.
        - `held_out` is a number, and not below the number of all people.
        - The options choose test people, but the source has splits or pairs of its own.
        - `Options.strict` is True, and the source has doubts which folders are people.
    """
    if options.strict and source.doubt:
        raise InputError(
            f"--strict: expected people that are not in doubt, found that {source.doubt}."
        )
    chosen, present = _present(source, options)
    splits = _people_of_splits(source, options, present)
    plan, people = [], {}
    for split, ids in splits.items():
        # Labels run from 0 without gaps in each split, as the losses need them; -1 is not in it.
        label_of = np.full(len(source.identities), -1)
        label_of[ids] = np.arange(ids.size)
        own = chosen & (label_of[source.people] >= 0)
        if source.splits is not None:
            own &= source.splits == split
        indices = np.flatnonzero(own)
        people[split] = [source.identities[i] for i in ids]
        # At least one shard, so that a split without images is reported and not dropped silently.
        count = max(1, -(-indices.size // SHARD_IMAGES))
        for number, part in enumerate(np.array_split(indices, count)):
            file = f"{split}.array_record-{number:05}-of-{count:05}"
            plan.append(Shard(split, file, part, label_of[source.people[part]]))
    return plan, people


def _present(source: Source, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Returns (chosen, people) after the option `keep` has been applied.

    `chosen`, [images] bool, is True for each image that is stored. `people` are the indices of the
    people who have at least one such image, in rising order.
    """
    chosen = np.ones(len(source.people), bool)
    if options.keep is not None:
        keep = set(options.keep)
        chosen = np.array([name in keep for name in source.names])
        if chosen.sum() != len(keep):
            unknown = sorted(keep - set(source.names))
            raise InputError(
                f"expected only images of the source in the list of images to keep, found "
                f"{unknown[0]!r} ({len(unknown)} not in the source)."
            )
    return chosen, np.unique(source.people[chosen])


def default_held_out(source: Source, options: Options) -> int | None:
    """Returns how many people form the test split if nothing else determines that.

    The number is a tenth of the people who have a stored image, but at least FEWEST_HELD_OUT (10).
    It is 0 if there are fewer than FEWEST_PEOPLE (30) people.

    Args:
      source: the images and their people.
      options: which images are stored, and which people form the test split.

    Returns:
      The number, or None if something else determines the test split: the source, by its splits,
      pairs or `held_out`; or the options, by `held_out` or `test_people`.
    """
    chosen = source.held_out is not None or options.held_out is not None or options.test_people
    if chosen or source.splits is not None or source.pairs is not None:
        return None
    people = _present(source, options)[1].size
    return max(FEWEST_HELD_OUT, people // 10) if people >= FEWEST_PEOPLE else 0


def _people_of_splits(source: Source, options: Options, present: np.ndarray) -> dict:
    """Returns split -> indices of its people in `source.identities`; empty splits are left out.

    Args:
      source: the source.
      options: the options, which may name the people of the test split or their number.
      present: indices of the people who have an image that is stored, in rising order.

    Raises:
      InputError: the options do not fit the source.
    """
    if source.splits is not None:
        if options.held_out or options.test_people:
            raise InputError(f"a {source.kind} source has its own splits: nobody is held out.")
        return {str(split): present for split in dict.fromkeys(source.splits)}
    if source.pairs is not None and (options.held_out or options.test_people):
        raise InputError("a verification source has pairs, not people: nobody is held out.")
    if options.test_people:
        wanted = set(options.test_people)
        unknown = sorted(wanted - set(source.identities))
        if unknown:
            raise InputError(
                f"expected test people of the source, found {unknown[0]!r} ({len(unknown)} not in "
                "the source)."
            )
        held = np.array([source.identities[i] in wanted for i in present])
        splits = {"train": present[~held], "test": present[held]}
    elif options.held_out == "all" or source.pairs is not None:
        splits = {"test": present}
    else:
        held_out = default_held_out(source, options)
        if held_out is None:
            held_out = source.held_out if options.held_out is None else options.held_out
        # If neither the source nor the options give a number, `default_held_out` does.
        assert held_out is not None
        if not 0 <= held_out < present.size:
            raise InputError(
                f"expected fewer people held out than the {present.size} found, found {held_out}; "
                "'all' makes all people the test set."
            )
        trained = present.size - held_out
        splits = {"train": present[:trained], "test": present[trained:]}
    return {split: ids for split, ids in splits.items() if ids.size}


def alignment(options: Options) -> str:
    """Returns how the images are aligned, as a text that the data set stores.

    Without alignment (`options.align` is None) it is "as they came". Otherwise it is the text of
    the function `options.align`, such as "aligned to 112 x 96 by the landmarks of landmarks.csv".
    """
    return "as they came" if options.align is None else str(options.align)


def fingerprint(source: Source, options: Options) -> str:
    """Returns an id, 16 hexadecimal digits, of a source's images and the options of storing them.

    Sources and options with equal ids result in equal data sets. `Options.strict` does not affect
    the id. Nor does it matter whether `held_out` or `channels` is None, or states the value for
    which None stands.
    """
    held_out = None if options.test_people else options.held_out
    if held_out is None:
        held_out = default_held_out(source, options)
    chosen = {
        # None stands for the default of the source, which `source.fingerprint` stands for already.
        "held_out": None if held_out == (source.held_out or 0) else held_out,
        "test_people": sorted(options.test_people),
        "keep": None if options.keep is None else sorted(options.keep),
        "channels": None if options.channels == source.channels else options.channels,
        "align": repr(options.align),
    }
    return hashlib.sha256(f"{source.fingerprint};{chosen}".encode()).hexdigest()[:16]
