"""Computes scores of groups of images, such as ages or poses. A CSV file lists the groups."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.roc import auc, eer, roc, tar_at_far
from hyperface.metrics.threshold import supported
from hyperface.metrics.verification import Pairs
from hyperface.protocols._lines import Line, after, read_lines, shown
from hyperface.protocols.features import nearest_hint, person_of

HEADER = ["name", "group"]
ACROSS = "pairs across groups"
"""Label of the pairs whose two images belong to different groups."""
AT_COMMON = " of all pairs"
"""End of a score's name if the score is measured at the threshold of all pairs together."""


class Group(NamedTuple):
    """The scores of the pairs within one group of images, such as one range of age."""

    figures: dict[str, float]
    """Scores in [0, 1] of the group's pairs, by name: "accuracy", "EER", "AUC", and names such as
    "TAR at FAR 1 %". A name that ends with " of all pairs" is a rate of the group at a threshold
    that was chosen on pairs of all groups. A score for which there are too few pairs is left
    out."""
    same: int
    """Number of pairs in the group whose images show one person."""
    different: int
    """Number of pairs in the group whose images show two people."""


class Grouping(NamedTuple):
    """The group of each image or person, as read from a file."""

    file: str
    """Path of the file."""
    groups: Mapping[str, str]
    """Name of an image or of a person -> name of the group."""

    def check_names(self, names: Sequence[str]) -> None:
        """Checks that each name in the file is that of a known image or person.

        Args:
          names: names of all known images. The part before the first slash is the person's name.

        Raises:
          InputError: a name is unknown. The message suggests the nearest known name.
        """
        known = {*names, *map(person_of, names)}
        strange = [name for name in self.groups if name not in known]
        if strange:
            raise InputError(
                f"{self.file}: expected names of images or of their people (the part before the "
                f"first /), found {strange[0]!r} ({len(strange):,} names in all)"
                f"{nearest_hint(strange[0], sorted(known))}."
            )

    def of(self, wanted: Sequence[str]) -> dict[str, str]:
        """Returns a dict from each wanted image's name to its group.

        An image that the file does not list has the group of its person. The person's name is the
        part of the image's name before the first slash.

        Args:
          wanted: names of images, which may be repeated.

        Raises:
          InputError: the file lists neither an image nor the image's person.
        """
        found = {
            name: self.groups.get(name, self.groups.get(person_of(name), ""))
            # An image may be in many pairs.
            for name in dict.fromkeys(wanted)
        }
        without = [name for name, group in found.items() if not group]
        if without:
            raise InputError(
                f"{self.file}: expected a row for every image that is compared, or for its "
                f"person, found none for {without[0]!r} ({len(without):,} images in all)."
            )
        return found


def read_groups(path: Path) -> Grouping:
    """Reads a CSV file that assigns images or people to groups. Its first line is "name,group".

    A name is that of an image or of a person. The name of a person is the part of an image's name
    before the first slash. If an image and its person both have a row, the image's row counts.

    Args:
      path: the file.

    Raises:
      InputError: the file has no rows; or a line is malformed, repeats a name, or has the group
        "pairs across groups". This name is reserved: in results it stands for the pairs whose
        images are in two groups. The message names the line.
    """
    header, *lines = read_lines(path)
    if header.fields(",") != HEADER:
        raise header.fault("the first line name,group")
    if not lines:
        raise after([header]).fault("rows", "the end of the file")
    groups: dict[str, str] = {}
    for line in lines:
        name, group = _row(line)
        if name in groups:
            raise line.fault("each name once", f"{shown(name)} again")
        groups[line.image(name)] = group
    return Grouping(str(path), groups)


def _row(line: Line) -> tuple[str, str]:
    fields = line.csv_fields()
    if len(fields) != 2 or not all(fields):
        raise line.fault("a name and its group")
    name, group = fields
    # The result has an entry of this name for the pairs across groups.
    if group == ACROSS:
        raise line.fault("another name of a group", shown(group))
    return name, group


def score_groups(
    grouping: Grouping,
    names: Sequence[str],
    pairs: Pairs,
    scores: np.ndarray,
    right: np.ndarray,
    thresholds: Mapping[float, float],
) -> dict[str, Group]:
    """Returns a dict from each group's name to the scores of the pairs within the group.

    The last entry, "pairs across groups", has the scores of pairs whose images are in two groups.
    EER, AUC and the scores "TAR at FAR ..." are computed from the similarities of the group alone.
    A score's name that ends with " of all pairs" is a rate of the group at one of `thresholds`:
    an application has one threshold for all groups.

    Args:
      grouping: the groups of images.
      names: [images] names of all images.
      pairs: the pairs, as positions of their images in `names`.
      scores: [pairs] similarities.
      right: [pairs] bool, True if the protocol correctly decides whether the pair shows one person.
        The accuracy of a group is computed from these.
      thresholds: false accept rate (FAR) -> the threshold that was chosen for this rate on pairs of
        all groups. "TAR at FAR ..." is computed for the same rates.

    Raises:
      InputError: the file of groups names an unknown image or person, a compared image has no
        group, or the pairs within a group all show one person or all show two people.
    """
    rows = np.union1d(pairs.first, pairs.second)
    compared = [names[int(row)] for row in rows]
    # Against all images, since a file may also name images that are in no pair.
    grouping.check_names(names)
    listed = grouping.of(compared)
    # By name, so that the table does not depend on the order of the file.
    order = {group: number for number, group in enumerate(sorted({*listed.values()}))}
    # Images that are in no pair may have no group, and keep -1.
    number = np.full(len(names), -1)
    number[rows] = [order[listed[name]] for name in compared]
    first, second = number[pairs.first], number[pairs.second]
    # Pairs across groups get the number after that of the last group.
    within = np.where(first == second, first, len(order))
    found = {}
    for label, place in (*order.items(), (ACROSS, len(order))):
        use = within == place
        columns = scores[use], pairs.same[use], right[use]
        # If each person is in one group only, all pairs across groups are different pairs.
        if label != ACROSS:
            _check_kinds(grouping.file, label, columns[1])
        found[label] = Group(
            dict(_figures(*columns, thresholds)),
            int(np.sum(columns[1])),
            int(np.sum(~columns[1])),
        )
    return found


def group_steps(grouping: Grouping | None) -> tuple[str, ...]:
    """Returns a tuple with one sentence that describes how groups are scored, for `Result.steps`.

    Args:
      grouping: the groups. None means that there are no groups; the tuple is then empty.
    """
    if grouping is None:
        return ()
    return (
        f"groups of {Path(grouping.file).name}: a pair is of the group that both images have; "
        "accuracy is over all its pairs together, decided as in the protocol; TAR at a FAR is at "
        "the group's own threshold",
    )


def _check_kinds(file: str, group: str, same: np.ndarray) -> None:
    if same.all() or not same.any():
        raise InputError(
            f"{file}: expected same and different pairs within each group, found {same.sum():,} "
            f"same and {np.sum(~same):,} different pairs in {group!r}. Join it with another group."
        )


def _figures(
    scores: np.ndarray, same: np.ndarray, right: np.ndarray, thresholds: Mapping[float, float]
) -> Iterator[tuple[str, float]]:
    """Yields (name, score) for every score that the pairs support.

    Pairs across groups may all be different pairs. Then only the FAR at the thresholds of all pairs
    can be measured.

    Args:
      scores: [pairs] similarities.
      same: [pairs] bool, True where both images show one person.
      right: [pairs] bool, whether the protocol decides the pair correctly.
      thresholds: false accept rate -> threshold of all pairs.
    """
    both = bool(same.any() and not same.all())
    if both:
        # Both kinds weigh equally, as in the accuracy of the whole protocol.
        yield "accuracy", float(0.5 * (right[same].mean() + right[~same].mean()))
        curve = roc(scores, same)
        yield "EER", eer(curve)
        yield "AUC", auc(curve)
    for far, threshold in thresholds.items():
        percent = f"{100 * far:g} %"
        if both and supported(far, int(np.sum(~same))):
            yield f"TAR at FAR {percent}", tar_at_far(scores, same, far)
        for kind, name in ((~same, "FAR"), (same, "TAR")):
            if kind.any():
                rate = float(np.mean(scores[kind] >= threshold))
                yield f"{name} at FAR {percent}{AT_COMMON}", rate
