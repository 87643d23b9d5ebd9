"""Builds tables of scores of groups of images."""

from collections.abc import Mapping

from hyperface.protocols.groups import AT_COMMON, Group
from hyperface.report.tables import Table, percent

EMPTY = "An empty cell has too few pairs."


def group_tables(title: str, groups: Mapping[str, Group]) -> list[Table]:
    """Returns tables of scores with one row per group of images, such as one range of age.

    The first table has the accuracy of each group, and the scores that are computed from the pairs
    of the group alone. A second table follows if the groups also have scores at common thresholds,
    which were chosen on all pairs together.

    Args:
      title: title of the protocol, which begins the titles of the tables.
      groups: name of a group -> its scores. The cell of a score that a group does not
        have is empty.
    """
    # A dict keeps the order of the scores, and a group may lack some of them.
    names = dict.fromkeys(name for group in groups.values() for name in group.figures)
    own = [name for name in names if not name.endswith(AT_COMMON)]
    common = [name for name in names if name.endswith(AT_COMMON)]
    counts = {label: (f"{group.same:,}", f"{group.different:,}") for label, group in groups.items()}

    def rows(columns: list[str]) -> list[tuple[str, ...]]:
        return [
            (
                label,
                *counts[label],
                *(percent(group.figures[n]) if n in group.figures else "" for n in columns),
            )
            for label, group in groups.items()
        ]

    header = ("group", "same pairs", "different pairs")
    note = (
        "Each group at the one threshold that has this FAR on the pairs of all groups together: "
        f"this is what a group meets in use. {EMPTY}"
    )
    tables = [Table(f"{title}: groups", (*header, *own), rows(own), EMPTY)]
    if common:
        titles = (name.removesuffix(AT_COMMON) for name in common)
        tables.append(
            Table(f"{title}: groups at common thresholds", (*header, *titles), rows(common), note)
        )
    return tables
