"""What becomes of a source's images: which are taken, in which split, in which shard."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hyperface.data.sources import Source
from hyperface.errors import InputError

SHARD_IMAGES = 20_000
FEWEST_PEOPLE, FEWEST_HELD_OUT = 30, 10
"""From so many people on some are held out by default, a tenth of them and at least so many."""

Align = Callable[[str, np.ndarray], np.ndarray]
"""(name, pixels) -> aligned pixels; ValueError says why an image cannot be aligned. Its repr tells
how it aligns, its str says so to people."""


@dataclass(frozen=True)
class Options:
    """Choices of which images of a source are stored, in which split, and how they are aligned."""

    held_out: int | Literal["all"] | None = None
    """People at the end of the sorted list who form the test split; None as the source says, or by
    `default_held_out`."""
    test_people: Collection[str] = ()
    """Names of people who form the test split, instead."""
    keep: Collection[str] | None = None
    """Names of the images to take; None takes all."""
    channels: Literal[1, 3] | None = None
    """1 stores grey images, 3 colour; None as the source says."""
    align: Align | None = None
    strict: bool = False
    """Refuse a source with a reject, instead of listing it, and one whose people are in doubt."""


class Shard(NamedTuple):
    """A file of the data set that is to be written: its images of the source and their labels."""

    split: str
    file: str
    indices: np.ndarray
    labels: np.ndarray


def planned(source: Source, options: Options) -> tuple[list[Shard], dict[str, list[str]]]:
    """Returns the shards to write, in the source's order, and the identities of each split."""
    if options.strict and source.doubt:
        raise InputError(
            f"--strict: expected people that are not in doubt, found that {source.doubt}."
        )
    chosen, present = _present(source, options)
    splits = _people_of_splits(source, options, present)
    plan, people = [], {}
    for split, ids in splits.items():
        label_of = np.full(len(source.identities), -1)
        label_of[ids] = np.arange(ids.size)
        own = chosen & (label_of[source.people] >= 0)
        if source.splits is not None:
            own &= source.splits == split
        indices = np.flatnonzero(own)
        people[split] = [source.identities[i] for i in ids]
        # One shard at least, so that a split without images is reported and not lost.
        count = max(1, -(-indices.size // SHARD_IMAGES))
        for number, part in enumerate(np.array_split(indices, count)):
            file = f"{split}.array_record-{number:05}-of-{count:05}"
            plan.append(Shard(split, file, part, label_of[source.people[part]]))
    return plan, people


def _present(source: Source, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each image is taken, and the people who have one that is."""
    chosen = np.ones(len(source.people), bool)
    if options.keep is not None:
        keep = set(options.keep)
        chosen = np.array([name in keep for name in source.names])
        if chosen.sum() != len(keep):
            unknown = sorted(keep - set(source.names))
            raise InputError(
                f"expected names of the source in the list of images to keep, found {unknown[0]!r} "
                f"({len(unknown)} that it does not have)."
            )
    return chosen, np.unique(source.people[chosen])


def default_held_out(source: Source, options: Options) -> int | None:
    """Returns how many people are held out because neither the source nor the user says who.

    None where one of them does.
    """
    said = source.held_out is not None or options.held_out is not None or options.test_people
    if said or source.splits is not None or source.pairs is not None:
        return None
    people = _present(source, options)[1].size
    return max(FEWEST_HELD_OUT, people // 10) if people >= FEWEST_PEOPLE else 0


def _people_of_splits(source: Source, options: Options, present: np.ndarray) -> dict:
    """Identities of each split that has any."""
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
                f"expected test people of the source, found {unknown[0]!r} ({len(unknown)} in all)."
            )
        held = np.array([source.identities[i] in wanted for i in present])
        splits = {"train": present[~held], "test": present[held]}
    elif options.held_out == "all" or source.pairs is not None:
        splits = {"test": present}
    else:
        held_out = default_held_out(source, options)
        if held_out is None:
            held_out = source.held_out if options.held_out is None else options.held_out
        # Of a source that says nothing, `default_held_out` does; "all" has its own branch.
        assert held_out is not None
        if not 0 <= held_out < present.size:
            raise InputError(
                f"expected fewer people held out than the {present.size} found, found {held_out}; "
                "'all' makes a test set of everybody."
            )
        trained = present.size - held_out
        splits = {"train": present[:trained], "test": present[trained:]}
    return {split: ids for split, ids in splits.items() if ids.size}


def alignment(options: Options) -> str:
    """Returns how images are aligned, in words."""
    return "as they came" if options.align is None else str(options.align)


def fingerprint(source: Source, options: Options) -> str:
    """Returns an id of the source and the options; equal ids mean equal data sets."""
    chosen = {
        "held_out": default_held_out(source, options) or options.held_out,
        "test_people": sorted(options.test_people),
        "keep": None if options.keep is None else sorted(options.keep),
        "channels": options.channels,
        "align": repr(options.align),
    }
    return hashlib.sha256(f"{source.fingerprint};{chosen}".encode()).hexdigest()[:16]
